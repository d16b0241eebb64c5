"""Pieces that several stages share: attention over windows that are not yet full, folded maps, encoders' layers.

What depends on the number of valid rows alone is a table with one row for each number, looked up by Gather: a
handful of small operations a frame would otherwise cost more than the networks of a small model.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "MASKED",
    "Attention",
    "EncoderLayer",
    "folded",
    "key_masks",
    "linear_from",
    "plain_convolution",
    "table_row",
]

# Large enough that a masked key's softmax weight is exactly 0 in float32 and float16, small enough for float16.
MASKED = -1e4


def linear_from(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear map with these float64 or float32 values, held in float32."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.to(torch.float32).contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(torch.float32), requires_grad=False)
    return linear


def folded(outer: nn.Linear, inner: nn.Linear) -> nn.Linear:
    """Return the one linear map that does `inner`, then `outer`; multiplied in float64."""
    weight, bias = outer.weight.double(), outer.bias.double()
    return linear_from(weight @ inner.weight.double(), weight @ inner.bias.double() + bias)


def key_masks(rows: int) -> Tensor:
    """Return (rows, rows): row n - 1 is 0 for the newest n keys and MASKED for those before them."""
    valid = torch.arange(1, rows + 1)[:, None]
    return torch.where(torch.arange(rows) >= rows - valid, 0.0, MASKED)


def table_row(table: Tensor, place: Tensor) -> Tensor:
    """Return row `place` (1,), int64, of a table (rows, ...) as (1, ...)."""
    return torch.index_select(table, 0, place)


class Attention(nn.Module):
    """Multi-head self-attention of the newest rows of a sequence to all of it.

    The scale is folded into the query's weights, and queries, keys and values of a whole sequence are one product.
    """

    def __init__(self, weights: Tensor, biases: Tensor, out: nn.Linear, heads: int, scale: float) -> None:
        """weights (3 width, width) and biases (3 width,): of queries, keys and values, stacked."""
        super().__init__()
        self.heads, self.width = heads, weights.shape[1]
        factor = torch.ones(3, 1, dtype=torch.float64)
        factor[0] = scale
        rows = factor.repeat_interleave(self.width, dim=0)
        weights, biases = weights.double() * rows, biases.double() * rows[:, 0]
        self.query = linear_from(weights[: self.width], biases[: self.width])
        self.key_value = linear_from(weights[self.width :], biases[self.width :])
        self.all = linear_from(weights, biases)
        self.out = linear_from(out.weight, out.bias)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return (L, width) for x (L, width); bias broadcasts to (heads, L, L); None adds nothing."""
        q, k, v = self._split(self.all(x), 3)
        mixed = self._mixed(q, k, v, bias)
        return self._output(mixed.transpose(0, 1))

    def newest(self, rows: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        """Return (Q, width) for rows (Q, width) that attend to x (L, width); bias broadcasts to (heads, Q, L)."""
        k, v = self._split(self.key_value(x), 2)
        q = self.query(rows).reshape(rows.shape[0], self.heads, -1).transpose(0, 1)
        mixed = self._mixed(q, k, v, bias)
        return self._output(mixed.transpose(0, 1))

    def _split(self, joined: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Turn (L, parts · width) into `parts` tensors (heads, L, width / heads)."""
        split = joined.reshape(joined.shape[0], parts * self.heads, -1).transpose(0, 1)
        return torch.split(split, self.heads)

    @staticmethod
    def _mixed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        logits = q @ k.transpose(1, 2)
        return torch.softmax(logits if bias is None else logits + bias, dim=-1) @ v

    def _output(self, mixed: Tensor) -> Tensor:
        result: Tensor = self.out(mixed.flatten(1))
        return result


class EncoderLayer(nn.Module):
    """The parts of one layer of a wav2vec 2.0 encoder (transformers' class); where the norms stand is the encoder's."""

    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        parts = (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
        weights, biases = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        scale = (weights.shape[1] // heads) ** -0.5
        self.attention = Attention(weights, biases, layer.attention.out_proj, heads, scale)
        self.norm, self.final_norm = layer.layer_norm, layer.final_layer_norm
        self.expand, self.contract = layer.feed_forward.intermediate_dense, layer.feed_forward.output_dense

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward part of x (L, A), without norm or residual."""
        return cast(Tensor, self.contract(F.gelu(self.expand(x))))


def plain_convolution(normed: Any) -> nn.Conv1d:
    """Return the convolution with its weight norm folded: weight = g · v / ‖v‖."""
    plain = nn.Conv1d(
        normed.in_channels,
        normed.out_channels,
        normed.kernel_size[0],
        padding=normed.padding[0],
        groups=normed.groups,
        device="meta",
    )
    plain.weight = nn.Parameter(normed.weight.detach(), requires_grad=False)
    plain.bias = nn.Parameter(normed.bias.detach(), requires_grad=False)
    return plain
