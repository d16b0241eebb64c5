"""The audio stage: a window of sound to the features of one block of frames."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetalker.export.layers import MASKED, EncoderLayer, plain_convolution
from edgetalker.models.streamingtalker.contract import FADE_DB, Contract
from edgetalker.models.streamingtalker.model import StreamingTalker

__all__ = ["AudioStage"]

_SAMPLE_VARIANCE_FLOOR = 1e-7
_GROUP_NORM_EPSILON = 1e-5
_DB = 8.685889638065037  # 20 / ln(10): a level x is ln(x) · this in dB
_LEAST_LEVEL = 1e-12


class AudioStage(nn.Module):
    """HuBERT over the last `window` samples, of which the newest `heard` are sound.

    What lies before the start of the stream is masked out of the waveform's statistics, of the group norm's and
    of attention, so that a window that is not full gives what the published encoder gives for the short clip.
    """

    def __init__(self, model: StreamingTalker, contract: Contract) -> None:
        super().__init__()
        config = model.config
        encoder: Any = model.audio_encoder
        self.window, self.hop = contract.window, config.hop
        self.tokens = config.tokens(contract.window)
        self.extractor = encoder.feature_extractor.conv_layers
        self.projection_norm = encoder.feature_projection.layer_norm
        self.projection = encoder.feature_projection.projection
        self.position = plain_convolution(encoder.encoder.pos_conv_embed.conv)
        self.norm = encoder.encoder.layer_norm
        self.layers = nn.ModuleList(_Layer(layer, config.audio_heads) for layer in encoder.encoder.layers)
        weights = torch.from_numpy(contract.interpolation(self.tokens))
        # Only these tokens reach the output, so that the last layer is run for them alone.
        used = torch.nonzero(weights.sum(0)).flatten()
        self.first, self.last = int(used[0]), int(used[-1]) + 1
        self.weights = nn.Buffer(weights[:, self.first : self.last].to(torch.float32))

    def forward(self, audio: Tensor, heard: Tensor, floor: Tensor) -> Tensor:
        """Return features (block, 1, A) from audio (1, window), heard (1,) in samples and floor (1, 1) in dB."""
        start = self.window - heard
        samples, level = self._normalised(audio, start, heard)
        below = torch.log(level + _LEAST_LEVEL) * _DB - floor
        gain = torch.clamp(1.0 + below / FADE_DB, min=0.0, max=1.0)
        x = self._convolutions(samples, start, gain)
        valid = torch.arange(self.tokens, dtype=torch.float32) * self.hop >= start
        x = self.projection(self.projection_norm(x[0].T)) * valid.to(torch.float32)[:, None]
        x = self.norm(x + self._positions(x))
        mask = torch.where(valid, 0.0, MASKED)
        for layer in self.layers[:-1]:
            x = layer(x, mask)
        x = cast(_Layer, self.layers[-1]).some(x[self.first : self.last], x, mask)
        return (self.weights @ x)[:, None]

    def _normalised(self, audio: Tensor, start: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples at unit variance, and their RMS as it was."""
        valid = (torch.arange(self.window, dtype=torch.float32) >= start).to(torch.float32)
        count = torch.clamp(heard, min=1.0)
        mean = (audio * valid).sum() / count
        centred = (audio - mean) * valid
        variance = centred.square().sum() / count
        return centred / torch.sqrt(variance + _SAMPLE_VARIANCE_FLOOR), torch.sqrt(variance)

    def _convolutions(self, samples: Tensor, start: Tensor, gain: Tensor) -> Tensor:
        """Return (1, width, tokens) of normalised samples (1, window)."""
        first = self.extractor[0]
        x = self._group_norm(first.conv(samples[:, None]), start, first, gain)
        x = F.gelu(x)
        for layer in self.extractor[1:]:
            x = F.gelu(layer.conv(x))
        return x

    def _group_norm(self, x: Tensor, start: Tensor, layer: Any, gain: Tensor) -> Tensor:
        """Normalise each channel over the part of the time axis that is sound (one group a channel).

        gain (1, 1): 1 for speech, 0 for a room that is far below the floor.
        """
        stride = layer.conv.stride[0]
        valid = (torch.arange(x.shape[2], dtype=torch.float32) * stride >= start).to(torch.float32)
        # A mean over the valid part is one product with the weights valid / count.
        weights = (valid / torch.clamp(valid.sum(), min=1.0))[:, None]
        centred = x - x @ weights
        variance = centred.square() @ weights
        scale = layer.layer_norm.weight[:, None] / torch.sqrt(variance + _GROUP_NORM_EPSILON)
        return cast(Tensor, centred * (scale * gain) + layer.layer_norm.bias[:, None])

    def _positions(self, x: Tensor) -> Tensor:
        """Return the positional convolution of (tokens, A), cut to as many tokens."""
        y = F.gelu(self.position(x.T[None])[:, :, : self.tokens])
        return y[0].T


class _Layer(EncoderLayer):
    """One post-norm HuBERT layer."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the layer's output (L, A) for x (L, A) and a key mask (L,)."""
        return self._finish(x + self.attention(x, mask))

    def some(self, rows: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Return the output for `rows` (Q, A) of x (L, A) alone."""
        return self._finish(rows + self.attention.newest(rows, x, mask))

    def _finish(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return cast(Tensor, self.final_norm(x + self.feed_forward(x)))
