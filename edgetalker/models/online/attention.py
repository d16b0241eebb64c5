"""Causal attention over the last frames: a trunk's memory, as the GRU is one.

Blocks of Vaswani et al. 2017 as the field builds them now: RMSNorm before each part (Zhang and Sennrich 2019), SwiGLU
(Shazeer 2020), rotary positions (Su et al. 2021). The state is a ring of keys and values: a frame adds its row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention"]

_BASE = 100.0
"""The slowest rotary turn takes 2 pi times as many frames."""


Phase = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """Written out: so ONNX Runtime takes it for one operation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain


class Block(nn.Module):
    """One layer: what it asks, and holds for later frames, of x (..., width); what it makes of what it was told."""

    def __init__(self, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.ask_norm, self.ask = RMSNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)
        self.gate_norm, self.gate = RMSNorm(width), nn.Linear(width, 2 * hidden, bias=False)
        self.exit = nn.Linear(hidden, width, bias=False)
        self.drop = nn.Dropout(drop)

    def asks(self, x: Tensor, phase: Phase) -> tuple[Tensor, Tensor]:
        """Return query and key, (..., 2, width), turned by the frame's phase, and the value."""
        pair, value = torch.split(self.ask(self.ask_norm(x)), [2 * x.shape[-1], x.shape[-1]], -1)
        return turned(pair.reshape(*pair.shape[:-1], 2, -1), phase), value

    def joined(self, x: Tensor, told: Tensor) -> Tensor:
        x = x + self.drop(self.join(told))
        gate, up = self.gate(self.gate_norm(x)).chunk(2, -1)
        joined: Tensor = x + self.drop(self.exit(F.silu(gate) * up))
        return joined


def turned(x: Tensor, phase: Phase) -> Tensor:
    """Turn each pair (i, width / 2 + i) of x (..., width) by a phase."""
    first, second = x.chunk(2, -1)
    return x * phase[0] + torch.cat([second, first], -1) * phase[1]


def phase_of(cosine: Tensor, sine: Tensor) -> Phase:
    """Return what `turned` multiplies with, (..., width) each, of one cosine and sine a pair."""
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


class Attention(nn.Module):
    """x (B, T, width) and state (B, window, 2 * layers + 1, width) -> y (B, T, width), new state.

    A row of the state is one frame's keys and values, and its rotary phase, less that of no turn. A frame's phase is
    the last one's turned on: only differences count, so that nothing grows however long it runs. Rows before the first
    frame are zeros, keys too: they are attended to and say nothing. Head h has the pairs from h * width / 2 / heads.
    """

    turn: Tensor
    part: Tensor
    none: Tensor
    carry = "shift"

    def __init__(self, width: int, layers: int, heads: int, window: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.width, self.heads, self.window = width, heads, window
        blocks = [Block(width, hidden, drop) for _ in range(layers)]
        self.blocks, self.norm = nn.ModuleList(blocks), RMSNorm(width)
        for last in (part for block in blocks for part in (block.join, block.exit)):
            nn.init.normal_(last.weight, std=0.02 / (2 * layers) ** 0.5)
        nn.init.constant_(self.norm.gain, 0.1)  # what is told of an untrained trunk is small, as of a GRU
        pairs = width // 2 // heads
        part = torch.eye(heads).repeat_interleave(pairs, 1).repeat(1, 2)
        self.register_buffer("turn", (_BASE ** (-torch.arange(pairs) / pairs)).repeat(heads), persistent=False)
        self.register_buffer("part", part, persistent=False)  # (heads, width): which numbers are whose
        self.register_buffer("none", (torch.arange(width) < width // 2).float(), persistent=False)

    def begin(self, batch: int) -> Tensor:
        """Return the state before the first frame: zeros."""
        rows = 2 * len(self.blocks) + 1
        return torch.zeros(batch, self.window, rows, self.width, device=self.turn.device)

    def keep(self, state: Tensor, row: Tensor) -> Tensor:
        """Return the state with a frame's row, (B, 1, 2 * layers + 1, width), behind the others."""
        return torch.cat([state[:, 1:], row], 1)

    def _next(self, last: Tensor) -> Tensor:
        """Return the cosines and sines (B, width) of the frame after one's, at length 1 whatever was rounded."""
        phase = turned(last + self.none, phase_of(self.turn.cos(), self.turn.sin()))
        cosine, sine = (phase * phase).chunk(2, -1)
        near = 1.5 - 0.5 * (cosine + sine)
        return phase * torch.cat([near, near], -1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames side by side, as training does."""
        frames, rows = x.shape[1], []
        angle = torch.arange(frames, device=x.device)[:, None] * self.turn
        phases = turned(self._next(state[:, -1, -1])[:, None], phase_of(angle.cos(), angle.sin()))
        phase = phase_of(*phases[:, :, None].chunk(2, -1))
        place = torch.arange(self.window + frames, device=x.device)
        ahead = place - place[self.window :, None]
        seen = (ahead <= 0) & (ahead >= -self.window)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            pair, value = block.asks(x, phase)
            rows += [pair[:, :, 1], value]
            keys, values = (torch.cat([state[:, :, 2 * layer + i], rows[-2 + i]], 1) for i in (0, 1))
            query, keys, values = (self._split(track) for track in (pair[:, :, 0], keys, values))
            told = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
            told = told.reshape(*told.shape[:-1], 2, -1).permute(0, 2, 3, 1, 4).flatten(2)
            x = block.joined(x, told)
        fresh = torch.stack([*rows, phases - self.none], 2)
        return self.norm(x), torch.cat([state, fresh], 1)[:, frames:]

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, heads, T, width / heads)."""
        return x.reshape(*x.shape[:-1], 2, self.heads, -1).permute(0, 3, 1, 2, 4).flatten(3)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one frame with plain operations, for export: x (B, width) -> y, and the row that `keep` takes."""
        *past, last = torch.split(state.flatten(2), self.width, -1)
        turn, rows = self._next(last[:, -1]), []
        phase = phase_of(*turn[:, None].chunk(2, -1))
        own = self.part * (self.width / self.heads) ** -0.5
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            pair, value = block.asks(x, phase)
            query, key = pair.chunk(2, 1)
            rows += [key, value[:, None]]
            keys, values = (torch.cat([past[2 * layer + i], rows[-2 + i]], 1) for i in (0, 1))
            # One product for all heads, each with zeros where the others' numbers are: nothing is laid out anew.
            weight = torch.softmax((query * own) @ keys.transpose(1, 2), -1)
            x = block.joined(x, (weight @ values * self.part).sum(1))
        return self.norm(x), torch.cat([*rows, (turn - self.none)[:, None]], -1).reshape(
            -1, 1, len(rows) + 1, self.width
        )
