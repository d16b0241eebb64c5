"""Teeth and tongue, in centimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.part import Part
from edgetalker.face.tissue import joined, linear, mesh_grid, mixed

__all__ = ["LOWER_TEETH", "TONGUE", "UPPER_TEETH", "mouth_parts"]

Array = NDArray[np.float64]
UPPER_TEETH, LOWER_TEETH, TONGUE = range(3)
_COLUMNS = 57


def mouth_parts() -> tuple[Part, NDArray[np.int64]]:
    """Return teeth and tongue as one part, and which of the three each vertex belongs to."""
    parts = [_teeth(-6.92, 1.25, 8.42, 2.1, 78), _teeth(-7.02, -0.95, 8.10, 1.80, 62), _tongue()]
    which = np.repeat([UPPER_TEETH, LOWER_TEETH, TONGUE], [len(p.positions) for p in parts])
    return joined("mouth", "mouth", parts), which


def _teeth(edge: float, height: float, front: float, width: float, sweep: float) -> Part:
    """Return an arch of teeth from the cutting edge to the gum: rows inside, edge, outside, gum."""
    turn = np.linspace(-1, 1, _COLUMNS)
    angle = np.radians(sweep) * turn
    cut = np.abs(np.sin(np.pi * turn * 6))  # twelve teeth; 0 between two of them
    round_off = 0.10 * (1 - cut**0.5)
    rows = []
    for out, down in ((-0.35, 0.9), (-0.28, 0.08), (-0.12, 0.0), (0.0, 0.10), (0.03, 0.4), (0.0, 0.8), (-0.06, 1.0)):
        radius = 1 + (out - 0.5 * round_off * (out > -0.2)) / 3.0
        y = edge + np.sign(height) * (round_off * (down < 0.3) + 0.15 * turn**2) + height * down
        rows.append(np.stack([width * radius * np.sin(angle), y, front - 3.1 + 3.1 * radius * np.cos(angle)], 1))
    p = np.concatenate(rows)
    triangles = mesh_grid(7, _COLUMNS) if height < 0 else mesh_grid(7, _COLUMNS)[:, ::-1]
    gum = np.repeat([1.0, 0, 0, 0, 0, 0.25, 1.0], _COLUMNS)
    shade = np.tile(0.25 * (1 - cut**0.4) + 0.35 * np.abs(turn) ** 2, 7)
    colours = mixed(np.tile(linear("#f3ede0"), (len(p), 1)), linear("#8c5a4c"), shade)
    return Part("teeth", "mouth", p, triangles, mixed(colours, linear("#b5605c"), gum))


def _tongue() -> Part:
    """Return the tongue: a flattened drop with a furrow, its tip behind the lower teeth."""
    along, around = (k.ravel() for k in np.meshgrid(np.linspace(0, 1, 33), np.arange(24) / 24, indexing="ij"))
    size = np.sqrt(np.maximum(1 - along**6, 0.0)) * (0.75 + 0.25 * along)
    a = 2 * np.pi * around
    x = 1.55 * size * np.cos(a)
    furrow = 0.16 * np.exp(-((x / 0.3) ** 2)) * (np.sin(a) > 0) * size
    y = -8.05 + 0.45 * size * np.sin(a) - furrow - 0.15 * along**2
    z = 3.2 + 4.55 * along
    p = np.stack([x, y, z], 1)
    colours = mixed(np.tile(linear("#c46a67"), (len(p), 1)), linear("#7a3034"), 0.7 * (1 - along))
    return Part("tongue", "mouth", p, mesh_grid(33, 24, closed=True)[:, ::-1], colours)
