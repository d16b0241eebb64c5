"""The condition stage: histories and an identity to what the newest row contributes to the denoised latent."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.streamingtalker.layers import MASKED, attend, folded, linear_from
from edgetalker.models.streamingtalker.contract import Contract
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.network import Head, head_slopes

__all__ = ["ConditionStage", "condition_map"]


def condition_map(head: Head) -> nn.Linear:
    """Return the linear map from a condition (D,) to its share of the estimate x0 (vq,), without bias.

    The published head is linear: x0 = W_l (W_d [W_v x + b_v; c + e_t] + b_d) + b_l. This is W_l W_d[:, D:].
    """
    width = head.denoiser.out_features
    weight = head.output_map.weight.double() @ head.denoiser.weight.double()[:, width:]
    return linear_from(weight, weight.new_zeros(weight.shape[0]))


class ConditionStage(nn.Module):
    """The condition network over fixed windows; only the newest row leaves its last layer.

    Cross-attention sees one audio frame a row, so that its softmax is 1 and it is the two linear maps of values
    and output, folded into one.
    """

    def __init__(self, model: StreamingTalker, contract: Contract, rows: int) -> None:
        """`rows`: rows of the latent history buffer, of which the newest `contract.history` are read."""
        super().__init__()
        network: Any = model.motion
        self.window, self.skip = contract.history, rows - contract.history
        self.period, self.heads = model.config.period, model.config.heads
        self.absolute = contract.phase == "absolute"
        self.latent_map, self.audio_map = network.latent_map, network.audio_map
        self.identities = nn.Buffer(network.identity.weight.detach())
        self.layers = nn.ModuleList(
            _Layer(layer, self.heads, model.config.activation) for layer in network.transformer.layers
        )
        self.to_estimate = condition_map(network.head)
        self.table = nn.Buffer(network.positions[0, : self.period].clone())
        self.bias = nn.Buffer(_finite_bias(self.window, self.heads, self.period))

    def forward(self, history: Tensor, features: Tensor, identity: Tensor, count: Tensor) -> Tensor:
        """Return the condition's share of x0 (1, vq).

        history (1, rows, vq), newest last, the start token before frame 0's latent; features (1, history, A),
        frame i last; identity (1, I) weights, a one-hot as published; count (1,), frames since the reset.
        """
        valid = torch.clamp(count, max=self.window - 1) + 1
        index = torch.arange(self.window, dtype=torch.float32)
        keys = torch.where(index >= self.window - valid, 0.0, MASKED)
        x = self.latent_map(history[0, self.skip :]) + identity @ self.identities
        x = x + torch.index_select(self.table, 0, self._positions(index, valid, count))
        audio = self.audio_map(features[0])
        for layer in self.layers[:-1]:
            x = layer(x, x, audio, self.bias + keys)
        x = self.layers[-1](x[-1:], x, audio[-1:], (self.bias + keys)[:, -1:])
        return cast(Tensor, self.to_estimate(x))

    def _positions(self, index: Tensor, valid: Tensor, count: Tensor) -> Tensor:
        """Return rows of the periodic table: from the window's first valid row, or from the frame's index."""
        newest = count if self.absolute else valid - 1
        place = torch.clamp(index - (self.window - 1) + newest, min=0.0)
        return torch.remainder(place, float(self.period)).to(torch.int64)


def _finite_bias(length: int, heads: int, period: int) -> Tensor:
    """Return the temporal bias (heads, L, L) with MASKED in place of -inf, which half precision cannot add to."""
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    bias = -head_slopes(heads)[:, None, None] * torch.div(distance, period, rounding_mode="floor")
    return bias.masked_fill(distance < 0, MASKED)


class _Layer(nn.Module):
    def __init__(self, layer: Any, heads: int, activation: str) -> None:
        super().__init__()
        self.heads = heads
        width = layer.self_attn.embed_dim
        weights = layer.self_attn.in_proj_weight.split(width)
        biases = layer.self_attn.in_proj_bias.split(width)
        self.query, self.key, self.value = (linear_from(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = linear_from(layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias)
        self.cross = _cross(layer.multihead_attn)
        self.norms = nn.ModuleList([layer.norm1, layer.norm2, layer.norm3])
        self.expand, self.contract = layer.linear1, layer.linear2
        self.activation = F.relu if activation == "relu" else F.gelu

    def forward(self, rows: Tensor, context: Tensor, audio: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.query(rows), self.key(context), self.value(context)
        mixed = attend(q, k, v, bias, self.heads, (rows.shape[1] // self.heads) ** -0.5)
        x = self.norms[0](rows + self.out(mixed))
        x = self.norms[1](x + self.cross(audio))
        return cast(Tensor, self.norms[2](x + self.contract(self.activation(self.expand(x)))))


def _cross(attention: Any) -> nn.Linear:
    width = attention.embed_dim
    value = linear_from(attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return folded(attention.out_proj, value)
