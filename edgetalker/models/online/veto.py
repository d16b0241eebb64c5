"""Hears in a trunk's features that nobody speaks, and takes the voice back that the trunk takes it for.

The trunk stays as it is, and so do lips, teeth and mouth. Where the veto is silent, the voice's logit is the trunk's
own to the last bit: it can only lower it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetalker.models.online.trunk import FADE, FadingGru, gru_cell

__all__ = ["MARGIN", "Veto"]

UNITS = 64
MARGIN = -1.5
"""The evidence that nobody speaks from which the voice's logit falls; and how much it falls for each unit beyond:"""
SLOPE = 4.0
SURE = 6.0
"""What a frame says at most, for or against a speaker."""
TREND = 2.5
"""What the trend of the frames before counts against one frame: notes that sound like a vowel come in music, and
consonants that sound like a click in speech."""
SPEAKER, NOBODY, PACE, KEEP = -4.0, 1.2, 1.0 / 40.0, 0.99
"""How far the trend goes for a speaker and for nobody; how much of its way it goes in a frame; what a frame leaves of
it. It learns only from frames that the trunk takes for a voice: it should not rise in silence, where a phrase may
begin."""
FORGET = 0.05
"""What a frame of silence takes of a trend that nobody speaks: between coughs or keys a phrase may begin."""


class Veto(nn.Module):
    """features (B, T, width) of the trunk and a state (1, B, units) -> logit of "nobody speaks" (B, T, 1), new state.

    width: of the trunk's features; units: of its own GRU, whose state fades like the trunk's. As it is played the
    state, (1, B, units + 1), also holds the trend of what was said.
    """

    def __init__(self, width: int, units: int = UNITS) -> None:
        super().__init__()
        self.width, self.units = width, units
        self.entry = nn.Sequential(nn.Linear(width, units), nn.GELU(), nn.LayerNorm(units))
        self.memory = FadingGru(units, units, batch_first=True)
        self.out = nn.Linear(units, 1)

    @classmethod
    def like(cls, weights: dict[str, Tensor], prefix: str = "") -> Veto:
        """Return one of the size of these weights, untrained."""
        units, width = weights[f"{prefix}entry.0.weight"].shape
        return cls(width, units)

    def begin(self, batch: int) -> Tensor:
        """Return the state before the first frame that is played: zeros."""
        return torch.zeros(1, batch, self.units + 1, device=self.out.weight.device)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames from a state, as training does: the state fades by the same amount in larger steps."""
        told, state = self.memory(nn.functional.dropout(self.entry(features), 0.1, self.training), state)
        return self.out(told), state

    def step(self, features: Tensor, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one frame with plain operations, for export: features (B, width), state (1, B, units + 1).

        Returns the trunk's logits (B, 3) with the voice's lowered as far as nobody speaks, and the new state.
        """
        before, trend = torch.split(state[0], [self.units, 1], -1)
        value = gru_cell(self.memory, 0, self.entry(features), FADE * before)
        nobody = self.out(value).clamp(-SURE, SURE)
        voice = torch.sigmoid(logits[:, 2:])
        kept = KEEP * trend - FORGET * (1.0 - voice) * trend.clamp(min=0.0)
        trend = kept + PACE * voice * (nobody.clamp(SPEAKER, NOBODY) - trend)
        lowered = self.lower(logits, (nobody + TREND * trend) / (1.0 + TREND))
        return lowered, torch.cat([value, trend], -1)[None]

    def listen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the logits (B, T, 3) of whole sounds as they are played: `step` by `step`."""
        found, state = [], self.begin(features.shape[0])
        for frame, heard in zip(features.unbind(1), logits.unbind(1), strict=True):
            lowered, state = self.step(frame, heard, state)
            found.append(lowered)
        return torch.stack(found, 1)

    @staticmethod
    def lower(logits: Tensor, nobody: Tensor) -> Tensor:
        """Return the trunk's logits (..., 3) with the voice's lowered by the evidence that nobody speaks, (..., 1)."""
        fall = SLOPE * (nobody - MARGIN).clamp(min=0.0)
        return torch.cat([logits[..., :2], logits[..., 2:] - fall], -1)
