"""Music played by sampled instruments: a tune as standard MIDI, by rules or by people, made a sound by FluidSynth."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mido
import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.utterance import RATE, read_sound

__all__ = ["available", "band"]

Array = NDArray[np.float32]
SOUNDFONTS = (Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"), Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"))
"""Recorded instruments by General MIDI's numbers: Debian's fluid-soundfont-gm (MIT) and
musescore-general-soundfont-small (MIT, parts CC0). One is needed; the second takes
seconds to open, and plays one tune in four."""
COLLECTIONS = tuple(Path(f"/usr/share/games/doom/freedoom{number}.wad") for number in (1, 2))
"""Pieces by people, as MIDI: those of Debian's freedoom (BSD). Without them all tunes are made by rules."""
_TICKS = 480
_VOICES = frozenset({52, 53, 54, 85, 91})
"""Programs that sing: choirs are no music without a voice."""
_LEADS = tuple(program for program in range(112) if program not in _VOICES)
_STRINGS = 48
_HELD = (16, 19, 21, 22, *range(40, 45), 48, 49, 50, *range(56, 80), *range(80, 85), 86, 87, 104, 107, *range(109, 112))
"""Programs whose notes last: organs, bows, brass, reeds, flutes, leads."""
_BASSES, _PADS = tuple(range(32, 40)), (0, 4, 5, 16, 19, 24, 25, 26, 27, 48, 49, 50, 61, 88, 89, 90)
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 7, 9))
_DRUMS = 9  # General MIDI's channel of percussion


def available() -> bool:
    """Tell whether FluidSynth and its instruments are installed."""
    return shutil.which("fluidsynth") is not None and any(font.exists() for font in SOUNDFONTS)


@dataclass
class _Tune:
    """Messages of MIDI as (tick, order, message)."""

    events: list[tuple[int, int, mido.Message]] = field(default_factory=list)

    def add(self, at: float, order: int, kind: str, **values: int) -> None:
        self.events.append((int(at * _TICKS), order, mido.Message(kind, **values)))

    def bend(self, channel: int, at: float, semitones: float) -> None:
        self.add(at, 0, "pitchwheel", channel=channel, pitch=int(np.clip(4096 * semitones, -8192, 8191)))

    def swell(self, channel: int, at: float, loud: float) -> None:
        self.add(at, 0, "control_change", channel=channel, control=11, value=int(np.clip(loud, 1, 127)))

    def note(self, channel: int, key: int, start: float, beats: float, loud: float) -> None:
        key, velocity = int(np.clip(key, 0, 127)), int(np.clip(loud, 1, 127))
        self.add(start, 2, "note_on", channel=channel, note=key, velocity=velocity)
        self.add(start + beats, 1, "note_off", channel=channel, note=key)

    def file(self, beat: float) -> mido.MidiFile:
        """Return a MIDI file of format 0. beat: seconds."""
        track, now = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=int(beat * 1e6))]), 0
        for tick, _, message in sorted(self.events, key=lambda event: event[:2]):
            track.append(message.copy(time=tick - now))
            now = tick
        return mido.MidiFile(type=0, ticks_per_beat=_TICKS, tracks=[track])


