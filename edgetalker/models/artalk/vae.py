"""The bitwise VAE: motion to bits on several scales and back."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.models.artalk.config import Config

__all__ = ["BitwiseVae", "prefix_mask", "quantised"]

_SLOPE = 0.2  # of every LeakyReLU


class Attention(nn.Module):
    """x + attention(norm(x)), scaled by the whole width ** -0.5 (not a head's), as published."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return cast(Tensor, x + self.to_out(mixed.transpose(1, 2).flatten(2)))


def _feed_forward(width: int, inner: int) -> nn.Sequential:
    """Return the MLP that is added to its input without any norm, as published."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))


def _blocks(config: Config) -> nn.ModuleList:
    blocks: list[nn.Module] = []
    for _ in range(config.vae_layers):
        blocks.append(Attention(config.vae_width, config.vae_heads))
        blocks.append(_feed_forward(config.vae_width, config.vae_feed_forward))
    return nn.ModuleList(blocks)


def _through(blocks: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
    for attention, feed_forward in zip(blocks[::2], blocks[1::2], strict=True):
        x = attention(x, mask)
        x = x + feed_forward(x)
    return x


def _mapping(source: int, target: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(source, target), nn.LeakyReLU(_SLOPE))


class Encoder(nn.Module):
    """Normalised motion with positions (1, N, M) to continuous codes (1, N, code)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inp_mapping = _mapping(config.motion, config.vae_width)
        self.encoder_transformer = _blocks(config)
        self.code_mapping = nn.Linear(config.vae_width, config.code)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.code_mapping(_through(self.encoder_transformer, self.inp_mapping(x), mask)))


class Decoder(nn.Module):
    """Codes with positions (1, N, code) to normalised motion (1, N, M)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inp_mapping = _mapping(config.code, config.vae_width)
        self.decoder_transformer = _blocks(config)
        self.out_mapping = nn.Linear(config.vae_width, config.motion)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.out_mapping(_through(self.decoder_transformer, self.inp_mapping(x), mask)))


def prefix_mask(before: int, length: int) -> Tensor:
    """Return the additive mask (1, 1, L, L): the first `before` rows do not see the others; those see all."""
    mask = torch.zeros(1, 1, length, length)
    mask[..., :before, before:] = -torch.inf
    return mask


def quantised(bits: Tensor) -> Tensor:
    """Return the values ±1/√code of bits (…, code) in {0, 1}."""
    return (2 * bits.to(torch.float32) - 1) * float(bits.shape[-1] ** -0.5)


class BitwiseVae(nn.Module):
    """Encoder, residual quantiser on several scales, and decoder. A window is the chunk before and this chunk."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patches, self.frames = config.patches, config.frames
        self.enc_pos_embed = nn.Parameter(torch.zeros(1, 2 * config.frames, config.motion))
        self.dec_pos_embed = nn.Parameter(torch.zeros(1, 2 * config.frames, config.code))
        self.attn_mask = nn.Buffer(prefix_mask(config.frames, 2 * config.frames))
        self.motion_mean = nn.Buffer(torch.zeros(config.motion))
        self.motion_std = nn.Buffer(torch.ones(config.motion))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, motion: Tensor) -> Tensor:
        """Return continuous codes (1, N, code) of motion (1, N, M): one chunk, or the chunk before and this one."""
        length = motion.shape[1]
        x = (motion - self.motion_mean) / self.motion_std + self.enc_pos_embed[:, :length]
        return cast(Tensor, self.encoder(x, self.attn_mask[..., :length, :length]))

    def bits(self, codes: Tensor) -> Tensor:
        """Return bits (1, tokens, code), bool, of a chunk's continuous codes (1, frames, code).

        Each scale takes the sign of what the coarser ones left over. Normalising a token, as published, changes
        no sign, so it is left out.
        """
        found, rest = [], codes
        for patch in self.patches:
            bits = F.interpolate(rest.transpose(1, 2), size=patch, mode="area").transpose(1, 2) > 0
            rest = rest - self._raised(bits)
            found.append(bits)
        return torch.cat(found, dim=1)

    def _raised(self, bits: Tensor) -> Tensor:
        """Return one scale's bits (1, patch, code) as values for every frame (1, frames, code)."""
        values = quantised(bits).transpose(1, 2)
        return F.interpolate(values, size=self.frames, mode="linear", align_corners=False).transpose(1, 2)

    def scale_features(self, bits: Tensor) -> Tensor:
        """Return what the scales but the first read, (1, tokens - 1, code), of bits (1, tokens, code).

        The area mean of the sum of the coarser scales. Also takes the bits of the coarser scales alone, and then
        returns the features of those scales and the next one.
        """
        parts = [self._raised(part) for part in torch.split(bits, list(self.patches[: self._scales(bits)]), dim=1)]
        features, total = [], torch.zeros_like(parts[0])
        for patch, part in zip(self.patches[1:], parts, strict=False):
            total = total + part
            features.append(F.interpolate(total.transpose(1, 2), size=patch, mode="area").transpose(1, 2))
        return torch.cat(features, dim=1)

    def _scales(self, bits: Tensor) -> int:
        count = 0
        for scale in range(1, len(self.patches) + 1):
            if sum(self.patches[:scale]) <= bits.shape[1]:
                count = scale
        return count

    def fused(self, bits: Tensor) -> Tensor:
        """Return the decoder's codes f̂ (1, frames, code) of all bits (1, tokens, code)."""
        return torch.stack([self._raised(part) for part in torch.split(bits, list(self.patches), dim=1)]).sum(0)

    def decode(self, before: Tensor, this: Tensor) -> tuple[Tensor, Tensor]:
        """Return motion (1, frames, M) of the chunk before and of this one, of codes f̂ (1, frames, code) each."""
        x = torch.cat([before, this], dim=1) + self.dec_pos_embed
        motion = self.decoder(x, self.attn_mask) * self.motion_std + self.motion_mean
        return motion[:, : self.frames], motion[:, self.frames :]
