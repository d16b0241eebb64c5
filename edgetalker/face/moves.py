"""What each ARKIT shape but the lids' does to points of the face: its left side, or the whole for middle shapes.

Each function takes `Spots` and returns displacements (N, 3) in centimetres at weight 1. Meanings: Apple,
ARFaceAnchor.BlendShapeLocation. The numbers are a sculptor's choices, judged by eye.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.regions import (
    Spots,
    around_lips,
    corner_pull,
    jaw_hold,
    jaw_rotation,
    jaw_weight,
    lip_gap,
    on_lip,
    push,
    share,
    spot,
)
from edgetalker.face.sculpt import MOUTH_HALF
from edgetalker.face.skin import fade

__all__ = ["LEFT", "MIDDLE"]

Array = NDArray[np.float64]
Move = Callable[[Spots], Array]


def _thin(s: Spots, amount: float, side: Array) -> Array:
    """Draw both outlines of the lips towards the line between them."""
    return push(on_lip(s, True) * side, 0, amount, -0.3 * amount) - push(
        on_lip(s, False) * side, 0, amount, 0.3 * amount
    )


def smile(s: Spots) -> Array:
    """Corner up, out and back; the cheek rises."""
    cheek = spot(s, (4.1, -3.7, 6.4), (1.7, 1.5, 3.0))
    pulled = push(corner_pull(s, 1.2), 0.72, 0.0, -0.50) + push(corner_pull(s, 2.2), 0, 0.82, 0)
    return pulled + push(cheek, 0.16, 0.42, 0.34) + _thin(s, 0.08, share(s.p[:, 0]))


def frown(s: Spots) -> Array:
    chin = spot(s, (0.9, -8.9, 8.0), (1.2, 0.9, 2.0))
    return push(corner_pull(s, 2.0), 0.15, -0.72, -0.12) + push(chin, 0, 0.14, 0.06)


def dimple(s: Spots) -> Array:
    dent = spot(s, (3.2, -6.8, 7.3), (0.8, 0.9, 2.0))
    return push(corner_pull(s), 0.42, 0.06, -0.50) + push(dent, -0.05, 0, -0.22)


def stretch(s: Spots) -> Array:
    return push(corner_pull(s), 0.75, -0.34, -0.50) + _thin(s, 0.12, share(s.p[:, 0]))


def press(s: Spots) -> Array:
    return _thin(s, 0.26, share(s.p[:, 0])) + push(corner_pull(s), 0.12, 0.05, -0.18)


def lower_down(s: Spots) -> Array:
    weight = lip_gap(s) * s.below * share(s.p[:, 0]) * around_lips(s, 2.6)
    return push(weight, 0.06, -0.66, -0.06)


def upper_up(s: Spots) -> Array:
    weight = lip_gap(s) * ~s.below * share(s.p[:, 0]) * around_lips(s, 2.5)
    fold = spot(s, (2.5, -4.7, 8.0), (1.1, 1.0, 2.0))
    return push(weight, 0.03, 0.58, 0.05) + push(fold * ~s.below, 0.06, 0.16, 0.10)


def cheek_squint(s: Spots) -> Array:
    return push(spot(s, (4.1, -2.6, 6.7), (1.7, 1.2, 2.5)), 0.04, 0.45, 0.24)


def sneer(s: Spots) -> Array:
    wing = spot(s, (1.15, -3.6, 8.8), (0.75, 0.95, 1.6))
    fold = spot(s, (2.0, -4.9, 8.3), (1.1, 1.0, 2.0)) * ~s.below
    bridge = spot(s, (0.6, -0.6, 8.6), (0.7, 0.9, 1.5))
    return (
        push(wing, 0.06, 0.36, 0.06)
        + push(fold, 0.04, 0.24, 0.08)
        + push(bridge, -0.05, 0.12, 0.10)
        + 0.28 * upper_up(s)
    )


def _above_lids(s: Spots) -> Array:
    return 1.0 - fade((s.p[:, 1] - 0.75) / 1.1)


def brow_down(s: Spots) -> Array:
    inner = spot(s, (1.4, 2.0, 8.2), (1.5, 1.1, 2.5))
    outer = spot(s, (3.6, 2.2, 7.4), (1.8, 1.1, 2.8))
    return push((0.75 * inner + 0.45 * outer) * _above_lids(s), -0.22, -0.62, 0.06)


def brow_outer_up(s: Spots) -> Array:
    return push(spot(s, (4.2, 2.5, 7.0), (1.7, 1.4, 3.0)) * _above_lids(s), 0.03, 0.80, -0.14)


def brow_inner_up(s: Spots) -> Array:
    both = spot(s, (1.2, 2.3, 8.2), (1.5, 1.4, 2.5)) + spot(s, (-1.2, 2.3, 8.2), (1.5, 1.4, 2.5))
    return push(np.minimum(both, 1.0) * _above_lids(s), 0, 0.78, 0.0)


def jaw_open(s: Spots) -> Array:
    return jaw_weight(s)[:, None] * jaw_rotation(s.p)


def jaw_forward(s: Spots) -> Array:
    return push(jaw_hold(s), 0, 0, 0.75)


def jaw_left(s: Spots) -> Array:
    return push(jaw_hold(s), 0.85, 0, 0)


def mouth_left(s: Spots) -> Array:
    shift = 0.85 * around_lips(s, 2.8, 3.2)
    back = -0.28 * np.clip(s.p[:, 0] + 0.4, -2.6, 2.6)  # slides on the curve of the face
    return np.stack([shift, 0 * shift, shift * back], 1)


def pucker(s: Spots) -> Array:
    near, side = around_lips(s, 2.8, 3.2), np.clip(np.abs(s.p[:, 0]) / MOUTH_HALF, 0, 1.2)
    full = 0.14 * (on_lip(s, False) - on_lip(s, True))
    return np.stack([-0.44 * s.p[:, 0] * near, full, near * (0.50 + 0.45 * fade(1.0 - side))], 1)


def funnel(s: Spots) -> Array:
    near, side = around_lips(s, 2.4, 2.4), np.clip(np.abs(s.p[:, 0]) / MOUTH_HALF, 0, 1.2)
    part = lip_gap(s) * near * np.where(s.below, -0.52, 0.44)
    flare = 0.16 * (on_lip(s, False) + on_lip(s, True))
    return np.stack([-0.30 * s.p[:, 0] * near, part, near * (0.45 + 0.3 * fade(1.0 - side)) + flare], 1)


def roll_lower(s: Spots) -> Array:
    return push(on_lip(s, True), 0, 0.44, -0.42)


def roll_upper(s: Spots) -> Array:
    return push(on_lip(s, False), 0, -0.36, -0.38)


def shrug_lower(s: Spots) -> Array:
    line = fade(s.rise / 1.3) * fade((-s.rise - 1.2) / 2.4) * around_lips(s, 4.0, 1.5) * lip_gap(s)
    chin = spot(s, (0, -8.7, 8.4), (1.7, 1.2, 2.2))
    return push(line, 0, 0.30, 0.05) + push(chin, 0, 0.22, 0.14) + push(on_lip(s, True), 0, 0.06, 0.20)


def shrug_upper(s: Spots) -> Array:
    line = fade((s.rise - 0.8) / 1.6) * fade(-s.rise / 1.5) * around_lips(s, 3.0, 1.5) * lip_gap(s)
    return push(line, 0, 0.28, 0.10) + push(on_lip(s, False), 0, 0.06, 0.14)


def cheek_puff(s: Spots) -> Array:
    left, right = (spot(s, (x, -6.1, 6.2), (1.8, 1.7, 2.8)) for x in (4.2, -4.2))
    return push(left, 0.75, 0, 0.42) + push(right, -0.75, 0, 0.42) + push(around_lips(s, 1.8, 1.5), 0, 0, 0.12)


def tongue_way(s: Spots) -> Array:
    """Part the lips a little for the tongue."""
    part = lip_gap(s) * around_lips(s, 2.4) * np.where(s.below, -0.42, 0.16)
    return push(part, 0, 1, 0) + push(on_lip(s, True), 0, 0, 0.10)


LEFT: dict[str, Move] = {
    "MouthSmileLeft": smile,
    "MouthFrownLeft": frown,
    "MouthDimpleLeft": dimple,
    "MouthStretchLeft": stretch,
    "MouthPressLeft": press,
    "MouthLowerDownLeft": lower_down,
    "MouthUpperUpLeft": upper_up,
    "CheekSquintLeft": cheek_squint,
    "NoseSneerLeft": sneer,
    "BrowDownLeft": brow_down,
    "BrowOuterUpLeft": brow_outer_up,
    "JawLeft": jaw_left,
    "MouthLeft": mouth_left,
}
MIDDLE: dict[str, Move] = {
    "JawOpen": jaw_open,
    "JawForward": jaw_forward,
    "MouthFunnel": funnel,
    "MouthPucker": pucker,
    "MouthRollLower": roll_lower,
    "MouthRollUpper": roll_upper,
    "MouthShrugLower": shrug_lower,
    "MouthShrugUpper": shrug_upper,
    "BrowInnerUp": brow_inner_up,
    "CheekPuff": cheek_puff,
    "TongueOut": tongue_way,
}
