"""Eyes from outside: what an eye tracker tells takes the place of what the talker makes, and brows and cheeks answer.

Values as VRCFaceTracking sends them. gaze: EyeLeftX, EyeLeftY, EyeRightX, EyeRightY in [-1, 1], to the right of who
looks, and up; 1 is a whole EyeLook shape. lids: EyeLidLeft, EyeLidRight, 0 shut, 0.75 open, 1 wide. Each ends with its
presence, 1 where there is a tracker.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.visemes import FPS

__all__ = ["ANSWERS", "GAZE_PLACES", "HELD_OUTSIDE", "LID_PLACES", "TOLD", "Outside"]

GAZE_PLACES = ("EyeLeftX", "EyeLeftY", "EyeRightX", "EyeRightY", "presence")
LID_PLACES = ("EyeLidLeft", "EyeLidRight", "presence")
HELD_OUTSIDE = 2 + 4 + 2
"""How far gaze and lids are told from outside, and the newest values that were told."""
OVER = 0.2
"""Seconds in which the eyes change over between what is told and what is made."""
_OPEN = 0.75
TOLD: tuple[tuple[str, int, float, float], ...] = (
    ("EyeLookInLeft", 0, 1.0, 0.0), ("EyeLookOutLeft", 0, -1.0, 0.0), ("EyeLookUpLeft", 1, 1.0, 0.0),
    ("EyeLookDownLeft", 1, -1.0, 0.0), ("EyeLookOutRight", 2, 1.0, 0.0), ("EyeLookInRight", 2, -1.0, 0.0),
    ("EyeLookUpRight", 3, 1.0, 0.0), ("EyeLookDownRight", 3, -1.0, 0.0),
    ("EyeBlinkLeft", 4, -1 / _OPEN, 1.0), ("EyeBlinkRight", 5, -1 / _OPEN, 1.0),
    ("EyeWideLeft", 4, 1 / (1 - _OPEN), 1 - 1 / (1 - _OPEN)), ("EyeWideRight", 5, 1 / (1 - _OPEN), 1 - 1 / (1 - _OPEN)),
)  # fmt: skip
"""A shape, the value that tells it, and the line between them; at least 0, at most 1."""
ANSWERS: tuple[tuple[str, str, float], ...] = (
    ("EyeLookUp", "BrowInnerUp", 0.1), ("EyeLookUp", "BrowOuterUp", 0.2), ("EyeWide", "BrowInnerUp", 0.2),
    ("EyeWide", "BrowOuterUp", 0.35), ("EyeBlink", "CheekSquint", 0.15), ("EyeBlink", "BrowDown", 0.08),
)  # fmt: skip
"""A shape that is told, one that answers on the same side, and by how much."""
_INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


class Outside(nn.Module):
    """gaze (B, 5), lids (B, 3), held (B, HELD_OUTSIDE) -> the shapes of TOLD (B, 12), and what is held now."""

    slopes: Tensor
    at_zero: Tensor
    taken: Tensor
    answer: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        slopes = torch.zeros(6, len(TOLD))
        for place, (_, value, slope, _) in enumerate(TOLD):
            slopes[value, place] = slope
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("at_zero", torch.tensor([row[3] for row in TOLD]), persistent=False)
        taken, answer = torch.zeros(len(TOLD), len(MOTION_NAMES)), torch.zeros(len(TOLD), len(MOTION_NAMES))
        for place, (name, *_) in enumerate(TOLD):
            taken[place, _INDEX[name]] = 1.0
            for told, shape, size in ANSWERS:
                if name.startswith(told):
                    both = 0.5 if shape in _INDEX else 1.0
                    answer[place, _INDEX[shape if shape in _INDEX else shape + name[len(told) :]]] = size * both
        replaced = torch.tensor([0.0 if name.startswith("EyeWide") else 1.0 for name, *_ in TOLD])
        self.register_buffer("replaced", replaced, persistent=False)  # what is wide in surprise stays so
        self.register_buffer("taken", taken, persistent=False)
        self.register_buffer("answer", answer, persistent=False)

    def forward(self, gaze: Tensor | None, lids: Tensor | None, held: Tensor) -> tuple[Tensor, Tensor]:
        gaze = held.new_zeros(held.shape[0], len(GAZE_PLACES)) if gaze is None else gaze
        lids = held.new_zeros(held.shape[0], len(LID_PLACES)) if lids is None else lids
        there = torch.cat([gaze[:, -1:], lids[:, -1:]], -1).clamp(0.0, 1.0)
        share = held[:, :2] + (there - held[:, :2]).clamp(-1.0 / (OVER * FPS), 1.0 / (OVER * FPS))
        each = torch.cat([there[:, :1].expand(-1, 4), there[:, 1:].expand(-1, 2)], -1)
        values = held[:, 2:] + each * (torch.cat([gaze[:, :-1], lids[:, :-1]], -1) - held[:, 2:])
        return (values @ self.slopes + self.at_zero).clamp(0.0, 1.0), torch.cat([share, values], -1)

    def show(self, motion: Tensor, told: Tensor, held: Tensor) -> Tensor:
        """Return motion (B, 55) whose eyes are those told as far as they are told; brows and cheeks answer."""
        share = torch.cat([held[:, :1].expand(-1, 8), held[:, 1:2].expand(-1, 4)], -1)
        over = (motion @ self.taken.T) * self.replaced
        return motion + (share * (told - over)) @ self.taken + (share * told) @ self.answer
