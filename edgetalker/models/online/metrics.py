"""Numbers for a talking face: mouth error, closures, delay, rest in silence, jitter, upper-face dynamics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import BILABIALS, PHONES, VOWELS
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.visemes import FPS, MOUTH

__all__ = [
    "CLOSED",
    "OPEN",
    "Closures",
    "Truth",
    "chance",
    "closures",
    "closures_of",
    "correlation",
    "delay",
    "false_closures",
    "is_vowel",
    "jitter",
    "lip_gap",
    "mouth_of",
    "quiet",
    "rest",
    "summary",
    "told_apart",
    "vowels_shut",
]

Array = NDArray[np.float32]
Truth = tuple[Array, Array, NDArray[np.uint8], Array]
"""What `summary` scores against: target mouth (T, 14), lips (T,), phone (T,), speech (T,)."""
CLOSED = 0.05
"""Lips count as shut where the gap is below this; open phones of the animator stay above 0.1."""
OPEN = 0.1
"""Lips count as open from this gap on."""
_INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}
_MOUTH = [[_INDEX[name] for name in names] for names in MOUTH]
_UPPER = ("EyeBlinkLeft", "BrowInnerUp", "BrowOuterUpLeft", "EyeLookUpLeft", "HeadYaw", "HeadPitch", "HeadRoll")


def mouth_of(motion: Array) -> Array:
    """Read the mouth channels (T, 14) out of ARKit motion (T, 55): the mean of left and right."""
    return np.stack([motion[:, places].mean(1) for places in _MOUTH], 1)


def lip_gap(mouth: Array) -> Array:
    """Return how far the lips are apart, (T,), in units of JawOpen: what the jaw opens and MouthClose leaves open."""
    gap: Array = mouth[:, 0] - mouth[:, 12] + 0.5 * (mouth[:, 6] + mouth[:, 7])
    return gap


@dataclass(frozen=True)
class Closures:
    """Counts that add up over sounds. events: bilabial closures in speech; found: those met within one frame;
    after_pause, found_after_pause: the same for closures right after a pause, counted apart; closed: frames shown
    shut in speech; right: those of them within one frame of a frame that should be shut."""

    events: int = 0
    found: int = 0
    after_pause: int = 0
    found_after_pause: int = 0
    closed: int = 0
    right: int = 0

    def __add__(self, other: Closures) -> Closures:
        return Closures(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        return (self.events, self.found, self.after_pause, self.found_after_pause, self.closed, self.right)

    def scores(self) -> dict[str, float]:
        """Return recall, precision, F1 and the recall after pauses; nan where nothing was counted."""
        recall, precision = _share(self.found, self.events), _share(self.right, self.closed)
        both = recall + precision
        return {
            "recall": recall,
            "precision": precision,
            "f1": 2 * recall * precision / both if both > 0 else 0.0,
            "recall_after_pause": _share(self.found_after_pause, self.after_pause),
            "events": float(self.events),
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _near(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wide: NDArray[np.bool_] = flags.copy()
    wide[1:] |= flags[:-1]
    wide[:-1] |= flags[1:]
    return wide


def _runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def closures(mouth: Array, target: Array, lips: Array, phone: NDArray[np.uint8], speech: Array) -> Closures:
    """Count closures. mouth, target (T, 14); lips (T,) the true contact; phone (T,); speech (T,)."""
    shown = lip_gap(mouth) < CLOSED
    should = (lip_gap(target) < CLOSED) | (lips >= 0.5)
    voice = speech > 0.5
    counts = [0, 0, 0, 0]
    for first, end in _runs(lips >= 0.5):
        after = bool(np.all(phone[max(first - 3, 0) : max(first - 1, 1)] == 0))
        counts[2 if after else 0] += 1
        counts[3 if after else 1] += bool(shown[max(first - 1, 0) : end + 1].any())
    closed = shown & voice
    events, found, after_pause, found_after_pause = counts
    right = int((closed & _near(should)).sum())
    return Closures(events, found, after_pause, found_after_pause, int(closed.sum()), right)


def chance(mouth: Array, target: Array, lips: Array, phone: NDArray[np.uint8], speech: Array) -> dict[str, float]:
    """Return the recall and precision that the same shut frames would have at other times of the same speech.

    The frames of speech are shifted in a circle against what should be, by half a second and more (fewer in a shorter
    speech), and the scores of all shifts averaged. nan without a closure or a shut frame.
    """
    voice = np.flatnonzero(speech > 0.5)
    least = min(FPS // 2, voice.size // 3)
    shifts = np.unique(np.linspace(least, voice.size - least, 200).astype(int)) if voice.size > 2 else np.zeros(0, int)
    total, moved = Closures(), mouth.copy()
    for shift in shifts:
        moved[voice] = np.roll(mouth[voice], shift, 0)
        total = total + closures(moved, target, lips, phone, speech)
    return {"recall": _share(total.found, total.events), "precision": _share(total.right, total.closed)}


def is_vowel(phone: int) -> bool:
    """Tell whether a place in PHONES is a vowel's."""
    return PHONES[phone] in VOWELS


