"""Sounds that nobody's mouth should answer, made by rules: music, typing, breath, coughs, machines, talk from afar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter

from edgetalker.models.online.data import band
from edgetalker.models.online.data.degrade import RATE, coloured_noise, degrade, room

__all__ = ["NOISES", "afar", "breath", "cough", "keys", "machine", "music", "stretches"]

Array = NDArray[np.float32]
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10))


def music(count: int, rng: np.random.Generator) -> Array:
    """Return music without a voice: played by recorded instruments in two of three where `band` has them; one in three
    worn as recordings are (`degrade`)."""
    if band.available() and rng.random() < 0.67:
        sound = _unit(band.band(count, rng))
    else:
        sound = (_held if rng.random() < 0.5 else _tones)(count, rng)
    return _unit(degrade(sound, rng)) if rng.random() < 0.33 else sound


_STEP = 160
"""Samples between two values of a held note's pitch, loudness and colour."""


def _held(count: int, rng: np.random.Generator) -> Array:
    """Return notes that last, as bows, winds and synthesizers hold them: one line, or up to four together.

    They glide, tremble and swell; their overtones fall by a power, stand out at two resonances, or follow a filter that
    sweeps.
    """
    steps = count // _STEP + 2
    scale, root = _SCALES[rng.integers(len(_SCALES))], rng.uniform(80, 330)
    fall, odd = rng.uniform(0.4, 2.4), rng.random() < 0.25
    peaks = [(np.exp(rng.uniform(*np.log((250, 5000)))), rng.uniform(0.1, 0.5), rng.uniform(0, 6)) for _ in range(2)]
    sweep = rng.uniform(0.0, 1.2) if rng.random() < 0.5 else 0.0
    cutoff = np.exp(np.log(rng.uniform(700, 6000)) + sweep * np.sin(np.arange(steps) * rng.uniform(0.005, 0.12)))
    longest, attack, glide = rng.uniform(0.4, 4.0), np.exp(rng.uniform(*np.log((0.5, 20)))), rng.uniform(0, 12)
    depth, pace, hiss = rng.uniform(0, 0.012), rng.uniform(0.25, 0.45), rng.uniform(0, 0.05)
    out = np.zeros(count)
    for _ in range(int(rng.choice((1, 1, 2, 3, 4)))):
        pitch, loud, at, degree = np.zeros(steps), np.zeros(steps), 0, int(rng.integers(0, 8))
        while at < steps:
            end = at + 1 + int(100 * longest * rng.uniform(0.15, 1.0))
            degree = int(np.clip(degree + rng.integers(-3, 4), 0, 12))
            pitch[at:end] = np.log(root * _interval(scale, degree))
            ends = at + max(2, int((end - at) * rng.uniform(0.7, 1.0)))
            loud[at:ends] = rng.uniform(0.4, 1.0) * np.linspace(1.0, rng.uniform(0.3, 1.5), ends - at)[: steps - at]
            at = end
        first = pitch[0]
        pitch = first + _eased(pitch - first, glide)
        pitch += depth * np.sin(pace * np.arange(steps) + rng.uniform(0, 6))
        loud = _eased(loud, attack)
        hertz = np.exp(pitch)
        phase = 2 * np.pi * np.cumsum(_fine(hertz, count)) / RATE
        for number in range(1, 25, 1 + odd):
            partial = number * hertz
            if partial.min() > 7600:
                break
            size = loud * number**-fall / np.sqrt(1 + (partial / cutoff) ** 6) * (partial < 7600)
            for centre, width, gain in peaks:
                size = size * (1 + gain * np.exp(-((np.log(partial / centre) / width) ** 2)))
            out += _fine(size, count) * np.sin(number * phase)
        out += hiss * _fine(loud, count) * rng.standard_normal(count)
    return _unit(out)


def _eased(track: NDArray[np.float64], lag: float) -> NDArray[np.float64]:
    """Let a track that begins at zero come `lag` of its steps late."""
    return np.asarray(lfilter([1 / (1 + lag)], [1, 1 / (1 + lag) - 1], track))


