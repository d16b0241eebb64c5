"""The causal audio trunk: mel frames through a network with memory, whose state is in the open.

One step of a frame reads eight mel frames and the state: of two GRU layers, or of causal attention. Head d tells what
the mouth did d frames ago, so one network gives look-ahead 0, 1 and 2; a bundle fixes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetalker.models.online.attention import Attention
from edgetalker.models.online.data.phones import PHONES
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.features import BANDS, STACK

__all__ = ["FADE", "LOGITS", "LOOKAHEADS", "FadingGru", "Trunk", "TrunkSize", "gru_cell"]

LOOKAHEADS = (0, 1, 2)
FADE = 0.998
"""What a frame leaves of the state (time constant 17 s). Training hears at most 19 s of a sound,
and units that never forget carry the face away over minutes (measured over half an hour without: brows from 0.08 to
0.17, the head nodded by 6 degrees)."""
DROP = 0.15
"""Share of what the memory reads, passes on and says that is left out in training."""
BRANCH_DROP = 0.05
"""The same of what each part of a transformer's layer adds."""
STRIDE = 12  # frames between two fadings in training
LOGITS = 3
"""lips touch, lower lip at the teeth, voice on"""
_MEAN, _SCALE = -17.5, 4.5  # of ln mel power over the training data, rounded


@dataclass(frozen=True)
class TrunkSize:
    """Widths of the trunk, and which memory it has: "gru" sees all of the past, "transformer" layers * window frames.

    window, heads and hidden (of the feed-forward part) are the transformer's; its entry is as wide as its width.
    """

    entry: int = 256
    width: int = 384
    layers: int = 2
    kind: str = "gru"
    window: int = 64
    heads: int = 4
    hidden: int = 512


class FadingGru(nn.GRU):
    """x (B, T, entry) and state (layers, B, width) -> y (B, T, width), new state; the state fades by FADE a frame."""

    carry = "copy"

    def begin(self, batch: int) -> Tensor:
        return torch.zeros(self.num_layers, batch, self.hidden_size, device=next(self.parameters()).device)

    def keep(self, state: Tensor, new: Tensor) -> Tensor:
        return new

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Run T frames as training does: fast, the state fading by the same amount in larger steps."""
        pieces = []
        for part in torch.split(x, STRIDE, 1):
            piece, state = super().forward(part, FADE ** part.shape[1] * state)
            pieces.append(piece)
        return torch.cat(pieces, 1), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one frame with plain operations, for export: x (B, entry)."""
        states = []
        for layer in range(self.num_layers):
            x = gru_cell(self, layer, x, FADE * state[layer])
            states.append(x)
        return x, torch.stack(states)


class Trunk(nn.Module):
    """mel (B, T, 8 * 80) and state -> features (B, T, width), new state. The state's shape is `begin`'s.

    Raises ValueError for a kind of memory that is not known.
    """

    def __init__(self, size: TrunkSize) -> None:
        super().__init__()
        self.size = size
        self.entry = nn.Sequential(nn.Linear(STACK * BANDS, size.entry), nn.GELU(), nn.LayerNorm(size.entry))
        self.memory = _memory(size)
        self.heads = nn.ModuleList(nn.Linear(size.width, len(MOUTH) + LOGITS) for _ in LOOKAHEADS)
        self.phones = nn.ModuleList(nn.Linear(size.width, len(PHONES)) for _ in LOOKAHEADS)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def begin(self, batch: int) -> Tensor:
        """Return the state before the first frame: zeros."""
        return self.memory.begin(batch)

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames from a state, as training does."""
        entry = nn.functional.dropout(self.entry((mel - _MEAN) / _SCALE), DROP, self.training)
        features, state = self.memory(entry, state)
        return nn.functional.dropout(features, DROP, self.training), state

    def listen(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames as they are played: `step` by `step`."""
        features = []
        for frame in mel.unbind(1):
            value, kept = self.step(frame, state)
            state = self.memory.keep(state, kept)
            features.append(value)
        return torch.stack(features, 1), state

    def step(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one frame with plain operations, for export: mel (B, 640) -> features, and what `memory.keep` takes."""
        return self.memory.step(self.entry((mel - _MEAN) / _SCALE), state)

    def mouth(self, features: Tensor, lookahead: int) -> tuple[Tensor, Tensor]:
        """Return mouth channels (..., 14) and logits (..., 3) of the frame `lookahead` frames back."""
        out = self.heads[lookahead](features)
        return out[..., : len(MOUTH)], out[..., len(MOUTH) :]


def _memory(size: TrunkSize) -> FadingGru | Attention:
    if size.kind == "gru":
        return FadingGru(size.entry, size.width, size.layers, batch_first=True, dropout=DROP)
    if size.kind != "transformer" or size.entry != size.width or size.width % (2 * size.heads):
        raise ValueError(f"{size}: a gru, or a transformer of one width that its heads can share in pairs, was wanted")
    return Attention(size.width, size.layers, size.heads, size.window, size.hidden, BRANCH_DROP)


def gru_cell(memory: nn.GRU, layer: int, value: Tensor, before: Tensor) -> Tensor:
    """Run one layer's cell of Cho et al. 2014 as torch defines it: the reset gate acts after the product."""
    weights = [getattr(memory, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    fresh = nn.functional.linear(value, weights[0], weights[2])
    kept = nn.functional.linear(before, weights[1], weights[3])
    fresh_r, fresh_z, fresh_n = fresh.chunk(3, -1)
    kept_r, kept_z, kept_n = kept.chunk(3, -1)
    update = torch.sigmoid(fresh_z + kept_z)
    new = torch.tanh(fresh_n + torch.sigmoid(fresh_r + kept_r) * kept_n)
    return new + update * (before - new)
