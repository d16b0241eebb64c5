"""What the mouth does not do: head motion, brows, gaze, blinks, and the emotions' offsets on all shapes.

Heads move with the voice (nods and brow raises on accents, Busso et al. 2007; Graf et al. 2002) around a posture
that changes every few seconds. Blinks are a renewal process: 15 to 20 a minute while speaking, more at the ends of
phrases, closing in about 80 ms and opening in about 150 ms (Bentivoglio et al. 1997; Guitton et al. 1991).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from edgetalker.models.online.data.shapes import HEAD_ANGLES, MOTION_NAMES
from edgetalker.models.online.data.visemes import FPS, MOUTH

__all__ = ["BLINK", "DROOP", "EMOTIONS", "GAZE", "Mood", "Prosody", "animate", "blink_track"]

Array = NDArray[np.float32]
EMOTIONS = ("joy", "sadness", "anger", "surprise")
INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}
BLINK = np.array([0.55, 1.0, 1.0, 0.75, 0.4, 0.15], np.float32)  # 30 fps: about 70 ms down, 130 ms up
_BOTH = "Left Right".split()


@dataclass(frozen=True)
class Prosody:
    """accent: (T,) bumps of about 1 at stressed syllables; speech: (T,) 1 where the voice is on."""

    accent: Array
    speech: Array


@dataclass(frozen=True)
class Mood:
    """emotion: (T, 4) intensities of EMOTIONS in [0, 1]; articulation, head: strengths, 1 the usual, (T,)."""

    emotion: Array
    articulation: Array
    head: Array


# Offsets at intensity 1; names without a side mean both sides. Head angles in radians.
_OFFSETS: dict[str, dict[str, float]] = {
    "joy": {"MouthSmile": 0.6, "CheekSquint": 0.5, "EyeSquint": 0.22, "BrowOuterUp": 0.12, "MouthDimple": 0.18,
            "MouthUpperUp": 0.06, "HeadPitch": -0.03},
    "sadness": {"BrowInnerUp": 0.65, "MouthFrown": 0.5, "EyeSquint": 0.12, "EyeLookDown": 0.15, "MouthShrugLower": 0.22,
                "HeadPitch": 0.08, "HeadRoll": 0.03},
    "anger": {"BrowDown": 0.75, "NoseSneer": 0.4, "EyeSquint": 0.38, "MouthFrown": 0.18, "JawForward": 0.12,
              "MouthUpperUp": 0.1, "HeadPitch": 0.04},
    "surprise": {"EyeWide": 0.65, "BrowInnerUp": 0.55, "BrowOuterUp": 0.65, "JawOpen": 0.1, "HeadPitch": -0.04},
}  # fmt: skip
DROOP = _OFFSETS["sadness"]["EyeLookDown"]
"""How far sadness lowers the gaze."""
GAZE = (0.12, 0.08)
"""Standard deviations of where the eyes look, across and up, in units of the EyeLook shapes."""
BLINK_DROOP = 0.25
"""How far a closing lid lowers the gaze."""
_MOTION_SCALE = np.array([0.2, -0.4, 0.3, 0.15], np.float32)  # how an emotion changes the size of head motion


def animate(mouth: Array, lips: Array, prosody: Prosody, mood: Mood, rng: np.random.Generator) -> Array:
    """Return the whole face (T, 55): ARKit shapes in [0, 1], then yaw, pitch, roll in radians.

    mouth: (T, 14) composed channels; lips: (T,) lip contact, which no emotion may open. Positive yaw turns the
    head to its own left, positive pitch nods it down, positive roll tilts it to its own right.
    """
    motion = np.zeros((mouth.shape[0], len(MOTION_NAMES)), np.float32)
    for column, names in enumerate(MOUTH):
        for name in names:
            motion[:, INDEX[name]] = mouth[:, column]
    _brows(motion, prosody, mood, rng)
    blink = blink_track(prosody.speech, rng)
    _eyes(motion, blink, rng)
    _head(motion, prosody, mood, rng)
    _emotions(motion, lips, prosody, mood)
    shapes = len(MOTION_NAMES) - len(HEAD_ANGLES)
    motion[:, :shapes] = np.clip(motion[:, :shapes], 0.0, 1.0)
    return motion


def _sides(name: str) -> list[int]:
    return [INDEX[name]] if name in INDEX else [INDEX[name + side] for side in _BOTH]


def _smooth(track: Array, seconds: float) -> Array:
    """Follow `track` with two equal first-order lags, causally; starts at the track's first value."""
    keep = float(np.exp(-1.0 / (FPS * seconds)))
    for _ in range(2):
        first = track[:1] * keep
        track = lfilter([1 - keep], [1, -keep], track, axis=0, zi=first)[0].astype(np.float32)
    return track


