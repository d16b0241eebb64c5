"""The transformer's stages: what is told once a chunk, and one pass a scale with an exact cache.

A token of a coarser scale never sees a finer one, so that its keys and values, once computed, hold for all later
passes: 181 tokens are evaluated a chunk, where the published loop evaluates 300.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.export.layers import linear_from
from edgetalker.models.artalk.model import EPSILON, ARTalk
from edgetalker.models.artalk.scales import area_matrix

__all__ = ["ConditionStage", "ScaleStage", "StyleStage", "matrix_buffer"]

_LEAST_LENGTH = 1e-12  # of F.normalize
_MOST_SCALE = float(np.log(100.0))


def matrix_buffer(values: NDArray[np.float64]) -> nn.Buffer:
    """Return a constant matrix in float32."""
    return nn.Buffer(torch.from_numpy(values.astype(np.float32)))


class StyleStage(nn.Module):
    """A clip of motion to the style token: the bundle's clip, or one that is fed. With a weight of 0 it is the token of
    no style, whatever the clips."""

    def __init__(self, model: ARTalk) -> None:
        super().__init__()
        self.encoder, self.embed = model.style_encoder, model.style_cond_embed
        self.none = nn.Buffer(model.null_style_cond[0].detach().clone())

    def forward(self, clip: Tensor, fed: Tensor, weights: Tensor) -> Tensor:
        """Return (1, 1, width) of two clips (1, N, M) and weights (1, 2): of the style, and of the fed clip in it."""
        weight, share = torch.split(weights, 1, dim=1)
        own = 1.1 * self.embed(self.encoder(clip + share * (fed - clip))) - 0.1 * self.none
        token: Tensor = (weight * own + (1 - weight) * self.none)[None]
        return token


class ConditionStage(nn.Module):
    """Everything that all passes share: each layer's scales, shifts and gates, and the past's keys and values."""

    def __init__(self, model: ARTalk) -> None:
        super().__init__()
        config: Any = model.config
        scales, self.heads, self.layers = config.scales, config.heads, config.layers
        self.area = matrix_buffer(np.concatenate([area_matrix(config.audio_tokens, patch) for patch in config.patches]))
        blocks: list[Any] = list(model.attn_blocks)
        head: Any = model.cond_logits_head
        adaptors = [(block.ada_lin[1], (2, 3)) for block in blocks] + [(head.ada_lin[1], (0,))]
        self.adapt = _stacked([_with_ones(linear, config.width, places) for linear, places in adaptors])
        self.features = matrix_buffer(scales.all_features())
        self.embed = model.vqfeat_embed
        places = model.lvl_embed.weight[model.lvl_idx[0]] + model.prev_pos_embed[0]
        self.places = nn.Buffer(places.detach().clone())
        keys_values = [linear for block in blocks for linear in (_without_bias(block.attn.key), block.attn.value)]
        self.keys_values = _stacked(keys_values)

    def forward(self, features: Tensor, codes: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adaptors' rows (1, tokens, 6 layers width + 2 width) and the past's keys and values, interleaved
        by layer (1, tokens, 2 layers width).

        features (1, S, A) of the sound, codes (1, tokens, code) ±1/√code of the chunk before, style (1, 1, width).
        """
        adapted = self.adapt(F.silu(self.area @ features[0]))
        past = torch.cat([style[0], self.embed(self.features @ codes[0])]) + self.places
        both = self.keys_values(past).unflatten(1, (self.layers, 2, self.heads, -1))
        keys, values = both[:, :, :1], both[:, :, 1:]
        return adapted[None], torch.cat([_unit(keys), values], dim=2).flatten(1)[None]


