"""The audio stages: one chunk of sound to the encoder's tokens, whole or cut into parts of some layers each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.layers import EncoderLayer, plain_convolution
from edgetalker.models.artalk.model import ARTalk

__all__ = ["AudioStage", "layer_ranges"]


def layer_ranges(layers: int, parts: int) -> list[range]:
    """Return the layers of each of `parts` stages, as even as they come."""
    bounds = [layers * part // parts for part in range(parts + 1)]
    return [range(first, last) for first, last in pairwise(bounds)]


class AudioStage(nn.Module):
    """Some layers of the encoder; the first part begins at the samples, the last one ends with the last norm."""

    def __init__(self, model: ARTalk, layers: range) -> None:
        super().__init__()
        encoder, heads = model.audio_encoder, model.config.audio_heads
        self.front = _Front(encoder, model.config.audio_tokens) if layers.start == 0 else None
        self.layers = nn.ModuleList(
            _Layer(layer, heads) for layer in list(encoder.encoder.layers)[layers.start : layers.stop]
        )
        self.norm = encoder.encoder.layer_norm if layers.stop == model.config.audio_layers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (1, S, A) of samples (1, N), or of the part before's tokens (1, S, A)."""
        y = x[0] if self.front is None else self.front(x)
        for layer in self.layers:
            y = layer(y)
        return cast(Tensor, self.norm(y))[None]


class _Front(nn.Module):
    """Samples (1, N), normalised by their own mean and deviation, to tokens (S, A) with their positions."""

    def __init__(self, encoder: Any, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.convolutions = encoder.feature_extractor.conv_layers
        self.norm, self.projection = encoder.feature_projection.layer_norm, encoder.feature_projection.projection
        self.position = plain_convolution(encoder.encoder.pos_conv_embed.conv)

    def forward(self, samples: Tensor) -> Tensor:
        centred = samples - samples.mean(dim=-1, keepdim=True)
        deviation = torch.sqrt(centred.square().sum(dim=-1, keepdim=True) / (samples.shape[1] - 1))
        x = (centred / (deviation + 1e-6))[:, None]
        for layer in self.convolutions:
            x = F.gelu(layer.layer_norm(layer.conv(x).transpose(1, 2)).transpose(1, 2))
        x = self.projection(self.norm(x.transpose(1, 2)))
        around = self.position(x.transpose(1, 2))
        return cast(Tensor, x + F.gelu(around[:, :, : self.tokens]).transpose(1, 2))[0]


class _Layer(EncoderLayer):
    """One pre-norm layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), None)
        return x + self.feed_forward(self.final_norm(x))
