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
LEAK = 0.01
"""How much of its way to the mean a head angle is pulled back in every frame: sums of small errors must not wander."""
QUIET, VOICED = 0.1, 0.5
"""Probability of a voice below which the mouth rests, and above which it moves in full."""
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
    """What a denoised frame means: offsets from a base, in units of each channel's usual offset.

    The base of a mouth channel is what the trunk heard, of the lids their mean, and of everything slow (head,
    brows, gaze, emotions) the frame before, so that noise becomes movement and not jitter. mean, spread: (32,)
    statistics of the channels, for the history; scale: (32,) of the offsets. Contacts are blended in by the rules
    that the data follows: where the trunk hears lips touch, MouthClose cancels JawOpen and the lips press.
    """

    mean: Tensor
    spread: Tensor
    scale: Tensor
    stays: Tensor
    expand: Tensor
    leaks: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, scale: Tensor, low: float = 0.35, high: float = 0.6) -> None:
        super().__init__()
        stays = torch.ones(len(CHANNELS))
        stays[: len(MOUTH)] = stays[column("EyeBlinkLeft")] = 0.0
        tensors = {"mean": mean, "spread": spread, "scale": scale, "stays": stays, "expand": expansion()}
        for name, value in tensors.items():
            self.register_buffer(name, value)
        leaks = torch.zeros(len(CHANNELS))
        leaks[-len(HEAD_ANGLES) :] = 1.0
        self.register_buffer("leaks", leaks)
        self.low, self.high = low, high

    def normalise(self, channels: Tensor) -> Tensor:
        """Return channels as the history keeps them."""
        return (channels - self.mean) / self.spread

    def base(self, mouth: Tensor, logits: Tensor, last: Tensor) -> Tensor:
        """Return the base (B, 32) of a frame.

        mouth (B, 14), logits (B, 3) from the trunk; last (B, 32), the newest row of the normalised history. Where the
        trunk hears no voice, the mouth's base goes to rest: noise between phrases must not move the lips.
        """
        before = last * self.spread + self.mean
        slow = self.stays * before + (1.0 - self.stays) * self.mean
        voice = ((torch.sigmoid(logits[:, 2:]) - QUIET) / (VOICED - QUIET)).clamp(0.0, 1.0)
        return torch.cat([mouth * voice, slow[:, len(MOUTH) :]], -1)

    def encode(self, channels: Tensor, base: Tensor) -> Tensor:
        """Return the frame that `forward` turns back into these channels, contacts aside."""
        return (channels - base) / self.scale

    def forward(self, value: Tensor, logits: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """value, base (B, 32), logits (B, 3) -> motion (B, 55) with shapes in [0, 1], normalised channels (B, 32)."""
        raw = base + value * self.scale
        raw = raw + LEAK * (self.leaks * (self.mean - raw))
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
