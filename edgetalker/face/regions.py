"""Where on the face a movement acts: soft weights over points, and the jaw's hinge. Lengths in centimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.sculpt import MOUTH_HALF
from edgetalker.face.skin import Skin, bump, fade

__all__ = [
    "Spots",
    "around_lips",
    "corner_pull",
    "jaw_hold",
    "jaw_rotation",
    "jaw_weight",
    "lip_gap",
    "on_lip",
    "push",
    "share",
    "spot",
]

Array = NDArray[np.float64]
HINGE = np.array([0.0, -1.2, 0.6])
JAW_ANGLE = np.radians(18.0)


@dataclass(frozen=True)
class Spots:
    """Points to move: positions p (N, 3); rise (N,): rows over the lips' line, on which the upper lip spans
    0 to 1 and the lower lip 0 to -1.1; below (N,): hangs on the lower side of the mouth."""

    p: Array
    rise: Array
    below: NDArray[np.bool_]

    @classmethod
    def of_skin(cls, skin: Skin, below: NDArray[np.bool_]) -> Spots:
        """Return the grid vertices of the skin."""
        n = skin.grid
        return cls(skin.positions[:n], skin.flat[:n, 1] - sculpt.MOUTH_HEIGHT, below)

    @classmethod
    def of_points(cls, p: Array) -> Spots:
        """Return points that are not the skin's own (brows)."""
        rise = p[:, 1] - sculpt.MOUTH_HEIGHT
        return cls(p, rise, rise < 0)


def push(weight: Array, *by: float) -> Array:
    """Return displacements (N, 3): a vector by a weight."""
    moved: Array = weight[:, None] * np.asarray(by)
    return moved


def share(x: Array, width: float = 1.0) -> Array:
    """Return the left side's share of a movement: 1 on the left, 0 on the right, together with its mirror 1."""
    return fade(0.5 - x / (2 * width))


def around_lips(s: Spots, tall: float = 2.2, wide: float = 2.6) -> Array:
    """Return 1 on the lips' line, fading with the distance from the lips; the front of the face only."""
    beyond = np.maximum(np.abs(s.p[:, 0]) - MOUTH_HALF, 0.0)
    return fade(np.abs(s.rise) / tall) * fade(beyond / wide) * fade((4.0 - s.p[:, 2]) / 2.0)


def corner_pull(s: Spots, power: float = 1.4) -> Array:
    """Return how much a point follows the left corner of the mouth: nothing in the middle, all at the corner."""
    return np.clip(s.p[:, 0] / MOUTH_HALF, 0.0, 1.0) ** power * around_lips(s, 2.9, 3.0)


def lip_gap(s: Spots) -> Array:
    """Return how much a point opens with the lips: 1 in the middle, 0 at the corners and outside."""
    widen = MOUTH_HALF + 0.6 * np.abs(s.rise)
    return np.sqrt(np.maximum(1.0 - (s.p[:, 0] / widen) ** 2, 0.0))


def on_lip(s: Spots, below: bool) -> Array:
    """Return a weight over the red of one lip: 0 where the lips meet, 1 over the lip, 0 past its outline."""
    r = -s.rise / sculpt.LIP_DOWN if below else s.rise / sculpt.LIP_UP
    side = s.below if below else ~s.below
    up = 1.0 - fade(r / 0.55)
    return up * fade((r - 0.9) / 1.1) * lip_gap(s) * side * around_lips(s, 3.0)


def _jaw_turn(p: Array, start: float, end: float) -> Array:
    """Return 0 above and 1 below: by the angle under the horizontal through the hinge, start to end degrees."""
    angle = np.degrees(np.arctan2(HINGE[1] - p[:, 1], np.maximum(p[:, 2] - HINGE[2], 0.05)))
    front = 1.0 - fade((p[:, 2] + 1.0) / 5.0)
    return (1.0 - fade((angle - start) / (end - start))) * front * fade((-11.9 - p[:, 1]) / 2.4)


def jaw_weight(s: Spots) -> Array:
    """Return how much a point turns with the jaw when it opens: the lower lip wholly, the upper lip not."""
    widen = MOUTH_HALF + 0.55 * np.abs(s.rise)
    middle = fade((np.abs(s.p[:, 0]) / widen - 0.2) / 0.8)
    middle *= (s.p[:, 2] > 0) * fade((-11.9 - s.p[:, 1]) / 2.4) * (1.0 - fade((s.p[:, 2] + 1.0) / 5.0))
    whole = _jaw_turn(s.p, 12.0, 55.0)
    return whole + (np.where(s.below, 1.0, 0.0) - whole) * middle


def jaw_hold(s: Spots) -> Array:
    """Return how much a point shifts with the jaw while the lips stay shut (jaw left, right, forward)."""
    return _jaw_turn(s.p, 14.0, 46.0) * fade((np.abs(s.p[:, 0]) - 3.0) / 3.6)


def jaw_rotation(p: Array) -> Array:
    """Return what the fully open jaw adds to points (N, 3) that follow it wholly."""
    q = p - HINGE
    c, s = np.cos(JAW_ANGLE), np.sin(JAW_ANGLE)
    y, z = q[:, 1] * c - q[:, 2] * s, q[:, 1] * s + q[:, 2] * c
    return np.stack([np.zeros(len(p)), y - q[:, 1], z - q[:, 2]], 1)


def spot(s: Spots, centre: tuple[float, float, float], size: tuple[float, float, float]) -> Array:
    """Return a Gaussian weight on one side of the face."""
    return bump(s.p, centre, size)
