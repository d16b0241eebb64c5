"""Eyes from eye cameras: an encoder of two pictures, the layers by which a talker's eyes, brows and cheeks follow it,
and the pictures of our own head that both are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.face.eyecamera import SIZE, EyeViews, Light, Mounted
from edgetalker.face.lids import GAZE
from edgetalker.face.png import write_png
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.upper import BLINK
from edgetalker.models.online.data.visemes import FPS
from edgetalker.models.online.outside import OVER

__all__ = [
    "DEGREES",
    "FEATURES",
    "SIZE",
    "VALUES",
    "Encoder",
    "EyeViews",
    "Follow",
    "Session",
    "fit_follow",
    "shapes_of",
    "train_encoder",
    "write_sheet",
]

FEATURES = 160
"""Numbers that the encoder tells of two pictures, 80 an eye."""
VALUES: tuple[tuple[str, str], ...] = (
    ("EyeLookInLeft", "EyeLookOutLeft"), ("EyeLookUpLeft", "EyeLookDownLeft"),
    ("EyeLookOutRight", "EyeLookInRight"), ("EyeLookUpRight", "EyeLookDownRight"),
    ("EyeWideLeft", "EyeBlinkLeft"), ("EyeWideRight", "EyeBlinkRight"), ("EyeSquintLeft", ""), ("EyeSquintRight", ""),
    ("BrowDownLeft", ""), ("BrowDownRight", ""), ("BrowInnerUp", ""), ("BrowOuterUpLeft", ""), ("BrowOuterUpRight", ""),
    ("CheekSquintLeft", ""), ("CheekSquintRight", ""),
)  # fmt: skip
"""What follows the cameras, each a number with the shapes that its positive and its negative part show."""
_SIDES = ((0, 1, 4, 6, 8, 10, 11, 13), (2, 3, 5, 7, 9, 10, 12, 14))
"""Places of VALUES that one eye's camera sees: in, up, lid, squint, brow down, inner and outer up, cheek."""
DEGREES = np.array([GAZE["EyeLookInLeft"][1], GAZE["EyeLookUpLeft"][0], GAZE["EyeLookOutLeft"][1],
                     GAZE["EyeLookDownLeft"][0]])  # fmt: skip
"""Of the EyeLook shapes in, up, out, down at 1, about the head's axes."""
_SHAPES = tuple(name for pair in VALUES for name in pair if name)
_NUISANCE = ("MouthSmile", "NoseSneer")
"""Shapes that move what the cameras see, and that nobody asks for: by name without a side."""
Array = NDArray[np.float32]


def _tables() -> tuple[Tensor, Tensor]:
    """Return motion's columns of _SHAPES (21, 55), and VALUES as they show (15, 21)."""
    taken, shown = torch.zeros(len(_SHAPES), len(MOTION_NAMES)), torch.zeros(len(VALUES), len(_SHAPES))
    for place, name in enumerate(_SHAPES):
        taken[place, MOTION_NAMES.index(name)] = 1.0
    for row, pair in enumerate(VALUES):
        for name, sign in zip(pair, (1.0, -1.0), strict=True):
            if name:
                shown[row, _SHAPES.index(name)] = sign
    return taken, shown


def shapes_of(values: Array) -> Array:
    """Return values (..., 15) as motion (..., 55) in which nothing else moves."""
    taken, shown = _tables()
    return np.asarray(np.clip(values @ shown.numpy(), 0.0, 1.0) @ taken.numpy(), np.float32)


class Encoder(nn.Module):
    """pictures (B, 2, 48, 48) in [0, 1], the left eye's first -> features (B, 160), presence (B, 1).

    One network sees both eyes, the right one in a mirror. A picture's own mean and contrast are taken out first: the
    lamps' business. Where a picture is black, nobody is there.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = (1, width, width * 3 // 2, width * 2, width * 3)
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.ReLU()]
        self.eye = nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * (SIZE // 16) ** 2, FEATURES // 2))

    def one(self, pictures: Tensor) -> Tensor:
        """Return the features (B, 80) of left eyes' pictures (B, 1, 48, 48)."""
        centred = pictures - pictures.mean((2, 3), keepdim=True)
        features: Tensor = self.eye(centred / ((centred**2).mean((2, 3), keepdim=True) + 1e-4).sqrt())
        return features

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        left, right = pictures[:, :1], pictures[:, 1:].flip(3)
        presence = (pictures.amax((2, 3)).amin(1, keepdim=True) > 0.0).to(pictures.dtype)
        return torch.cat([self.one(left), self.one(right)], 1), presence


