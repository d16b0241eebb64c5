"""Signed distance functions to sculpt with: solids, soft unions, and points moved onto the surface.

Points are (N, 3) float64 in centimetres. Formulas: I. Quilez, "Distance functions" and "Smooth minimum".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Field",
    "Points",
    "cone",
    "ellipsoid",
    "gradient",
    "onto_surface",
    "ray_cast",
    "soft_cut",
    "soft_union",
    "sphere",
]

Points = NDArray[np.float64]
Field = Callable[[Points], NDArray[np.float64]]
Vector = Sequence[float] | NDArray[np.float64]


def sphere(p: Points, centre: Vector, radius: float) -> NDArray[np.float64]:
    """Return the distance (N,) to a sphere."""
    distance: NDArray[np.float64] = np.linalg.norm(p - np.asarray(centre), axis=1) - radius
    return distance


def ellipsoid(p: Points, centre: Vector, radii: Vector) -> NDArray[np.float64]:
    """Return an approximate distance (N,) to an ellipsoid with axes along x, y, z (exact on the surface)."""
    q = (p - np.asarray(centre)) / np.asarray(radii)
    k0 = np.linalg.norm(q, axis=1)
    k1 = np.linalg.norm(q / np.asarray(radii), axis=1)
    distance: NDArray[np.float64] = k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)
    return distance


def cone(p: Points, start: Vector, end: Vector, r0: float, r1: float) -> NDArray[np.float64]:
    """Return an approximate distance (N,) to a capsule whose radius goes from r0 to r1."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
    nearest = a + along[:, None] * (b - a)
    distance: NDArray[np.float64] = np.linalg.norm(p - nearest, axis=1) - (r0 + along * (r1 - r0))
    return distance


def soft_union(a: NDArray[np.float64], b: NDArray[np.float64], k: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Join two solids with a fillet of size k."""
    h = np.maximum(k - np.abs(a - b), 0.0) / k
    return np.minimum(a, b) - h * h * h * k / 6.0


def soft_cut(a: NDArray[np.float64], b: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """Take solid b out of solid a, with a rounded edge of size k."""
    return -soft_union(-a, b, k)


def gradient(field: Field, p: Points, step: float = 1e-3) -> Points:
    """Return unit gradients (N, 3): outward normals on the surface."""
    offsets = step * np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float64)
    total = sum(o[None, :] * field(p + o)[:, None] for o in offsets)
    g: Points = np.asarray(total)
    g /= np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)
    return g


def ray_cast(field: Field, origin: Points, direction: Points, reach: float, steps: int = 90) -> Points:
    """March from `origin + reach * direction` back towards the origin to the outermost surface point."""
    t = np.full(len(origin), reach)
    active = np.arange(len(origin))
    for _ in range(steps):
        step = 0.8 * field(origin[active] + t[active, None] * direction[active])
        t[active] = np.clip(t[active] - step, 0.0, reach)
        active = active[np.abs(step) > 1e-7]
        if not len(active):
            break
    return origin + t[:, None] * direction


def onto_surface(field: Field, p: Points, direction: Points, rounds: int = 14) -> Points:
    """Move points along `direction` onto the surface nearby (damped steps, at most 0.25 cm each)."""
    p = p.copy()
    for _ in range(rounds):
        slope = np.einsum("ij,ij->i", gradient(field, p), direction)
        slope = np.where(np.abs(slope) < 0.25, np.copysign(0.25, slope + 1e-12), slope)
        step = np.clip(field(p) / slope, -0.25, 0.25)
        p -= step[:, None] * direction
        if np.abs(step).max(initial=0.0) < 1e-7:
            break
    return p
