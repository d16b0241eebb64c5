"""Augmentation on mel power, cheap enough for every step of training: throats, rooms, microphones, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.models.online.features import BANDS, FLOOR

__all__ = ["Wear", "below", "draw", "textured"]

_WARPS = 48
_PLAIN = 0  # the warp that is none
_NEAR, _FAR = (-12.0, 12.0), (-36.0, -12.0)
_FAR_SHARE = 0.15
"""Decibels by which a microphone hears a voice: usually, and how often it is far away."""
_TAPS = 36  # of the exponential room tail, 120 Hz: 0.3 s


def _warp_matrices() -> Tensor:
    """Return (48, 80, 80): linear interpolation along the mel axis, stretched about its low end, each unevenly.

    Throats differ in length (a stretch by 0.8 to 1.22 of the whole) and in shape (by 0.86 to 1.16 from place to place).
    """
    rng = np.random.default_rng(17)
    stretch = np.exp(np.linspace(np.log(0.8), np.log(1.22), _WARPS)[:, None] + rng.normal(0, 0.07, (_WARPS, 5)))
    stretch[_PLAIN] = 1.0
    knots, bands = np.linspace(0, BANDS - 1, 5), np.arange(BANDS)
    slopes = np.stack([np.interp(bands, knots, row) for row in stretch])
    place = np.cumsum(slopes, 1) - slopes[:, :1]
    rows = np.arange(BANDS)[None, :, None]
    weight = np.maximum(0.0, 1.0 - np.abs(rows - np.minimum(place, BANDS - 1)[:, None, :]))
    return torch.tensor(weight, dtype=torch.float32)


_MATRICES = _warp_matrices()


@dataclass
class Wear:
    """One sound's wear. gain: (80,) on power; noise: (80,) mean power; room: (share, decay per mel frame).

    swing: how much the noise's level drifts; crowd: power of other people's speech, as a share of their own; beside:
    the same of one other sound, which is music where the data has some;
    texture: how far log power goes towards the mean of its neighbours in frequency and in time, or away from it
    below 0: synthesizers differ in how sharp their resonances and their transitions are, and people from all of them.
    """

    warp: int
    gain: Tensor
    noise: Tensor
    swing: float
    room: tuple[float, float]
    crowd: float = 0.0
    texture: tuple[float, float] = (0.0, 0.0)
    beside: float = 0.0

    @staticmethod
    def apply(worn: list[Wear], mel: Tensor) -> Tensor:
        """Wear (B, N, 80) ln power, each row of the batch in its own way."""
        power = torch.bmm(textured(mel, [w.texture for w in worn]).exp(), _MATRICES[[w.warp for w in worn]])
        others = ((6, [w.crowd for w in worn]), (1, [w.beside for w in worn]))
        power = power + sum(_others(power, torch.tensor(shares), count) for count, shares in others)
        rooms = [index for index, w in enumerate(worn) if w.room[0] > 0]
        if rooms:
            power[rooms] = _reverberate(power[rooms], [worn[index].room for index in rooms])
        power = power * torch.stack([w.gain for w in worn])[:, None]
        level = torch.stack([w.noise for w in worn])[:, None]
        # Power of narrow-band noise scatters; three draws give about the spread of a 25 ms mel band.
        scatter = -torch.rand(3, *power.shape).clamp_min(1e-6).log().mean(0)
        drift = torch.randn(power.shape[0], power.shape[1] // 12 + 2, 1).repeat_interleave(12, 1)[:, : power.shape[1]]
        swing = torch.tensor([w.swing for w in worn])[:, None, None]
        return (power + level * scatter * (swing * drift).exp() + FLOOR).log()


def textured(mel: Tensor, textures: list[tuple[float, float]]) -> Tensor:
    """Blur or sharpen (B, N, 80) ln power along both axes."""
    along_bands, along_time = torch.tensor(textures).T[:, :, None, None]
    padded = torch.nn.functional.pad(mel[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    bands = 0.5 * (padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]) - mel
    time = 0.5 * (padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]) - mel
    textured: Tensor = mel + along_bands * bands + along_time * time
    return textured


def _others(power: Tensor, shares: Tensor, count: int) -> Tensor:
    """Return the mean of `count` other rows of the batch, each moved in time: sounds that are not the speaker's."""
    if not bool((shares > 0).any()) or power.shape[0] < 3:
        return torch.zeros_like(power)
    murmur = torch.zeros_like(power)
    for _ in range(count):
        turn = int(torch.randint(1, power.shape[0], ()))
        murmur += power.roll(turn, 0).roll(int(torch.randint(power.shape[1], ())), 1) / count
    return shares[:, None, None] * murmur


