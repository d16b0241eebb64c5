"""Music by rules, played by sampled instruments: a tune as standard MIDI, made a sound by FluidSynth."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.utterance import RATE, read_sound

__all__ = ["available", "band"]

Array = NDArray[np.float32]
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""Debian's fluid-soundfont-gm (MIT): recorded instruments by General MIDI's numbers."""
_TICKS = 480
_VOICES = frozenset({52, 53, 54, 85, 91})
"""Programs that sing: choirs are no music without a voice."""
_LEADS = tuple(program for program in range(112) if program not in _VOICES)
_BASSES, _PADS = tuple(range(32, 40)), (0, 4, 5, 16, 19, 24, 25, 26, 27, 48, 49, 50, 61, 88, 89, 90)
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 7, 9))
_DRUMS = 9  # General MIDI's channel of percussion


def available() -> bool:
    """Tell whether FluidSynth and its instruments are installed."""
    return shutil.which("fluidsynth") is not None and SOUNDFONT.exists()


@dataclass
class _Tune:
    """MIDI events as (tick, order, bytes)."""

    events: list[tuple[int, int, bytes]] = field(default_factory=list)

    def program(self, channel: int, number: int) -> None:
        self.events.append((0, 0, bytes((0xC0 | channel, number))))

    def note(self, channel: int, key: int, start: float, beats: float, loud: float) -> None:
        first, last = int(start * _TICKS), int((start + beats) * _TICKS)
        key, velocity = int(np.clip(key, 0, 127)), int(np.clip(loud, 1, 127))
        self.events.append((first, 2, bytes((0x90 | channel, key, velocity))))
        self.events.append((max(last, first + 1), 1, bytes((0x80 | channel, key, 0))))

    def file(self, beat: float) -> bytes:
        """Return a MIDI file of format 0. beat: seconds."""
        out, now = bytearray(b"\x00\xff\x51\x03" + int(beat * 1e6).to_bytes(3, "big")), 0
        for tick, _, event in sorted(self.events):
            out += _length(tick - now) + event
            now = tick
        out += b"\x00\xff\x2f\x00"
        head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS)
        return head + b"MTrk" + struct.pack(">I", len(out)) + bytes(out)


def _length(value: int) -> bytes:
    """Return a number as MIDI's groups of seven bits."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.insert(0, 0x80 | (value & 0x7F))
    return bytes(out)


def band(count: int, rng: np.random.Generator) -> Array:
    """Return `count` samples of music: a melody, alone in one of four, else mostly over a bass, chords and drums; no
    voice. Raises RuntimeError."""
    beat = float(rng.uniform(0.35, 1.0))
    tune = _composed(int(count / RATE / beat) + 2, rng)
    with tempfile.TemporaryDirectory() as name:
        score, sound = Path(name) / "tune.mid", Path(name) / "tune.wav"
        score.write_bytes(tune.file(beat))
        done = subprocess.run(
            ["fluidsynth", "-niq", "-g", "0.5", "-r", str(RATE), "-o", "synth.dynamic-sample-loading=1",
             "-F", str(sound), str(SOUNDFONT), str(score)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if not sound.exists():
            raise RuntimeError(f"fluidsynth made no sound: {done.stderr.strip()}")
        return np.resize(read_sound(sound), count)


def _composed(beats: int, rng: np.random.Generator) -> _Tune:
    tune, scale, root = _Tune(), _SCALES[rng.integers(len(_SCALES))], int(rng.integers(43, 55))
    shares = (1.0, 0.0, 0.0, 0.0) if rng.random() < 0.25 else (0.85, 0.6, 0.6, 0.5)
    lead, bass, pad, drums = (rng.random() < share for share in shares)
    tune.program(0, int(rng.choice(_LEADS)))
    tune.program(1, int(rng.choice(_BASSES)))
    tune.program(2, int(rng.choice(_PADS)))
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
        beats_long = float(rng.choice((0.25, 0.5, 1.0, 2.0), p=lengths))
        degree = int(np.clip(degree + rng.integers(-2, 3), -3, 14))
        if rng.random() > 0.12:
            tune.note(0, key(degree) + octave, at, beats_long * rng.uniform(0.5, 1.0), rng.uniform(55, 115))
        at += beats_long
    return tune
