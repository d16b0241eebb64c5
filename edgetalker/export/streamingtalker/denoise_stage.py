"""The denoise stage (one row of the schedule) and its exact collapse into one affine map."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.export.layers import linear_from, table_row
from edgetalker.models.streamingtalker.contract import Contract
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.network import Head
from edgetalker.models.streamingtalker.schedule import Rule, Schedule

__all__ = ["CollapseStage", "DenoiseStage", "RewriteStage", "schedule_table"]


def _latent_matrix(head: Head) -> Tensor:
    """Return A (vq, vq), float64, of the linear head: x0 = A x + (condition's share) + (time's share)."""
    width = head.denoiser.out_features
    estimate = head.output_map.weight.double() @ head.denoiser.weight.double()[:, :width]
    return estimate @ head.latent_map.weight.double()


def _time_shares(head: Head, schedule: Schedule) -> Tensor:
    """Return (S, vq), float64: W_l (W_d [b_v; e_t] + b_d) + b_l for each time of the schedule."""
    width = head.denoiser.out_features
    times = head.time_embedding(torch.from_numpy(schedule.times)).double()
    shared = head.latent_map.bias.double().expand(len(times), width)
    joined = torch.cat([shared, times], dim=1)
    hidden = joined @ head.denoiser.weight.double().T + head.denoiser.bias.double()
    return hidden @ head.output_map.weight.double().T + head.output_map.bias.double()


def schedule_table(model: StreamingTalker, schedule: Schedule, steps_per_row: int = 1) -> NDArray[np.float32]:
    """Return the rows (S / steps_per_row, steps_per_row · (vq + columns)) that the denoise stage reads.

    Each step holds the time's share of x0, then the gain; under `ddim` also what is kept of x.
    """
    columns = [_time_shares(model.motion.head, schedule).numpy(), schedule.gain[:, None]]
    if schedule.rule == "ddim":
        columns.append(schedule.keep[:, None])
    steps = np.concatenate(columns, axis=1).astype(np.float32)
    return steps.reshape(len(steps) // steps_per_row, -1)


class DenoiseStage(nn.Module):
    """The denoise steps of one row of the schedule on one latent: x_next = gain · x0(x) + keep · x.

    Everything linear between x and x0 is multiplied out, which leaves one matrix.
    """

    def __init__(self, model: StreamingTalker, rule: Rule, steps_per_row: int = 1) -> None:
        super().__init__()
        matrix = _latent_matrix(model.motion.head)
        self.columns = [matrix.shape[0], 1] if rule == "legacy_sample" else [matrix.shape[0], 1, 1]
        self.steps = steps_per_row
        self.matrix = nn.Buffer(matrix.T.to(torch.float32).contiguous())

    def forward(self, x: Tensor, condition: Tensor, row: Tensor) -> Tensor:
        """Return x_next from x and condition, (1, vq) or (1, history, vq), and row (1, steps · (vq + columns))."""
        parts = torch.split(row, self.columns * self.steps, dim=1)
        for first in range(0, len(parts), len(self.columns)):
            time, gain, *keep = parts[first : first + len(self.columns)]
            x_next = (x @ self.matrix + condition + time) * gain
            x = x_next + x * keep[0] if keep else x_next
        return x


class CollapseStage(nn.Module):
    """A whole schedule as one affine map: latent = M · noise + N · condition + k, multiplied out in float64."""

    def __init__(self, model: StreamingTalker, schedule: Schedule) -> None:
        super().__init__()
        matrix = _latent_matrix(model.motion.head)
        times = _time_shares(model.motion.head, schedule)
        identity = torch.eye(matrix.shape[0], dtype=torch.float64)
        noise, condition, constant = identity, torch.zeros_like(matrix), times.new_zeros(matrix.shape[0])
        for time, keep, gain in zip(times, schedule.keep, schedule.gain, strict=True):
            step = float(gain) * matrix + float(keep) * identity
            noise = step @ noise
            condition = step @ condition + float(gain) * identity
            constant = step @ constant + float(gain) * time
        self.map = linear_from(torch.cat([noise, condition], dim=1), constant)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return the latents from noise and condition, (1, vq) or (1, history, vq)."""
        return cast(Tensor, self.map(torch.cat([noise, condition], dim=-1)))


class RewriteStage(nn.Module):
    """The history with every latent of the window made anew, as `predict` keeps it."""

    def __init__(self, contract: Contract, rows: int) -> None:
        """`rows`: rows of the latent history buffer; the window is its newest `contract.history`."""
        super().__init__()
        self.window, self.before = contract.history, rows - contract.history
        valid = torch.arange(1, self.window + 1)[:, None]
        self.valid = nn.Buffer((torch.arange(rows) >= rows - valid)[:, :, None].to(torch.float32))

    def forward(self, latents: Tensor, fresh: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next history (1, rows, vq) and its newest latent (1, vq).

        latents (1, rows, vq), newest last; fresh (1, history, vq); count (1,), frames since the reset.
        """
        place = torch.clamp(count, max=self.window - 1).to(torch.int64)
        moved = torch.cat([latents[:, 1:], latents[:, -1:]], dim=1)
        made = torch.cat([moved[:, : self.before], fresh], dim=1)
        return torch.where(table_row(self.valid, place) > 0.5, made, moved), fresh[:, -1]
