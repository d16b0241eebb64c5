"""The whole ARTalk network (arXiv 2502.20323). Modules carry the published names, so that its file loads as it is."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from edgetalker.models.artalk.config import Config
from edgetalker.models.artalk.scales import Scales
from edgetalker.models.artalk.vae import BitwiseVae, prefix_mask

__all__ = ["EPSILON", "ARTalk", "Block", "StyleEncoder", "adapted", "build_encoder", "scale_mask"]

EPSILON = 1e-6  # of the norms without affine parameters
_MOST_SCALE = math.log(100.0)
_STYLE_GUIDANCE = 1.1


def build_encoder(config: Config) -> nn.Module:
    """Return a wav2vec 2.0 encoder of XLS-R's kind and these sizes, made from a configuration alone."""
    encoder: nn.Module = Wav2Vec2Model(
        Wav2Vec2Config(**config.settings(), conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True)
    )
    return encoder


def scale_mask(scales: Scales) -> Tensor:
    """Return the additive mask (1, 1, T, 2 T): a token sees all of the past and its own and coarser scales."""
    level = torch.tensor(scales.levels)
    own = torch.zeros(len(level), len(level)).masked_fill(level[:, None] < level[None], -torch.inf)
    return torch.cat([torch.zeros_like(own), own], dim=1)[None, None]


def adapted(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return norm(x) (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


class Attention(nn.Module):
    """Attention over the past and x, of queries and keys of length 1 and a learned temperature a head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale_mul_1H11 = nn.Parameter(torch.zeros(1, config.heads, 1, 1))
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        both = torch.cat([past, x], dim=1)
        q, k, v = (self._split(part) for part in (self.query(x), self.key(both), self.value(both)))
        q, k = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(_MOST_SCALE).exp(), F.normalize(k, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """One layer of the transformer, whose norms and gates are told by each token's sound."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.feed_forward, config.width),
        )
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.audio_width, 6 * config.width))

    def forward(self, x: Tensor, past: Tensor, sound: Tensor, mask: Tensor) -> Tensor:
        gate1, gate2, scale1, scale2, shift1, shift2 = self.ada_lin(sound).chunk(6, dim=-1)
        x = x + gate1 * self.attn(adapted(x, scale1, shift1), past, mask)
        return cast(Tensor, x + gate2 * self.ffn(adapted(x, scale2, shift2)))


class _LogitsCondition(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.audio_width, 2 * config.width))


class _Positions(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pe = nn.Buffer(torch.zeros(1, config.style_positions, config.style_width))


class _StyleTransformer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.motion_proj = nn.Linear(config.motion, config.style_width)
        layer = nn.TransformerEncoderLayer(
            config.style_width, config.style_heads, config.style_feed_forward, 0.0, "gelu", batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.style_layers, enable_nested_tensor=False)


class StyleEncoder(nn.Module):
    """A clip of motion to one vector that says how its speaker moves."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.motion_mean = nn.Buffer(torch.zeros(config.motion))
        self.motion_std = nn.Buffer(torch.ones(config.motion))
        self.PE = _Positions(config)
        self.encoder = _StyleTransformer(config)

    def forward(self, motion: Tensor) -> Tensor:
        """Return (1, width) of motion (1, N, M). The published positions are one vector, the N-th, for all rows."""
        x = self.encoder.motion_proj((motion - self.motion_mean) / self.motion_std)
        return cast(Tensor, self.encoder.transformer(x + self.PE.pe[:, motion.shape[1]]).mean(dim=1))


class ARTalk(nn.Module):
    """Audio encoder, bitwise VAE, style encoder and the transformer over scales of bits, under one roof."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        tokens, width = config.scales.tokens, config.width
        self.null_style_cond = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.prev_pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.attn_bias_for_masking = nn.Buffer(scale_mask(config.scales))
        self.lvl_idx = nn.Buffer(torch.tensor([config.scales.levels]))
        self.basic_vae = BitwiseVae(config)
        self.audio_encoder: Any = build_encoder(config)
        self.style_encoder = StyleEncoder(config)
        self.style_cond_embed = nn.Linear(config.style_width, width)
        self.vqfeat_embed = nn.Linear(config.code, width)
        self.attn_blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.cond_logits_head = _LogitsCondition(config)
        self.logits_head = nn.Linear(width, 2 * config.code)
        self.lvl_embed = nn.Embedding(len(config.patches), width)

    @staticmethod
    def computed(config: Config) -> dict[str, Tensor]:
        """Return the published buffers that follow from the sizes, by name."""
        scales = config.scales
        return {
            "attn_bias_for_masking": scale_mask(scales),
            "lvl_idx": torch.tensor([scales.levels]),
            "basic_vae.attn_mask": prefix_mask(scales.frames, 2 * scales.frames),
        }

    def audio_features(self, samples: Tensor) -> Tensor:
        """Return (1, S, A) of one chunk (1, N) at 16 kHz, normalised by its own mean and deviation, as published."""
        mean, deviation = samples.mean(dim=-1, keepdim=True), samples.std(dim=-1, keepdim=True)
        return cast(Tensor, self.audio_encoder((samples - mean) / (deviation + 1e-6)).last_hidden_state)

    def sound(self, features: Tensor) -> Tensor:
        """Return what each token hears (1, tokens, A): the features' area means, scale by scale."""
        parts = [F.interpolate(features.transpose(1, 2), size=patch, mode="area") for patch in self.config.patches]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def style(self, vector: Tensor | None) -> Tensor:
        """Return the style token (1, 1, width) of a style vector (1, S), guided as published; None is no style."""
        if vector is None:
            return self.null_style_cond
        own: Tensor = self.style_cond_embed(vector)[:, None]
        return _STYLE_GUIDANCE * own - (_STYLE_GUIDANCE - 1) * self.null_style_cond

    def past(self, bits: Tensor, style: Tensor) -> Tensor:
        """Return the memory (1, tokens, width) of the chunk before, of its bits (1, tokens, code)."""
        features = self.vqfeat_embed(self.basic_vae.scale_features(bits))
        joined = torch.cat([style, features], dim=1) + self.lvl_embed(self.lvl_idx) + self.prev_pos_embed
        return cast(Tensor, joined)

    def logits(self, bits: Tensor | None, past: Tensor, sound: Tensor, style: Tensor) -> Tensor:
        """Return logits (1, T, 2 code) for the scales whose coarser bits (1, n, code) are given: one more of them.

        All T tokens are computed anew, and the past's keys and values with them: the published, uncached way.
        """
        x = style if bits is None else torch.cat([style, self.vqfeat_embed(self.basic_vae.scale_features(bits))], dim=1)
        length, tokens = x.shape[1], past.shape[1]
        x = x + self.lvl_embed(self.lvl_idx[:, :length]) + self.pos_embed[:, :length]
        mask, sound = self.attn_bias_for_masking[:, :, :length, : tokens + length], sound[:, :length]
        for block in self.attn_blocks:
            x = block(x, past, sound, mask)
        scale, shift = self.cond_logits_head.ada_lin(sound).chunk(2, dim=-1)
        return cast(Tensor, self.logits_head(adapted(x, scale, shift)))
