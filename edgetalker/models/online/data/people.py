"""Sessions of recorded people whose words nobody wrote down: what two listeners agree on, and the room's pauses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data import heard
from edgetalker.models.online.data.phones import BILABIALS, Segment
from edgetalker.models.online.data.sessions import SECONDS, Session, joined, save
from edgetalker.models.online.data.utterance import RATE, Utterance, faster
from edgetalker.models.online.metrics import correlation, delay
from edgetalker.runtime.sources.file import read_whole

__all__ = ["Labelled", "Room", "fill", "label", "phrases", "sessions"]

Array = NDArray[np.float32]
_APART = 0.2
"""Seconds of silence that part phrases."""
_GRAIN = 640
_TALK = 0.7
"""Share of a session that is speech, about; the rest is pauses."""


@dataclass(frozen=True)
class Labelled:
    """What a clip gives. phrases: those without a doubt; quiet: pieces of its pauses; lost: seconds in doubt."""

    phrases: tuple[Utterance, ...]
    quiet: tuple[Array, ...]
    lost: float


class Room:
    """The tone of a room: grains of real pauses laid over each other in any order, as loud as they were."""

    def __init__(self, pieces: Sequence[Array], rng: np.random.Generator) -> None:
        self.pieces, self.rng = [piece for piece in pieces if piece.size >= _GRAIN], rng
        self.window = np.sin(np.pi * (np.arange(_GRAIN) + 0.5) / _GRAIN)

    def __call__(self, count: int) -> Array:
        """Return `count` samples; digital silence where no pause was long enough."""
        hop = _GRAIN // 2
        tone = np.zeros((count // hop + 3) * hop, np.float32)
        for at in range(0, tone.size - _GRAIN + 1, hop) if self.pieces else ():
            piece = self.pieces[int(self.rng.integers(len(self.pieces)))]
            start = int(self.rng.integers(piece.size - _GRAIN + 1))
            # Sines squared add up to one: grains that know nothing of each other keep their power.
            tone[at : at + _GRAIN] += (self.window * piece[start : start + _GRAIN]).astype(np.float32)
        return tone[hop : hop + count]


def label(path: Path) -> Labelled | str:
    """Return what a clip gives, or why it gives nothing."""
    try:
        samples = read_whole(path, RATE)
        return phrases(samples, heard.hear(samples))
    except InputError as error:
        return str(error)


def phrases(samples: Array, found: heard.Heard) -> Labelled:
    """Cut 16 kHz sound at its pauses and keep the phrases in which no closure is in doubt."""
    pauses = [s for s in found.segments if s.phone == "sil" and s.end - s.start >= _APART]
    quiet = tuple(piece for pause in pauses if (piece := _quiet(samples, pause)).size)
    edges = [0.0, *((p.start + p.end) / 2 for p in pauses), samples.size / RATE]
    kept: list[Utterance] = []
    lost = 0.0
    for start, end in pairwise(edges):
        inside = [s for s in found.segments if s.start < end and s.end > start]
        if all(s.phone == "sil" for s in inside):
            continue
        if any(start <= doubt < end for doubt in found.doubts):
            lost += end - start
            continue
        moved = tuple(Segment(s.phone, max(s.start - start, 0.0), min(s.end, end) - start) for s in inside)
        kept.append(Utterance(_faded(samples[int(start * RATE) : int(end * RATE)]), moved))
    return Labelled(tuple(kept), quiet, lost)


def _quiet(samples: Array, pause: Segment) -> Array:
    """Return the middle of a pause where nothing in it stands out, else nothing: a breath is no room tone."""
    piece = samples[int((pause.start + 0.06) * RATE) : int((pause.end - 0.06) * RATE)]
    if piece.size < _GRAIN:
        return piece[:0]
    parts = piece[: piece.size // 160 * 160].reshape(-1, 160)
    level = np.sqrt(np.mean(parts**2, axis=1) + 1e-12)
    return piece if level.max() < 4 * np.median(level) else piece[:0]


def _faded(samples: Array) -> Array:
    """Fade 5 ms at both ends: a cut at another level than the room's would click."""
    faded: Array = samples.copy()
    ramp = np.linspace(0.0, 1.0, 80, dtype=np.float32)
    if faded.size >= 160:
        faded[:80] *= ramp
        faded[-80:] *= ramp[::-1]
    return faded