class ScaleStage(nn.Module):
    """One pass: the tokens of one scale through all layers, with the keys and values of all before them as they are."""

    def __init__(self, model: ARTalk, scale: int) -> None:
        super().__init__()
        config: Any = model.config
        scales, rows = config.scales, config.scales.rows(scale)
        self.width, self.heads, self.code = config.width, config.heads, config.code
        self.features = matrix_buffer(scales.features(scale)) if scale else None
        self.embed = model.vqfeat_embed if scale else None
        places = model.lvl_embed.weight[scale] + model.pos_embed[0, rows]
        self.places = nn.Buffer(places.detach().clone())
        self.layers = nn.ModuleList(_Layer(block, config) for block in model.attn_blocks)
        self.head = model.logits_head
        self.last = scale + 1 == len(scales)

    def forward(self, before: Tensor, adaptors: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        """Return logits (1, n, 2 code), codes (1, n, code) and, but for the last scale, keys and values (1, n, …).

        before: codes (1, m, code) of the coarser scales, or for the first scale the style token (1, 1, width);
        adaptors (1, n, …) and cache (1, past + m, 2 layers width) as `ConditionStage` and earlier passes left them.
        """
        x = before[0] if self.features is None else self.embed(self.features @ before[0])  # type: ignore[misc]
        x = x + self.places
        rows = torch.split(adaptors[0], self.width, dim=1)
        past = torch.split(cache[0], self.width, dim=1)
        own: list[Tensor] = []
        for place, layer in enumerate(self.layers):
            x, key, value = layer(x, rows[6 * place : 6 * place + 6], past[2 * place], past[2 * place + 1])
            own += [key, value]
        logits = self.head(_norm(x) * rows[-2] + rows[-1])
        zero, one = torch.split(logits.unflatten(1, (self.code, 2)), 1, dim=2)
        codes = torch.where(one > zero, self.code**-0.5, -(self.code**-0.5))[:, :, 0]
        return (logits[None], codes[None]) if self.last else (logits[None], codes[None], torch.cat(own, dim=1)[None])


class _Layer(nn.Module):
    def __init__(self, block: Any, config: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads = config.heads
        parts = [attention.query, _without_bias(attention.key), attention.value]
        self.all = _stacked(parts)
        self.temperature = nn.Buffer(attention.scale_mul_1H11[0].detach().clamp_max(_MOST_SCALE).exp())
        self.out, self.expand, self.contract = attention.proj, block.ffn[0], block.ffn[2]

    def forward(
        self, x: Tensor, rows: tuple[Tensor, ...], past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (n, width) and its keys and values; rows: gates, scales (plus 1) and shifts, (n, width) each."""
        gate1, gate2, scale1, scale2, shift1, shift2 = rows
        split = self.all(_norm(x) * scale1 + shift1).unflatten(1, (3 * self.heads, -1))
        both, v = torch.split(split, [2 * self.heads, self.heads], 1)
        q, k = torch.split(_unit(both), self.heads, 1)
        q = q.transpose(0, 1) * self.temperature
        key, value = k.flatten(1), v.flatten(1)
        keys, values = self._split(torch.cat([past_key, key])), self._split(torch.cat([past_value, value]))
        mixed = torch.softmax(q @ keys.transpose(1, 2), dim=-1) @ values
        x = x + gate1 * self.out(mixed.transpose(0, 1).flatten(1))
        x = x + gate2 * self.contract(F.gelu(self.expand(_norm(x) * scale2 + shift2), approximate="tanh"))
        return x, key, value

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1).transpose(0, 1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def _unit(x: Tensor) -> Tensor:
    """Return x scaled to length 1 over its last axis."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(_LEAST_LENGTH)


def _stacked(linears: list[nn.Linear]) -> nn.Linear:
    """Return one linear map that gives the outputs of all of them, side by side."""
    return linear_from(torch.cat([one.weight for one in linears]), torch.cat([one.bias for one in linears]))


def _without_bias(linear: nn.Linear) -> nn.Linear:
    return linear_from(linear.weight, linear.weight.new_zeros(linear.out_features))


def _with_ones(linear: nn.Linear, width: int, places: tuple[int, ...]) -> nn.Linear:
    """Return the map with 1 added to the parts that are scales: norm(x) (1 + s) + b is then one product and a sum."""
    bias = linear.bias.clone()
    for place in places:
        bias[place * width : (place + 1) * width] += 1
    return linear_from(linear.weight, bias)
