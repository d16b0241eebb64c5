"""Recordings of people, with the faces that belong to what pocketsphinx hears in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import FileFaults, InputError, OptionError
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.sessions import Session, targets
from edgetalker.models.online.data.utterance import RATE
from edgetalker.models.online.score import place, said
from edgetalker.runtime.sources.file import read_whole

__all__ = ["Recording", "dealt", "recordings"]

Array = NDArray[np.float32]
_BETWEEN = 0.5
"""Seconds of quiet between the clips of one speaker."""
_SEED = 5


@dataclass(frozen=True)
class Recording:
    """One speaker. session: the clips one after another, sound kept; clips: how many; seconds: without the quiet."""

    session: Session
    clips: int
    seconds: float


def recordings(audio: Path | None, transcript: str | None, folders: Sequence[Path]) -> dict[str, Recording]:
    """Return the recordings that the options name, by the name of the file or folder.

    Raises OptionError for a clip without its words and for names that come twice, InputError for files that are
    missing, cannot be read or aligned.
    """
    if (audio is None) != (transcript is None):
        raise OptionError("--audio and --transcript go together", hint="give the clip and what is spoken in it")
    names = [path.name for path in (*folders, *([audio] if audio else []))]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"two speakers are called {', '.join(twice)}", hint="results go by name: rename one")
    spoken = {folder.name: _pairs(folder) for folder in folders}
    if audio and transcript:
        spoken[audio.name] = [(audio, transcript)]
    faults = FileFaults()
    found = {name: _recording(pairs, faults) for name, pairs in spoken.items()}
    faults.tell()
    return {name: made for name, made in found.items() if made is not None}


def dealt(folder: Path, parts: int, language: str = "en") -> list[Recording]:
    """Return one speaker's clips, dealt out to so many parts. language: as espeak-ng names it. Raises InputError."""
    pairs, faults = _pairs(folder), FileFaults()
    if len(pairs) < parts:
        raise InputError(
            f"{folder} has {len(pairs)} clips; at least {parts} were wanted",
            hint="a clip for each sentence, CLIP.wav with CLIP.txt",
        )
    made = [_recording(pairs[part::parts], faults, language) for part in range(parts)]
    faults.tell()
    return [part for part in made if part is not None]


def _pairs(folder: Path) -> list[tuple[Path, str]]:
    clips = sorted(path for path in folder.glob("*") if path.suffix in (".wav", ".flac"))
    if not clips:
        raise InputError(f"{folder} has no .wav or .flac", hint="a folder for each speaker, CLIP.wav with CLIP.txt")
    silent = [path.name for path in clips if not path.with_suffix(".txt").exists()]
    if silent:
        raise InputError(f"{folder}: no .txt beside {', '.join(silent)}", hint="write there what is said")
    pairs, faults = list[tuple[Path, str]](), FileFaults()
    for path in clips:
        words = path.with_suffix(".txt")
        with faults.of(words):
            pairs.append((path, said(words)))
            if not pairs[-1][1]:
                raise InputError(f"{words} is empty", hint="write there what is said")
    faults.tell()
    return pairs


def _recording(pairs: Sequence[tuple[Path, str]], faults: FileFaults, language: str = "en") -> Recording | None:
    """Return one speaker's clips, aligned; None where none of them is of use."""
    rng = np.random.default_rng(_SEED)
    pieces: list[Array] = []
    segments: list[Segment] = []
    spoken = 0
    for path, transcript in pairs:
        with faults.of(path):
            samples = read_whole(path, RATE)
            aligned = place(samples, transcript, language)
            if pieces:
                pieces.append(_quiet(rng))
            start = sum(piece.size for piece in pieces) / RATE
            segments += [Segment(s.phone, s.start + start, s.end + start) for s in aligned]
            pieces.append(samples)
            spoken += samples.size
    if not pieces:
        return None
    sound = np.concatenate(pieces)
    return Recording(targets(sound, sound, segments, rng, keep_sound=True), len(pairs), spoken / RATE)


def _quiet(rng: np.random.Generator) -> Array:
    return np.asarray(1e-5 * rng.standard_normal(int(_BETWEEN * RATE)), np.float32)
