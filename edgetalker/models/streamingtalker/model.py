"""The whole StreamingTalker network."""

from __future__ import annotations

from torch import nn

from edgetalker.models.streamingtalker.audio import build_encoder
from edgetalker.models.streamingtalker.config import Config
from edgetalker.models.streamingtalker.network import MotionNetwork
from edgetalker.models.streamingtalker.vqvae import VqVae

__all__ = ["StreamingTalker"]


class StreamingTalker(nn.Module):
    """Audio encoder, VQ-VAE and motion network under one roof (arXiv 2511.14223)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = build_encoder(config)
        self.vae = VqVae(config)
        self.motion = MotionNetwork(config)
