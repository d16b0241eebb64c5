"""Whole clips in PyTorch, the published way: five passes a chunk, each over all tokens so far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.models.artalk.config import SAMPLE_RATE
from edgetalker.models.artalk.model import ARTalk

__all__ = ["Chunk", "chunk", "chunks", "finished", "generate", "savgol_weights", "smoothed", "start_bits"]

HEAD = slice(100, 103)
"""Where the head's rotation (axis-angle) lies in a frame; the jaw's follows at 103:106, of which only x is used."""


@dataclass(frozen=True)
class Chunk:
    """One chunk: features (1, S, A), logits of the last pass (1, T, 2 code), bits (1, T, code), motion (frames, M)."""

    features: Tensor
    logits: Tensor
    bits: Tensor
    motion: Tensor


def start_bits(model: ARTalk) -> Tensor:
    """Return the bits (1, tokens, code) that stand for the chunk before the first: motion of all zeros."""
    config = model.config
    return model.basic_vae.bits(model.basic_vae.encode(torch.zeros(1, config.frames, config.motion)))


@torch.no_grad()
def chunks(model: ARTalk, samples: Tensor, style: Tensor | None = None) -> Iterator[Chunk]:
    """Yield the chunks of a clip (N,) at 16 kHz, the last filled up with zeros; `style`: a vector (1, S)."""
    size = model.config.samples
    before, token = start_bits(model), model.style(style)
    for sound in torch.split(F.pad(samples, (0, -len(samples) % size)), size):
        made, before = chunk(model, sound, before, token)
        yield made


def chunk(model: ARTalk, sound: Tensor, before: Tensor, token: Tensor) -> tuple[Chunk, Tensor]:
    """Return one chunk of sound (N,), and the bits (1, tokens, code) that the next one remembers of it.

    before: those of the chunk before; token: the style's (1, 1, width).
    """
    vae = model.basic_vae
    features = model.audio_features(sound[None])
    heard, past = model.sound(features), model.past(before, token)
    bits: Tensor | None = None
    for _ in model.config.patches:
        logits = model.logits(bits, past, heard, token)
        bits = logits.reshape(1, logits.shape[1], -1, 2).argmax(dim=-1).bool()
    assert bits is not None
    _, motion = vae.decode(vae.fused(before), vae.fused(bits))
    return Chunk(features, logits, bits, motion[0]), vae.bits(vae.encode(motion))


def generate(model: ARTalk, samples: Tensor, style_motion: Tensor | None = None) -> Tensor:
    """Return motion (ceil(N fps / 16000), M) of a clip (N,), unsmoothed; `style_motion`: a clip (n, M) or None."""
    with torch.no_grad():
        style = None if style_motion is None else model.style_encoder(style_motion[None])
    motion = torch.cat([chunk.motion for chunk in chunks(model, samples, style)])
    return motion[: math.ceil(len(samples) * model.config.fps / SAMPLE_RATE)]


def savgol_weights(window: int, order: int) -> NDArray[np.float64]:
    """Return (window, window): row p gives the least-squares polynomial's value at place p of a window of frames.

    A. Savitzky and M. J. E. Golay, Analytical Chemistry 36 (1964). The middle row is the smoothing filter; the rows
    before and after it smooth the first and last frames of a clip (scipy's mode "interp").
    """
    powers = (np.arange(window) - window // 2)[:, None] ** np.arange(order + 1)
    return np.asarray(powers @ np.linalg.pinv(powers.astype(np.float64)))


def _savgol(values: NDArray[np.float64], window: int, order: int) -> NDArray[np.float64]:
    if len(values) < window:
        return values
    weights, half = savgol_weights(window, order), window // 2
    inner = sum(weights[half, place] * values[place : len(values) - window + 1 + place] for place in range(window))
    first, last = weights[:half] @ values[:window], weights[half + 1 :] @ values[-window:]
    return np.concatenate([first, np.asarray(inner), last])


def smoothed(motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a clip's motion (n, M) smoothed as published: window 5 of order 2, and 9 of order 3 on the head."""
    raw = motion.astype(np.float64)
    values = _savgol(raw, 5, 2)
    values[:, HEAD] = _savgol(raw[:, HEAD], 9, 3)
    return np.asarray(values, np.float32)


def finished(motion: NDArray[np.float32], *, fix_pose: bool = False) -> NDArray[np.float32]:
    """Return motion as it drives a face: of the jaw only its opening is kept; `fix_pose` holds the head still."""
    result = np.array(motion, np.float32)
    result[:, HEAD.stop + 1 :] = 0
    if fix_pose:
        result[:, HEAD] = 0
    return result
