"""Eyeballs, lashes and brows, in centimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.grid import GRID
from edgetalker.face.part import Part
from edgetalker.face.sculpt import EYE_CENTRE, EYE_RADIUS
from edgetalker.face.sdf import gradient, onto_surface
from edgetalker.face.skin import Skin, eye_fraction
from edgetalker.face.tissue import both_sides, linear, mesh_grid

__all__ = ["brows", "eyeballs", "lashes"]

Array = NDArray[np.float64]
_SEGMENTS = 40
# polar angle from the gaze in degrees, colour: pupil, iris with a dark rim, white
_EYE_RINGS = (
    (0.0, "#0a0808"), (12.0, "#0a0808"), (13.0, "#241a12"), (15.0, "#6f4a26"), (20.0, "#7d5630"), (25.0, "#5b3a1d"),
    (29.0, "#2a1a0e"), (30.5, "#3d2a1c"), (32.0, "#e6e1da"), (38.0, "#f0ece6"), (46.0, "#f0ece6"), (58.0, "#e9dfd6"),
    (70.0, "#dcc8bd"), (85.0, "#cfb1a4"), (105.0, "#c79f92"),
)  # fmt: skip


def eyeballs() -> Part:
    """Return both eyeballs, looking along +Z."""
    polar = np.radians([angle for angle, _ in _EYE_RINGS])
    turn = np.arange(_SEGMENTS) * (2 * np.pi / _SEGMENTS)
    x = np.sin(polar)[:, None] * np.cos(turn)
    y = np.sin(polar)[:, None] * np.sin(turn)
    z = np.broadcast_to(np.cos(polar)[:, None], x.shape)
    positions = np.stack([x, y, z], -1).reshape(-1, 3) * EYE_RADIUS + EYE_CENTRE
    colours = np.repeat([linear(colour) for _, colour in _EYE_RINGS], _SEGMENTS, axis=0)
    return both_sides(Part("eyes", "eye", positions, mesh_grid(len(polar), _SEGMENTS, closed=True), colours))


def lashes(skin: Skin) -> Part:
    """Return the upper lashes as one soft wedge a lid: rows root above, tip, root below.

    Vertices follow the order of the lid's slit, three rows of it for the left eye, then the right eye's.
    """
    edge = skin.positions[GRID.eyes[0].above]
    s = eye_fraction(edge[:, 0])
    away = edge - EYE_CENTRE
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    outward = np.stack([0.25 + 0.5 * s, 0.35 + 0.25 * np.sin(np.pi * s), np.full(len(s), 0.55)], 1)
    length = (0.06 + 0.30 * s**0.8) * (1 - 0.55 * s**8)
    thick = 0.045 + 0.035 * np.sin(np.pi * s)
    up = np.array([0.0, 1.0, 0.0])
    rows = [edge + away * 0.015 + up * thick[:, None], edge + away * 0.03 + outward * length[:, None],
            edge + away * 0.02 - up * 0.03]  # fmt: skip
    positions = np.concatenate(rows)
    colours = np.tile(linear("#1b1210"), (len(positions), 1))
    return both_sides(Part("lashes", "hair", positions, mesh_grid(3, len(edge)), colours))


def brows() -> Part:
    """Return both brows: soft lenses on the skin, thick at the nose, thin at the temple."""
    u, v = (k.ravel() for k in np.meshgrid(np.linspace(0, 1, 22), np.linspace(1, -1, 7), indexing="ij"))
    x = 1.05 + 4.15 * u
    arch = 2.08 + 0.42 * np.sin(np.pi * u**1.15 * 0.94) - 0.20 * u
    half = 0.26 * np.minimum(1.0, (u / 0.12 + 0.15)) ** 0.5 * (1 - u**2.5) ** 0.6 * (1 - 0.35 * u) + 0.02
    p = np.stack([x, arch + v * half, 9.0 - 0.09 * x * x], 1)
    p = onto_surface(sculpt.skin, p, np.broadcast_to([0.0, 0.0, 1.0], p.shape), rounds=30)
    p += gradient(sculpt.skin, p) * (-0.05 + 0.16 * (1 - v**2) * (1 - 0.4 * u))[:, None]
    colours = np.tile(linear("#3a251a"), (len(p), 1))
    triangles = mesh_grid(22, 7)[:, ::-1]
    return both_sides(Part("brows", "hair", p, triangles, colours))