class Follow(nn.Module):
    """made (B, 55), features (B, 160), presence (B, 1), held (B, 16) -> motion (B, 55), held (B, 16).

    The layer starts at zero, where the face does what the talker made; it sees that too, and learns to take it back.
    held: how far the cameras are followed, which goes over in OVER seconds, and the values when they were last there.
    Who has no cameras gets what was made, bit for bit.
    """

    taken: Tensor
    shown: Tensor

    def __init__(self) -> None:
        super().__init__()
        taken, shown = _tables()
        self.register_buffer("taken", taken, persistent=False)
        self.register_buffer("shown", shown, persistent=False)
        self.layer = nn.Linear(FEATURES + len(VALUES), len(VALUES))
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, made: Tensor, features: Tensor, presence: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        before = made @ self.taken.T
        values = before @ self.shown.T
        values = values + self.layer(torch.cat([features, values], -1))
        stride = 1.0 / (OVER * FPS)
        share = held[:, :1] + (presence - held[:, :1]).clamp(-stride, stride)
        values = held[:, 1:] + presence * (values - held[:, 1:])
        told = (values @ self.shown).clamp(0.0, 1.0)
        return made + (share * (told - before)) @ self.taken, torch.cat([share, values], -1)


@dataclass(frozen=True)
class Session:
    """One wearing of the headset: how it sits, lamps that drift, and what the face does.

    truth: (T, 15) of VALUES. pictures: (T, 2, 48, 48) uint8 with the sensors' noise.
    """

    truth: Array
    pictures: NDArray[np.uint8]

    @classmethod
    def render(cls, views: EyeViews, seed: int, frames: int, *, moving: bool) -> Session:
        """Render a session. moving: a face that moves at 30 frames a second, else poses that have nothing to do with
        each other."""
        dice = np.random.default_rng([7, seed])
        cameras = (_fit(dice), _fit(dice))
        truth = _motion(dice, frames) if moving else _poses(dice, frames)
        motion = shapes_of(truth)
        smile = dice.random((frames, len(_NUISANCE))) * (dice.random((frames, len(_NUISANCE))) < 0.3)
        smile = _smooth(smile, 15) if moving else smile
        lamps = _lamps(dice, frames if moving else 40)
        pictures = np.empty((frames, 2, SIZE, SIZE), np.uint8)
        for frame in range(frames):
            shapes = dict(zip(MOTION_NAMES, motion[frame].tolist(), strict=True))
            for name, size in zip(_NUISANCE, smile[frame], strict=True):
                shapes[f"{name}Left"] = shapes[f"{name}Right"] = float(size)
            pictures[frame] = views.both(shapes, cameras, lamps[frame % len(lamps)])
        noisy = pictures + dice.normal(0.0, 3.0, pictures.shape)
        return cls(truth, np.clip(noisy, 1.0, 255.0).astype(np.uint8))


def _fit(dice: np.random.Generator) -> Mounted:
    return Mounted(dice.normal(0.0, 0.0015, 3), dice.normal(0.0, 0.03, 3))


def _lamps(dice: np.random.Generator, frames: int) -> list[Light]:
    """Two lamps that wander and change, at least one from the front, and light from everywhere."""
    drift = _smooth(dice.normal(size=(frames, 9)), 45) * 6.0 if frames > 90 else dice.normal(size=(frames, 9))
    return [
        Light(
            np.array([[0.5 * row[0], 0.5 * row[1], 1.0], [row[2], row[3], 0.6 + 0.3 * row[4]]]),
            0.55 * np.exp(0.4 * row[5:7]),
            float(0.2 * np.exp(0.5 * row[7])),
        )
        for row in drift
    ]


def _poses(dice: np.random.Generator, frames: int) -> Array:
    truth = dice.uniform(0.0, 1.0, (frames, len(VALUES))) * (dice.random((frames, len(VALUES))) < 0.6)
    look = dice.uniform(-1.0, 1.0, (frames, 2))
    truth[:, :4] = np.tile(look, 2) + dice.normal(0.0, 0.1, (frames, 4)) * [1, 0.3, 1, 0.3]
    kind, shut = dice.random((frames, 1)), dice.uniform(0.0, 1.0, (frames, 1))
    both = np.where(kind < 0.3, -shut, np.where(kind < 0.4, -1.0, np.where(kind < 0.55, shut, 0.0)))
    wink = dice.random((frames, 2)) < 0.1
    truth[:, 4:6] = both * np.where(wink, 0.0, 1.0)
    return np.clip(truth, -1.0, 1.0).astype(np.float32)


