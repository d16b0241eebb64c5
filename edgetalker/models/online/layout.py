"""The talker's motion space: 32 channels, each of which drives one ARKit shape, a pair, or a head angle.

27 of them are made by the denoiser: the mouth, expressions, and what moves (brows and head). The eyes follow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.shapes import HEAD_ANGLES, MOTION_NAMES
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.eyes import DRAWS, EYES, Eyes, with_droop

__all__ = [
    "CHANCE",
    "CHANNELS",
    "CONTROLS",
    "EASE",
    "MADE",
    "MOVING",
    "NOISE",
    "Decoder",
    "column",
    "expansion",
    "reduction",
]


def _pair(name: str) -> tuple[str, str]:
    return f"{name}Left", f"{name}Right"


_EXPRESSION: tuple[tuple[str, ...], ...] = (
    _pair("MouthFrown"), _pair("MouthDimple"), ("MouthShrugLower",), _pair("EyeSquint"), _pair("EyeWide"),
    _pair("BrowDown"), _pair("CheekSquint"), _pair("NoseSneer"),
)  # fmt: skip
_MOVING: tuple[tuple[str, ...], ...] = (
    ("BrowInnerUp",), _pair("BrowOuterUp"), *((angle,) for angle in HEAD_ANGLES)
)  # fmt: skip
CHANNELS = (*MOUTH, *_EXPRESSION, *_MOVING, *EYES)
MADE = len(CHANNELS) - len(EYES)
"""Channels that the denoiser makes; the first ones."""
MOVING = slice(MADE - len(_MOVING), MADE)
"""Brows and head: the channels that go on from where they were."""
NOISE = MADE + DRAWS
"""Normal values that a frame needs."""
CHANCE = DRAWS + 1
"""What the decoder is told about the eyes: the draws, and how far the gaze droops."""
LEAK = 0.003
"""How much of its way to the mean a moving channel is pulled back in every frame: sums of small errors must not
wander."""
MOVES, ROUSES = (0.1, 0.5), (0.5, 0.9)
"""Probability of a voice below which the mouth rests, and above which it moves in full: for one that moves, and for one
that rests. A click or a breath before a phrase sounds a little like a voice; it must not part lips that are shut."""
STIRS = (0.02, 0.07)
"""JawOpen of the frame before, up to which the mouth rests, and from which it moves."""
WAKES = 3.0
"""How much sooner than its base the offset of a mouth moves in full."""
EASE = 0.2
"""How much of the last frame's mouth stays: a sixth less jitter for a sixth of a frame of delay (measured)."""
CONTROLS = ("joy", "sadness", "anger", "surprise", "articulation", "head")
_INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


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

    The base of a mouth channel is what the trunk heard, of an expression its mean, and of what moves the frame
    before, so that noise becomes movement and not jitter. What the lips part by needs a voice, and the mouth keeps a
    little of the frame before. mean, spread: (32,) statistics of the channels, for the
    history; scale: (27,) of the offsets. Contacts are blended in by the rules that the data follows: where the trunk
    hears lips touch, MouthClose cancels JawOpen and the lips press.
    """

    mean: Tensor
    spread: Tensor
    scale: Tensor
    expand: Tensor
    parting: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, scale: Tensor, low: float = 0.37, high: float = 0.62) -> None:
        super().__init__()
        for name, value in {"mean": mean, "spread": spread, "scale": scale, "expand": expansion()}.items():
            self.register_buffer(name, value)
        parting = torch.zeros(MADE)
        parting[[column(name) for name in ("JawOpen", "MouthLowerDownLeft", "MouthUpperUpLeft")]] = 1.0
        self.register_buffer("parting", parting, persistent=False)
        self.eyes = Eyes()
        self.low, self.high = low, high

    def normalise(self, channels: Tensor) -> Tensor:
        """Return channels as the history keeps them."""
        return (channels - self.mean) / self.spread

    def _shown(self, rows: Tensor, part: slice) -> Tensor:
        """Return these channels (..., n) of rows (..., 32) of the history as they were before `normalise`."""
        return rows[..., part] * self.spread[part] + self.mean[part]

    def rest(self) -> Tensor:
        """Return the row (32,) of a face at rest, as the history keeps it."""
        return self.normalise(torch.zeros_like(self.mean))

    def base(self, mouth: Tensor, logits: Tensor, last: Tensor) -> Tensor:
        """Return the base (B, 27) of a frame.

        mouth (B, 14), logits (B, 3) from the trunk; last (B, 32), the newest row of the normalised history. Where the
        trunk hears no voice, the mouth's base goes to rest: noise between phrases must not move the lips.
        """
        still = self.mean[len(MOUTH) : MOVING.start].expand(mouth.shape[0], -1)
        return torch.cat([mouth * self._awake(logits, last), still, self._shown(last, MOVING)], -1)

    def _awake(self, logits: Tensor, last: Tensor) -> Tensor:
        """Return how far the mouth may move, (B, 1) in [0, 1], from logits (B, 3) and the last row (B, 32)."""
        jaw = column("JawOpen")
        moving = _ramp(self._shown(last, slice(jaw, jaw + 1)), *STIRS)
        rouse = _ramp(torch.sigmoid(logits[:, 2:]), *ROUSES)
        return rouse + moving * (voice(logits) - rouse)

    def encode(self, channels: Tensor, base: Tensor) -> Tensor:
        """Return the frame (B, 27) that `forward` turns into these channels, but for contacts, leak, rest and ease."""
        return (channels[:, :MADE] - base) / self.scale

    def forward(
        self, value: Tensor, logits: Tensor, base: Tensor, history: Tensor, chance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return motion (B, 55) with shapes in [0, 1], and the row (B, 32) that the history keeps.

        value, base (B, 27); logits (B, 3); history (B, H, 32), normalised; chance (B, 5): draws and droop of the eyes.
        """
        # Only speech parts the lips; the other offsets are wishes too, and a smile stays in a pause.
        free = (WAKES * self._awake(logits, history[:, -1])).clamp(max=1.0)
        raw = base + value * self.scale * (1.0 - self.parting * (1.0 - free))
        mouth = self._eased(raw[:, : len(MOUTH)], history[:, -1])
        moving = raw[:, MOVING]
        moving = moving + LEAK * (self.mean[MOVING] - moving)
        angles = len(HEAD_ANGLES)
        made = torch.cat([mouth, raw[:, len(MOUTH) : MOVING.start], moving[:, :-angles]], -1).clamp(0.0, 1.0)
        parts = [*made.unbind(-1), *moving[:, -angles:].clamp(-0.6, 0.6).unbind(-1)]
        touch = ((torch.sigmoid(logits[:, :2]) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        touch = touch * touch * (3.0 - 2.0 * touch)
        lips, teeth = touch[:, 0], touch[:, 1]
        self._touch(parts, lips, teeth * (1.0 - lips))
        past = self._shown(history, slice(MADE, None))
        eyes = self.eyes(past, chance[:, :DRAWS], voice(logits))
        face = torch.stack(parts, -1)
        shown = torch.cat([face, with_droop(eyes, chance[:, DRAWS:])], -1)
        return shown @ self.expand, self.normalise(torch.cat([face, eyes], -1))

    def _eased(self, mouth: Tensor, last: Tensor) -> Tensor:
        """Return a mouth (B, 14) that keeps a little of the one in the last row (B, 32)."""
        return mouth + EASE * (self._shown(last, slice(len(MOUTH))) - mouth)

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


def voice(logits: Tensor) -> Tensor:
    """Return how much voice there is, (B, 1) in [0, 1], from the trunk's logits (B, 3)."""
    return _ramp(torch.sigmoid(logits[:, 2:]), *MOVES)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    """Return 0 below `low`, 1 above `high`, and a straight line between."""
    return ((value - low) / (high - low)).clamp(0.0, 1.0)
