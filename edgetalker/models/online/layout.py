"""The talker's motion space: 32 channels, each of which drives one ARKit shape, a pair, or a head angle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgetalker.models.online.data.shapes import HEAD_ANGLES, MOTION_NAMES
from edgetalker.models.online.data.visemes import MOUTH

__all__ = ["CHANNELS", "CONTROLS", "Decoder", "column", "expansion", "reduction"]


def _pair(name: str) -> tuple[str, str]:
    return f"{name}Left", f"{name}Right"


CHANNELS: tuple[tuple[str, ...], ...] = (
    *MOUTH,
    _pair("MouthFrown"), _pair("MouthDimple"), ("MouthShrugLower",),
    _pair("EyeBlink"), ("EyeLookOutLeft", "EyeLookInRight"), ("EyeLookInLeft", "EyeLookOutRight"),
    _pair("EyeLookUp"), _pair("EyeLookDown"), _pair("EyeSquint"), _pair("EyeWide"),
    _pair("BrowDown"), ("BrowInnerUp",), _pair("BrowOuterUp"), _pair("CheekSquint"), _pair("NoseSneer"),
    *((angle,) for angle in HEAD_ANGLES),
)  # fmt: skip
CONTROLS = ("joy", "sadness", "anger", "surprise", "articulation", "head")
_INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}
_SHAPES = len(MOTION_NAMES) - len(HEAD_ANGLES)


def column(name: str) -> int:
    """Return the channel that drives a shape or an angle. Raises KeyError for shapes that none drives."""
    for index, names in enumerate(CHANNELS):
        if name in names:
            return index
    raise KeyError(name)


def expansion() -> Tensor:
    """Return the matrix (32, 55) of zeros and ones from channels to shapes and angles."""
    matrix = torch.zeros(len(CHANNELS), len(MOTION_NAMES))
    for row, names in enumerate(CHANNELS):
        matrix[row, [_INDEX[name] for name in names]] = 1.0
    return matrix


def reduction() -> list[int]:
    """Return for each channel the motion column to read it from."""
    return [_INDEX[names[0]] for names in CHANNELS]


class Decoder(nn.Module):
    """Normalised channels and contact logits -> ARKit motion, and the channels as history keeps them.

    mean, spread: (32,) statistics of the channels. Contacts are blended in by the rules that the data follows:
    where the trunk hears lips touch, MouthClose cancels JawOpen and the lips press.
    """

    mean: Tensor
    spread: Tensor
    expand: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, low: float = 0.3, high: float = 0.55) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("expand", expansion())
        self.low, self.high = low, high

    def normalise(self, channels: Tensor) -> Tensor:
        return (channels - self.mean) / self.spread

    def forward(self, value: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """value (B, 32), logits (B, 3) -> motion (B, 55) with shapes in [0, 1], normalised channels (B, 32)."""
        raw = value * self.spread + self.mean
        parts = list(raw[:, :-3].clamp(0.0, 1.0).unbind(-1)) + list(raw[:, -3:].clamp(-0.6, 0.6).unbind(-1))
        touch = ((torch.sigmoid(logits[:, :2]) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        touch = touch * touch * (3.0 - 2.0 * touch)
        lips, teeth = touch[:, 0], touch[:, 1]
        self._touch(parts, lips, teeth * (1.0 - lips))
        channels = torch.stack(parts, -1)
        return channels @ self.expand, self.normalise(channels)

    @staticmethod
    def _touch(parts: list[Tensor], lips: Tensor, teeth: Tensor) -> None:
        jaw, close = column("JawOpen"), column("MouthClose")
        either = torch.maximum(lips, teeth)
        parts[jaw] = parts[jaw] + either * (parts[jaw].clamp(max=0.12) - parts[jaw])
        parts[close] = lips * parts[jaw] + (1.0 - lips) * torch.minimum(parts[close], parts[jaw])
        for name in ("MouthLowerDownLeft", "MouthUpperUpLeft"):
            parts[column(name)] = parts[column(name)] * (1.0 - lips)
        parts[column("MouthPressLeft")] = torch.maximum(parts[column("MouthPressLeft")], 0.3 * lips)
        for name, size in (("MouthRollLower", 0.25), ("MouthRollUpper", 0.2)):
            parts[column(name)] = torch.maximum(parts[column(name)], size * lips)
        parts[column("MouthRollLower")] = torch.maximum(parts[column("MouthRollLower")], 0.5 * teeth)


def to_channels(motion: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    """Read the 32 channels out of ARKit motion (..., 55)."""
    return torch.tensor(motion[..., reduction()])
