"""ARTalk (arXiv 2502.20323): an own implementation that loads the published checkpoints."""

from __future__ import annotations

from edgetalker.models.artalk.checkpoint import CheckpointError, load_checkpoint, model_from_tensors
from edgetalker.models.artalk.config import Config, HeadCounts, config_from_shapes, read_settings
from edgetalker.models.artalk.model import ARTalk
from edgetalker.models.artalk.offline import Chunk, chunks, finished, generate, smoothed, start_bits

__all__ = [
    "ARTalk",
    "CheckpointError",
    "Chunk",
    "Config",
    "HeadCounts",
    "chunks",
    "config_from_shapes",
    "finished",
    "generate",
    "load_checkpoint",
    "model_from_tensors",
    "read_settings",
    "smoothed",
    "start_bits",
]