def vowels_shut(mouth: Array, target: Array, times: Array) -> tuple[int, int]:
    """Return how many vowels there are whose middle should be open, and at how many of these the lips are shut."""
    gap, wanted = lip_gap(mouth), lip_gap(target)
    middles = [min(int((a + b) / 2 * FPS), gap.size - 1) for phone, a, b in times if is_vowel(int(phone))]
    kept = [frame for frame in middles if wanted[frame] >= OPEN]
    return len(kept), int(sum(gap[frame] < CLOSED for frame in kept))


PAIRS = (("aa", "ao"), ("f", "ih"), ("p", "iy"), ("b", "iy"), ("m", "iy"), ("sh", "iy"))
"""Phones that a viewer should tell apart."""


def told_apart(mouths: Sequence[Array], times: Sequence[Array]) -> dict[str, float]:
    """Return for each of PAIRS how surely a mouth (14,) in the middle of the one is told from one of the other.

    The area under the ROC curve (0.5: chance, 1: always) of Fisher's linear discriminant (1936), fitted on every other
    phone and scored on those between, and the other way round. Pairs with fewer than 20 of either are left out.
    """
    middles: dict[str, list[Array]] = {}
    for mouth, rows in zip(mouths, times, strict=True):
        for phone, a, b in rows:
            if (frame := int((a + b) / 2 * FPS)) < len(mouth):
                middles.setdefault(PHONES[int(phone)], []).append(mouth[frame])
    found = {}
    for pair in PAIRS:
        one, other = (np.array(middles.get(name, []), np.float32) for name in pair)
        if min(len(one), len(other)) >= 20:
            areas = [_area(one[k::2], other[k::2], one[1 - k :: 2], other[1 - k :: 2]) for k in (0, 1)]
            found["/".join(pair)] = float(np.mean(areas))
    return found


def _area(one: Array, other: Array, unseen_one: Array, unseen_other: Array) -> float:
    within = np.cov(np.concatenate([one - one.mean(0), other - other.mean(0)]).T)
    direction = np.linalg.solve(within + 1e-4 * np.eye(len(within)), one.mean(0) - other.mean(0))
    a, b = (unseen_one @ direction)[:, None], (unseen_other @ direction)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def false_closures(mouth: Array, target: Array, lips: Array, phone: NDArray[np.uint8], speech: Array) -> dict[str, int]:
    """Return in which phones' frames of speech the lips are shut that should not be within a frame, most first."""
    should = (lip_gap(target) < CLOSED) | (lips >= 0.5)
    wrong = (lip_gap(mouth) < CLOSED) & (speech > 0.5) & ~_near(should)
    counts = np.bincount(phone[wrong], minlength=len(PHONES))
    return {PHONES[place]: int(counts[place]) for place in np.argsort(-counts, kind="stable") if counts[place]}


def closures_of(mouth: Array, times: Array) -> Mapping[str, tuple[int, int]]:
    """Return for p, b and m how many there are and how many show shut lips within one frame, pauses included."""
    shown = lip_gap(mouth) < CLOSED
    counts = {}
    for name in sorted(BILABIALS):
        rows = times[times[:, 0] == PHONES.index(name)]
        hits = [bool(shown[max(int(a * FPS) - 1, 0) : int(b * FPS) + 2].any()) for _, a, b in rows]
        counts[name] = (len(hits), sum(hits))
    return counts


