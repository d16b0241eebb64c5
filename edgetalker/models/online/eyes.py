"""Lids and gaze: chance events, played from the session's noise and the eyes' own past.

When a person blinks or looks elsewhere is chance, and a network that decides it amplifies rounding: an error of one
part in a thousand makes a blink come a frame later, and with it everything that sees it. So the events are a plain
process here, in comparisons of draws with thresholds that only the voice shifts a little: the same in every schedule,
and nearly always in every precision.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.upper import BLINK, BLINK_DROOP, GAZE
from edgetalker.models.online.data.visemes import FPS

__all__ = ["DRAWS", "EYES", "Eyes"]

EYES: tuple[tuple[str, ...], ...] = (
    ("EyeBlinkLeft", "EyeBlinkRight"), ("EyeLookOutLeft", "EyeLookInRight"), ("EyeLookInLeft", "EyeLookOutRight"),
    ("EyeLookUpLeft", "EyeLookUpRight"), ("EyeLookDownLeft", "EyeLookDownRight"),
)  # fmt: skip
DRAWS = 4
"""Normal values that a frame needs: to blink or not, to look elsewhere or not, where across, where up."""
PAUSE = 0.5
"""Seconds after a blink's start in which none begins."""
WHILE_TALKING, IN_SILENCE = 3.2, 2.6
"""Mean seconds from blink to blink (Bentivoglio et al. 1997: people blink 15 to 26 times a minute)."""
ON_VIEWER, ELSEWHERE = 2.4, 0.8
"""Mean seconds of a look at the viewer, and of a glance elsewhere."""
GLANCE, FIXATION = 1.8, 0.12
"""How far a glance and a look at the viewer lie from straight ahead, in units of the animator's gaze."""
AWAY = 0.06
"""From this far on (across and up together) the eyes are elsewhere."""


def _threshold(seconds: float) -> float:
    """Return the value that a normal draw passes once in `seconds`, drawn every frame."""
    return NormalDist().inv_cdf(1.0 - 1.0 / (FPS * seconds))


class Eyes(nn.Module):
    """past (B, H, 5), draws (B, DRAWS), voice (B, 1) in [0, 1] -> the eyes of the next frame, (B, 5).

    past holds EYES as this module made them, H at least half a second. The lids' state is read off their past: a
    blink began where they went from open to half-way down in one frame, which nothing else in the curve does.
    """

    curve: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("curve", torch.tensor(BLINK).flip(0), persistent=False)
        self.talking, self.silent = _threshold(WHILE_TALKING - PAUSE), _threshold(IN_SILENCE - PAUSE)
        self.glance, self.back = _threshold(ON_VIEWER), _threshold(ELSEWHERE)

    def forward(self, past: Tensor, draws: Tensor, voice: Tensor) -> Tensor:
        lid = self._lid(past[:, :, 0], draws[:, :1], voice)
        across = past[:, -1, 2:3] - past[:, -1, 1:2]
        up = past[:, -1, 3:4] - past[:, -1, 4:5]
        away = (past[:, -1, 1:].sum(-1, keepdim=True) > AWAY).to(past.dtype)
        moved = (draws[:, 1:2] > self.glance + away * (self.back - self.glance)).to(past.dtype)
        size = GLANCE + away * (FIXATION - GLANCE)
        across = across + moved * (size * GAZE[0] * draws[:, 2:3] - across)
        up = up + moved * (size * GAZE[1] * draws[:, 3:4] - up)
        return torch.cat(
            [lid, (-across).clamp(min=0.0), across.clamp(min=0.0), up.clamp(min=0.0), (-up).clamp(min=0.0)], -1
        )

    def _lid(self, lid: Tensor, draw: Tensor, voice: Tensor) -> Tensor:
        recent = lid[:, -int(PAUSE * FPS) - 1 :]
        begun = (recent[:, 1:] > 0.5).to(lid.dtype) * (recent[:, :-1] < 0.1).to(lid.dtype)
        later = self.curve[:-1]  # what follows a blink's first frame, oldest first
        running = (begun[:, -later.shape[0] :] * later).sum(-1, keepdim=True)
        free = 1.0 - begun.amax(-1, keepdim=True)
        due = (draw > self.silent + voice * (self.talking - self.silent)).to(lid.dtype)
        return running + free * due * self.curve[-1:]


def with_droop(eyes: Tensor, droop: Tensor) -> Tensor:
    """Return the eyes (B, 5) as shown: the gaze sinks with the lids, and by `droop` (B, 1)."""
    return torch.cat([eyes[:, :4], eyes[:, 4:] + BLINK_DROOP * eyes[:, :1] + droop], -1)
