"""Training of the audio trunk: mouth shapes, contacts and phones from worn speech."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgetalker.engines.errors import UserError
from edgetalker.engines.files import write_whole
from edgetalker.models.online.data.phones import PHONES
from edgetalker.models.online.streams import MARGIN, Chunk, Corpus, Streams
from edgetalker.models.online.trunk import LOOKAHEADS, Trunk, TrunkSize

__all__ = ["TrunkPlan", "carried", "load_trunk", "mean_of", "save_checkpoint", "train_trunk"]

_FLAGS = (1.6, 0.8, 0.6)
"""Weights of lips, teeth and voice in the loss."""
_ALIKE = torch.ones(len(PHONES))
for _weight, _names in ((3.0, "p b m n ng ny r v"), (2.0, "t d dh k g f"), (1.5, "aa ah")):
    _ALIKE[[PHONES.index(name) for name in _names.split()]] = _weight
"""Where lips are easily mistaken: closures, and what real speech was seen to make into false ones (n, r, ng, v, a),
weigh most; other stops and f more than the rest."""

_EARLY = 0.26
"""The share of the schedule after which the early weights are kept, where a plan wants them."""


@dataclass(frozen=True)
class TrunkPlan:
    """minutes: the budget, also the length of the learning-rate schedule; rows x frames: a step's sound.

    early_share: how much of the finished weights are those at a quarter of the schedule (`mean_of`).
    """

    minutes: float = 72.0
    rows: int = 32
    frames: int = 48
    rate: float = 1.3e-3
    seed: int = 1
    early_share: float = 0.0


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trunk_loss(trunk: Trunk, features: Tensor, chunk: Chunk, scale: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss over the three look-aheads and its parts.

    Each head is scored on the mouth of the frame d frames back: L1 and L2 in units of the channels' spread, the
    change from frame to frame, cross-entropy of contacts and voice (lips count most), and of phones (training only).
    """
    total = features.new_zeros(())
    parts: dict[str, float] = {}
    frames = features.shape[1]
    for d in LOOKAHEADS:
        window = slice(MARGIN - d, MARGIN - d + frames)
        mouth, logits = trunk.mouth(features, d)
        error = (mouth - chunk.mouth[:, window]) * scale
        change = error[:, 1:] - error[:, :-1]
        shape = 0.5 * error.abs().mean() + 0.5 * error.square().mean() + 0.4 * change.abs().mean()
        weight = _flag_weights(chunk.phone[:, window])
        flags = F.binary_cross_entropy_with_logits(logits, chunk.flags[:, window], weight=weight)
        phone = F.cross_entropy(trunk.phones[d](features).flatten(0, 1), chunk.phone[:, window].flatten())
        share = (0.6, 1.0, 1.2)[d]
        total = total + share * (shape + flags + 0.25 * phone)
        parts |= {f"shape{d}": shape.item(), f"flags{d}": flags.item(), f"phone{d}": phone.item()}
    return total, parts


def _flag_weights(phone: Tensor) -> Tensor:
    """Return the weights (B, T, 3) of the contacts of frames with these phones (B, T)."""
    weight = torch.tensor(_FLAGS, device=phone.device).repeat(*phone.shape, 1)
    weight[..., 0] *= _ALIKE.to(phone.device)[phone]
    return weight


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain numbers so that `torch.load(weights_only=True)` reads them."""
    with write_whole(path) as file:
        torch.save(content, file)


def load_trunk(path: Path) -> Trunk:
    """Return the trunk of a checkpoint, ready to run."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    trunk = Trunk(TrunkSize(**stored["size"]))
    trunk.load_state_dict(stored["model"])
    return trunk.eval()


def spread(corpus: Corpus) -> Tensor:
    """Return 1 / (standard deviation + 0.03) of the mouth channels, (14,)."""
    sample = torch.cat([mouth[::7].float() for mouth in corpus.mouth])
    return 1.0 / (sample.std(0) + 0.03)


