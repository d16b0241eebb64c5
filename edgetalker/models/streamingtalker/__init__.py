"""StreamingTalker (arXiv 2511.14223): an own implementation that loads the published checkpoints."""

from __future__ import annotations

from edgetalker.models.streamingtalker.checkpoint import load_checkpoint, model_from_tensors, read_tensors
from edgetalker.models.streamingtalker.config import Config, Untold, config_from_shapes
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.offline import Generated, predict, stream_frames, streaming_inference
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule, alphas_cumprod, make_schedule
from edgetalker.models.weights import CheckpointError

__all__ = [
    "CheckpointError",
    "Config",
    "Generated",
    "Schedule",
    "StreamingTalker",
    "Untold",
    "alphas_cumprod",
    "config_from_shapes",
    "load_checkpoint",
    "make_schedule",
    "model_from_tensors",
    "predict",
    "read_tensors",
    "sample",
    "stream_frames",
    "streaming_inference",
]
