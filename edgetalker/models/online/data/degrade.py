"""Wear on clean speech, on the waveform: rooms, noise, clipping, telephone bands, codecs, level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter

__all__ = ["add_noise", "add_sound", "at_level", "coloured_noise", "degrade", "room"]

Array = NDArray[np.float32]
RATE = 16000


def at_level(samples: Array, decibels: float) -> Array:
    """Scale so that the louder half of the sound has this RMS in dB of full scale; silence stays as it is."""
    pieces = samples[: samples.size // 320 * 320].reshape(-1, 320)
    power = np.mean(pieces**2, axis=1)
    loud = float(np.sqrt(np.mean(power[power >= np.median(power)]))) if power.size else 0.0
    return samples if loud < 1e-6 else (samples * (10 ** (decibels / 20) / loud)).astype(np.float32)


def coloured_noise(count: int, rng: np.random.Generator, slope: float | None = None) -> Array:
    """Return unit-power noise whose spectrum falls as 1/f^slope (0 white, 1 pink, 2 brown)."""
    slope = rng.uniform(0.0, 2.0) if slope is None else slope
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 40.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2), count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


def add_noise(samples: Array, decibels: float, rng: np.random.Generator, slope: float | None = None) -> Array:
    """Add coloured noise at this signal-to-noise ratio, in dB over the loud half of the sound."""
    return add_sound(samples, coloured_noise(samples.size, rng, slope), decibels)


def add_sound(samples: Array, other: Array, decibels: float) -> Array:
    """Add a sound of unit power, so many dB below the loud half of the samples."""
    pieces = samples[: samples.size // 320 * 320].reshape(-1, 320)
    power = np.mean(pieces**2, axis=1)
    level = float(np.sqrt(np.mean(power[power >= np.median(power)]))) * 10 ** (-decibels / 20)
    return (samples + level * other).astype(np.float32)


def degrade(samples: Array, rng: np.random.Generator) -> Array:
    """Apply a random chain; each part comes in about every third sound."""
    if rng.random() < 0.45:
        samples = room(samples, rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.7), rng)
    if rng.random() < 0.35:
        samples = _band(samples, rng)
    if rng.random() < 0.45:
        samples = add_noise(samples, rng.uniform(8, 35), rng)
    if rng.random() < 0.3:
        samples = _companded(samples)
    elif rng.random() < 0.3:
        samples = _coarse_transform(samples, rng)
    if rng.random() < 0.2:
        peak = float(np.max(np.abs(samples))) * rng.uniform(0.2, 0.7)
        samples = np.clip(samples, -peak, peak)
    return samples.astype(np.float32)


def room(samples: Array, seconds: float, share: float, rng: np.random.Generator) -> Array:
    """Convolve with decaying noise (RT60 in seconds) behind the direct sound; share: the tail's size against it."""
    time = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal(time.size) * np.exp(-6.9 * time / seconds)
    tail[: int(0.002 * RATE)] = 0.0
    response = tail * share / np.sqrt(np.sum(tail**2))
    response[0] = 1.0
    return np.asarray(fftconvolve(samples, response)[: samples.size], np.float32)


def _band(samples: Array, rng: np.random.Generator) -> Array:
    low, high = rng.uniform(80, 350), rng.uniform(3200, 7000)
    b, a = butter(2, [low / (RATE / 2), high / (RATE / 2)], "band")
    return np.asarray(lfilter(b, a, samples), np.float32)


def _companded(samples: Array) -> Array:
    """8-bit mu-law (ITU-T G.711's curve) at the sound's own peak."""
    peak = float(np.max(np.abs(samples))) + 1e-9
    curve = np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256)
    coarse = np.round(curve * 127) / 127
    return np.asarray(np.sign(coarse) * (256 ** np.abs(coarse) - 1) / 255 * peak, np.float32)


def _coarse_transform(samples: Array, rng: np.random.Generator) -> Array:
    """Round spectra of 32 ms windows to a few levels, as low-rate transform codecs do."""
    size, hop = 512, 256
    padded = np.pad(samples, (hop, size))
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    rows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectrum = np.fft.rfft(rows)
    step = rng.uniform(0.01, 0.06) * np.abs(spectrum).max(axis=1, keepdims=True) + 1e-9
    worn = np.fft.irfft(np.round(spectrum / step) * step, size) * window
    out = np.zeros(padded.size + size)
    for part in (0, 1):
        flat = worn[part::2].reshape(-1)
        out[part * hop : part * hop + flat.size] += flat
    return out[hop : hop + samples.size].astype(np.float32)