def band(count: int, rng: np.random.Generator) -> Array:
    """Return `count` samples of music without a voice: by rules a melody, alone in one of four, else mostly over a
    bass, chords and drums; one in three a part of a piece by people, where there are some. Raises RuntimeError."""
    beat = float(rng.uniform(0.35, 1.0))
    scores = pieces()
    beats = int(count / RATE / beat) + 2
    tune = _excerpt(scores[rng.integers(len(scores))], beats, rng) if scores and rng.random() < 0.33 else None
    tune = tune or _composed(beats, rng)
    fonts = [font for font in SOUNDFONTS if font.exists()]
    with tempfile.TemporaryDirectory() as name:
        score, sound = Path(name) / "tune.mid", Path(name) / "tune.wav"
        tune.file(beat).save(score)
        done = subprocess.run(
            ["fluidsynth", "-niq", "-g", "0.5", "-r", str(RATE), "-o", "synth.dynamic-sample-loading=1",
             "-F", str(sound), str(fonts[-1 if rng.random() < 0.25 else 0]), str(score)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if not sound.exists():
            raise RuntimeError(f"fluidsynth made no sound: {done.stderr.strip()}")
        return np.resize(read_sound(sound), count)


@cache
def pieces() -> tuple[bytes, ...]:
    """Return the MIDI files of `COLLECTIONS` that are there."""
    found = []
    for path in COLLECTIONS:
        content = path.read_bytes() if path.exists() else bytes(12)
        lumps, place = struct.unpack("<II", content[4:12])
        for start, size, _ in struct.iter_unpack("<II8s", content[place : place + 16 * lumps]):
            if content[start : start + 4] == b"MThd":
                found.append(content[start : start + size])
    return tuple(found)


def _messages(score: bytes) -> list[tuple[int, mido.Message]]:
    """Return (tick, message of a channel) of all tracks of a MIDI file, in order of time."""
    file, found, now = mido.MidiFile(file=io.BytesIO(score)), [], 0
    for message in mido.merge_tracks(file.tracks):
        now += message.time
        if not message.is_meta and hasattr(message, "channel"):
            found.append((now * _TICKS // file.ticks_per_beat, message))
    return found


def _excerpt(score: bytes, beats: int, rng: np.random.Generator) -> _Tune | None:
    """Return a part of a piece, with strings in the place of programs that sing; None where few notes are in it."""
    messages = _messages(score)
    start = int(rng.integers(max(messages[-1][0] - beats * _TICKS, 1)))
    tune, before, sounding = _Tune(), dict[tuple[str, int, int], mido.Message](), set[tuple[int, int]]()
    for tick, message in messages:
        if message.type == "program_change" and message.program in _VOICES:
            message = message.copy(program=_STRINGS)
        if tick >= start + beats * _TICKS:
            break
        begins = message.type == "note_on" and message.velocity > 0
        if tick < start:
            if not hasattr(message, "note"):
                before[message.type, message.channel, getattr(message, "control", 0)] = message
        elif begins or message.type not in ("note_on", "note_off") or (message.channel, message.note) in sounding:
            sounding |= {(message.channel, message.note)} if begins else set()
            tune.events.append((tick - start, len(tune.events), message))
    tune.events += [(0, -1, message) for message in before.values()]
    for channel in range(16):  # all sound off: FluidSynth waits for every note
        tune.add(beats, len(tune.events), "control_change", channel=channel, control=120)
    return tune if len(sounding) > 3 else None


def _composed(beats: int, rng: np.random.Generator) -> _Tune:
    tune, scale, root = _Tune(), _SCALES[rng.integers(len(_SCALES))], int(rng.integers(43, 55))
    shares = (1.0, 0.0, 0.0, 0.0) if rng.random() < 0.25 else (0.85, 0.6, 0.6, 0.5)
    lead, bass, pad, drums = (rng.random() < share for share in shares)
    held = rng.random() < 0.5
    slower, glides, depth = float(rng.choice((1.0, 2.0, 4.0))) if held else 1.0, rng.random() < 0.5, rng.uniform(0, 0.5)
    tune.add(0, 0, "program_change", channel=0, program=int(rng.choice(_HELD if held else _LEADS)))
    tune.add(0, 0, "program_change", channel=1, program=int(rng.choice(_BASSES)))
    tune.add(0, 0, "program_change", channel=2, program=int(rng.choice(_PADS)))
    octave, lengths = 12 * int(rng.integers(0, 3)), rng.dirichlet(np.ones(4))
    kit = [[int(rng.choice((35, 36, 38, 39, 42, 44, 46, 54, 70))), *rng.choice(8, 3)] for _ in range(3)]

    def key(degree: int) -> int:
        return root + scale[degree % len(scale)] + 12 * (degree // len(scale))

    chord, at, degree = 0, 0.0, 4
    for bar in range(0, beats, 4):
        chord = int(rng.integers(len(scale))) if bar % 8 == 0 or rng.random() < 0.5 else chord
        if bass:
            for step in range(0, 4, int(rng.integers(1, 4))):
                tune.note(1, key(chord) - 12, bar + step, 0.9, rng.uniform(60, 100))
        if pad:
            for third in (0, 2, 4):
                tune.note(2, key(chord + third) + 12, bar, 3.9, rng.uniform(45, 85))
        if drums:
            for drum, *places in kit:
                for place in places:
                    tune.note(_DRUMS, drum, bar + place / 2, 0.2, rng.uniform(50, 110))
    while at < beats and (lead or not (bass or pad)):
        beats_long = float(rng.choice((0.25, 0.5, 1.0, 2.0), p=lengths)) * slower
        before, degree = degree, int(np.clip(degree + rng.integers(-2, 3), -3, 14))
        if rng.random() > 0.12:
            tune.note(0, key(degree) + octave, at, beats_long * rng.uniform(0.5, 1.0), rng.uniform(55, 115))
            if held:
                _hold(tune, at, beats_long, (key(before) - key(degree)) * glides, depth, rng)
        at += beats_long
    return tune


def _hold(tune: _Tune, at: float, beats: float, from_semitones: float, depth: float, rng: np.random.Generator) -> None:
    """Let a note of the lead glide to its pitch, tremble and swell."""
    swells, late, pace = rng.uniform(-50, 50), rng.uniform(0.0, 1.0), rng.uniform(2.0, 5.0)
    for step in np.arange(0.0, beats, 1 / 24):
        glide = np.clip(from_semitones, -2, 2) * max(1 - 6 * step, 0.0)
        tune.bend(0, at + step, glide + depth * np.sin(2 * np.pi * pace * step) * min(step / (late + 0.1), 1.0))
        tune.swell(0, at + step, 100 - abs(swells) + swells * (2 * step / beats - 1))
