"""The audio path: waveform normalisation, the HuBERT encoder and resampling to the frame rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from edgetalker.models.streamingtalker.config import Config
from edgetalker.models.streamingtalker.contract import SAMPLE_RATE

__all__ = ["SAMPLE_RATE", "TOKEN_RATE", "build_encoder", "encode_clip", "normalise", "resample_tokens"]


TOKEN_RATE = 50
_VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm


def build_encoder(config: Config) -> nn.Module:
    """Return a HuBERT encoder of these sizes, made from a configuration alone."""
    encoder: nn.Module = HubertModel(HubertConfig(**config.settings()))
    return encoder


def normalise(samples: Tensor) -> Tensor:
    """Bring a whole clip (1, N) to zero mean and unit variance, as the published feature extractor does."""
    mean = samples.mean(dim=-1, keepdim=True)
    variance = samples.var(dim=-1, correction=0, keepdim=True)
    return (samples - mean) / torch.sqrt(variance + _VARIANCE_FLOOR)


def resample_tokens(tokens: Tensor, frame_rate: int) -> Tensor:
    """Interpolate (1, S, A) tokens at 50 a second to (1, int(S · rate / 50), A) frames.

    The published rule: linear with aligned corners, so that frame i reads token i·(S−1)/(F−1) and depends on
    the length of the clip.
    """
    frames = tokens.shape[1] * frame_rate // TOKEN_RATE
    resampled = F.interpolate(tokens.transpose(1, 2), size=frames, mode="linear", align_corners=True)
    return resampled.transpose(1, 2)


def encode_clip(encoder: nn.Module, samples: Tensor, frame_rate: int) -> Tensor:
    """Return the features (1, F, A) of a whole normalised clip (1, N) at 16 kHz: the published, offline way."""
    tokens: Tensor = encoder(samples).last_hidden_state
    return resample_tokens(tokens, frame_rate)
