"""The talker's motion space: 32 channels, each of which drives one ARKit shape, a pair, or a head angle.

27 of them are made by the denoiser: the mouth, expressions, and what moves (brows and head). The eyes follow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.shapes import HEAD_ANGLES, MOTION_NAMES
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.eyes import DRAWS, EYES, Eyes, with_droop
from edgetalker.models.online.outside import HELD_OUTSIDE, Outside

__all__ = [
    "CHANCE",
    "CHANNELS",
    "CONTROLS",
    "EASE",
    "HELD",
    "JOY",
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
EASE = 0.4
"""How much of the last frame's mouth stays: a third less jitter than without for half a frame of delay (measured)."""
RISE, FALL = (0.75, 1.0, 0.6), (1.0, 1.0, 0.5)
"""How far contact of the lips, of lip and teeth, and the lips' pressure come and go in a frame, in units of a whole
closure: the animator's lips take 45 ms."""
PRESSED = (("MouthPressLeft", 0.3, 0.0), ("MouthRollLower", 0.25, 0.5), ("MouthRollUpper", 0.2, 0.0))
"""What pressed lips, and a lower lip at the teeth, show at least."""
HELD = len(RISE) + HELD_OUTSIDE
"""Values that the decoder keeps from frame to frame beside the history: the contacts, and the eyes from outside."""
JOY = {"MouthSmile": 0.55, "CheekSquint": 0.3, "MouthDimple": 0.2, "EyeSquint": 0.12, "MouthStretch": 0.1}
"""What whole joy adds to what is shown: the mouth that speaks takes the denoiser's smile away."""
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


def _spread(sizes: dict[str, float]) -> Tensor:
    """Return shapes by name, without a side both, as motion (55,)."""
    motion = torch.zeros(len(MOTION_NAMES))
    for name, size in sizes.items():
        motion[[_INDEX[side] for side in (name, *_pair(name)) if side in _INDEX]] = size
    return motion


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
    rise: Tensor
    fall: Tensor
    joyful: Tensor
    highest: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, scale: Tensor, low: float = 0.33, high: float = 0.59) -> None:
        super().__init__()
        for name, value in {"mean": mean, "spread": spread, "scale": scale, "expand": expansion()}.items():
            self.register_buffer(name, value)
        parting = torch.zeros(MADE)
        parting[[column(name) for name in ("JawOpen", "MouthLowerDownLeft", "MouthUpperUpLeft")]] = 1.0
        self.register_buffer("parting", parting, persistent=False)
        self.register_buffer("rise", torch.tensor(RISE), persistent=False)
        self.register_buffer("fall", torch.tensor(FALL), persistent=False)
        self.register_buffer("joyful", _spread(JOY), persistent=False)
        highest = torch.ones(len(MOTION_NAMES))
        highest[-len(HEAD_ANGLES) :] = 0.6
        self.register_buffer("highest", highest, persistent=False)
        self.eyes, self.outside = Eyes(), Outside()
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
        return torch.maximum(rouse, torch.minimum(moving, voice(logits)))

    def encode(self, channels: Tensor, base: Tensor) -> Tensor:
        """Return the frame (B, 27) that `forward` turns into these channels, but for contacts, leak, rest and ease."""
        return (channels[:, :MADE] - base) / self.scale

    def begin(self, batch: int) -> Tensor:
        """Return what is held before the first frame, (B, HELD): no contact, and nobody who tells of the eyes."""
        return torch.zeros(batch, HELD, device=self.mean.device)

    def forward(
        self,
        value: Tensor,
        logits: Tensor,
        base: Tensor,
        history: Tensor,
        chance: Tensor,
        held: Tensor | None = None,
        gaze: Tensor | None = None,
        lids: Tensor | None = None,
        joy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return motion (B, 55) with shapes in [0, 1], the row (B, 32) that the history keeps, and what is held.

        value, base (B, 27); logits (B, 3); history (B, H, 32), normalised; chance (B, 5): draws and droop of the eyes;
        held (B, HELD) of the frame before; gaze (B, 5), lids (B, 3) from outside (`Outside`); joy (B, 1).
        """
        held = self.begin(value.shape[0]) if held is None else held
        # Only speech parts the lips; the other offsets are wishes too, and a smile stays in a pause.
        free = (WAKES * self._awake(logits, history[:, -1])).clamp(max=1.0)
        raw = base + value * self.scale * (1.0 - self.parting * (1.0 - free))
        mouth = self._eased(raw[:, : len(MOUTH)], history[:, -1])
        moving = raw[:, MOVING]
        moving = moving + LEAK * (self.mean[MOVING] - moving)
        angles = len(HEAD_ANGLES)
        made = torch.cat([mouth, raw[:, len(MOUTH) : MOVING.start], moving[:, :-angles]], -1).clamp(0.0, 1.0)
        parts = [*made.unbind(-1), *moving[:, -angles:].clamp(-0.6, 0.6).unbind(-1)]
        contacts = self._contacts(logits, held[:, : len(RISE)])
        self._touch(parts, *contacts.unbind(-1))
        past = self._shown(history, slice(MADE, None))
        eyes = self.eyes(past, chance[:, :DRAWS], voice(logits))
        face = torch.stack(parts, -1)
        told, outside = self.outside(gaze, lids, held[:, len(RISE) :])
        shown = torch.cat([face, with_droop(eyes, chance[:, DRAWS:])], -1) @ self.expand
        motion = self.outside.show(shown, told, outside)
        motion = motion if joy is None else motion + joy * self.joyful
        kept = self.normalise(torch.cat([face, eyes], -1))
        return torch.minimum(motion, self.highest), kept, torch.cat([contacts, outside], -1)

    def _contacts(self, logits: Tensor, before: Tensor) -> Tensor:
        """Return contact of lips, of lip and teeth, and the lips' pressure, (B, 3): they come and go as lips do."""
        wanted = _ramp(torch.sigmoid(logits[:, [0, 1, 0]]), self.low, self.high)
        return before + torch.maximum(torch.minimum(wanted - before, self.rise), -self.fall)

    def _eased(self, mouth: Tensor, last: Tensor) -> Tensor:
        """Return a mouth (B, 14) that keeps a little of the one in the last row (B, 32)."""
        return mouth + EASE * (self._shown(last, slice(len(MOUTH))) - mouth)

    @staticmethod
    def _touch(parts: list[Tensor], lips: Tensor, teeth: Tensor, press: Tensor) -> None:
        jaw, close = column("JawOpen"), column("MouthClose")
        either = torch.maximum(lips, teeth)
        parts[jaw] = parts[jaw] + either * (parts[jaw].clamp(max=0.12) - parts[jaw])
        parts[close] = lips * parts[jaw] + (1.0 - lips) * torch.minimum(parts[close], parts[jaw])
        for name in ("MouthLowerDownLeft", "MouthUpperUpLeft"):
            parts[column(name)] = parts[column(name)] * (1.0 - lips)
        # Lips press where they touch, not where they nearly do.
        parts[column("MouthPressLeft")] = torch.zeros_like(press)
        for name, of_lips, of_teeth in PRESSED:
            parts[column(name)] = torch.maximum(parts[column(name)], of_lips * press + of_teeth * teeth)


def voice(logits: Tensor) -> Tensor:
    """Return how much voice there is, (B, 1) in [0, 1], from the trunk's logits (B, 3)."""
    return _ramp(torch.sigmoid(logits[:, 2:]), *MOVES)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    """Return 0 below `low`, 1 above `high`, and a straight line between."""
    return ((value - low) / (high - low)).clamp(0.0, 1.0)
