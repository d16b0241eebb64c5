"""The shape of the head, as one soft solid. Lengths in centimetres; the eyes look along +Z at height y = 0,
the face's own left is +X. Every number here is a sculptor's choice, judged by eye in renderings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.sdf import Points, cone, ellipsoid, soft_cut, soft_union, sphere

__all__ = [
    "EYE_CENTRE",
    "EYE_RADIUS",
    "LID_RADIUS",
    "LIP_DOWN",
    "LIP_UP",
    "MOUTH_HEIGHT",
    "lip_heights",
    "lip_line",
    "skin",
]

EYE_CENTRE = np.array([3.25, 0.0, 6.55])
EYE_RADIUS = 1.5
LID_RADIUS = 1.66
MOUTH_HEIGHT = -6.9
MOUTH_HALF = 2.45
Distance = NDArray[np.float64]


def lip_line(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the height where the closed lips meet: a small bow in the middle, corners a little up."""
    s = np.abs(x) / MOUTH_HALF
    return MOUTH_HEIGHT - 0.10 * np.exp(-((s / 0.30) ** 2)) + 0.05 * np.sin(np.pi * np.clip(s, 0, 1)) + 0.22 * s**3


LIP_UP, LIP_DOWN = 1.0, 1.1  # the rows of the grid between the lips' line and their outline span this much


def lip_heights(x: NDArray[np.float64]) -> tuple[Distance, Distance]:
    """Return how far the red of the upper and of the lower lip reaches from the line between them."""
    s = np.clip(np.abs(x) / MOUTH_HALF, 0, 1)
    bow = 0.09 * np.exp(-(((s - 0.22) / 0.16) ** 2)) - 0.05 * np.exp(-((s / 0.12) ** 2))
    up = 0.15 + 0.62 * (1 - s**2) + bow * (1 - s)
    down = 0.13 + 0.82 * (1 - s**2) ** 0.9
    relax = 1 - np.clip((np.abs(x) - MOUTH_HALF) / 1.2, 0, 1)
    relax = relax * relax * (3 - 2 * relax)
    return LIP_UP + (up - LIP_UP) * relax, LIP_DOWN + (down - LIP_DOWN) * relax


def skin(p: Points) -> Distance:
    """Return the distance to the head's skin, eyes shut by full lids, lips closed."""
    q = p.copy()
    q[:, 0] = np.sqrt(q[:, 0] ** 2 + 1e-6)  # both halves alike; smooth in the middle
    d = _skull(q)
    d = _sockets(d, q)
    d = _nose(d, q)
    return _mouth(d, q)


def _skull(p: Points) -> Distance:
    d = ellipsoid(p, (0, 3.1, -0.9), (7.3, 8.7, 9.3))
    d = soft_union(d, ellipsoid(p, (0, -2.0, 1.0), (6.6, 8.2, 7.2)), 2.6)
    d = soft_union(d, ellipsoid(p, (0, -7.6, 4.0), (4.3, 3.5, 4.2)), 2.2)  # jaw
    d = soft_union(d, ellipsoid(p, (0, -4.9, 2.2), (5.9, 4.6, 5.6)), 2.0)  # lower cheeks
    d = soft_union(d, cone(p, (4.2, -5.4, 1.0), (1.6, -9.4, 6.2), 1.2, 1.1), 3.0)  # jaw line
    d = soft_union(d, ellipsoid(p, (0, -9.65, 6.9), (1.5, 1.35, 1.55)), 1.6)  # chin
    d = soft_union(d, ellipsoid(p, (3.5, -3.2, 5.2), (2.2, 2.1, 2.4)), 2.4)  # cheeks
    return soft_union(d, cone(p, (0, -7.5, -2.6), (0, -19.0, -3.6), 4.1, 4.5), 2.2)  # neck


def _sockets(d: Distance, p: Points) -> Distance:
    d = soft_union(d, cone(p, (0.8, 1.7, 7.6), (4.3, 1.75, 6.35), 0.7, 0.4), 1.6)  # brow ridge
    d = soft_cut(d, ellipsoid(p, (3.2, 0.15, 8.5), (2.2, 1.3, 1.25)), 1.6)
    fillet = 1.0 + 0.9 * np.clip(-p[:, 1], 0.0, 1.0)  # softer under the eye: no bags
    return soft_union(d, sphere(p, EYE_CENTRE, LID_RADIUS), fillet)


def _nose(d: Distance, p: Points) -> Distance:
    d = soft_union(d, cone(p, (0, 0.9, 7.75), (0, -3.1, 9.35), 0.55, 0.62), 1.3)
    d = soft_union(d, ellipsoid(p, (0, -3.5, 9.55), (0.86, 0.80, 0.95)), 0.9)  # tip
    d = soft_union(d, ellipsoid(p, (0.86, -3.85, 8.7), (0.6, 0.56, 0.85)), 0.7)  # wings
    return soft_cut(d, ellipsoid(p, (0.47, -4.4, 9.2), (0.24, 0.26, 0.42)), 0.3)  # nostrils


def _mouth(d: Distance, p: Points) -> Distance:
    d = soft_union(d, ellipsoid(p, (0, -6.7, 6.6), (3.1, 2.5, 2.35)), 1.4)
    d = soft_cut(d, cone(p, (0, -4.9, 9.55), (0, -5.9, 9.55), 0.22, 0.34), 0.5)  # philtrum
    s = np.clip(p[:, 0] / MOUTH_HALF, 0, 1)
    line = lip_line(p[:, 0])
    back = 8.62 - 1.25 * s**2
    upper = _lip(p, line + 0.40 - 0.28 * s**2 - 0.05 * np.exp(-((s / 0.2) ** 2)), back, 0.56 - 0.50 * s**2)
    lower = _lip(p, line - 0.52 + 0.40 * s**2, back - 0.02, 0.66 - 0.60 * s**2)
    d = soft_union(d, soft_union(upper, lower, 0.03 + 0.45 * s**3), 0.35 + 0.5 * s**4)
    return soft_cut(d, sphere(p, (2.9, MOUTH_HEIGHT + 0.1, 8.55), 0.6), 1.0)  # corners


def _lip(p: Points, height: Distance, back: Distance, radius: Distance) -> Distance:
    beyond = np.maximum(p[:, 0] - MOUTH_HALF, 0.0)
    across = np.sqrt((p[:, 1] - height) ** 2 + (p[:, 2] - back) ** 2 + beyond**2)
    distance: Distance = (across - radius) * 0.9  # the lip bends along x: not quite a distance
    return distance
