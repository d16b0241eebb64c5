"""The talker cut into the stages of a bundle: fixed shapes, batch one, every state an input and an output."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.features import FLOOR, OFFSETS, SPAN, WINDOW, fourier, mel_filters
from edgetalker.models.online.head import Condition, Denoiser, Head, Smoother, chance_of
from edgetalker.models.online.layout import Decoder
from edgetalker.models.online.trunk import Trunk

__all__ = ["AudioStage", "ConditionStage", "DecodeStage", "DenoiseStage", "StudentStage"]


class AudioStage(nn.Module):
    """window (1, 1333) samples, memory (2, 1, width) -> features (1, width), mouth (1, 14), logits (1, 3), memory.

    The mel frames are cut from the window by fixed offsets; the windowed DFT is a product with two constant matrices.
    """

    cosine: Tensor
    sine: Tensor
    filters: Tensor

    def __init__(self, trunk: Trunk, lookahead: int) -> None:
        super().__init__()
        self.trunk, self.lookahead = trunk, lookahead
        cosine, sine = fourier()
        self.register_buffer("cosine", torch.tensor(cosine))
        self.register_buffer("sine", torch.tensor(sine))
        self.register_buffer("filters", torch.tensor(mel_filters()))

    def forward(self, window: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        starts = [SPAN - WINDOW - offset for offset in OFFSETS]
        pieces = torch.cat([window[:, start : start + WINDOW] for start in starts])
        power = (pieces @ self.cosine) ** 2 + (pieces @ self.sine) ** 2
        # ln(p + floor), written so that no optimizer takes the floor for a zero: digital silence must stay finite.
        mel = (torch.log(power @ self.filters * (1.0 / FLOOR) + 1.0) + math.log(FLOOR)).reshape(1, -1)
        features, kept = self.trunk.step(mel, memory)
        mouth, logits = self.trunk.mouth(features, self.lookahead)
        assert mouth.shape[-1] == len(MOUTH)
        return features, mouth, logits, kept


class ConditionStage(nn.Module):
    """What is heard, history, emotion (1, 4), style (1, 2), ring -> condition, smooth noise (1, 27), chance (1, 5)."""

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        self.condition, self.smoother = condition, Smoother()

    def forward(
        self,
        features: Tensor,
        mouth: Tensor,
        logits: Tensor,
        history: Tensor,
        emotion: Tensor,
        style: Tensor,
        ring: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        controls = torch.cat([emotion, style], -1)
        condition = self.condition(features, mouth, logits, history, controls)
        return condition, self.smoother(ring), chance_of(ring, controls)


class DenoiseStage(nn.Module):
    """x (1, 27), condition (1, width), row (1, 5) -> x one step cleaner, (1, 27)."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor, condition: Tensor, row: Tensor) -> Tensor:
        return Head.ddim(self.teacher, x, condition, row)


class StudentStage(nn.Module):
    """Smooth noise (1, 27), condition (1, width) -> clean frame (1, 27), in one step."""

    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.student = student

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        clean: Tensor = self.student(noise, condition, torch.ones_like(noise[:, :1]))
        return clean


class DecodeStage(nn.Module):
    """Clean frame (1, 27), logits (1, 3), mouth (1, 14), history, chance -> motion (1, 55), newest row (1, 32)."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, clean: Tensor, logits: Tensor, mouth: Tensor, history: Tensor, chance: Tensor
    ) -> tuple[Tensor, Tensor]:
        base = self.decoder.base(mouth, logits, history[:, -1])
        motion, newest = self.decoder(clean, logits, base, history, chance)
        return motion, newest
