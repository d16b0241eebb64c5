"""The VQ-VAE that turns vertex displacements into quantised latents and back."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.models.streamingtalker.config import Config

__all__ = ["Block", "Decoder", "Encoder", "Quantizer", "VqVae"]

_SLOPE = 0.2  # of every LeakyReLU
_NORM_EPSILON = 1e-5


class Attention(nn.Module):
    """Unmasked self-attention, scaled by the whole width ** -0.5 (not a head's), as published."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = width**-0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.scale, dim=-1)
        return cast(Tensor, self.out((weights @ v).transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A pre-norm transformer block with an exact GELU."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return cast(Tensor, x + self.contract(F.gelu(self.expand(self.mlp_norm(x)))))


class TemporalConvolution(nn.Module):
    """Convolution over time with repeated edges, LeakyReLU, then InstanceNorm over the whole window."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.convolution(x.transpose(1, 2)), _SLOPE)
        return F.instance_norm(y, eps=_NORM_EPSILON).transpose(1, 2)


class _Half(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vae_width
        self.temporal = TemporalConvolution(width, config.vae_kernel)
        self.embedding = nn.Linear(width, width)
        self.positions = nn.Buffer(torch.zeros(config.vae_positions, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, config.vae_heads, config.vae_feed_forward) for _ in range(config.vae_layers)
        )

    def transform(self, x: Tensor) -> Tensor:
        # The published code indexes the table by batch, so that every frame of sequence b gets row b.
        x = self.embedding(self.temporal(x)) + self.positions[: x.shape[0]]
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(_Half):
    """Displacements (B, L, 3V) to continuous latents (B, L, vq); L >= 2, by InstanceNorm over time."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.mapping = nn.Linear(config.vertex_values, config.vae_width)
        self.post = nn.Linear(config.vae_width, config.latent_width) if config.vae_extra_linear else None

    def forward(self, displacements: Tensor) -> Tensor:
        x = self.transform(F.leaky_relu(self.mapping(displacements), _SLOPE))
        return x if self.post is None else cast(Tensor, self.post(x))


class Decoder(_Half):
    """Latents (B, L, vq) to displacements (B, L, 3V); L >= 2. Every frame depends on all L latents."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.pre = nn.Linear(config.latent_width, config.vae_width) if config.vae_extra_linear else None
        self.reverse = nn.Linear(config.vae_width, config.vertex_values)

    def forward(self, latents: Tensor) -> Tensor:
        x = latents if self.pre is None else self.pre(latents)
        return cast(Tensor, self.reverse(self.transform(x)))


class Quantizer(nn.Module):
    """Replaces each slot of `code_width` values by its nearest code (squared L2)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.codebook = nn.Embedding(config.codes, config.code_width)

    def forward(self, latents: Tensor) -> Tensor:
        """Return quantised latents, (B, L, vq) as given."""
        codes = self.codebook.weight
        slots = latents.reshape(-1, codes.shape[1])
        distances = slots.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * slots @ codes.T
        return codes[distances.argmin(dim=1)].reshape(latents.shape)


class VqVae(nn.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config)
        self.decoder = Decoder(config)

    def start_token(self) -> Tensor:
        """Return the latent (1, 1, vq) that every history begins with: the first of two still frames."""
        still = self.encoder.mapping.weight.new_zeros(1, 2, self.encoder.mapping.in_features)
        return cast(Tensor, self.quantizer(self.encoder(still))[:, :1])
