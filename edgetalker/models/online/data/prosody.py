"""What a sound tells beside its phones: where there is speech, how loud vowels are, where accents fall."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import PHONE_INDEX, VOWELS
from edgetalker.models.online.data.utterance import RATE
from edgetalker.models.online.data.visemes import FPS

__all__ = ["accents", "speech_of"]

Array = NDArray[np.float32]


def speech_of(phone: NDArray[np.uint8]) -> Array:
    """Return 1 from the first to the last phone of a phrase; pauses of up to 0.2 s belong to it."""
    voice = (phone != 0).astype(np.float32)
    width = int(0.2 * FPS)
    near = np.convolve(voice, np.ones(2 * width + 1), "same") > 0
    held = np.convolve(near.astype(np.float32), np.ones(2 * width + 1), "same") > 2 * width + 0.5
    return np.asarray(np.maximum(held, voice), np.float32)


def accents(clean: Array, phone: NDArray[np.uint8]) -> tuple[Array, Array]:
    """Return stress (about 1) and accents (bumps of about 1) from the loudness of vowels against their mean."""
    frames = phone.size
    rows = clean[: frames * RATE // FPS]
    power = np.array([np.mean(piece**2) for piece in np.array_split(rows, frames)])
    decibels = 10 * np.log10(power + 1e-7)
    vowel = np.isin(phone, [PHONE_INDEX[name] for name in VOWELS])
    usual = float(np.median(decibels[vowel])) if vowel.any() else 0.0
    stress = np.where(vowel, np.clip(1.0 + (decibels - usual) / 15.0, 0.7, 1.3), 1.0).astype(np.float32)
    accent = np.where(vowel & (decibels > usual + 1.5), 1.0, 0.0).astype(np.float32)
    return stress, np.convolve(accent, np.ones(3) / 3, "same").astype(np.float32)
