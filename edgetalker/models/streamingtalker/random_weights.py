"""Networks of published size with random weights, for timing: their sizes are real, their motion is noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgetalker.engines.errors import OptionError
from edgetalker.models.streamingtalker.checkpoint import model_from_tensors
from edgetalker.models.streamingtalker.config import config_from_shapes
from edgetalker.models.streamingtalker.keys import published_key
from edgetalker.models.streamingtalker.model import StreamingTalker

__all__ = ["random_network", "random_tensors"]

_BIWI_MARK = "autoencoder.encoder.encoder_linear_embedding_post.net.weight"
# As wav2vec 2.0's own initialisation has it: behind each of these convolutions GELU halves the mean square.
_EXTRACTOR_SCALE = math.sqrt(2.0)
# Below 1, so that 50 legacy steps with gains of up to 1.41 do not run away.
_HEAD_SCALE = 0.5


def random_tensors(dataset: str, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict of published names and sizes for `vocaset` or `biwi`, float32.

    Matrices are scaled so that activations keep their size. Raises OptionError for another dataset.
    """
    if dataset not in ("vocaset", "biwi"):
        raise OptionError(f"no published size `{dataset}`; known are vocaset, biwi")
    config = config_from_shapes({_BIWI_MARK: (1024, 1024)} if dataset == "biwi" else {})
    with torch.device("meta"):
        wanted = StreamingTalker(config).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {published_key(own): _values(own, tuple(value.shape), generator) for own, value in wanted.items()}


def random_network(dataset: str, seed: int = 0) -> StreamingTalker:
    """Return a network with `random_tensors`."""
    return model_from_tensors(random_tensors(dataset, seed), where=f"random {dataset}")


def _values(own: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if own.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight", "original0")):
        return torch.ones(shape)
    if own.endswith(("norm.bias", "norm1.bias", "norm2.bias", "norm3.bias")):
        return torch.zeros(shape)  # others would be all that silence leaves, and the next norm would make them large
    if len(shape) == 1:
        return 0.02 * torch.randn(shape, generator=generator)
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    if "feature_extractor" in own:
        scale *= _EXTRACTOR_SCALE
    if "motion.head" in own:
        scale *= _HEAD_SCALE
    return scale * torch.randn(shape, generator=generator)