def _fine(track: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.interp(np.arange(count) / _STEP, np.arange(track.size), track)


def _tones(count: int, rng: np.random.Generator) -> Array:
    """Return chords, an arpeggio or, in one of four, single notes; over a bass and drums in two of three each."""
    beat = int(RATE * 60 / rng.uniform(60, 170))
    scale, root = _SCALES[rng.integers(len(_SCALES))], rng.uniform(90, 220)
    overtones = rng.uniform(0.2, 0.8) ** np.arange(8) * rng.uniform(0.2, 1.0, 8)
    decay, broken = 10 ** rng.uniform(-0.8, 0.7), rng.random() < 0.5
    alone, bass, drums = rng.random() < 0.25, rng.random() < 0.67, rng.random() < 0.67
    out, tonic = np.zeros(count + 8 * beat), 0
    for number, at in enumerate(range(0, count, beat)):
        if number % 4 == 0:
            tonic = int(rng.integers(len(scale)))
            if bass:
                out[at : at + 4 * beat] += _note(root / 2 * _interval(scale, tonic), 4 * beat, overtones, decay)
        chord = [root * _interval(scale, tonic + third) for third in (0, 2, 4, 7)]
        if alone:
            length = beat // int(rng.integers(1, 4))
            out[at : at + length] += _note(2 * chord[rng.integers(4)], length, overtones, decay)
        elif broken:
            for half in (0, 1):
                start = at + half * beat // 2
                out[start : start + beat] += _note(chord[rng.integers(4)], beat, overtones, decay)
        elif number % 2 == 0:
            out[at : at + 2 * beat] += sum(_note(pitch, 2 * beat, overtones, decay) for pitch in chord[:3])
        if drums:
            drum = _drum(number, rng)
            out[at : at + drum.size] += drum[: out.size - at]
    return _unit(out[:count])


def _interval(scale: tuple[int, ...], degree: int) -> float:
    return float(2 ** (scale[degree % len(scale)] / 12 + degree // len(scale)))


def _note(pitch: float, count: int, overtones: NDArray[np.float64], decay: float) -> NDArray[np.float64]:
    time = np.arange(count) / RATE
    parts = [a * np.sin(2 * np.pi * pitch * k * time) for k, a in enumerate(overtones, 1) if pitch * k < 7600]
    return np.asarray(sum(parts) * np.exp(-time / decay) * np.minimum(1.0, np.minimum(time, time[::-1]) / 0.008))


def _drum(number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    time = np.arange(int(0.2 * RATE)) / RATE
    if number % 2 == 0:
        return np.asarray(2.0 * np.sin(2 * np.pi * 50 * time + 9 * (1 - np.exp(-time * 30))) * np.exp(-time * 18))
    return np.asarray(rng.standard_normal(time.size) * np.exp(-time * rng.uniform(20, 60)))


def keys(count: int, rng: np.random.Generator) -> Array:
    """Return typing or clicks: each key a snap and, some 80 ms later, a softer one."""
    out, at = np.zeros(count + RATE), rng.exponential(0.3)
    b, a = butter(2, [rng.uniform(500, 1500) / 8000, rng.uniform(3000, 7000) / 8000], "band")
    hurry, snap = rng.uniform(0.1, 0.3), rng.uniform(120, 600)
    while at * RATE < count:
        for later, size in ((0.0, 1.0), (rng.uniform(0.05, 0.12), 0.5)):
            start, time = int((at + later) * RATE), np.arange(600) / RATE
            out[start : start + 600] += size * rng.uniform(0.5, 1.0) * rng.standard_normal(600) * np.exp(-time * snap)
        at += rng.exponential(hurry) + 0.05 + (rng.exponential(2.0) if rng.random() < 0.08 else 0.0)
    return _unit(lfilter(b, a, out)[:count])


def breath(count: int, rng: np.random.Generator) -> Array:
    """Return one breath as long as the sound: noise with a throat's two broad resonances, swelling and falling."""
    noise = rng.standard_normal(count)
    parts = np.zeros(count)
    for low, high in ((300, 900), (1200, 3500)):
        b, a = butter(2, [low * rng.uniform(0.7, 1.3) / 8000, high * rng.uniform(0.8, 1.3) / 8000], "band")
        parts += rng.uniform(0.3, 1.0) * lfilter(b, a, noise)
    place = np.linspace(0, 1, count) ** rng.uniform(0.6, 1.6)
    return _unit(parts * np.sin(np.pi * place))


def cough(count: int, rng: np.random.Generator) -> Array:
    """Return one to four coughs: a burst, noise through a throat, a hoarse tail."""
    out, at = np.zeros(count + RATE), 0
    for _ in range(int(rng.integers(1, 5))):
        length = int(rng.uniform(0.15, 0.4) * RATE)
        time = np.arange(length) / RATE
        shape = np.exp(-time * rng.uniform(8, 20)) + 1.5 * np.exp(-time * 90)
        tail = 0.5 * np.sign(np.sin(2 * np.pi * rng.uniform(90, 220) * time)) * (time > 0.6 * time[-1])
        b, a = butter(2, [rng.uniform(250, 600) / 8000, rng.uniform(2500, 5000) / 8000], "band")
        out[at : at + length] += lfilter(b, a, rng.standard_normal(length) + tail) * shape
        at += length + int(rng.uniform(0.05, 0.5) * RATE)
        if at >= count:
            break
    return _unit(out[:count])


def machine(count: int, rng: np.random.Generator) -> Array:
    """Return a fan or a motor: coloured noise, the hum of its blades, both slowly swelling."""
    time = np.arange(count) / RATE
    hum = sum(0.7**k * np.sin(2 * np.pi * k * rng.uniform(45, 240) * time) for k in range(1, 6))
    swell = 1.0 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.1, 3.0) * time + rng.uniform(0, 6))
    return _unit(swell * (coloured_noise(count, rng) + rng.uniform(0, 0.6) * hum))


def afar(speech: Array, rng: np.random.Generator) -> Array:
    """Return speech as if from across a room or behind a door: more room than voice, no treble."""
    b, a = butter(2, rng.uniform(1200, 3500) / 8000)
    return _unit(lfilter(b, a, room(speech, rng.uniform(0.5, 1.2), rng.uniform(1.0, 2.5), rng)))


NOISES: tuple[tuple[Callable[[int, np.random.Generator], Array], tuple[float, float], tuple[float, float]], ...] = (
    (music, (5, 20), (-45, -18)), (music, (5, 20), (-45, -18)), (keys, (2, 12), (-60, -35)),
    (breath, (0.3, 1.5), (-60, -35)), (breath, (0.3, 1.5), (-60, -35)), (cough, (0.5, 2.0), (-45, -20)),
    (machine, (4, 15), (-55, -30)),
)  # fmt: skip
"""Each sound, music first, how long it lasts in seconds and how loud it is in dB of full scale."""


def stretches(count: int, rng: np.random.Generator, speech: Array) -> Array:
    """Fill a sound with one noise after the other, with pauses, and now and then talk from afar (cut from `speech`).

    One sound in three is of music alone.
    """
    out, at, alone = np.zeros(count + 30 * RATE), 0, rng.random() < 0.33
    while at < count:
        at += int(rng.exponential(0.7) * RATE)
        if speech.size and not alone and rng.random() < 0.15:
            length = int(rng.uniform(3, 8) * RATE)
            start = int(rng.integers(max(speech.size - length, 1)))
            sound, level = afar(speech[start : start + length], rng), rng.uniform(-58, -42)
        else:
            make, seconds, levels = NOISES[0 if alone else rng.integers(len(NOISES))]
            sound, level = make(int(rng.uniform(*seconds) * RATE), rng), rng.uniform(*levels)
        end = min(at + sound.size, out.size)
        out[at:end] += 10 ** (level / 20) * _faded(sound)[: end - at]
        at += int(sound.size * rng.uniform(0.7, 1.0))
    return out[:count].astype(np.float32)


def _faded(sound: Array) -> Array:
    edge = np.minimum(1.0, np.arange(sound.size) / 160)
    return (sound * np.minimum(edge, edge[::-1])).astype(np.float32)


def _unit(sound: NDArray[np.float64] | Array) -> Array:
    """Scale to unit power; a peak stays below 20, so that single clicks stay clicks."""
    sound = sound / (np.sqrt(np.mean(sound**2)) + 1e-9)
    return np.clip(sound, -20.0, 20.0).astype(np.float32)
