"""Sessions: about a minute of one voice with pauses, its mel frames, and the faces that go with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import write_whole
from edgetalker.models.online.data import degrade, noises
from edgetalker.models.online.data.phones import PHONE_INDEX, Segment
from edgetalker.models.online.data.prosody import accents, speech_of
from edgetalker.models.online.data.synths import available, speak
from edgetalker.models.online.data.text import practice, sentence
from edgetalker.models.online.data.upper import EMOTIONS, Mood, Prosody, animate
from edgetalker.models.online.data.utterance import RATE, Utterance, Voice, faster
from edgetalker.models.online.data.visemes import FPS, blend, compose, contacts, phone_track
from edgetalker.models.online.data.voices import NOBODY
from edgetalker.models.online.features import log_mel

__all__ = ["SECONDS", "Session", "joined", "load", "make", "save", "targets"]

Array = NDArray[np.float32]
Room = Callable[[int], Array]
SECONDS = 60
DRAWS = 2
"""Faces drawn for the same sound, each with its own emotions, style and chance."""


def _silence(count: int) -> Array:
    return np.zeros(count, np.float32)


@dataclass(frozen=True)
class Session:
    """T frames of one voice.

    mel: (4T, 80) ln power. mouth: (T, 14), neutral. touch: (T, 2) lips, teeth. phone: (T,) index in PHONES.
    speech: (T,) 1 inside utterances. motion: (DRAWS, T, 55). controls: (DRAWS, T, 6) emotions, articulation,
    head. samples: the sound (empty for training). times: (S, 3) phone index, start, end.
    """

    mel: Array
    mouth: Array
    touch: Array
    phone: NDArray[np.uint8]
    speech: Array
    motion: Array
    controls: Array
    samples: Array
    times: Array


def make(voice: Voice, seed: int, keep_sound: bool, worn: float = 0.4) -> Session:
    """Make the session of a seed. worn: the chance of a degraded sound (`degrade.degrade`), of music under it."""
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    if voice == NOBODY:
        heard = noises.stretches(SECONDS * RATE, rng, _elsewhere(dice))
        return targets(heard + _floor(rng, heard.size), np.zeros_like(heard), [], rng, keep_sound)
    return joined(_spoken(voice, rng, dice, varied=worn > 0), rng, keep_sound, worn)


def joined(
    utterances: Iterable[Utterance], rng: np.random.Generator, keep_sound: bool, worn: float, room: Room = _silence
) -> Session:
    """Join utterances with pauses, up to a minute, and animate them. room: what is heard in n samples of pause."""
    samples, segments = _sound(utterances, rng, room)
    level = rng.uniform(-32, -18) if worn else -23.0
    clean = degrade.at_level(samples, level)
    heard = clean + _breaths(segments, clean.size, level, rng) if worn else clean
    if rng.random() < 0.5 * worn:
        heard = degrade.add_sound(heard, noises.music(heard.size, rng), rng.uniform(5, 20))
    heard = degrade.degrade(heard, rng) if rng.random() < worn else heard
    return targets(heard + _floor(rng, heard.size), clean, segments, rng, keep_sound)


def _floor(rng: np.random.Generator, count: int) -> Array:
    return 1e-5 * degrade.coloured_noise(count, rng)


def _elsewhere(dice: random.Random) -> Array:
    """Return some speech that is nobody's here, or none where espeak-ng is not installed."""
    if not available("espeak"):
        return np.zeros(0, np.float32)
    voice = Voice("espeak", dice.choice(("en-us", "en-us+f3", "en-gb-x-rp", "de", "fr+f2", "es")))
    texts = [sentence(dice) for _ in range(8)]
    return np.concatenate([said.samples for said in speak(voice, texts, dice.uniform(0.8, 1.2), dice.randint(20, 80))])


def _breaths(segments: list[Segment], count: int, level: float, rng: np.random.Generator) -> Array:
    """Return breaths before some phrases, 15 to 35 dB below a speech level: a sound while the lips rest."""
    out = np.zeros(count, np.float32)
    for pause in segments:
        if pause.phone != "sil" or pause.end - pause.start < 0.5 or rng.random() > 0.35:
            continue
        end = pause.end - rng.uniform(0.05, 0.15)
        begin = max(pause.start + 0.1, end - rng.uniform(0.25, 0.8))
        part = out[int(begin * RATE) : int(end * RATE)]
        part += 10 ** ((level - rng.uniform(15, 35)) / 20) * noises.breath(part.size, rng)
    return out


