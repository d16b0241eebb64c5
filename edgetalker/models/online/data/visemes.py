"""Mouth shapes from timed phones: dominance functions (Cohen and Massaro 1993) and the rules of JALI.

Each phone pulls every mouth channel towards a target of its own, with a dominance that is flat over the middle
half of the phone and falls off as exp(-(theta * distance)^1.2); a channel's value is the mean of the targets
weighted by dominance. On top lie the rules of Edwards et al. 2016 that blending must not soften: bilabials
close the lips, labiodentals bring the lower lip to the teeth, sibilants narrow the jaw, stressed (loud) vowels
open it. MouthClose follows ARKit's rigs: it cancels the gap that JawOpen makes, so lips are shut where the two
are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import BILABIALS, LABIODENTALS, PHONE_INDEX, PHONES, VOWELS, Segment

__all__ = ["FPS", "MOUTH", "VISEME", "Contacts", "blend", "compose", "contacts"]

Array = NDArray[np.float32]
FPS = 30
VISEME = "jaw funnel pucker stretch roll_lower roll_upper lower_down upper_up shrug smile forward tongue".split()
MOUTH: tuple[tuple[str, ...], ...] = (
    ("JawOpen",), ("MouthFunnel",), ("MouthPucker",), ("MouthStretchLeft", "MouthStretchRight"),
    ("MouthRollLower",), ("MouthRollUpper",), ("MouthLowerDownLeft", "MouthLowerDownRight"),
    ("MouthUpperUpLeft", "MouthUpperUpRight"), ("MouthShrugUpper",), ("MouthSmileLeft", "MouthSmileRight"),
    ("JawForward",), ("TongueOut",), ("MouthClose",), ("MouthPressLeft", "MouthPressRight"),
)  # fmt: skip
"""The mouth channels and the ARKit shapes that each of them drives alike on both sides."""

# jaw funnel pucker stretch rollL rollU lowerDown upperUp shrug smile forward tongue
_TARGETS: dict[str, tuple[float, ...]] = {
    "sil": (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
    "bilabial": (0.10, 0.00, 0.05, 0.05, 0.25, 0.20, 0.00, 0.00, 0.05, 0.00, 0.00, 0.00),
    "labiodental": (0.10, 0.05, 0.00, 0.05, 0.50, 0.00, 0.00, 0.20, 0.00, 0.00, 0.00, 0.00),
    "dental": (0.16, 0.00, 0.00, 0.12, 0.00, 0.00, 0.25, 0.12, 0.00, 0.05, 0.00, 0.30),
    "alveolar": (0.14, 0.00, 0.00, 0.14, 0.00, 0.00, 0.24, 0.12, 0.00, 0.05, 0.00, 0.00),
    "sibilant": (0.06, 0.00, 0.00, 0.28, 0.00, 0.00, 0.38, 0.18, 0.00, 0.12, 0.05, 0.00),
    "postalveolar": (0.08, 0.50, 0.25, 0.00, 0.00, 0.00, 0.30, 0.24, 0.05, 0.00, 0.10, 0.00),
    "velar": (0.20, 0.00, 0.00, 0.08, 0.00, 0.00, 0.18, 0.10, 0.00, 0.02, 0.00, 0.00),
    "glottal": (0.26, 0.00, 0.00, 0.05, 0.00, 0.00, 0.18, 0.10, 0.00, 0.00, 0.00, 0.00),
    "l": (0.20, 0.00, 0.00, 0.10, 0.00, 0.00, 0.22, 0.12, 0.00, 0.03, 0.00, 0.10),
    "r": (0.16, 0.30, 0.20, 0.00, 0.00, 0.00, 0.16, 0.14, 0.00, 0.00, 0.00, 0.00),
    "w": (0.14, 0.30, 0.75, 0.00, 0.00, 0.00, 0.06, 0.04, 0.00, 0.00, 0.00, 0.00),
    "y": (0.12, 0.00, 0.00, 0.28, 0.00, 0.00, 0.26, 0.14, 0.00, 0.18, 0.00, 0.00),
    "aa": (0.62, 0.00, 0.00, 0.08, 0.00, 0.00, 0.34, 0.16, 0.00, 0.00, 0.00, 0.00),
    "ae": (0.54, 0.00, 0.00, 0.30, 0.00, 0.00, 0.42, 0.22, 0.00, 0.10, 0.00, 0.00),
    "ah": (0.44, 0.00, 0.00, 0.08, 0.00, 0.00, 0.28, 0.14, 0.00, 0.00, 0.00, 0.00),
    "ao": (0.48, 0.45, 0.20, 0.00, 0.00, 0.00, 0.22, 0.14, 0.00, 0.00, 0.00, 0.00),
    "eh": (0.40, 0.00, 0.00, 0.24, 0.00, 0.00, 0.34, 0.18, 0.00, 0.08, 0.00, 0.00),
    "er": (0.26, 0.30, 0.18, 0.00, 0.00, 0.00, 0.22, 0.14, 0.00, 0.00, 0.00, 0.00),
    "ih": (0.24, 0.00, 0.00, 0.26, 0.00, 0.00, 0.30, 0.16, 0.00, 0.12, 0.00, 0.00),
    "iy": (0.16, 0.00, 0.00, 0.36, 0.00, 0.00, 0.32, 0.18, 0.00, 0.24, 0.00, 0.00),
    "ix": (0.20, 0.00, 0.00, 0.16, 0.00, 0.00, 0.26, 0.14, 0.00, 0.06, 0.00, 0.00),
    "uh": (0.24, 0.38, 0.35, 0.00, 0.00, 0.00, 0.16, 0.10, 0.00, 0.00, 0.00, 0.00),
    "uw": (0.18, 0.34, 0.72, 0.00, 0.00, 0.00, 0.08, 0.06, 0.00, 0.00, 0.00, 0.00),
    "ue": (0.16, 0.36, 0.64, 0.00, 0.00, 0.00, 0.12, 0.08, 0.00, 0.00, 0.00, 0.00),
    "oe": (0.34, 0.46, 0.32, 0.00, 0.00, 0.00, 0.18, 0.12, 0.00, 0.00, 0.00, 0.00),
    "ax": (0.28, 0.00, 0.00, 0.08, 0.00, 0.00, 0.24, 0.12, 0.00, 0.00, 0.00, 0.00),
}  # fmt: skip
_CLASS: dict[str, str] = {
    **dict.fromkeys("p b m".split(), "bilabial"), **dict.fromkeys("f v".split(), "labiodental"),
    **dict.fromkeys("th dh".split(), "dental"), **dict.fromkeys("t d n".split(), "alveolar"),
    **dict.fromkeys("s z".split(), "sibilant"), **dict.fromkeys("sh zh".split(), "postalveolar"),
    **dict.fromkeys("k g x ng ny".split(), "velar"), **dict.fromkeys("h q".split(), "glottal"),
}  # fmt: skip
# How firmly a class holds the jaw, the rounding of the lips, and their height, against its neighbours.
_STRENGTH: dict[str, tuple[float, float, float]] = {
    "sil": (1.0, 1.0, 1.0), "bilabial": (0.8, 0.15, 0.9), "labiodental": (0.8, 0.2, 0.9), "dental": (0.7, 0.3, 0.5),
    "alveolar": (0.7, 0.2, 0.35), "sibilant": (1.0, 0.6, 0.8), "postalveolar": (1.0, 1.0, 0.9),
    "velar": (0.4, 0.1, 0.25), "glottal": (0.15, 0.05, 0.1), "l": (0.6, 0.2, 0.4), "r": (0.6, 0.7, 0.5),
    "w": (0.8, 1.1, 0.9), "y": (0.6, 0.7, 0.6), "ax": (0.5, 0.4, 0.5), "ix": (0.6, 0.5, 0.6),
}  # fmt: skip
_GROUP = np.array([0, 1, 1, 1, 3, 3, 2, 2, 2, 1, 0, 3])  # jaw, rounding, height, quick ones
_THETA = np.array([11.0, 8.5, 14.0, 18.0], np.float32)  # 1/s, from the probe's fits by eye
_RAMP = 0.045  # seconds over which lips close and open again
_BLEND_FRAMES = 4096


@dataclass(frozen=True)
class Contacts:
    """How far lips are pressed together, and the lower lip is at the teeth, each (T,) in [0, 1]."""

    lips: Array
    teeth: Array


def frame_times(frames: int) -> NDArray[np.float64]:
    """Return the middles of the frames, seconds."""
    return (np.arange(frames) + 0.5) / FPS


def blend(segments: Sequence[Segment], frames: int, stress: Array) -> Array:
    """Return the viseme channels (T, 12) of a whole sound, without contacts.

    stress: (T,) about 1, how loud the voice is against its own mean; scales the opening of vowels.
    """
    cover = [*segments, Segment("sil", segments[-1].end if segments else 0.0, frames / FPS + 1.0)]
    starts = np.array([s.start for s in cover], np.float32)
    ends = np.array([s.end for s in cover], np.float32)
    names = [_CLASS.get(s.phone, s.phone) for s in cover]
    targets = np.array([_TARGETS[name] for name in names], np.float32)
    strength = np.array([_STRENGTH.get(name, (1.0, 1.0, 1.0)) for name in names], np.float32)
    _open_by_stress(targets, cover, stress)
    inner = np.where(np.array(names) == "sil", np.minimum(0.25 * (ends - starts), 0.06), 0.25 * (ends - starts))
    times = frame_times(frames).astype(np.float32)[:, None]
    distance = np.maximum(np.maximum(starts + inner - times, times - (ends - inner)), 0.0)
    value = np.empty((frames, len(VISEME)), np.float32)
    for group, theta in enumerate(_THETA):
        pull = strength[:, min(group, 2)] * np.exp(-((theta * distance) ** 1.2)) + 1e-12
        columns = np.flatnonzero(group == _GROUP)
        value[:, columns] = (pull @ targets[:, columns]) / pull.sum(1, keepdims=True)
    return value


def _open_by_stress(targets: Array, segments: Sequence[Segment], stress: Array) -> None:
    for index, segment in enumerate(segments):
        if segment.phone in VOWELS and stress.size:
            middle = min(int((segment.start + segment.end) / 2 * FPS), stress.size - 1)
            gain = float(np.clip(stress[middle], 0.7, 1.3))
            targets[index, [0, 6, 7]] *= gain


def contacts(segments: Sequence[Segment], frames: int) -> Contacts:
    """Return the contact tracks; the frame nearest to a closure's middle always reaches 1.

    /p b/ hold from 10 ms before their start over 75 % of their length (the rest is the burst), /m f v/ over
    all of it. Closures shorter than a frame would otherwise fall between two frames.
    """
    times = frame_times(frames)
    lips, teeth = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
    for segment in segments:
        if segment.phone not in BILABIALS | LABIODENTALS:
            continue
        track = lips if segment.phone in BILABIALS else teeth
        start = segment.start - 0.01
        end = segment.start + (0.75 if segment.phone in "pb" else 1.0) * (segment.end - segment.start)
        first, last = max(int((start - _RAMP) * FPS) - 1, 0), min(int((end + _RAMP) * FPS) + 2, frames)
        away = np.maximum(np.maximum(start - times[first:last], times[first:last] - end), 0.0)
        track[first:last] = np.maximum(track[first:last], np.clip(1.0 - away / _RAMP, 0.0, 1.0))
        track[min(int((start + end) / 2 * FPS), frames - 1)] = 1.0
    return Contacts(lips, np.minimum(teeth, 1.0 - lips))


def compose(viseme: Array, touch: Contacts, articulation: float | Array = 1.0) -> Array:
    """Return the mouth channels (T, 14): scaled articulation with hard contacts on top.

    articulation scales all movement but not the contacts: a mumbling mouth still closes at /p b m/.
    """
    value = np.zeros((viseme.shape[0], len(MOUTH)), np.float32)
    scale = np.broadcast_to(np.asarray(articulation, np.float32), (viseme.shape[0],))[:, None]
    value[:, :12] = np.clip(viseme * scale, 0.0, 1.0)
    lips, teeth = touch.lips, touch.teeth
    either = np.maximum(lips, teeth)
    value[:, 0] += either * (np.minimum(value[:, 0], 0.12) - value[:, 0])
    value[:, 6] *= 1.0 - either
    value[:, 7] = value[:, 7] * (1.0 - either) + 0.2 * teeth
    value[:, [3, 9, 11]] *= (1.0 - 0.6 * lips)[:, None]
    value[:, 4] = np.maximum(value[:, 4] * (1.0 - either), np.maximum(0.25 * lips, 0.5 * teeth))
    value[:, 5] = np.maximum(value[:, 5] * (1.0 - either), 0.2 * lips)
    value[:, 12] = lips * value[:, 0]
    value[:, 13] = 0.3 * lips
    return value


def phone_track(segments: Sequence[Segment], frames: int) -> NDArray[np.uint8]:
    """Return the index in PHONES of the phone at each frame's middle, (T,)."""
    track = np.full(frames, PHONES.index("sil"), np.uint8)
    for segment in segments:
        first = max(int(np.ceil(segment.start * FPS - 0.5)), 0)
        last = min(int(np.ceil(segment.end * FPS - 0.5)), frames)
        track[first:last] = PHONE_INDEX[segment.phone]
    return track