def delay(track: Array, target: Array, reach: int = 8) -> float:
    """Return by how many frames `track` comes after `target`: the peak of the cross-correlation, interpolated."""
    a, b = track - track.mean(), target - target.mean()
    if a.std() < 1e-6 or b.std() < 1e-6:
        return float("nan")
    lags = range(-reach, reach + 1)
    value = np.array(
        [np.mean(a[max(lag, 0) : a.size + min(lag, 0)] * b[max(-lag, 0) : b.size - max(lag, 0)]) for lag in lags]
    )
    peak = int(np.clip(value.argmax(), 1, value.size - 2))
    before, at, after = value[peak - 1 : peak + 2]
    bend = before - 2 * at + after
    return float(peak - reach + (0.5 * (before - after) / bend if bend < 0 else 0.0))


def rest(mouth: Array, speech: Array) -> dict[str, float]:
    """Return how the mouth rests in pauses from 200 ms after speech to 100 ms before: share open, jaw, chatter.

    open: share of frames with a lip gap of 0.1 or more; chatter: openings past 0.1 per minute of silence.
    """
    pause, gap = quiet(speech), lip_gap(mouth)
    if not pause.any():
        return {"open": float("nan"), "jaw": float("nan"), "jaw_max": float("nan"), "chatter": float("nan")}
    opened = (gap[1:] >= OPEN) & (gap[:-1] < OPEN) & pause[1:]
    return {
        "open": float(np.mean(gap[pause] >= OPEN)),
        "jaw": float(mouth[pause, 0].mean()),
        "jaw_max": float(mouth[pause, 0].max()),
        "chatter": float(opened.sum() / (pause.sum() / FPS / 60)),
    }


def quiet(speech: Array) -> NDArray[np.bool_]:
    """Return the frames (T,) of pauses, from 200 ms after speech (T,) to 100 ms before."""
    late, soon = int(0.2 * FPS), int(0.1 * FPS)
    pause = np.ones(speech.size, bool)
    for first, end in _runs(speech > 0.5):
        pause[max(first - soon, 0) : end + late] = False
    return pause


def jitter(track: Array) -> float:
    """Return the mean size of the second difference from frame to frame."""
    return float(np.abs(np.diff(track, 2, axis=0)).mean())


def blinks_per_minute(motion: Array) -> float:
    """Count how often the lids pass half-way down."""
    lid = motion[:, _INDEX["EyeBlinkLeft"]]
    return float(((lid[1:] >= 0.5) & (lid[:-1] < 0.5)).sum() / (lid.size / FPS / 60))


def upper(motion: Array) -> dict[str, float]:
    """Return the spread of brows, lids, gaze and head, the head's speed in rad/s, and blinks a minute."""
    spread = {name: float(motion[:, _INDEX[name]].std()) for name in _UPPER}
    speed = float(np.abs(np.diff(motion[:, -3:], axis=0)).mean() * FPS)
    return {**spread, "head_speed": speed, "blinks_per_minute": blinks_per_minute(motion)}


def summary(mouths: Sequence[Array], truths: Sequence[Truth]) -> dict[str, float]:
    """Score mouths (T, 14) against truths (target mouth, lips, phone, speech), all sounds of a group together."""
    total, errors, ours, theirs, lags = Closures(), [], [], [], []
    for mouth, (target, lips, phone, speech) in zip(mouths, truths, strict=True):
        total = total + closures(mouth, target, lips, phone, speech)
        voice = speech > 0.5
        errors.append(np.abs(mouth - target)[voice])
        ours.append(mouth[voice])
        theirs.append(target[voice])
        lags.append(delay(mouth[:, 0], target[:, 0]))
    mine, wanted = np.concatenate(ours), np.concatenate(theirs)
    quiet = [rest(mouth, truth[3]) for mouth, truth in zip(mouths, truths, strict=True)]
    return {
        "mae": float(np.concatenate(errors).mean()),
        "mae_jaw": float(np.concatenate(errors)[:, 0].mean()),
        "r_jaw": correlation(mine[:, 0], wanted[:, 0]),
        "r_mouth": float(np.nanmean([correlation(mine[:, c], wanted[:, c]) for c in range(wanted.shape[1])])),
        "spread": float(np.mean(mine.std(0) / np.maximum(wanted.std(0), 1e-3))),
        "delay": float(np.nanmean(lags)) if not np.all(np.isnan(lags)) else float("nan"),
        "jitter": float(np.mean([jitter(m) for m in mouths]) / np.mean([jitter(t[0]) for t in truths])),
        **total.scores(),
        **{f"rest_{key}": float(np.nanmean([q[key] for q in quiet])) for key in ("open", "jaw", "chatter")},
    }


def correlation(a: Array, b: Array) -> float:
    """Return Pearson's r; 0 where one of the two does not move."""
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
