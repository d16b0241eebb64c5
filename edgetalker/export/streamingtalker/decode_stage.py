"""The decode stage: a window of latents to the newest frame's vertices."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.streamingtalker.layers import attend, key_mask, linear_from
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

    def forward(self, latents: Tensor, count: Tensor, template: Tensor) -> Tensor:
        """Return vertices (1, V, 3).

        latents (1, rows, vq), the newest frame's last, the start token before frame 0's; count (1,), frames
        since the reset; template (1, V, 3).
        """
        valid = torch.clamp(count, max=self.window - 2) + 2
        x = self.embedding(self._temporal(latents[0, self.skip :], valid))
        mask = key_mask(self.window, valid)
        for block in self.blocks[:-1]:
            x = block(x, mask, self.window)
        newest = self.blocks[-1](x, mask, 1)
        return cast(Tensor, self.reverse(newest)).reshape(template.shape) + template

    def _temporal(self, latents: Tensor, valid: Tensor) -> Tensor:
        index = torch.arange(-self.reach, self.window + self.reach, dtype=torch.float32)
        first = self.window - valid
        source = torch.minimum(torch.maximum(index, first), torch.tensor(self.window - 1.0)).to(torch.int64)
        padded = torch.index_select(self.pre(latents), 0, source)
        x = F.leaky_relu(F.conv1d(padded.T[None], self.weight, self.offset), _SLOPE)[0].T
        within = (index[self.reach : -self.reach] >= first).to(torch.float32)[:, None]
        mean = (x * within).sum(dim=0, keepdim=True) / valid
        centred = x - mean
        variance = (centred * within).square().sum(dim=0, keepdim=True) / valid
        return centred * torch.rsqrt(variance + _EPSILON)


class _Block(nn.Module):
    """A published block with its fused projection split, so that keys and queries can be of different rows."""

    def __init__(self, block: Any, heads: int) -> None:
        super().__init__()
        width = block.attention.out.in_features
        self.heads, self.scale = heads, width**-0.5
        parts = block.attention.qkv.weight.split(width)
        self.query, self.key, self.value = (_unbiased(part) for part in parts)
        self.out = linear_from(block.attention.out.weight, block.attention.out.bias)
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.expand, self.contract = block.expand, block.contract

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Return the newest `rows` rows of the block's output for x (L, width) and mask (L,)."""
        normed = self.attention_norm(x)
        q, k, v = self.query(normed[-rows:]), self.key(normed), self.value(normed)
        y = x[-rows:] + self.out(attend(q, k, v, mask, self.heads, self.scale))
        return cast(Tensor, y + self.contract(F.gelu(self.expand(self.mlp_norm(y)))))


def _unbiased(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    return linear
