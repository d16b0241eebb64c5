"""The autoregressive condition network and the diffusion head."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.models.streamingtalker.config import Config

__all__ = ["Head", "MotionNetwork", "TimeEmbedding", "diagonal_mask", "head_slopes", "temporal_bias"]


def head_slopes(heads: int) -> Tensor:
    """Return the slope of each head's temporal bias: 2 ** (-8 (h + 1) / heads), for a power of two of heads."""
    return torch.tensor([2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)])


def temporal_bias(length: int, heads: int, period: int) -> Tensor:
    """Return the additive self-attention mask (heads, L, L): -slope · floor((i - j) / period), -inf for j > i."""
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    bias = -head_slopes(heads)[:, None, None] * torch.div(distance, period, rounding_mode="floor")
    return bias.masked_fill(distance < 0, -math.inf)


def diagonal_mask(length: int) -> Tensor:
    """Return the boolean cross-attention mask (L, L), True where query i must not see audio frame j != i."""
    return ~torch.eye(length, dtype=torch.bool)


class TimeEmbedding(nn.Module):
    """Embeds a diffusion time: cosines, then sines (base 10000), then Linear, SiLU, Linear."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.first = nn.Linear(frequencies, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """Return (T, width) for times (T,)."""
        half = self.frequencies // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
        angles = time.float()[:, None] * rates
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.first.weight.dtype)
        return cast(Tensor, self.second(F.silu(self.first(sinusoid))))


class Head(nn.Module):
    """Estimates the clean latent from a noisy one, a condition and a time. No nonlinearity, as published."""

    def __init__(self, vq_latent_map: nn.Linear, config: Config) -> None:
        super().__init__()
        self.latent_map = vq_latent_map  # shared with the condition network
        self.time_embedding = TimeEmbedding(config.time_frequencies, config.width)
        self.denoiser = nn.Linear(2 * config.width, config.width)
        self.output_map = nn.Linear(config.width, config.latent_width)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        """Return the estimate of x0 (B, L, vq) for x (B, L, vq), condition (B, L, D) and time (1,)."""
        joined = torch.cat([self.latent_map(x), condition + self.time_embedding(time)], dim=-1)
        return cast(Tensor, self.output_map(self.denoiser(joined)))


class MotionNetwork(nn.Module):
    """Past latents, audio features and an identity to one condition a frame; holds the diffusion head too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_map = nn.Linear(config.latent_width, config.width)
        self.audio_map = nn.Linear(config.audio_width, config.width)
        self.identity = nn.Embedding(config.identities, config.width)
        self.positions = nn.Buffer(torch.zeros(1, config.positions, config.width))
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, config.feed_forward, 0.0, config.activation, batch_first=True
        )
        self.transformer = nn.TransformerDecoder(layer, config.layers)
        self.head = Head(self.latent_map, config)

    def tokens(self, history: Tensor, identity: Tensor, first_position: int = 0) -> Tensor:
        """Return (1, L, D) tokens of a history (1, L, vq) for an identity one-hot (1, I).

        `first_position` is the periodic phase of the window's first row; the published code restarts at 0.
        """
        length = history.shape[1]
        positions = (torch.arange(length) + first_position) % self.config.period
        embedding = self.identity(identity.argmax(dim=1))[:, None]
        return cast(Tensor, self.latent_map(history) + embedding + self.positions[:, positions])

    def condition(self, history: Tensor, features: Tensor, identity: Tensor, first_position: int = 0) -> Tensor:
        """Return the condition (1, L, D); row k predicts latent k from history rows 0..k and audio frame k.

        history (1, L, vq) begins with the start token or an older latent, features (1, L, A), identity (1, I).
        """
        length = history.shape[1]
        output = self.transformer(
            self.tokens(history, identity, first_position),
            self.audio_map(features),
            tgt_mask=temporal_bias(length, self.config.heads, self.config.period).to(history),
            memory_mask=diagonal_mask(length),
        )
        return cast(Tensor, output)