def _spoken(voice: Voice, rng: np.random.Generator, dice: random.Random, varied: bool) -> Iterator[Utterance]:
    """Speak enough sentences, each when it is asked for where the synthesizer can.

    varied: drills among them, and most recorded voices played faster or slower.
    """
    rate, pitch = float(rng.uniform(0.8, 1.3)), int(rng.integers(20, 80))
    texts = [(practice if varied else sentence)(dice, voice.language) for _ in range(26)]
    if not varied or voice.engine == "espeak" or rng.random() < 0.25:
        return speak(voice, texts, rate, pitch)
    # A speed moves pitch and throat together: another speaker of the same recordings.
    speed = float(np.exp(rng.uniform(-0.22, 0.22)))
    return (faster(utterance, speed) for utterance in speak(voice, texts, rate / speed, pitch))


def _sound(utterances: Iterable[Utterance], rng: np.random.Generator, room: Room) -> tuple[Array, list[Segment]]:
    pieces: list[Array] = []
    segments: list[Segment] = []
    at = 0.0
    for utterance in utterances:
        gap = rng.uniform(4, 9) if rng.random() < 0.07 else min(rng.exponential(0.35), 2.5)
        pieces += [room(int(gap * RATE)), utterance.samples]
        segments += _shifted(utterance.segments, at, gap)
        at += gap + pieces[-1].size / RATE
        if at > SECONDS:
            break
    return np.concatenate(pieces)[: SECONDS * RATE], [s for s in segments if s.end < SECONDS]


def _shifted(segments: tuple[Segment, ...], at: float, gap: float) -> list[Segment]:
    start = at + gap
    moved = [Segment(s.phone, s.start + start, s.end + start) for s in segments]
    return [Segment("sil", at, start), *moved]


def targets(heard: Array, clean: Array, segments: list[Segment], rng: np.random.Generator, keep_sound: bool) -> Session:
    """Build a session from a sound as it is heard, the clean sound behind it, and its phones."""
    frames = heard.size * FPS // RATE
    phone = phone_track(segments, frames)
    stress, accent = accents(clean, phone)
    touch = contacts(segments, frames)
    viseme = blend(segments, frames, stress)
    prosody = Prosody(accent, speech_of(phone))
    motion, controls = [], []
    for _ in range(DRAWS):
        mood = _mood(frames, rng)
        motion.append(animate(compose(viseme, touch, mood.articulation), touch.lips, prosody, mood, rng))
        controls.append(np.column_stack([mood.emotion, mood.articulation, mood.head]))
    times = np.array([(PHONE_INDEX[s.phone], s.start, s.end) for s in segments], np.float32).reshape(-1, 3)
    return Session(
        log_mel(heard, frames),
        compose(viseme, touch),
        np.column_stack([touch.lips, touch.teeth]),
        phone,
        prosody.speech,
        np.stack(motion),
        np.stack(controls).astype(np.float32),
        heard if keep_sound else np.zeros(0, np.float32),
        times,
    )


def _mood(frames: int, rng: np.random.Generator) -> Mood:
    emotion = np.zeros((frames, len(EMOTIONS)), np.float32)
    at = 0
    while at < frames:
        length = int(rng.uniform(5, 25) * FPS)
        if rng.random() < 0.6:
            emotion[at : at + length, rng.integers(len(EMOTIONS))] = rng.uniform(0.2, 1.0)
            if rng.random() < 0.3:
                emotion[at : at + length, rng.integers(len(EMOTIONS))] = rng.uniform(0.2, 0.6)
        at += length
    style = np.repeat(rng.uniform([0.5, 0.2], [1.4, 1.8], (1, 2)), frames, axis=0)
    style[:, rng.random(2) < 0.4] = 1.0
    total = np.maximum(emotion.sum(1, keepdims=True), 1.0)
    return Mood(_glide(emotion / total), *np.ascontiguousarray(style.T).astype(np.float32))


def _glide(track: Array, seconds: float = 0.4) -> Array:
    width = int(seconds * FPS)
    padded = np.pad(track, ((width - 1, 0), (0, 0)), "edge")
    total = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
    return ((total[width:] - total[:-width]) / width).astype(np.float32)


_HALF = ("mel", "mouth", "touch", "speech", "motion", "controls")


def save(session: Session, path: Path) -> None:
    """Write a session as npz, whole or not at all; tracks as float16, sound as int16."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(session, name), np.float16) for name in _HALF}
    sound = np.clip(session.samples * 32767, -32768, 32767).astype(np.int16)
    with write_whole(path) as file:
        np.savez(file, phone=session.phone, samples=sound, times=session.times, **arrays)


def load(path: Path) -> Session:
    """Read a session written by `save`."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name].astype(np.float32) for name in _HALF}
        sound = stored["samples"].astype(np.float32) / 32767
        return Session(phone=stored["phone"], samples=sound, times=stored["times"], **arrays)
