"""How the left eye's lids and eyeball move: lids slide over the eyeball, so that a shut eye is really shut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.grid import GRID
from edgetalker.face.sculpt import EYE_CENTRE
from edgetalker.face.sdf import onto_surface
from edgetalker.face.skin import Skin, eye_fraction, lid_fade, opening

__all__ = ["GAZE", "LIDS", "eyeball_turn", "lid_delta"]

Array = NDArray[np.float64]
# shape: how far (upper, lower) lid moves at the middle, in centimetres; the blink is by its meeting line
LIDS: dict[str, tuple[float, float]] = {
    "EyeSquintLeft": (-0.14, 0.26),
    "EyeWideLeft": (0.26, -0.10),
    "EyeLookDownLeft": (-0.34, -0.12),
    "EyeLookUpLeft": (0.16, 0.06),
    "CheekSquintLeft": (0.0, 0.14),
    "MouthSmileLeft": (0.0, 0.10),
}
# shape: degrees about +X (down) and about +Y (to the face's left)
GAZE: dict[str, tuple[float, float]] = {
    "EyeLookDownLeft": (24.0, 0.0),
    "EyeLookUpLeft": (-20.0, 0.0),
    "EyeLookInLeft": (0.0, -26.0),
    "EyeLookOutLeft": (0.0, 26.0),
}
_MEET = 0.72  # of the way from the eye's row to the open lower lid


def lid_delta(skin: Skin, name: str) -> Array:
    """Return what a shape adds to all skin vertices (N, 3) around the left eye."""
    grid = skin.positions[: skin.grid]
    left = (grid[:, 0] > 0) & (lid_fade(skin.flat[: skin.grid], GRID.below_eye) > 0)
    down = _edge_way(grid[:, 0], name) * lid_fade(skin.flat[: skin.grid], GRID.below_eye) * left
    moved = np.flatnonzero(np.abs(down) > 1e-9)
    delta = np.zeros_like(skin.positions)
    target = grid[moved] + np.stack([0 * moved, down[moved], 0 * moved], 1)
    target = onto_surface(sculpt.skin, target, np.broadcast_to([0.0, 0.0, 1.0], target.shape), rounds=24)
    delta[moved] = target - grid[moved]
    return _with_rim(skin, delta)


def _edge_way(x: Array, name: str) -> Array:
    """Return how far the lid's edge at x moves up."""
    arch = np.sin(np.pi * np.clip(eye_fraction(x), 0, 1)) ** 0.8
    if name == "EyeBlinkLeft":
        meet = _MEET * opening(x, np.ones(len(x), np.bool_)) - 0.05 * arch
        return meet - opening(x, GRID.below_eye)
    up, low = LIDS[name]
    return arch * np.where(GRID.below_eye, low, up)


def _with_rim(skin: Skin, delta: Array) -> Array:
    """Let the inner edges of the lids follow, always between the skin's edge and the eyeball's inside."""
    rim = np.flatnonzero((skin.kind == 1) & (skin.positions[:, 0] > 0))
    edge = skin.positions[skin.parent[rim]] + delta[skin.parent[rim]] - EYE_CENTRE
    radius = np.linalg.norm(skin.positions[rim] - EYE_CENTRE, axis=1, keepdims=True)
    delta[rim] = EYE_CENTRE + edge / np.linalg.norm(edge, axis=1, keepdims=True) * radius - skin.positions[rim]
    return delta


def eyeball_turn(positions: Array, name: str) -> Array:
    """Return what a gaze shape adds to the left eyeball's vertices (N, 3)."""
    pitch, yaw = np.radians(GAZE[name])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    q = positions - EYE_CENTRE
    moved: Array = q @ (about_y @ about_x).T - q
    return moved
