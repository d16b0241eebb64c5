"""ARTalk checkpoints made by code: every weight is a pure function of its published name.

The reference arrays in tests/data/artalk/tiny.npz were computed by the published network with the weights of `TINY`.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.artalk.config import Config, HeadCounts, config_from_shapes
from edgetalker.models.artalk.model import ARTalk

DATA = Path(__file__).parents[1] / "data" / "artalk"
TOY_BUNDLE = DATA.parent / "bundles" / "toy_artalk"
TINY_HEADS = HeadCounts(audio=4, vae=4)
PUBLISHED = config_from_shapes({})
TINY = dataclasses.replace(
    PUBLISHED, code=8, vae_width=64, vae_layers=2, vae_heads=4, vae_feed_forward=96, layers=2, audio_layers=1,
    audio_heads=4, audio_feed_forward=64, conv_widths=(16,) * 7,
)  # fmt: skip
TOY_HEADS = HeadCounts(audio=4, vae=4, transformer=4, style=4)
TOY = dataclasses.replace(
    TINY, patches=(1, 3, 6, 12, 25), audio_width=32, position_kernel=16, position_groups=4, width=32, heads=4,
    feed_forward=48, style_width=16, style_layers=1, style_feed_forward=24,
)  # fmt: skip
"""A 25-frame variant (1 s) that computes in milliseconds."""


def _values(key: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if key.endswith("masked_spec_embed"):
        return np.zeros(shape, np.float32)
    draw = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
    if key.endswith("scale_mul_1H11"):
        return (math.log(4.0) + 0.1 * draw).astype(np.float32)
    if key.endswith("null_style_cond"):
        return 0.5 * draw
    if "pos_embed" in key or "lvl_embed" in key:
        return (draw * math.sqrt(1 / shape[-1] / 3)).astype(np.float32)
    if len(shape) <= 1:
        return (0.1 * draw if key.endswith("bias") else 1.0 + 0.1 * draw).astype(np.float32)
    if key.endswith("original0"):
        return (1.0 + 0.1 * np.abs(draw)).astype(np.float32)
    return (draw / math.sqrt(float(np.prod(shape[1:])))).astype(np.float32)


def _positions(length: int, width: int) -> Tensor:
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.from_numpy(np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(1, length, width)).float()


def checkpoint(config: Config = TINY) -> dict[str, Tensor]:
    """Return a flat state dict of published names: parameters by their names, buffers as published."""
    with torch.device("meta"):
        wanted = ARTalk(config).state_dict()
    shapes = {key: tuple(value.shape) for key, value in wanted.items()}
    own = ARTalk.computed(config)
    with np.load(DATA / "tiny.npz") as arrays:
        mean, deviation = (torch.from_numpy(arrays[name]) for name in ("motion_mean", "motion_std"))
    for part in ("basic_vae", "style_encoder"):
        own |= {f"{part}.motion_mean": mean, f"{part}.motion_std": deviation}
    own["style_encoder.PE.pe"] = _positions(config.style_positions, config.style_width)
    return own | {key: torch.from_numpy(_values(key, shape)) for key, shape in shapes.items() if key not in own}
