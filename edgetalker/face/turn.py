"""Turns of the head: yaw, pitch and roll in radians as matrices and quaternions.

Yaw turns about +Y (positive: towards the face's own left), pitch about +X (positive: the face looks down), roll
about +Z (positive: the head leans towards its own right shoulder); roll is applied first, yaw last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["quaternions", "rotation_matrix"]


def rotation_matrix(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) that turns column vectors."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = about_y @ about_x @ about_z
    return turn


def quaternions(angles: NDArray[Any]) -> NDArray[np.float32]:
    """Return unit quaternions (T, 4) as x, y, z, w of angles (T, 3): yaw, pitch, roll."""
    half = np.asarray(angles, np.float64) / 2
    (cy, cp, cr), (sy, sp, sr) = np.cos(half).T, np.sin(half).T
    x = cy * sp * cr + sy * cp * sr
    y = sy * cp * cr - cy * sp * sr
    z = cy * cp * sr - sy * sp * cr
    w = cy * cp * cr + sy * sp * sr
    return np.stack([x, y, z, w], 1).astype(np.float32)