def _steps(frames: int, seconds: float, width: int, rng: np.random.Generator) -> Array:
    """Return (T, width) piecewise constant normal values, held for gamma-distributed times of that mean."""
    count = int(frames / FPS / seconds * 3) + 8
    lengths = np.maximum((rng.gamma(2.0, seconds / 2.0, count) * FPS).astype(int), 6)
    values = np.repeat(rng.standard_normal((count, width)), lengths, axis=0)
    while values.shape[0] < frames:
        values = np.concatenate([values, values])
    return values[:frames].astype(np.float32)


def blink_track(speech: Array, rng: np.random.Generator) -> Array:
    """Return the lids' closure (T,): intervals lognormal around 3.5 s, 0.5 s at least, some at phrase ends."""
    frames = speech.shape[0]
    track = np.zeros(frames + 8, np.float32)
    ends = {int(t) for t in np.flatnonzero((speech[:-1] > 0.5) & (speech[1:] <= 0.5)) if rng.random() < 0.4}
    due = int(rng.uniform(0.3, 4.0) * FPS)
    last = -FPS
    for frame in range(frames):
        if frame < last + FPS // 2 or (frame < due and frame not in ends):
            continue
        track[frame : frame + 6] = np.maximum(track[frame : frame + 6], BLINK)[: track.size - frame]
        last, due = frame, frame + int(max(0.5, rng.lognormal(1.25, 0.5)) * FPS)
    return track[:frames]


def _eyes(motion: Array, blink: Array, rng: np.random.Generator) -> None:
    gaze = _smooth(_steps(motion.shape[0], 1.4, 2, rng) * np.array(GAZE, np.float32), 0.02)
    motion[:, INDEX["EyeBlinkLeft"]] = blink
    motion[:, INDEX["EyeBlinkRight"]] = blink
    right, up = gaze[:, 0], gaze[:, 1]
    motion[:, INDEX["EyeLookOutLeft"]] = motion[:, INDEX["EyeLookInRight"]] = np.maximum(-right, 0)
    motion[:, INDEX["EyeLookInLeft"]] = motion[:, INDEX["EyeLookOutRight"]] = np.maximum(right, 0)
    for side in _BOTH:
        motion[:, INDEX[f"EyeLookUp{side}"]] = np.maximum(up, 0)
        motion[:, INDEX[f"EyeLookDown{side}"]] = np.maximum(-up, 0) + BLINK_DROOP * blink


def _brows(motion: Array, prosody: Prosody, mood: Mood, rng: np.random.Generator) -> None:
    base = 0.04 + 0.04 * _smooth(_steps(motion.shape[0], 3.0, 1, rng), 0.25)[:, 0]
    lift = base + 0.22 * _smooth(prosody.accent, 0.05) * (0.5 + 0.5 * mood.head)
    motion[:, INDEX["BrowInnerUp"]] = 0.8 * lift
    for index in _sides("BrowOuterUp"):
        motion[:, index] = lift


def _head(motion: Array, prosody: Prosody, mood: Mood, rng: np.random.Generator) -> None:
    frames = motion.shape[0]
    size = mood.head * (1.0 + np.clip(mood.emotion, 0, 1) @ _MOTION_SCALE)
    posture = _smooth(_steps(frames, 2.4, 3, rng) * np.array([0.085, 0.045, 0.035], np.float32), 0.30)
    active = 0.35 + 0.65 * _smooth(prosody.speech.astype(np.float32), 0.3)
    nod = 0.09 * _smooth(prosody.accent, 0.07)
    sway = _smooth(_steps(frames, 0.7, 3, rng) * np.array([0.02, 0.015, 0.012], np.float32), 0.15)
    angles = (posture + sway) * active[:, None]
    angles[:, 1] += nod
    motion[:, -3:] = angles * size[:, None]


def _emotions(motion: Array, lips: Array, prosody: Prosody, mood: Mood) -> None:
    talking = 1.0 - 0.35 * _smooth(prosody.speech.astype(np.float32), 0.08)
    for column, emotion in enumerate(EMOTIONS):
        amount = mood.emotion[:, column]
        for name, value in _OFFSETS[emotion].items():
            scale = talking * (1.0 - lips) if name in ("JawOpen", "MouthUpperUp") else np.ones_like(talking)
            if name.startswith("Mouth"):
                scale = scale * talking
            for index in _sides(name):
                motion[:, index] += value * amount * scale
