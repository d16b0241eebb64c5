"""VRM's five vowels and two blinks, made from ARKit shapes for avatars without Perfect Sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.sinks.names import positions

__all__ = ["PRESETS", "Presets"]

PRESETS: Mapping[str, tuple[str, ...]] = {
    "vrm0": ("A", "I", "U", "E", "O", "Blink_L", "Blink_R"),
    "vrm1": ("aa", "ih", "ou", "ee", "oh", "blinkLeft", "blinkRight"),
}

_NEEDED = (
    "JawOpen MouthClose MouthFunnel MouthPucker MouthStretchLeft MouthStretchRight MouthSmileLeft MouthSmileRight "
    "EyeBlinkLeft EyeBlinkRight"
).split()


class Presets:
    """A rule of this project, not of a standard: how open, how round and how wide the mouth is gives the vowel.

    O takes funnel, U takes pucker, I takes a wide and E a wide and open mouth, A what opening remains. The five
    never add up to more than 1, as the clips of most avatars are made to be used one at a time.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._places = positions(_NEEDED, names)
        self._out = np.zeros(7, np.float32)

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return A, I, U, E, O, left blink, right blink in [0, 1], shape (7,), reused by the next call."""
        given = np.where(self._places < 0, np.float32(0), values[self._places]).clip(0, 1)
        jaw, close, funnel, pucker = (float(value) for value in given[:4])
        wide = float(given[4:8].sum()) / 2
        opened = max(jaw - close, 0.0)
        wide = min(wide, 1.0)
        o, u, i, e = funnel, pucker, wide * (1 - min(2 * opened, 1)), wide * min(2 * opened, 1)
        a = min(2 * opened, 1) * (1 - min(o + u + e, 1))
        scale = 1 / max(a + i + u + e + o, 1.0)
        self._out[:5] = np.array([a, i, u, e, o], np.float32) * np.float32(scale)
        self._out[5:] = given[8:]
        return self._out
