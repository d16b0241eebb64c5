"""The ruler for any talker: ARKit motion against the speech that it was made from.

What should be seen comes from the phones: the times of p, b and m, and the procedural animator's mouth. Phones come
from an alignment of the words, or, without words, from a phone loop, which mishears.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_text
from edgetalker.models.online import metrics
from edgetalker.models.online.anymotion import AnyMotion
from edgetalker.models.online.data import align
from edgetalker.models.online.data.phones import PHONE_INDEX, Segment
from edgetalker.models.online.data.prosody import accents, speech_of
from edgetalker.models.online.data.utterance import RATE
from edgetalker.models.online.data.visemes import FPS, blend, compose, contacts, phone_track
from edgetalker.models.online.lipgap import LipRuler

__all__ = ["Clip", "Truth", "hear", "place", "said", "score", "still"]

Array = NDArray[np.float32]
REACH = 15
"""Frames by which a motion may be late or early for its lag to be found."""


@dataclass(frozen=True)
class Truth:
    """What a sound's phones ask of a face: mouth (T, 14), lips (T,), phone (T,), speech (T,), times (S, 3)."""

    mouth: Array
    lips: Array
    phone: NDArray[np.uint8]
    speech: Array
    times: Array


@dataclass(frozen=True)
class Clip:
    """One motion with what its sound asks for. name: for the table."""

    name: str
    motion: AnyMotion
    truth: Truth


def hear(samples: Array, words: str | None, language: str = "en") -> Truth:
    """Return what 16 kHz sound asks of a face.

    words: what is said; None: the phone loop listens. Raises InputError for what is not installed or does not fit.
    """
    return of_phones(samples, align.listen(samples) if words is None else place(samples, words, language))


def place(samples: Array, words: str, language: str = "en") -> list[Segment]:
    """Return the phones of these words in 16 kHz sound. language: as espeak-ng names it. Raises InputError."""
    if language == "en":
        return align.align(samples, words)
    return align.align_phones(samples, _pronounced(language, words))


def said(path: Path) -> str:
    """Read what is said in a clip. Raises InputError."""
    try:
        return read_text(path).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as text: {reason}", hint="the words that are said, in UTF-8") from None


def _pronounced(language: str, words: str) -> list[list[str]]:
    from edgetalker.models.online.data import espeak

    try:
        return espeak.pronounce(language, re.findall(r"\w+", words))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{error}", hint="apt-get install espeak-ng; `espeak-ng --voices` lists languages") from None


def still(samples: Array) -> Truth:
    """Return what a sound without speech asks for: a mouth at rest."""
    return of_phones(samples, [])


def of_phones(samples: Array, segments: Sequence[Segment]) -> Truth:
    """Return what these phones in 16 kHz sound ask of a face."""
    frames = samples.size * FPS // RATE
    if frames < 2:
        raise InputError(f"the sound has {samples.size / RATE:.2f} s; two frames of it at least were wanted")
    phone = phone_track(segments, frames)
    touch = contacts(segments, frames)
    stress, _ = accents(samples, phone)
    times = np.array([(PHONE_INDEX[s.phone], s.start, s.end) for s in segments], np.float32).reshape(-1, 3)
    return Truth(compose(blend(segments, frames, stress), touch), touch.lips, phone, speech_of(phone), times)


def score(clips: Sequence[Clip], ruler: LipRuler | None = None) -> dict[str, Any]:
    """Score clips together: counts add up, shares are of all frames. Numbers without anything to count are None."""
    mouths, truths = [], []
    for clip in clips:
        frames = min(len(clip.motion.motion), clip.truth.phone.size)
        mouths.append(metrics.mouth_of(clip.motion.motion[:frames]))
        mouth, lips, phone, speech = (track[:frames] for track in _tracks(clip.truth))
        truths.append(Truth(mouth, lips, phone, speech, _within(clip.truth.times, frames)))
    found = sum((_closures(m, t) for m, t in zip(mouths, truths, strict=True)), metrics.Closures())
    result: dict[str, Any] = {
        "clips": [clip.name for clip in clips],
        "seconds": sum(t.phone.size for t in truths) / FPS,
        "frames_of_speech": int(sum((t.speech > 0.5).sum() for t in truths)),
        "closures": _closure_scores(found, mouths, truths),
        "vowels": _vowels(mouths, truths),
        "pauses": _pauses(mouths, truths),
        "jitter": float(np.mean([metrics.jitter(mouth) for mouth in mouths])),
        "jaw": _jaw(mouths, truths),
    }
    result["jitter_of_animator"] = float(np.mean([metrics.jitter(truth.mouth) for truth in truths]))
    if ruler is not None:
        cut = [clip.motion.motion[: truth.phone.size] for clip, truth in zip(clips, truths, strict=True)]
        result["millimetres"] = _millimetres([ruler.millimetres(motion) for motion in cut], truths)
    plain: dict[str, Any] = _plain(result)
    return plain


def _tracks(truth: Truth) -> tuple[Any, ...]:
    return truth.mouth, truth.lips, truth.phone, truth.speech


