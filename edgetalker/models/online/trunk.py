"""The causal audio trunk: mel frames through a recurrent network with its state in the open.

One step of a frame reads eight mel frames and the state of two GRU layers. Head d tells what the mouth did d
frames ago, so one network gives look-ahead 0, 1 and 2; a bundle fixes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.phones import PHONES
from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.features import BANDS, STACK

__all__ = ["FADE", "LOGITS", "LOOKAHEADS", "STRIDE", "Trunk", "TrunkSize", "gru_cell"]

LOOKAHEADS = (0, 1, 2)
FADE = 0.998
"""What a frame leaves of the state (time constant 17 s). Training hears at most 19 s of a sound,
and units that never forget carry the face away over minutes (measured over half an hour without: brows from 0.08 to
0.17, the head nodded by 6 degrees)."""
DROP = 0.15
"""Share of what the memory reads, passes on and says that is left out in training."""
STRIDE = 12  # frames between two fadings in training
LOGITS = 3
"""lips touch, lower lip at the teeth, voice on"""
_MEAN, _SCALE = -17.5, 4.5  # of ln mel power over the training data, rounded


@dataclass(frozen=True)
class TrunkSize:
    """Widths of the trunk. receptive field: all of the past, through the state."""

    entry: int = 256
    width: int = 384
    layers: int = 2


class Trunk(nn.Module):
    """mel (B, T, 8 * 80) and state (layers, B, width) -> features (B, T, width), new state."""

    def __init__(self, size: TrunkSize) -> None:
        super().__init__()
        self.size = size
        self.entry = nn.Sequential(nn.Linear(STACK * BANDS, size.entry), nn.GELU(), nn.LayerNorm(size.entry))
        self.memory = nn.GRU(size.entry, size.width, size.layers, batch_first=True, dropout=DROP)
        self.heads = nn.ModuleList(nn.Linear(size.width, len(MOUTH) + LOGITS) for _ in LOOKAHEADS)
        self.phones = nn.ModuleList(nn.Linear(size.width, len(PHONES)) for _ in LOOKAHEADS)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def begin(self, batch: int) -> Tensor:
        """Return the state before the first frame: zeros."""
        return torch.zeros(self.size.layers, batch, self.size.width, device=self.device)

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames from a state, as training does: fast, the state fading by the same amount in larger steps."""
        entry = nn.functional.dropout(self.entry((mel - _MEAN) / _SCALE), DROP, self.training)
        pieces = []
        for part in torch.split(entry, STRIDE, 1):
            piece, state = self.memory(part, FADE ** part.shape[1] * state)
            pieces.append(piece)
        return nn.functional.dropout(torch.cat(pieces, 1), DROP, self.training), state

    def listen(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run T frames as they are played: `step` by `step`."""
        features = []
        for frame in mel.unbind(1):
            value, state = self.step(frame, state)
            features.append(value)
        return torch.stack(features, 1), state

    def step(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one frame with plain operations, for export: mel (B, 640), state (layers, B, width)."""
        value = self.entry((mel - _MEAN) / _SCALE)
        states = []
        for layer in range(self.size.layers):
            value = gru_cell(self.memory, layer, value, FADE * state[layer])
            states.append(value)
        return value, torch.stack(states)

    def mouth(self, features: Tensor, lookahead: int) -> tuple[Tensor, Tensor]:
        """Return mouth channels (..., 14) and logits (..., 3) of the frame `lookahead` frames back."""
        out = self.heads[lookahead](features)
        return out[..., : len(MOUTH)], out[..., len(MOUTH) :]


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
