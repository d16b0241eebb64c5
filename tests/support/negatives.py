"""Sounds in which nobody speaks, made from seeds: what a microphone in a hall, a shop or an office hears.

Each is mono float32 at 16 kHz with a loudness as it stands beside speech of -23 dBFS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEGATIVES", "RATE", "negative"]

Array = NDArray[np.float64]
RATE = 16000
_SCALE = (0, 2, 4, 5, 7, 9, 11)


def negative(name: str, seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return a sound of NEGATIVES."""
    level, make = NEGATIVES[name]
    samples = make(int(seconds * RATE), np.random.default_rng(seed))
    loud = samples[np.abs(samples) > 0.05 * np.abs(samples).max()]
    return np.asarray(samples * (10 ** (level / 20) / np.sqrt(np.mean(loud**2))), np.float32)


def _note(hertz: float, seconds: float, kind: str, rng: np.random.Generator) -> Array:
    """A tone with harmonics: plucked, bowed (with vibrato) or blown."""
    time = np.arange(int(seconds * RATE)) / RATE
    falls = {"plucked": 1.2, "bowed": 0.9, "blown": 1.6}[kind]
    vibrato = 0.004 * np.sin(2 * np.pi * 5.5 * time) if kind == "bowed" else 0.0
    phase = 2 * np.pi * hertz * np.cumsum(1.0 + vibrato * np.ones_like(time)) / RATE
    tone = np.zeros_like(time)
    for harmonic in range(1, int(min(20, 7000 // hertz)) + 1):
        fade = np.exp(-time * 1.5 * harmonic**0.7) if kind == "plucked" else 1.0
        tone += fade * harmonic**-falls * np.sin(harmonic * phase + rng.uniform(0, 6.28))
    edge = np.minimum(1.0, np.minimum(time / (0.005 if kind == "plucked" else 0.06), (seconds - time) / 0.05))
    whole: Array = tone * np.clip(edge, 0.0, 1.0)
    return whole


def _add(into: Array, at: float, what: Array) -> None:
    start = int(at * RATE)
    part = into[start : start + what.size]
    part += what[: part.size]


def _pitch(degree: int, octave: int) -> float:
    step = _SCALE[degree % 7] + 12 * (degree // 7 + octave)
    return 55.0 * 2 ** (step / 12)


def _chords(count: int, rng: np.random.Generator, kind: str = "bowed") -> Array:
    out = np.zeros(count)
    for bar, at in enumerate(np.arange(0, count / RATE, 1.0)):
        root = (0, 4, 5, 3)[bar % 4]
        for degree in (root, root + 2, root + 4):
            _add(out, at, _note(_pitch(degree, 2), 0.98, kind, rng))
        _add(out, at, 1.2 * _note(_pitch(root, 0), 0.98, "plucked", rng))
    return out


def _arpeggio(count: int, rng: np.random.Generator) -> Array:
    out = np.zeros(count)
    for step, at in enumerate(np.arange(0, count / RATE, 0.18)):
        _add(out, at, _note(_pitch((0, 2, 4, 7, 4, 2)[step % 6] + (step // 24) % 3, 2), 0.4, "plucked", rng))
    return out


def _melody(count: int, rng: np.random.Generator) -> Array:
    out, at, degree = np.zeros(count), 0.0, 7
    while at < count / RATE:
        length = float(rng.choice([0.2, 0.4, 0.4, 0.8]))
        degree = int(np.clip(degree + rng.integers(-3, 4), 2, 14))
        _add(out, at, _note(_pitch(degree, 2), length, "blown", rng))
        at += length
    return out


def _drums(count: int, rng: np.random.Generator) -> Array:
    out = np.zeros(count)
    time = np.arange(int(0.25 * RATE)) / RATE
    for beat, at in enumerate(np.arange(0, count / RATE, 0.25)):
        _add(out, at, 0.12 * np.diff(rng.standard_normal(time.size + 1)) * np.exp(-time * 60))
        if beat % 4 == 0:
            _add(out, at, np.sin(2 * np.pi * (50 * time + 4 * (1 - np.exp(-30 * time)))) * np.exp(-time * 12))
        if beat % 4 == 2:
            _add(out, at, 0.4 * rng.standard_normal(time.size) * np.exp(-time * 22))
    return out


def _band(count: int, rng: np.random.Generator) -> Array:
    parts = [make(count, rng) for make in (_chords, _arpeggio, _melody, _drums)]
    mixed: Array = np.sum([part / part.std() for part in parts], 0)
    return mixed


def _bursts(count: int, rng: np.random.Generator, gap: float, make: Callable[[], Array]) -> Array:
    out, at = np.zeros(count), 0.3
    while at < count / RATE:
        _add(out, at, make())
        at += rng.uniform(0.5, 1.5) * gap
    return out


def _ring(length: float, rng: np.random.Generator, centre: float, decay: float) -> Array:
    time = np.arange(int(length * RATE)) / RATE
    noise = rng.standard_normal(time.size) + 2 * np.sin(2 * np.pi * centre * time + rng.uniform(0, 6))
    ring: Array = noise * np.exp(-time * decay) * np.minimum(time / 0.0005, 1)
    return ring


def _typing(count: int, rng: np.random.Generator) -> Array:
    def key() -> Array:
        out = np.zeros(int(0.12 * RATE))
        _add(out, 0.0, rng.uniform(0.5, 1) * _ring(0.03, rng, rng.uniform(1500, 4000), 250))
        _add(out, rng.uniform(0.05, 0.08), 0.4 * _ring(0.03, rng, rng.uniform(1000, 3000), 300))
        return out

    return _bursts(count, rng, 0.17, key)


def _shaped(length: float, rng: np.random.Generator, low: float, high: float) -> Array:
    noise = np.fft.rfft(rng.standard_normal(int(length * RATE)))
    hertz = np.fft.rfftfreq(int(length * RATE), 1 / RATE)
    shaped: Array = np.fft.irfft(noise / (1 + (hertz / high) ** 4) * (hertz / low) ** 2 / (1 + (hertz / low) ** 2))
    return shaped


def _breath(count: int, rng: np.random.Generator) -> Array:
    def one() -> Array:
        noise = _shaped(1.1, rng, 400, rng.uniform(1500, 3500))
        swell: Array = noise * np.sin(np.pi * np.arange(noise.size) / noise.size) ** 1.5
        return swell

    return _bursts(count, rng, 2.0, one)


def _cough(count: int, rng: np.random.Generator) -> Array:
    def one() -> Array:
        out = np.zeros(int(0.9 * RATE))
        for number in range(int(rng.integers(1, 4))):
            noise = _shaped(0.3, rng, 300, rng.uniform(1500, 2500))
            time = np.arange(noise.size) / RATE
            after = 0.35 * np.exp(-(((time - 0.12) / 0.06) ** 2))
            _add(out, 0.28 * number, noise * np.minimum(time / 0.008, 1) * (np.exp(-time * 25) + after))
        return out

    return _bursts(count, rng, 3.0, one)


def _fan(count: int, rng: np.random.Generator) -> Array:
    time = np.arange(count) / RATE
    noise = _shaped(count / RATE, rng, 60, 500)[:count]
    hum: Array = noise / noise.std() + 0.8 * np.sin(2 * np.pi * 117 * time) + 0.3 * np.sin(2 * np.pi * 234 * time)
    return hum


def _hum(count: int, rng: np.random.Generator) -> Array:
    time = np.arange(count) / RATE
    hum: Array = np.sum([np.sin(2 * np.pi * 50 * k * time + k) / k for k in (1, 2, 3, 4, 6, 8)], 0)
    return hum + 0.01 * rng.standard_normal(count)


NEGATIVES: dict[str, tuple[float, Callable[[int, np.random.Generator], Array]]] = {
    "chords": (-23, _chords),
    "arpeggio": (-23, _arpeggio),
    "melody": (-23, _melody),
    "drums": (-23, _drums),
    "band": (-23, _band),
    "typing": (-28, _typing),
    "breath": (-35, _breath),
    "cough": (-23, _cough),
    "fan": (-35, _fan),
    "hum": (-35, _hum),
}
"""Name -> loudness of its loud samples in dBFS, and what makes it."""
