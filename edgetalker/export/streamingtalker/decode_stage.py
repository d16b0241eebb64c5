"""The decode stage: a window of latents to the newest frame's vertices."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.layers import Attention, key_masks, linear_from, table_row
from edgetalker.models.streamingtalker.contract import Contract
from edgetalker.models.streamingtalker.model import StreamingTalker

__all__ = ["DecodeStage"]

_SLOPE = 0.2
_EPSILON = 1e-5


class DecodeStage(nn.Module):
    """The VAE decoder over the newest `decode_window` latents; only the newest row leaves its last block.

    A window that is not yet full is decoded as the short sequence that it is: edges of the convolution repeat
    its first latent, statistics and attention leave out what lies before it.
    """

    def __init__(self, model: StreamingTalker, contract: Contract, rows: int) -> None:
        """`rows`: rows of the latent history buffer, of which the newest `contract.decode_window` are read."""
        super().__init__()
        decoder: Any = model.vae.decoder
        self.window, self.skip = contract.decode_window, rows - contract.decode_window
        self.with_start = contract.past == "append"
        self.heads = model.config.vae_heads
        self.pre = decoder.pre if decoder.pre is not None else nn.Identity()
        convolution = decoder.temporal.convolution
        self.reach = convolution.kernel_size[0] // 2
        self.weight, self.offset = nn.Buffer(convolution.weight.detach()), nn.Buffer(convolution.bias.detach())
        # The published position table is indexed by batch: one vector for all frames, which joins the bias.
        bias = decoder.embedding.bias.double() + decoder.positions[0, 0].double()
        self.embedding = linear_from(decoder.embedding.weight, bias)
        self.blocks = nn.ModuleList(_Block(block, self.heads) for block in decoder.blocks)
        self.reverse = decoder.reverse
        self.masks = nn.Buffer(key_masks(self.window))
        self.sources = nn.Buffer(_sources(self.window, self.reach))
        self.shares = nn.Buffer(_shares(self.window))

    def forward(self, latents: Tensor, count: Tensor, template: Tensor) -> Tensor:
        """Return vertices (1, V, 3).

        latents (1, rows, vq), the newest frame's last, the start token before frame 0's; count (1,), frames
        since the reset; template (1, V, 3).
        """
        # Without the start token, as `predict` decodes, but for frame 0: one latent alone cannot be decoded.
        before = count + 1 if self.with_start else torch.clamp(count, min=1.0)
        place = torch.clamp(before, max=self.window - 1).to(torch.int64)
        x = self.embedding(self._temporal(latents[0, self.skip :], place))
        mask = table_row(self.masks, place)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        newest = cast(_Block, self.blocks[-1]).newest(x, mask)
        return cast(Tensor, self.reverse(newest)).reshape(template.shape) + template

    def _temporal(self, latents: Tensor, place: Tensor) -> Tensor:
        """Return (window, width): convolution, LeakyReLU and InstanceNorm over the valid rows."""
        padded = torch.index_select(self.pre(latents), 0, table_row(self.sources, place)[0])
        x = F.leaky_relu(F.conv1d(padded.T[None], self.weight, self.offset), _SLOPE)[0]
        shares = table_row(self.shares, place)[0]
        centred = x - x @ shares
        variance = centred.square() @ shares
        # Rows that are not valid, of which nothing is read, would be many times as large while few are, and stretch the
        # range in which 8 bits hold the others.
        return torch.where(shares > 0.0, (centred / torch.sqrt(variance + _EPSILON)).T, 0.0)


def _sources(window: int, reach: int) -> Tensor:
    """Return (window, window + 2 reach): which rows the convolution reads, edges repeated, by valid rows less one."""
    first = window - 1 - torch.arange(window)[:, None]
    wanted = torch.arange(-reach, window + reach)[None]
    return torch.minimum(torch.maximum(wanted, first), torch.tensor(window - 1))


def _shares(window: int) -> Tensor:
    """Return (window, window, 1): weights of a mean over the newest n rows, by n less one."""
    valid = torch.arange(1, window + 1)[:, None]
    newest = (torch.arange(window) >= window - valid).to(torch.float32)
    return (newest / valid)[:, :, None]


class _Block(nn.Module):
    """A published pre-norm block, all rows or the newest alone."""

    def __init__(self, block: Any, heads: int) -> None:
        super().__init__()
        weights = block.attention.qkv.weight
        biases, scale = weights.new_zeros(weights.shape[0]), block.attention.scale
        self.attention = Attention(weights, biases, block.attention.out, heads, scale)
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.expand, self.contract = block.expand, block.contract

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (L, width) for x (L, width) and a key mask (1, L)."""
        return self._finish(x + self.attention(self.attention_norm(x), mask))

    def newest(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the newest row (1, width) alone."""
        normed = self.attention_norm(x)
        return self._finish(x[-1:] + self.attention.newest(normed[-1:], normed, mask))

    def _finish(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.contract(F.gelu(self.expand(self.mlp_norm(x)))))