def _motion(dice: np.random.Generator, frames: int) -> Array:
    """Saccades every half second or so, blinks, and brows, squints and cheeks that come and go."""
    truth = np.zeros((frames, len(VALUES)))
    look = np.zeros(2)
    for frame in range(frames):
        if dice.random() < 2.0 / FPS:
            look = np.clip(dice.normal(0.0, [0.4, 0.35]), -1.0, 1.0)
        truth[frame, :4] = np.tile(look, 2)
    truth[:, 0] += 0.08  # both look at something near
    truth[:, 2] -= 0.08
    rest = dice.uniform(-0.6, 1.0, (frames // 30 + 2, len(VALUES) - 6)).clip(0.0)
    truth[:, 6:] = _smooth(np.repeat(rest, 30, 0), 20)[:frames]
    wide = _smooth(np.repeat(dice.uniform(-0.8, 0.8, (frames // 30 + 2, 1)).clip(0.0), 30, 0), 20)[:frames]
    truth[:, 4:6] = wide
    for frame in np.flatnonzero(dice.random(frames) < 0.4 / FPS).tolist():
        for place, size in enumerate(BLINK[: frames - frame]):
            truth[frame + place, 4:6] = np.minimum(truth[frame + place, 4:6], -size)
    return np.asarray(np.clip(truth, -1.0, 1.0), np.float32)


def _smooth(track: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    window = np.hanning(width + 2)[1:-1]
    smoothed: NDArray[np.float64] = np.apply_along_axis(
        lambda column: np.convolve(column, window / window.sum(), "same"), 0, track
    )
    return smoothed


def _own(truth: Array) -> tuple[Array, Array]:
    """Return what each eye's camera sees of values (T, 15), (T, 8) each, the right one's in a mirror."""
    left, right = (truth[:, list(places)].copy() for places in _SIDES)
    right[:, 0] *= -1.0
    return left, right


def _tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures.astype(np.float32) / 255.0)


def train_encoder(sessions: list[Session], steps: int, seed: int = 0, batch: int = 64, width: int = 16) -> Encoder:
    """Return an encoder that was trained with a linear read-out of what its own eye's camera sees.

    Gaze counts as far as the lids are open. Gain, contrast and noise of the pictures are varied.
    """
    torch.manual_seed(seed)
    pictures = _tensor(np.concatenate([s.pictures for s in sessions]))
    both = [_own(s.truth) for s in sessions]
    eyes = torch.cat([pictures[:, :1], pictures[:, 1:].flip(3)])
    truth = torch.from_numpy(np.concatenate([*(left for left, _ in both), *(right for _, right in both)]))
    weight = torch.ones_like(truth)
    weight[:, :2] = 2.0 * (1.0 + truth[:, 2:3]).clamp(0.0, 1.0)
    encoder, readout = Encoder(width), nn.Linear(FEATURES // 2, truth.shape[1])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *readout.parameters()], lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(eyes), (batch,))
        seen = eyes[chosen] ** torch.empty(batch, 1, 1, 1).uniform_(0.8, 1.25)
        seen = seen * torch.empty(batch, 1, 1, 1).uniform_(0.7, 1.1) + 0.02 * torch.randn_like(seen)
        loss = (weight[chosen] * (readout(encoder.one(seen)) - truth[chosen]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return encoder.eval()


@torch.no_grad()
def fit_follow(encoder: Encoder, sessions: list[Session], seed: int = 0, decay: float = 1e-3) -> Follow:
    """Return the layers, moved from zero by a ridge regression to the truth, whatever the talker makes meanwhile."""
    dice = torch.Generator().manual_seed(seed)
    features = torch.cat([encoder(_tensor(s.pictures))[0] for s in sessions])
    truth = torch.from_numpy(np.concatenate([s.truth for s in sessions]))
    made = torch.rand(truth.shape, generator=dice) - 0.5
    seen = torch.cat([features, made, torch.ones(len(made), 1)], 1).double()
    penalty = decay * len(seen) * torch.diag(seen.var(0))
    weights = torch.linalg.solve(seen.T @ seen + penalty, seen.T @ (truth - made).double()).float()
    follow = Follow()
    follow.layer.weight.copy_(weights[:-1].T)
    follow.layer.bias.copy_(weights[-1])
    return follow.eval()


def write_sheet(path: Path, views: EyeViews, session: Session, shown: Array, columns: int = 5, size: int = 96) -> None:
    """Write a PNG of what the cameras saw, and under it the face that the talker showed, in even light."""
    light = Light(np.array([[0.0, 0.3, 1.0]]), np.array([0.7]), 0.35)
    straight = Mounted(np.zeros(3), np.zeros(3))
    rows: list[list[NDArray[np.uint8]]] = [[], []]
    for frame in np.linspace(20, len(shown) - 1, columns).astype(int):
        shapes = dict(zip(MOTION_NAMES, shown[frame].tolist(), strict=True))
        seen = session.pictures[frame].repeat(size // SIZE, 1).repeat(size // SIZE, 2)
        for row, pair in zip(rows, (seen, views.both(shapes, (straight, straight), light, size)), strict=True):
            row += [pair[1], pair[0]]  # the face's right eye is on the left
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
    write_png(path, np.ascontiguousarray(np.repeat(sheet[..., None], 3, 2)))
