"""The audio front end: four log-mel frames for each frame of motion, from a fixed window of samples.

A motion frame of 1/30 s gets mel frames that end 400, 267, 133 and 0 samples before the end of its window, each
over 400 samples (25 ms), Hann-weighted: a grid of about 120 Hz that never looks past the window's end. The network
reads the newest eight of them, so a window holds 400 + 933 samples. All statistics are constants.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BANDS",
    "FLOOR",
    "OFFSETS",
    "SPAN",
    "STACK",
    "WINDOW",
    "ends",
    "fourier",
    "log_mel",
    "mel_filters",
    "window_mel",
]

Array = NDArray[np.float32]
RATE, FPS = 16000, 30
WINDOW = 400  # samples of one mel frame
BANDS = 80
OFFSETS = (933, 800, 667, 533, 400, 267, 133, 0)  # samples before the window's end
STACK = len(OFFSETS)
PER_FRAME = 4  # of these are new in every motion frame
SPAN = WINDOW + OFFSETS[0]
BINS = 257
FLOOR = 1e-10  # of mel power; a full-scale sine has about 0.25


def ends(frames: int, lookahead: int = 0) -> NDArray[np.int64]:
    """Return where the windows of the first frames end, samples: floor((i + 1) * 16000 / 30) + lookahead."""
    return (np.arange(1, frames + 1) * RATE) // FPS + lookahead


def mel_filters() -> Array:
    """Return triangular filters (257, 80) from 40 to 7800 Hz, spaced on the HTK mel scale."""
    hertz = np.arange(BINS) * RATE / 512
    edges = 700 * (10 ** (np.linspace(_mel(40.0), _mel(7800.0), BANDS + 2) / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz[:, None] - low) / (middle - low)
    falling = (high - hertz[:, None]) / (high - middle)
    filters = np.maximum(np.minimum(rising, falling), 0.0)
    return np.asarray(filters / np.maximum(filters.sum(0), 0.5), np.float32)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)


def fourier() -> tuple[Array, Array]:
    """Return cosine and sine matrices (400, 257): a Hann-weighted 512-point DFT, scaled by 1/sum(window)."""
    phase = 2 * np.pi * np.outer(np.arange(WINDOW), np.arange(BINS)) / 512
    weight = (_hann() / _hann().sum())[:, None]
    return (weight * np.cos(phase)).astype(np.float32), (weight * np.sin(phase)).astype(np.float32)


def log_mel(samples: Array, frames: int, lookahead: int = 0) -> Array:
    """Return ln(mel power + floor), (4 * frames, 80), of a whole sound; zeros stand before its start."""
    last = np.repeat(ends(frames, lookahead), PER_FRAME) - np.tile(OFFSETS[-PER_FRAME:], frames)
    padded = np.concatenate([np.zeros(SPAN, np.float32), samples, np.zeros(RATE, np.float32)])
    rows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[last + SPAN - WINDOW]
    spectrum = np.fft.rfft(rows * (_hann() / _hann().sum()).astype(np.float32), 512)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return np.asarray(np.log(power @ mel_filters() + FLOOR), np.float32)


def window_mel(window: Array) -> Array:
    """Return the (8, 80) log-mel frames of one window (SPAN,), as the exported audio stage computes them."""
    starts = SPAN - WINDOW - np.array(OFFSETS)
    rows = np.stack([window[start : start + WINDOW] for start in starts])
    cosine, sine = fourier()
    power = (rows @ cosine) ** 2 + (rows @ sine) ** 2
    return np.asarray(np.log(power @ mel_filters() + FLOOR), np.float32)
