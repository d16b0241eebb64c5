"""The condition stage: histories and an identity to what the newest row contributes to the denoised latent."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.layers import MASKED, Attention, folded, key_masks, linear_from, table_row
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
    """The condition network over fixed windows; only the newest row leaves its last layer, unless all are wanted.

    Cross-attention sees one audio frame a row, so that its softmax is 1 and it is the two linear maps of values
    and output, folded into one.
    """

    def __init__(self, model: StreamingTalker, contract: Contract, rows: int) -> None:
        """`rows`: rows of the latent history buffer, of which the newest `contract.history` are read."""
        super().__init__()
        network: Any = model.motion
        self.window, self.skip = contract.history, rows - contract.history
        self.period, self.heads = model.config.period, model.config.heads
        self.absolute, self.every_row = contract.phase == "absolute", contract.past == "rewrite"
        self.latent_map, self.audio_map = network.latent_map, network.audio_map
        self.identities = nn.Buffer(network.identity.weight.detach())
        self.layers = nn.ModuleList(
            _Layer(layer, self.heads, model.config.activation) for layer in network.transformer.layers
        )
        self.to_estimate = condition_map(network.head)
        self.table = nn.Buffer(network.positions[0, : self.period].clone())
        self.bias = nn.Buffer(_finite_bias(self.window, self.heads, self.period))
        self.masks = nn.Buffer(key_masks(self.window))
        self.places = nn.Buffer(_places(self.window, self.period, absolute=self.absolute))

    def forward(self, history: Tensor, features: Tensor, identity: Tensor, count: Tensor) -> Tensor:
        """Return the condition's share of x0: (1, vq), or (1, history, vq) where every row is made anew.

        history (1, rows, vq), newest last, the start token before frame 0's latent; features (1, history, A),
        frame i last; identity (1, I) weights, a one-hot as published; count (1,), frames since the reset.
        """
        place = torch.clamp(count, max=self.window - 1).to(torch.int64)
        keys = table_row(self.masks, place)
        x = self.latent_map(history[0, self.skip :]) + identity @ self.identities
        x = x + torch.index_select(self.table, 0, self._positions(count, place))
        audio = self.audio_map(features[0])
        for layer in self.layers[:-1]:
            x = layer(x, audio, self.bias + keys)
        if self.every_row:
            return cast(Tensor, self.to_estimate(self.layers[-1](x, audio, self.bias + keys)))[None]
        x = cast(_Layer, self.layers[-1]).newest(x, audio[-1:], self.bias[:, -1:] + keys)
        return cast(Tensor, self.to_estimate(x))

    def _positions(self, count: Tensor, place: Tensor) -> Tensor:
        """Return rows (window,) of the periodic table: from the first valid row on, or by the frame's index."""
        if self.absolute:
            place = torch.remainder(count, float(self.period)).to(torch.int64)
        return table_row(self.places, place)[0]


def _places(window: int, period: int, *, absolute: bool) -> Tensor:
    """Return, for each frame's place, the rows of the periodic table that the window's rows take.

    (window, window) by the number of valid rows less one, or (period, window) by the frame's index mod period.
    Rows before the first valid one are masked; they take any row.
    """
    newest = torch.arange(period if absolute else window)[:, None]
    return torch.remainder(torch.arange(window) - (window - 1) + newest, period)


def _finite_bias(length: int, heads: int, period: int) -> Tensor:
    """Return the temporal bias (heads, L, L) with MASKED in place of -inf, which half precision cannot add to."""
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    bias = -head_slopes(heads)[:, None, None] * torch.div(distance, period, rounding_mode="floor")
    return bias.masked_fill(distance < 0, MASKED)


class _Layer(nn.Module):
    """One post-norm decoder layer whose cross-attention sees one audio frame a row."""

    def __init__(self, layer: Any, heads: int, activation: str) -> None:
        super().__init__()
        own = layer.self_attn
        scale = (own.embed_dim // heads) ** -0.5
        self.attention = Attention(own.in_proj_weight, own.in_proj_bias, own.out_proj, heads, scale)
        self.cross = _cross(layer.multihead_attn)
        self.norms = nn.ModuleList([layer.norm1, layer.norm2, layer.norm3])
        self.expand, self.contract = layer.linear1, layer.linear2
        self.activation = F.relu if activation == "relu" else F.gelu

    def forward(self, x: Tensor, audio: Tensor, bias: Tensor) -> Tensor:
        """Return (L, D) for x (L, D), mapped audio (L, D) and a bias (heads, L, L)."""
        return self._finish(x + self.attention(x, bias), audio)

    def newest(self, x: Tensor, audio: Tensor, bias: Tensor) -> Tensor:
        """Return the newest row (1, D) alone, for audio (1, D) and bias (heads, 1, L)."""
        rows = x[-1:]
        return self._finish(rows + self.attention.newest(rows, x, bias), audio)

    def _finish(self, x: Tensor, audio: Tensor) -> Tensor:
        x = self.norms[1](self.norms[0](x) + self.cross(audio))
        return cast(Tensor, self.norms[2](x + self.contract(self.activation(self.expand(x)))))


def _cross(attention: Any) -> nn.Linear:
    width = attention.embed_dim
    value = linear_from(attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return folded(attention.out_proj, value)
