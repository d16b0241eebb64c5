"""What a synthesizer gives: samples with the times of the phones in them, and who said them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import Segment, fold

__all__ = ["RATE", "Utterance", "Voice", "at_rate", "faster", "from_ends", "read_sound", "spread"]

RATE = 16000
Fold = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Voice:
    """A synthesizer (`synths.ENGINES`), its name for the voice, and the language of the text."""

    engine: str
    name: str
    language: str = "en"


@dataclass(frozen=True)
class Utterance:
    """Mono float32 samples at 16 kHz in [-1, 1] and the phones in them, in order of time."""

    samples: NDArray[np.float32]
    segments: tuple[Segment, ...]


def faster(utterance: Utterance, speed: float) -> Utterance:
    """Play an utterance `speed` times as fast: pitch, resonances and times all move."""
    moved = tuple(Segment(s.phone, s.start / speed, s.end / speed) for s in utterance.segments)
    return Utterance(at_rate(utterance.samples, round(RATE * speed)), moved)


def read_sound(path: Path) -> NDArray[np.float32]:
    """Read a sound file, mono float32 at 16 kHz."""
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    return at_rate(samples, rate)


def at_rate(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Resample to 16 kHz."""
    import soxr

    if rate == RATE:
        return np.asarray(samples, np.float32)
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def spread(phones: Sequence[str], start: float, end: float) -> list[Segment]:
    """Share one interval among the phones of a diphthong or an affricate."""
    edges = np.linspace(start, end, len(phones) + 1)
    return [Segment(phone, float(a), float(b)) for phone, a, b in zip(phones, edges[:-1], edges[1:], strict=True)]


def from_ends(
    ends: Sequence[tuple[str, float]], which: str, *, start: float = 0.0, folded: Fold = fold
) -> tuple[Segment, ...]:
    """Return the segments of a synthesizer's (sound, end in seconds) pairs, from `start` s on.

    folded: makes our phones of a sound and `which`, a language for `fold`. Unknown sounds raise KeyError.
    """
    segments: list[Segment] = []
    before = start
    for name, end in ends:
        segments += spread(folded(name, which), before, end)
        before = end
    return tuple(segments)
