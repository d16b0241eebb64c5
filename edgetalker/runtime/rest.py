"""Silence rests the mouth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.vad import VoiceActivity

__all__ = ["MouthRest", "speech_shapes"]


def speech_shapes(layout: MotionLayout) -> NDArray[np.intp]:
    """Return the places of the shapes that speech moves: jaw, lips, tongue, cheeks' puff.

    Smile, frown and dimple stay out: they carry the expression, which does not end with the voice. Motion without
    ARKit names has none.
    """
    kept = ("MouthSmile", "MouthFrown", "MouthDimple")
    moved = ("Jaw", "Mouth", "Tongue", "CheekPuff")
    names = layout.names if layout.kind == "arkit" else ()
    return np.array([i for i, n in enumerate(names) if n.startswith(moved) and not n.startswith(kept)], dtype=np.intp)


class MouthRest:
    """Eases speech shapes to 0 while nobody speaks; the rest of the face passes untouched.

    Speech ends `hang` seconds after the last voice; the mouth then closes over `release` seconds and comes back
    over `attack` seconds. Sound that does not come (a starved frame) counts as silence.
    """

    def __init__(
        self,
        layout: MotionLayout,
        rate: int,
        *,
        hang: float = 0.25,
        attack: float = 0.04,
        release: float = 0.2,
        activity: VoiceActivity | None = None,
    ) -> None:
        """rate: samples a second of what `hear` takes. Times in seconds."""
        self.activity = activity or VoiceActivity(rate)
        self.gain = 0.0
        self._hang = hang
        self._rise, self._fall = (1 / (max(time, 1e-6) * float(layout.fps)) for time in (attack, release))
        self._shapes = speech_shapes(layout)
        self._motion = np.zeros(layout.shape, np.float32)
        self._per_frame = rate / float(layout.fps)
        self._missing = 0.0

    def reset(self) -> None:
        """The talker begins anew: samples are counted from 0 again."""
        self.activity.reset()
        self._missing = 0.0

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Take the sound that the talker takes, in order."""
        self.activity.hear(samples)
        self._missing = 0.0

    def apply(self, frame: Frame) -> Frame:
        """Return the frame with its mouth at rest as far as it is quiet; its motion is reused by the next call."""
        if frame.outcome is Outcome.STARVED:
            self._missing += self._per_frame
        speaking = self.activity.speaking(frame.sample + int(self._missing), self._hang)
        self.gain = min(self.gain + self._rise, 1.0) if speaking else max(self.gain - self._fall, 0.0)
        if self.gain == 1.0 or not len(self._shapes):
            return frame
        np.copyto(self._motion, frame.motion)
        self._motion[self._shapes] *= np.float32(self.gain * self.gain * (3 - 2 * self.gain))
        return replace(frame, motion=self._motion)