def _within(times: Array, frames: int) -> Array:
    return times[times[:, 2] <= frames / FPS]


def _closures(mouth: Array, truth: Truth) -> metrics.Closures:
    return metrics.closures(mouth, *_tracks(truth))


def _closure_scores(found: metrics.Closures, mouths: list[Array], truths: list[Truth]) -> dict[str, Any]:
    by_phone: dict[str, list[int]] = {}
    wrong: dict[str, int] = {}
    chances = []
    for mouth, truth in zip(mouths, truths, strict=True):
        for name, counts in metrics.closures_of(mouth, truth.times).items():
            by_phone[name] = [a + b for a, b in zip(by_phone.get(name, (0, 0)), counts, strict=True)]
        for name, count in metrics.false_closures(mouth, *_tracks(truth)).items():
            wrong[name] = wrong.get(name, 0) + count
        chances.append(metrics.chance(mouth, *_tracks(truth)))
    scores = found.scores()
    weights = [int((truth.speech > 0.5).sum()) for truth in truths]
    return {
        "events": found.events,
        "found": found.found,
        "recall": scores["recall"],
        "recall_by_chance": _mean([c["recall"] for c in chances], weights),
        "after_pause": [found.after_pause, found.found_after_pause],
        "frames_shut": found.closed,
        "frames_right": found.right,
        "precision": scores["precision"],
        "precision_by_chance": _mean([c["precision"] for c in chances], weights),
        "by_phone": by_phone,
        "false_by_phone": dict(sorted(wrong.items(), key=lambda item: -item[1])),
    }


def _vowels(mouths: list[Array], truths: list[Truth]) -> dict[str, Any]:
    counts = [metrics.vowels_shut(m, t.mouth, t.times) for m, t in zip(mouths, truths, strict=True)]
    whole, shut = (int(sum(column)) for column in zip(*counts, strict=True))
    return {"open_vowels": whole, "shut": shut, "share": shut / whole if whole else float("nan")}


def _pauses(mouths: list[Array], truths: list[Truth]) -> dict[str, Any]:
    """Pool the frames of all pauses, as if they were one."""
    rows = [(metrics.rest(m, t.speech), metrics.quiet(t.speech)) for m, t in zip(mouths, truths, strict=True)]
    frames = [int(quiet.sum()) for _, quiet in rows]
    return {
        "seconds": sum(frames) / FPS,
        "open": _mean([row["open"] for row, _ in rows], frames),
        "openings_a_minute": _mean([row["chatter"] for row, _ in rows], frames),
        "jaw": _mean([row["jaw"] for row, _ in rows], frames),
    }


def _jaw(mouths: list[Array], truths: list[Truth]) -> dict[str, float]:
    speech = [truth.speech > 0.5 for truth in truths]
    mine = np.concatenate([mouth[voice, 0] for mouth, voice in zip(mouths, speech, strict=True)])
    wanted = np.concatenate([truth.mouth[voice, 0] for truth, voice in zip(truths, speech, strict=True)])
    heard = [(mouth[:, 0], truth.mouth[:, 0]) for mouth, truth in zip(mouths, truths, strict=True)]
    lags = [metrics.delay(*pair, REACH) if pair[0].size > 2 * REACH else float("nan") for pair in heard]
    lag = _mean(lags, [truth.phone.size for truth in truths])
    return {
        "r": metrics.correlation(mine, wanted) if mine.size > 2 else float("nan"),
        "lag_frames": lag,
        "lag_ms": lag * 1000 / FPS,
    }


def _millimetres(gaps: list[NDArray[np.float64]], truths: list[Truth]) -> dict[str, float]:
    """Return medians in mm: the least gap of each p, b, m (a frame beyond it), of open vowels' middles, of pauses."""
    closures, vowels, rest = [], [], []
    for gap, truth in zip(gaps, truths, strict=True):
        for phone, start, end in truth.times:
            first, last = int(start * FPS), min(int(end * FPS), gap.size - 1)
            if int(phone) in (PHONE_INDEX[name] for name in "pbm"):
                closures.append(float(gap[max(first - 1, 0) : last + 2].min()))
            middle = min(int((start + end) / 2 * FPS), gap.size - 1)
            if metrics.lip_gap(truth.mouth)[middle] >= metrics.OPEN and metrics.is_vowel(int(phone)):
                vowels.append(float(gap[middle]))
        rest += gap[metrics.quiet(truth.speech)].tolist()
    groups = {"p_b_m": closures, "open_vowels": vowels, "pauses": rest}
    found = {name: float(np.median(values)) for name, values in groups.items() if values}
    return found | ({"p_b_m_under_1_mm": float(np.mean(np.array(closures) < 1.0))} if closures else {})


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Mean of the values that are there, by weight; nan where there is none."""
    kept = [(value, weight) for value, weight in zip(values, weights, strict=True) if not np.isnan(value)]
    total = sum(weight for _, weight in kept)
    return sum(value * weight for value, weight in kept) / total if total else float("nan")


def _plain(value: Any) -> Any:
    """Return the same with None for nan: JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
