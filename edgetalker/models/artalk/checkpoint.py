"""Reads published ARTalk checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from edgetalker.models.artalk.config import PUBLISHED_PATCHES, HeadCounts, Settings, config_from_shapes
from edgetalker.models.artalk.model import ARTalk
from edgetalker.models.weights import CheckpointError, read_tensors, tensor_faults

__all__ = ["CheckpointError", "load_checkpoint", "model_from_tensors"]


def load_checkpoint(
    path: Path | str,
    heads: HeadCounts | None = None,
    *,
    settings: Settings | None = None,
    fps: Fraction = Fraction(25),
) -> ARTalk:
    """Load a published checkpoint: a flat state dict, read with `weights_only`.

    Returns the network in float32 and evaluation mode.

    Raises:
        CheckpointError: an unreadable file; missing, unexpected, misshapen or non-finite tensors, all at once; or
            sizes that `settings` contradicts.
        OptionError: a head count that does not fit.
    """
    return model_from_tensors(read_tensors(path), heads, settings=settings, fps=fps, where=str(path))


def model_from_tensors(
    tensors: Mapping[str, Tensor],
    heads: HeadCounts | None = None,
    *,
    settings: Settings | None = None,
    fps: Fraction = Fraction(25),
    where: str = "checkpoint",
) -> ARTalk:
    """Build the network that fits these tensors (published names) and give it their values; see `load_checkpoint`."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    heads = heads or (settings.heads if settings else None)
    try:
        config = config_from_shapes(shapes, heads, patches=_patches(tensors.get("lvl_idx")), fps=fps)
        with torch.device("meta"):
            model = ARTalk(config)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(where, [f"its tensors are of no ARTalk: {error}"]) from None
    computed = {key: value for key, value in ARTalk.computed(config).items() if key in tensors}
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    faults = tensor_faults(
        {key: shape for key, shape in wanted.items() if key not in computed},
        {key: value for key, value in tensors.items() if key not in computed},
    )
    for key, own in computed.items():  # what the file holds must be just that
        if tensors[key].shape != own.shape or not torch.equal(tensors[key].to(own.dtype), own):
            faults.append(f"misfit: {key} is not what scales of {config.patches} tokens make of it")
    for name, value in (settings.wanted if settings else {}).items():
        if getattr(config, name) != value:
            faults.append(f"the configuration says {name} {value}, the tensors say {getattr(config, name)}")
    if faults:
        raise CheckpointError(where, faults, hint="a published ARTalk checkpoint (wav2vec) is wanted")
    values = {key: tensors[key].detach().to(torch.float32) for key in wanted if key not in computed}
    model.load_state_dict(values | computed, assign=True)
    return model.eval().requires_grad_(False)


def _patches(levels: Tensor | None) -> tuple[int, ...]:
    """Return the tokens of each scale from the level of each token (1, T); the published ones where it is absent."""
    if levels is None or levels.numel() == 0 or levels.is_floating_point():
        return PUBLISHED_PATCHES
    return tuple(int(count) for count in torch.unique_consecutive(levels.flatten(), return_counts=True)[1])
