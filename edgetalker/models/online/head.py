"""The generative head: a condition network over history, and denoisers that turn noise into the next frame.

x0 prediction on the cosine schedule a = cos(pi t / 2), s = sin(pi t / 2); deterministic DDIM steps (Song et al.
2021). The teacher takes ten rows (`full`) or four (`fast`), the student goes from noise to the frame at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.upper import DROOP
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.layout import CONTROLS, MADE, MOVING
from edgetalker.models.online.trunk import LOGITS

__all__ = [
    "HISTORY",
    "RING",
    "Condition",
    "Denoiser",
    "Head",
    "HeadSize",
    "Smoother",
    "chance_of",
    "rows",
]

HISTORY = 45
"""Frames of motion that the condition network sees: 1.5 s."""
RING = 8
"""Frames of noise that are kept and averaged."""
FULL, FAST = 10, 4
TOLD = 0.15
"""Size of the noise of channels that sound and wishes tell: the mouth and expressions."""


@dataclass(frozen=True)
class HeadSize:
    """Widths: features of the trunk, condition, hidden layer of a block; blocks of the denoiser."""

    features: int = 384
    width: int = 256
    hidden: int = 384
    blocks: int = 2
    past: int = 160


def rows(count: int) -> Tensor:
    """Return the table (count, 5) of a schedule: t, a, s of the input, then a, s of the output of each step."""
    times = torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64)
    a, s = torch.cos(math.pi / 2 * times), torch.sin(math.pi / 2 * times)
    a[0], s[-1] = 0.0, 0.0
    return torch.stack([times[:-1], a[:-1], s[:-1], a[1:], s[1:]], 1).float()


class Smoother(nn.Module):
    """Ring of noise (B, RING, NOISE), newest last -> its average (B, 27); the draws of the eyes are left out.

    weights: (RING, 27), exponential, of unit norm. The mouth and expressions are told by the sound and by wishes: they
    get little noise.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        weights = 0.72 ** torch.arange(RING - 1, -1, -1, dtype=torch.float64)
        table = (weights / weights.norm())[:, None].repeat(1, MADE).float()
        table[:, : MOVING.start] *= TOLD
        self.register_buffer("weights", table)

    def forward(self, ring: Tensor) -> Tensor:
        smooth: Tensor = (self.weights * ring[:, :, :MADE]).sum(1)
        return smooth


def chance_of(ring: Tensor, controls: Tensor) -> Tensor:
    """Return what the decoder is told about the eyes, (B, 5): the newest draws, and how far sadness lowers the gaze."""
    return torch.cat([ring[:, -1, MADE:], DROOP * controls[:, 1:2]], -1)


def _pooling() -> Tensor:
    """Return (10, HISTORY): the four newest frames as they are, older ones in ever longer means."""
    edges = [0, 1, 2, 3, 4, 6, 9, 14, 21, 31, HISTORY]
    matrix = torch.zeros(len(edges) - 1, HISTORY)
    for row, (near, far) in enumerate(pairwise(edges)):
        matrix[row, HISTORY - far : HISTORY - near] = 1.0 / (far - near)
    return matrix


class Condition(nn.Module):
    """Trunk features, trunk mouth and logits, history, controls -> condition (B, width).

    The controls come in through a layer that starts at zero, as offsets from neutral: (joy, sadness, anger,
    surprise, articulation, head) with the last two 1 by default. Of the history the network sees what moves, brows
    and head. The mouth's own past is left out: its memory is the trunk's state, and a mouth that sees what it did
    follows that, a frame late, instead of what it hears (measured: MAE 0.037 with it, 0.029 without, delay 0.4 frames
    against 0.1, on a voice never heard). Expressions follow the wishes; with their own past they wandered.
    """

    pooling: Tensor
    neutral: Tensor

    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        self.register_buffer("pooling", _pooling(), persistent=False)
        self.register_buffer("neutral", torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]), persistent=False)
        seen = self.pooling.shape[0] * (MOVING.stop - MOVING.start)
        self.past = nn.Sequential(nn.Linear(seen, size.past), nn.GELU())
        heard = size.features + len(MOUTH) + LOGITS
        self.join = nn.Linear(heard + size.past, size.width)
        last = nn.Linear(64, size.width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.wish = nn.Sequential(nn.Linear(len(CONTROLS), 64), nn.GELU(), last)
        self.out = nn.Sequential(nn.GELU(), nn.LayerNorm(size.width))

    def forward(self, features: Tensor, mouth: Tensor, logits: Tensor, history: Tensor, controls: Tensor) -> Tensor:
        pooled = torch.matmul(self.pooling, history[:, :, MOVING]).flatten(1)
        heard = torch.cat([features, 4.0 * mouth, 0.25 * logits, self.past(pooled)], -1)
        wish = self.wish(controls - self.neutral) - self.wish(torch.zeros_like(controls))
        condition: Tensor = self.out(self.join(heard) + wish)
        return condition


class _Block(nn.Module):
    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size.width, elementwise_affine=False)
        self.film = nn.Linear(size.width, 2 * size.width)
        self.first = nn.Linear(size.width, size.hidden)
        self.second = nn.Linear(size.hidden, size.width)

    def forward(self, value: Tensor, condition: Tensor) -> Tensor:
        gain, shift = self.film(condition).chunk(2, -1)
        inner = self.norm(value) * (1.0 + gain) + shift
        out: Tensor = value + self.second(nn.functional.gelu(self.first(inner)))
        return out


class Denoiser(nn.Module):
    """Noisy frame (B, 27), condition (B, width), time (B, 1) in [0, 1] -> clean frame (B, 27); nonlinear in x."""

    octaves: Tensor

    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        self.register_buffer("octaves", math.pi / 2 * torch.tensor([1.0, 2.0, 4.0, 8.0]), persistent=False)
        self.entry = nn.Linear(MADE, size.width)
        self.time = nn.Sequential(nn.Linear(8, size.width), nn.GELU(), nn.Linear(size.width, size.width))
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(size.width)
        self.exit = nn.Linear(size.width, MADE)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        turns = time * self.octaves
        condition = condition + self.time(torch.cat([turns.sin(), turns.cos()], -1))
        value = self.entry(x) + condition
        for block in self.blocks:
            value = block(value, condition)
        clean: Tensor = self.exit(self.norm(value))
        return clean


class Head(nn.Module):
    """Condition network, teacher and student."""

    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        self.size = size
        self.condition = Condition(size)
        self.teacher = Denoiser(size)
        self.student = Denoiser(size)

    @staticmethod
    def ddim(denoiser: Denoiser, x: Tensor, condition: Tensor, row: Tensor) -> Tensor:
        """Take one step: row (1, 5) of a table. The last row's output is the clean frame itself."""
        time, a, s, a_next, s_next = torch.split(row, 1, -1)
        clean: Tensor = denoiser(x, condition, time.expand(x.shape[0], 1))
        return a_next * clean + s_next * (x - a * clean) / s

    def sample(self, noise: Tensor, condition: Tensor, table: Tensor) -> Tensor:
        """Run the teacher through all rows of a table, from noise (B, 27) to a clean frame."""
        for row in table.to(noise.device):
            noise = self.ddim(self.teacher, noise, condition, row[None])
        return noise

    def at_once(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Run the student."""
        clean: Tensor = self.student(noise, condition, torch.ones_like(noise[:, :1]))
        return clean