def _reverberate(power: Tensor, rooms: list[tuple[float, float]]) -> Tensor:
    share = torch.tensor([room[0] for room in rooms])[:, None, None]
    decay = torch.tensor([room[1] for room in rooms])[:, None, None]
    tail = torch.zeros_like(power)
    for tap in range(2, _TAPS):
        tail[:, tap:] += decay**tap * power[:, :-tap]
    return power + share * (1 - decay) * tail


def below(rng: np.random.Generator, least: float, most: float) -> float:
    """Return a share of power that is `least` to `most` dB below the whole."""
    return float(10 ** (-rng.uniform(least, most) / 10))


def draw(rng: np.random.Generator, loud: Tensor, other: Tensor | None = None, clean: float = 0.15) -> Wear:
    """Draw the wear of one sound. loud: (80,) mean power of its louder frames, other: of another speaker's, whose
    colour it takes on now and then (MixStyle, Zhou et al. 2021); clean: chance of no wear at all."""
    if rng.random() < clean:
        return Wear(_PLAIN, torch.ones(BANDS), torch.zeros(BANDS), 0.0, (0.0, 0.5))
    axis = np.linspace(-1, 1, BANDS)
    knots = np.interp(axis, np.linspace(-1, 1, 8), rng.normal(0, 4.0, 8))
    level = rng.uniform(*(_FAR if rng.random() < _FAR_SHARE else _NEAR))
    decibels = level + rng.normal(0, 5.0) * axis + knots
    if other is not None and rng.random() < 0.4:
        colour = 10 * np.log10((other / loud.clamp_min(1e-12)).clamp(1e-4, 1e4).numpy())
        decibels = decibels + rng.uniform(0.3, 1.0) * np.clip(colour - colour.mean(), -20, 20)
    if rng.random() < 0.3:
        decibels = decibels - _notches(rng)
    if rng.random() < 0.25:
        decibels = decibels - 50.0 * (axis > rng.uniform(0.35, 0.95)) - 40.0 * (axis < rng.uniform(-1.2, -0.8))
    gain = torch.tensor(10 ** (decibels / 10), dtype=torch.float32)
    slope = np.interp(axis, np.linspace(-1, 1, 5), rng.normal(0, 3.0, 5)) - rng.uniform(-2, 10) * axis
    spectrum = torch.tensor(10 ** ((slope + _peaks(rng)) / 10), dtype=torch.float32)
    if rng.random() < 0.3:
        spectrum = spectrum * loud
    noise = spectrum / spectrum.mean() * (loud * gain).mean() * below(rng, 3, 48)
    room = (float(rng.uniform(0.1, 1.0)), float(rng.uniform(0.75, 0.94))) if rng.random() < 0.35 else (0.0, 0.5)
    swing = float(rng.uniform(0, 0.8)) if rng.random() < 0.5 else 0.0
    crowd = below(rng, 10, 40) if rng.random() < 0.35 else 0.0
    texture = (float(rng.uniform(-0.5, 0.8)), float(rng.uniform(-0.3, 0.6))) if rng.random() < 0.6 else (0.0, 0.0)
    beside = below(rng, 12, 30) if rng.random() < 0.2 else 0.0
    return Wear(int(rng.integers(_WARPS)), gain, noise, swing, room, crowd, texture, beside)


def _notches(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return dB (80,) to take away: one or two bands nearly missing (SpecAugment's, Park et al. 2019)."""
    taken = np.zeros(BANDS)
    for _ in range(int(rng.integers(1, 3))):
        start, width = int(rng.integers(0, BANDS)), int(rng.integers(3, 13))
        taken[start : start + width] = rng.uniform(10, 40)
    return taken


def _peaks(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return dB (80,): hum, tones and room modes as narrow peaks, and an uneven floor, in every other sound."""
    if rng.random() < 0.5:
        return np.zeros(BANDS)
    bands = np.arange(BANDS)
    decibels = rng.normal(0, 2.5, BANDS)
    for _ in range(int(rng.integers(1, 7))):
        place, width = rng.uniform(0, BANDS) * rng.random(), rng.uniform(0.6, 3.0)
        decibels += rng.uniform(5, 25) * np.exp(-0.5 * ((bands - place) / width) ** 2)
    return decibels