def train_trunk(corpus: Corpus, out: Path, plan: TrunkPlan, size: TrunkSize | None = None) -> Path:
    """Train until the budget is spent; goes on from `out`/trunk.pt, which is written every 200 steps.

    Raises UserError where the trunk that is there is of another size; without a size it is that one's, or the default.
    """
    path = out / "trunk.pt"
    torch.manual_seed(plan.seed)
    device = best_device()
    there = load_trunk(path).size if path.exists() else size
    if size not in (None, there):
        raise UserError(f"{path} is a {there}, not the {size} that was asked for", hint="name another folder")
    trunk = Trunk(there or TrunkSize()).to(device)
    optimizer = torch.optim.AdamW(trunk.parameters(), lr=plan.rate, weight_decay=0.01, betas=(0.9, 0.98))
    spent, step, early = _resume(path, trunk, optimizer)
    streams = Streams(corpus, plan.rows, plan.frames, plan.seed + step)
    scale, state = spread(corpus).to(device), trunk.begin(plan.rows)
    budget, begun = plan.minutes * 60, time.monotonic() - spent
    while (spent := time.monotonic() - begun) < budget:
        for group in optimizer.param_groups:
            group["lr"] = _rate(plan.rate, spent / budget, step)
        chunk = streams.next().to(device)
        (state,) = carried(chunk.fresh, streams.rng, state)
        features, state = trunk(chunk.mel, state)
        loss, parts = trunk_loss(trunk, features, chunk, scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trunk.parameters(), 1.0)
        optimizer.step()
        state, step = state.detach(), step + 1
        if plan.early_share and early is None and spent >= _EARLY * budget:
            early = {name: value.clone() for name, value in trunk.state_dict().items()}
        if step % 50 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items() if name[-1] != "1")
            print(f"trunk step {step} {spent:.0f} s loss {loss.item():.3f} {shown}", flush=True)
        if step % 200 == 0:
            _store(path, trunk, optimizer, spent, step, early)
    if early is not None:
        trunk.load_state_dict(mean_of(early, trunk.state_dict(), plan.early_share))
    _store(path, trunk, optimizer, budget, step)
    return path


def mean_of(early: dict[str, Tensor], late: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights of a finished trunk: by `share` those early in its training, the rest those at its end.

    The last steps, small and many, follow the voices of the training. Where a trained trunk is trained on, a quarter of
    the weights that the large steps made (a coarse form of Izmailov et al. 2018) hears more closures of other voices.
    """
    return {name: share * early[name].to(value.device) + (1.0 - share) * value for name, value in late.items()}


def _rate(peak: float, done: float, step: int) -> float:
    return peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def carried(fresh: np.ndarray[Any, np.dtype[np.bool_]], rng: np.random.Generator, *states: Tensor) -> list[Tensor]:
    """Half of the rows that begin another sound start from zeros, half from the states the last one left.

    The second axis of a state is the rows', of one with four axes the first.
    """
    zeroed = torch.tensor(fresh & (rng.random(fresh.size) < 0.5))
    found = []
    for state in states:
        rows = zeroed.to(state.device)
        found.append(state.masked_fill(rows[:, None, None, None] if state.dim() == 4 else rows[None, :, None], 0.0))
    return found


def _resume(path: Path, trunk: Trunk, optimizer: torch.optim.Optimizer) -> tuple[float, int, dict[str, Tensor] | None]:
    """Return the seconds spent, the steps made and the early weights, once they are kept."""
    if not path.exists():
        return 0.0, 0, None
    stored = torch.load(path, map_location="cpu", weights_only=True)
    trunk.load_state_dict(stored["model"])
    if "optimizer" in stored:  # weights out of a bundle have none
        optimizer.load_state_dict(stored["optimizer"])
    print(f"going on from {path}, step {stored['step']}")
    return float(stored["spent"]), int(stored["step"]), stored.get("early")


def _store(
    path: Path,
    trunk: Trunk,
    optimizer: torch.optim.Optimizer,
    spent: float,
    step: int,
    early: dict[str, Tensor] | None = None,
) -> None:
    content = {"model": trunk.state_dict(), "optimizer": optimizer.state_dict(), "size": asdict(trunk.size)}
    save_checkpoint(path, {**content, "spent": spent, "step": step, **({"early": early} if early else {})})
