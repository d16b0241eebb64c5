"""MBROLA's voices: recorded speakers of many languages, cut into diphones, with exactly the times that were asked for.

espeak-ng says which phones a sentence has, how long and at which pitch; MBROLA plays the speaker's diphones like that.
Both come from Debian: `mbrola` (AGPL), and a package for each speaker (`mbrola-us1`, ...; non-free: free to synthesize
speech with MBROLA alone, not to be sold). Nothing of the databases is kept here.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import fold_sampa
from edgetalker.models.online.data.utterance import Utterance, Voice, from_ends, read_sound

__all__ = ["available", "has_voice", "speak"]

_FOLDER = Path("/usr/share/mbrola")
_SWAY = 0.25
"""Deviation of a phone's log length around espeak-ng's rules, which give every consonant nearly the same."""

_LATE = {"us3": 0.02, "mx1": 0.025}
"""Seconds by which the stops of the two latest speakers come after their rows (medians of when a p grows quiet)."""


def available() -> bool:
    """Tell whether MBROLA, espeak-ng and at least one of the voices are installed."""
    return all(shutil.which(name) for name in ("mbrola", "espeak-ng")) and _FOLDER.is_dir() and any(_FOLDER.iterdir())


def has_voice(name: str) -> bool:
    """Tell whether the package of a voice is installed."""
    return (_FOLDER / name / name).is_file()


def speak(voice: Voice, texts: Sequence[str], rate: float, pitch: int) -> Iterator[Utterance]:
    """Speak the sentences at `rate` times the usual speed; `pitch` is 0..99, 50 usual.

    A sentence with a sound that has no phone of ours is left out. Raises RuntimeError where the voice is missing.
    """
    if not has_voice(voice.name):
        raise RuntimeError(f"MBROLA has no voice {voice.name}")
    for text in texts:
        rows = _rows(voice, text, rate, pitch)
        late = _LATE.get(voice.name, 0.0)
        ends = late + np.cumsum([float(row[1]) / 1000 for row in rows])
        named = [(row[0], float(end)) for row, end in zip(rows, ends, strict=True)]
        try:
            segments = from_ends(named, voice.name, start=late, folded=fold_sampa)
        except KeyError:
            continue
        yield Utterance(_played(voice, rows), segments)


def _rows(voice: Voice, text: str, rate: float, pitch: int) -> list[list[str]]:
    """Return espeak-ng's rows: a sound, its length in ms, and pairs of place in percent and pitch in Hz."""
    command = ["espeak-ng", "-v", f"mb-{voice.name}", "-q", "--pho", "-s", str(int(170 * rate)), "-p", str(pitch), text]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in printed.splitlines() if line.strip()]
    sway = random.Random(f"{voice.name} {text}")
    for row in rows:
        row[0] = row[0].rstrip("/*") or row[0]  # espeak-ng's variants that no speaker recorded
        if row[0] != "_":
            row[1] = str(max(20, round(float(row[1]) * np.exp(sway.gauss(0.0, _SWAY)))))
    return rows


def _played(voice: Voice, rows: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        # -e: a diphone that the speaker never recorded is left out, its time stays.
        command = ["mbrola", "-e", str(_FOLDER / voice.name / voice.name), "-", str(path)]
        score = "".join(" ".join(row) + "\n" for row in rows)
        subprocess.run(command, input=score, text=True, capture_output=True, check=True, errors="replace")
        return read_sound(path)
