"""Small surfaces that the other parts are made of: grids, closed rings and colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.part import Part

__all__ = ["both_sides", "joined", "linear", "mesh_grid", "mixed"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def linear(colour: str) -> Array:
    """Return linear RGB (3,) of an sRGB colour written `#rrggbb` (IEC 61966-2-1)."""
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def mixed(base: Array, other: Array, amount: Array) -> Array:
    """Blend colours (N, 3) towards one colour (3,) by amount (N,)."""
    return base + (other - base) * np.clip(amount, 0.0, 1.0)[:, None]


def mesh_grid(rows: int, columns: int, *, closed: bool = False) -> Index:
    """Return triangles over a grid of vertices numbered row by row; closed: the last column meets the first.

    Seen with rows downwards and columns to the right, the triangles face the viewer.
    """
    width = columns if closed else columns - 1
    i, j = (k.ravel() for k in np.meshgrid(np.arange(rows - 1), np.arange(width), indexing="ij"))
    right = (j + 1) % columns
    a, b, c, d = i * columns + j, i * columns + right, (i + 1) * columns + right, (i + 1) * columns + j
    return np.concatenate([np.stack([a, d, c], 1), np.stack([a, c, b], 1)])


def both_sides(left: Part) -> Part:
    """Return the part and its mirror image as one; its deltas are mirrored by name in `head`."""
    flip = np.array([-1.0, 1.0, 1.0])
    count = len(left.positions)
    return Part(
        left.name,
        left.material,
        np.concatenate([left.positions, left.positions * flip]),
        np.concatenate([left.triangles, left.triangles[:, ::-1] + count]),
        np.concatenate([left.colours, left.colours]),
    )


def joined(name: str, material: str, parts: list[Part]) -> Part:
    """Return several parts as one with one material."""
    starts = np.cumsum([0] + [len(p.positions) for p in parts])
    deltas: dict[str, Array] = {}
    for part, start in zip(parts, starts, strict=False):
        for shape, delta in part.deltas.items():
            whole = deltas.setdefault(shape, np.zeros((starts[-1], 3)))
            whole[start : start + len(delta)] += delta
    return Part(
        name,
        material,
        np.concatenate([p.positions for p in parts]),
        np.concatenate([p.triangles + s for p, s in zip(parts, starts, strict=False)]),
        np.concatenate([p.colours for p in parts]),
        deltas,
        parts[0].moves,
    )