def sessions(clips: Sequence[Labelled], seed: int, rounds: int = 2, worn: float = 0.4) -> Iterable[Session]:
    """Make sessions of a minute of one speaker's phrases, in another order and at another speed in each round.

    A round uses every phrase once; the first plays it as it was spoken.
    """
    rng = np.random.default_rng(seed)
    room = Room([piece for clip in clips for piece in clip.quiet], rng)
    spoken = [phrase for clip in clips for phrase in clip.phrases]
    for turn in range(rounds):
        order = [spoken[place] for place in rng.permutation(len(spoken))]
        while order:
            speed = float(np.exp(rng.uniform(-0.2, 0.2))) if turn else 1.0
            some, seconds = [], 0.0
            while order and seconds < _TALK * SECONDS:
                some.append(faster(order.pop(), speed) if turn else order.pop())
                seconds += some[-1].samples.size / RATE
            if seconds >= 0.5 * _TALK * SECONDS:
                yield joined(some, rng, False, worn, room)


def fill(folder: Path, speakers: Sequence[Path], seed: int, rounds: int, workers: int) -> int:
    """Write the sessions of each speaker, a folder of sounds, to `folder`/NAME-NN.npz; return how many there are.

    What was kept and what was not is printed. Raises InputError for a folder without sounds.
    """
    made = 0
    folder.mkdir(parents=True, exist_ok=True)
    for speaker in speakers:
        paths = sorted(path for path in speaker.glob("*") if path.suffix in (".wav", ".flac", ".ogg"))
        if not paths:
            raise InputError(f"{speaker} has no .wav, .flac or .ogg", hint="a folder for each speaker")
        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(label, paths))
        clips = [clip for clip in found if isinstance(clip, Labelled)]
        if not clips:
            raise InputError(f"{speaker}: no clip could be labelled: {found[0]}", hint="is there speech in them?")
        print(f"{speaker.name}: {told(clips)}, {len(found) - len(clips)} of {len(found)} clips could not be labelled")
        follows = []
        for number, session in enumerate(sessions(clips, seed, rounds)):
            save(session, folder / f"{speaker.name}-{number:02d}.npz")
            follows.append(lag(session))
        made += len(follows)
        r, late = np.median(follows or [(np.nan, np.nan)], axis=0)
        print(
            f"{speaker.name}: {len(follows)} sessions; the jaw follows loudness with r {r:.2f}, {late:.2f} frames late"
        )
    return made


def told(clips: Sequence[Labelled]) -> str:
    """Say in a line what is in labelled clips."""
    phrases = [phrase for clip in clips for phrase in clip.phrases]
    kept = sum(phrase.samples.size for phrase in phrases) / RATE
    closures = sum(segment.phone in BILABIALS for phrase in phrases for segment in phrase.segments)
    lost = sum(clip.lost for clip in clips)
    return f"{len(phrases)} phrases of {kept:.0f} s with {closures} closures, {lost:.0f} s in doubt"


def lag(session: Session) -> tuple[float, float]:
    """Return how well the jaw follows the loudness of a session's mel frames, r in speech, and its lag in frames."""
    power = np.exp(session.mel).sum(1).reshape(-1, 4).mean(1)
    loud = np.asarray(np.log(power + 1e-6), np.float32)[: session.mouth.shape[0]]
    jaw = session.mouth[: loud.size, 0]
    voice = session.speech[: loud.size] > 0.5
    return correlation(jaw[voice], loud[voice]), delay(jaw, loud)
