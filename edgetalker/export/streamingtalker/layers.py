"""Pieces that several stages share: masks of windows that are not yet full, and attention over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MASKED", "attend", "folded", "key_mask", "linear_from", "split_heads"]

# Large enough that a masked key's softmax weight is exactly 0 in float32 and float16, small enough for float16.
MASKED = -1e4


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn (L, width) into (heads, L, width / heads)."""
    return x.reshape(x.shape[0], heads, -1).transpose(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int, scale: float) -> Tensor:
    """Attend from rows (Q, width) to rows (K, width); bias broadcasts to (heads, Q, K). Returns (Q, width)."""
    scores = split_heads(q * scale, heads) @ split_heads(k, heads).transpose(1, 2) + bias
    mixed = torch.softmax(scores, dim=-1) @ split_heads(v, heads)
    return mixed.transpose(0, 1).flatten(1)


def key_mask(rows: int, valid: Tensor) -> Tensor:
    """Return (rows,), 0 for the newest `valid` (1,) rows and MASKED for those before them."""
    index = torch.arange(rows, dtype=torch.float32)
    return torch.where(index >= rows - valid, 0.0, MASKED)


def linear_from(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear map with these float64 or float32 values, held in float32."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.to(torch.float32), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(torch.float32), requires_grad=False)
    return linear


def folded(outer: nn.Linear, inner: nn.Linear) -> nn.Linear:
    """Return the one linear map that does `inner`, then `outer`; multiplied in float64."""
    weight, bias = outer.weight.double(), outer.bias.double()
    return linear_from(weight @ inner.weight.double(), weight @ inner.bias.double() + bias)
