"""The sound that rollouts hear: a folder of recordings; without one a made-up voice, and voices that speak."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.file import read_whole

__all__ = ["HEARD", "SUFFIXES", "made_up_voice", "many_voices", "mixed", "recordings", "sound_of"]

_CLIP = Path(__file__).resolve().parents[1] / "data" / "speech.wav"
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


HEARD = 2 / 3
"""Share of the sound, from its start, that weights are fitted to; layers are judged on the rest."""


def sound_of(folder: Path | None, rate: int, seconds: float) -> NDArray[np.float32]:
    """Return so many seconds of sound, float32 (n,), at `rate`: the folder's files in turn, as often as needed.

    Half a second of silence lies between them, because talkers meet silence too. Without a folder a made-up voice and
    one of many that say words take turns, behind `HEARD` of another kind than before. Raises InputError for a folder
    without sound.
    """
    count = max(1, round(seconds * rate))
    if folder is None:
        heard = round(HEARD * count)
        return np.concatenate([many_voices(rate, heard), many_voices(rate, count - heard, 1, unlike=True)])
    pieces, total = [], 0
    pause = np.zeros(rate // 2, np.float32)
    voices = [np.concatenate([voice, pause]) for voice in recordings(folder, rate)]
    while total < count:
        for voice in voices:
            pieces.append(voice)
            total += len(voice)
    return np.concatenate(pieces)[:count]


def recordings(folder: Path, rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the sound of every file in a folder. Raises InputError when there is none."""
    if not folder.exists():
        raise InputError(f"there is no {folder}", hint="name a folder of recordings, or one recording")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no sound file", hint=f"files that end in {', '.join(SUFFIXES)} are read")
    for path in files:
        yield read_whole(path, rate)


def mixed(sound: NDArray[np.float32], rate: int, seconds: int = 10) -> NDArray[np.float32]:
    """Return a sound's pieces of so many seconds in an order by chance, the same always: all kinds in each part."""
    pieces = [sound[start : start + seconds * rate] for start in range(0, len(sound), seconds * rate)]
    order = np.random.default_rng(0).permutation(len(pieces))
    return np.concatenate([pieces[place] for place in order])


def made_up_voice(rate: int, count: int, seed: int = 0, pitch: float = 1.0) -> NDArray[np.float32]:
    """Return a voice-like sound: a gliding harmonic tone and breath, in syllables, with pauses and loud and soft parts.

    It has what ranges depend on (silence, onsets, loudness from whisper to full scale), not what words are. pitch: as a
    share of a man's, 55 to 185 Hz.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(count) / rate
    height = 120.0 + 40.0 * np.sin(2 * np.pi * 0.31 * time) + 25.0 * np.sin(2 * np.pi * 1.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch * height) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    breath = rng.standard_normal(count)
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * time + 0.8 * np.sin(2 * np.pi * 0.9 * time)), 0.0, None)
    voiced = np.sin(2 * np.pi * 2.3 * time) > -0.5
    loudness = 0.02 + 0.98 * np.sin(np.pi * time / 11.0) ** 2
    speaking = np.sin(2 * np.pi * time / 7.0) > -0.8
    sound = np.where(voiced, tone, 0.5 * breath) * syllables * loudness * speaking
    samples: NDArray[np.float32] = np.clip(0.5 * sound, -1.0, 1.0).astype(np.float32)
    return samples


def many_voices(rate: int, count: int, seed: int = 0, *, unlike: bool = False) -> NDArray[np.float32]:
    """Return the made-up voice and the package's clip of speech by turns, the clip each time as another speaker.

    Speed, pitch, loudness and colour change from turn to turn, every second time the clip runs backwards in a noisy
    room: for weights that are fitted to what they hear, for what only the made-up voice has taught fits no speech.
    unlike: speeds, pitches and noise that the others do not have, and an echo; to judge on what nothing was fitted to.
    """
    rng = np.random.default_rng(seed)
    clip = read_whole(_CLIP, rate)
    pieces: list[NDArray[np.float32]] = []
    while sum(map(len, pieces)) < count:
        speed, loud, colour = rng.uniform(0.7, 1.4), 10.0 ** rng.uniform(-1.3, 0.1), rng.uniform(-0.7, 0.7)
        pitch, noise = rng.uniform(0.7, 1.6), 10.0 ** rng.uniform(-3.5, -2.0) * (len(pieces) // 2 % 2)
        if unlike:
            speed, pitch, noise = rng.choice([0.6, 1.55]), rng.choice([0.6, 1.9]), 10.0 ** rng.uniform(-2.5, -1.7)
        said = clip[::-1] if len(pieces) // 2 % 2 else clip
        voice = np.interp(np.arange(0.0, len(said) - 1, speed), np.arange(len(said)), said)
        tinted = voice - colour * np.append(0.0, voice[:-1])
        if unlike:
            tinted[rate // 9 :] += 0.4 * tinted[: -(rate // 9)]
        scale = loud * np.sqrt(np.mean(voice**2) / np.mean(tinted**2))
        spoken = scale * tinted + noise * rng.standard_normal(len(tinted))
        made_up = made_up_voice(rate, 5 * rate, seed + len(pieces), pitch)
        pieces += [made_up, np.clip(spoken, -1, 1).astype(np.float32)]
    return np.concatenate(pieces)[:count]
