"""Ears, hair and bust: what the shapes hardly move. Lengths in centimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.part import Part
from edgetalker.face.sdf import ray_cast
from edgetalker.face.skin import fade
from edgetalker.face.tissue import both_sides, linear, mesh_grid, mixed

__all__ = ["SKIN_COLOUR", "bust", "ears", "hair"]

Array = NDArray[np.float64]
SKIN_COLOUR = linear("#e3ab8a")
_EAR = np.array([6.75, -1.7, -0.9])
_EAR_BACK = np.array([0.50, 0.0, -0.866])  # the ear opens forwards and outwards
_EAR_UP = np.array([0.05, 0.985, -0.17])


def ears() -> Part:
    """Return both ears: a shell with a rolled rim, a bowl and a lobe; rings from the bowl out, over, and in."""
    turn = np.arange(36) * (2 * np.pi / 36)
    # ring: share of the outline, height over the ear's plane
    rings = (
        (0.0, -0.42), (0.2, -0.42), (0.38, -0.30), (0.5, 0.02), (0.6, 0.20), (0.7, 0.12), (0.8, 0.05), (0.88, 0.22),
        (0.95, 0.34), (1.0, 0.30), (1.02, 0.16), (0.97, -0.02), (0.85, -0.18), (0.6, -0.55), (0.3, -1.1),
    )  # fmt: skip
    up, back = np.sin(turn), np.cos(turn)
    outline_up = np.where(up > 0, 2.75, 2.75 - 0.15 * back) * up
    outline_back = (1.45 + 0.45 * np.clip(up, -0.6, 1)) * back + 0.35
    front = np.clip(-back, 0, 1) ** 2  # the rim melts into the cheek in front, and flattens in the lobe
    lobe = np.clip(-up - 0.55, 0, 1) * 1.8
    normal = np.cross(_EAR_UP, _EAR_BACK)
    p = []
    for share, height in rings:
        rise = height * (1 - 0.75 * front) * np.where(height > 0, 1 - 0.6 * lobe, 1 - 0.8 * lobe)
        p.append(
            _EAR + share * (outline_up[:, None] * _EAR_UP + outline_back[:, None] * _EAR_BACK) - rise[:, None] * normal
        )
    positions = np.concatenate(p)
    deep = np.repeat([0.8, 0.7, 0.5, 0.2, 0, 0.15, 0.25, 0.05, 0, 0, 0, 0, 0, 0, 0], 36)
    colours = mixed(np.tile(SKIN_COLOUR, (len(positions), 1)), linear("#a8604c"), 0.25 + 0.6 * deep)
    return both_sides(Part("ears", "skin", positions, mesh_grid(len(rings), 36, closed=True), colours))


# azimuth from the front in degrees: height of the hairline there
_HAIRLINE = (
    (0, 6.5), (14, 6.6), (26, 6.9), (36, 6.2), (50, 4.2), (62, 2.2), (72, 0.6), (82, 0.4), (92, 1.6), (104, 1.3),
    (118, -1.6), (135, -4.6), (155, -5.6), (180, -5.8),
)  # fmt: skip


def hair() -> Part:
    """Return the hair: the skull's skin lifted, by nothing at the hairline, most over the forehead."""
    polar, turn = np.linspace(0, np.radians(150), 64), np.arange(120) * (2 * np.pi / 120)
    a, b = (k.ravel() for k in np.meshgrid(polar, turn, indexing="ij"))
    u = np.stack([np.sin(a) * np.sin(b), np.cos(a), np.sin(a) * np.cos(b)], 1)
    p = ray_cast(sculpt.skin, np.broadcast_to([0.0, 3.0, -0.8], u.shape), u, 17.0)
    azimuth = np.degrees(np.abs(np.arctan2(p[:, 0], p[:, 2] + 0.8)))
    line = np.interp(azimuth, *np.transpose(_HAIRLINE))
    comb = np.sin(3.6 * p[:, 0] + 1.1 * np.sin(0.55 * p[:, 2]))
    p += u * _thickness(p, azimuth, p[:, 1] - line, comb)[:, None]
    triangles = mesh_grid(64, 120, closed=True)
    triangles = triangles[(p[:, 1] - line > -1.6)[triangles].any(axis=1)]
    keep, renumbered = np.unique(triangles, return_inverse=True)
    strand = 0.5 + 0.5 * comb[keep]
    colours = mixed(np.tile(linear("#2e1d17"), (len(keep), 1)), linear("#523526"), 0.7 * strand)
    return Part("hair", "hair", p[keep], renumbered.reshape(-1, 3).astype(np.int64), colours)


def _thickness(p: Array, azimuth: Array, over: Array, comb: Array) -> Array:
    """Return how far the hair stands off the skin: `over` is the height over the hairline."""
    front = fade(azimuth / 80.0)
    top = 1 - fade((p[:, 1] - 4.0) / 6.0)
    quiff = front * top * (1 - fade((p[:, 2] - 1.0) / 6.0))
    full = 0.60 + 0.50 * top + 0.25 * (1 - fade((p[:, 1] - 1) / 5)) + 1.05 * quiff
    rise = 1 - fade((over + 0.25) / (1.5 - 0.3 * front))
    return (full + 0.07 * comb * top) * rise - 0.16 * fade(over / 0.5)


def bust() -> Part:
    """Return neck-band and shoulders, which stay when the head turns; rows from the neck down."""
    rows = np.array([  # height, half width, half depth, middle in depth
        (-13.9, 4.5, 4.5, -3.0), (-13.0, 4.75, 4.75, -2.9), (-12.75, 5.1, 5.1, -2.9), (-13.0, 5.4, 5.4, -2.9),
        (-14.2, 5.5, 5.5, -3.0), (-15.2, 5.75, 5.6, -3.1), (-16.0, 7.2, 6.0, -3.2), (-17.0, 10.2, 6.6, -3.3),
        (-18.3, 13.6, 7.2, -3.4), (-20.0, 16.3, 7.8, -3.5), (-23.0, 18.0, 8.4, -3.5), (-29.0, 18.6, 8.8, -3.5),
    ])  # fmt: skip
    t = np.linspace(0, len(rows) - 1, 34)
    y, wide, deep, middle = (np.interp(t, np.arange(len(rows)), c)[:, None] for c in rows.T)
    b = np.arange(72) * (2 * np.pi / 72)
    p = np.stack([wide * np.sin(b), y + 0 * b, middle + deep * np.cos(b)], -1).reshape(-1, 3)
    colours = np.tile(linear("#3f5a6b"), (len(p), 1))
    return Part("bust", "cloth", p, mesh_grid(34, 72, closed=True), colours, moves=False)
