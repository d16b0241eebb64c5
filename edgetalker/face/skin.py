"""The skin at rest: the grid laid over the sculpted head, lids opened, lips lined, mouth and lid rims turned in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgetalker.face import sculpt
from edgetalker.face.grid import GRID, Slit
from edgetalker.face.sculpt import EYE_CENTRE, EYE_RADIUS, MOUTH_HALF, MOUTH_HEIGHT
from edgetalker.face.sdf import onto_surface, ray_cast

__all__ = ["Skin", "bump", "eye_fraction", "fade", "opening", "skin_at_rest"]

Array = NDArray[np.float64]
CORNER_IN, CORNER_OUT = 1.9, 4.6
OPEN_UP, OPEN_DOWN = 0.70, 0.60
REACH_UP, REACH_DOWN = 2.0, 1.6
FORWARD = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Skin:
    """positions (N, 3) in centimetres, of which the first `grid` are the grid's; the rest are rims turned in.

    flat: positions before lids and lips were opened. parent: for every vertex the grid vertex it hangs on
    (itself for the grid). depth: 0 on the grid, then how far inwards, 0 to 1; kind: 0 grid, 1 lid, 2 mouth.
    """

    positions: Array
    flat: Array
    triangles: NDArray[np.int64]
    mirror: NDArray[np.int64]
    parent: NDArray[np.int64]
    depth: Array
    kind: NDArray[np.int64]
    grid: int


def fade(t: Array) -> Array:
    """Return 1 at t <= 0, 0 at t >= 1, smooth between."""
    t = np.clip(t, 0.0, 1.0)
    return 1.0 - t * t * t * (t * (6.0 * t - 15.0) + 10.0)


def bump(p: Array, centre: tuple[float, float, float], size: tuple[float, float, float]) -> Array:
    """Return a Gaussian (N,) around `centre` with one width per axis, in centimetres."""
    q = (p - np.asarray(centre)) / np.asarray(size)
    weight: Array = np.exp(-np.einsum("ij,ij->i", q, q))
    return weight


def eye_fraction(x: Array) -> Array:
    """Return how far |x| is from the inner (0) to the outer (1) corner of the eye, clipped."""
    return np.clip((np.abs(x) - CORNER_IN) / (CORNER_OUT - CORNER_IN), 0.0, 1.0)


def opening(x: Array, below: NDArray[np.bool_]) -> Array:
    """Return how far the lid's edge stands from the eye's row (positive up) when the eye is open."""
    s = eye_fraction(x)
    up = OPEN_UP * np.sin(np.pi * s**0.88) ** 0.75
    down = -OPEN_DOWN * np.sin(np.pi * s**1.2) ** 0.85
    return np.where(below, down, up)


def tilt(x: Array) -> Array:
    """Return the height of the line through the corners of the eye: the outer one a little higher."""
    return -0.10 + 0.22 * eye_fraction(x)


def lid_fade(flat: Array, below: NDArray[np.bool_]) -> Array:
    """Return how much a vertex follows its lid's edge, 1 on the edge."""
    distance = np.where(below, -flat[:, 1] / REACH_DOWN, flat[:, 1] / REACH_UP)
    return fade(distance) * (flat[:, 2] > 2.0)


@lru_cache(maxsize=1)
def skin_at_rest() -> Skin:
    """Return the skin at rest; the same numbers on every call and machine (up to rounding)."""
    flat = ray_cast(sculpt.skin, GRID.rays[:, :3], GRID.rays[:, 3:], 17.0)
    placed = _smooth_corners(_open_eyes(_line_lips(flat)))
    placed = _symmetric(placed, GRID.mirror)
    flat = _symmetric(flat, GRID.mirror)
    count = len(flat)
    rims = [_lid_rim(placed, slit) for slit in GRID.eyes] + [_mouth_bag(placed)]
    loops = [slit.loop() for slit in GRID.eyes] + [GRID.mouth.loop()]
    return _assemble(placed, flat, rims, loops, count)


def _line_lips(p: Array) -> Array:
    """Bend the rows around the mouth so that one lies on the lips' line and one on each lip's outline."""
    rise = p[:, 1] - MOUTH_HEIGHT
    up, down = sculpt.lip_heights(p[:, 0])
    nominal = np.where(rise > 0, sculpt.LIP_UP, sculpt.LIP_DOWN)
    lip = np.where(rise > 0, up, down)
    beyond = 1.6 * (np.abs(rise) - nominal) / (1.6 * nominal)  # rows past the outline ease back to their own height
    squeezed = np.where(beyond < 0, rise * lip / nominal, rise - np.sign(rise) * (nominal - lip) * fade(beyond))
    near = (np.abs(rise) < 3.0) & (np.abs(p[:, 0]) < 4.5) & (p[:, 2] > 2)
    line = sculpt.lip_line(np.clip(p[:, 0], -MOUTH_HALF, MOUTH_HALF)) - MOUTH_HEIGHT
    out: Array = p.copy()
    out[near, 1] = (
        MOUTH_HEIGHT + squeezed + line * fade(np.abs(rise) / 1.8) * fade((np.abs(p[:, 0]) - MOUTH_HALF) / 1.2)
    )[near]
    out[near] = onto_surface(sculpt.skin, out[near], np.broadcast_to(FORWARD, out[near].shape))
    return out


def _smooth_corners(p: Array, rounds: int = 8) -> Array:
    """Even out the skin just outside the corners of the mouth, where the rows of both lips crowd together."""
    near = bump(p * (-1, 1, 1), (2.75, -6.75, 7.7), (0.45, 0.45, 1.5)) + bump(p, (2.75, -6.75, 7.7), (0.45, 0.45, 1.5))
    near[np.abs(p[:, 0]) < MOUTH_HALF + 0.05] = 0.0  # the lips themselves stay, and go on meeting
    edges = np.concatenate([GRID.triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    count = np.bincount(edges[:, 0], minlength=len(p)).clip(1)
    for _ in range(rounds):
        mean = np.stack([np.bincount(edges[:, 0], p[edges[:, 1], k], len(p)) / count for k in range(3)], 1)
        p = p + 0.8 * near[:, None] * (mean - p)
    return p


def _open_eyes(p: Array) -> Array:
    follow = lid_fade(p, GRID.below_eye)
    out: Array = p.copy()
    beside = fade((CORNER_IN - np.abs(p[:, 0])) / 0.9) * fade((np.abs(p[:, 0]) - CORNER_OUT) / 1.2)
    out[:, 1] += follow * (opening(p[:, 0], GRID.below_eye) + beside * tilt(p[:, 0]))
    moved = follow * beside > 1e-6
    out[moved] = onto_surface(sculpt.skin, out[moved], np.broadcast_to(FORWARD, out[moved].shape))
    return out


def _symmetric(p: Array, mirror: NDArray[np.int64]) -> Array:
    """Make the right side the exact mirror of the left; the middle stays on x = 0."""
    right = (p[:, 0] < 0) & (mirror != np.arange(len(p)))
    out: Array = p.copy()
    out[right] = p[mirror[right]] * (-1.0, 1.0, 1.0)
    out[mirror == np.arange(len(p)), 0] = 0.0
    return out


def _lid_rim(p: Array, slit: Slit) -> list[Array]:
    """Return the rings of the lid's edge, from the skin back to inside the eyeball."""
    side = np.sign(p[slit.above[2], 0])
    centre = EYE_CENTRE * (side, 1.0, 1.0)
    edge = p[slit.loop()]
    away = edge - centre
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return [edge, centre + away * (EYE_RADIUS + 0.02), centre + away * (EYE_RADIUS - 0.25)]


_BAG = (  # width, rise at the middle, way back, what of the lip line's own curve is left
    (1.00, 0.00, 0.0, 1.0),
    (0.99, 0.07, 0.28, 0.9),
    (0.97, 0.30, 0.62, 0.6),
    (1.00, 0.95, 0.72, 0.3),
    (1.05, 1.45, 0.95, 0.0),
    (1.00, 0.95, 3.20, 0.0),
    (0.70, 0.70, 5.20, 0.0),
    (0.02, 0.02, 5.25, 0.0),
)


def _mouth_bag(p: Array) -> list[Array]:
    """Return the rings of the inner mouth, from where the lips meet back to the throat."""
    loop = GRID.mouth.loop()
    edge = p[loop]
    below = GRID.below_mouth[loop]
    s = np.clip(np.abs(edge[:, 0]) / MOUTH_HALF, 0, 1)
    rise = np.where(below, -1.15, 1.0) * np.sqrt(np.maximum(1 - s**2, 0.0))
    rings = []
    for width, up, back, own in _BAG:
        y = MOUTH_HEIGHT + own * (edge[:, 1] - MOUTH_HEIGHT) + up * rise
        rings.append(np.stack([edge[:, 0] * width, y, edge[:, 2] - back], 1))
    return rings


def _assemble(placed: Array, flat: Array, rims: list[list[Array]], loops: list[NDArray[np.int64]], count: int) -> Skin:
    positions, parents, depths, kinds, triangles = [placed], [np.arange(count)], [np.zeros(count)], [], []
    mirror, start = [GRID.mirror], count
    kinds.append(np.zeros(count, np.int64))
    offsets = []
    for number, (rings, loop) in enumerate(zip(rims, loops, strict=True)):
        ids = [loop]
        offsets.append(start)
        for k, ring in enumerate(rings[1:], 1):
            ids.append(np.arange(start, start + len(loop)))
            start += len(loop)
            positions.append(ring)
            parents.append(loop)
            depths.append(np.full(len(loop), k / (len(rings) - 1)))
            kinds.append(np.full(len(loop), 2 if number == 2 else 1))
        triangles += [_ring_faces(a, b, number != 1) for a, b in pairwise(ids)]
    parent = np.concatenate(parents)
    mirror += _rim_mirrors(rims, loops, offsets)
    return Skin(
        np.concatenate(positions),
        np.concatenate([flat, np.concatenate(positions)[count:]]),
        np.concatenate([GRID.triangles, *triangles]),
        np.concatenate(mirror),
        parent,
        np.concatenate(depths),
        np.concatenate(kinds),
        count,
    )


def _ring_faces(outer: NDArray[np.int64], inner: NDArray[np.int64], flip: bool) -> NDArray[np.int64]:
    a, b, c, d = outer, np.roll(outer, -1), np.roll(inner, -1), inner
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return faces[:, ::-1] if flip else faces


def _rim_mirrors(
    rims: list[list[Array]], loops: list[NDArray[np.int64]], offsets: list[int]
) -> list[NDArray[np.int64]]:
    """Return the mirror partners of the rim vertices: lids swap, the mouth mirrors within itself."""
    out = []
    for number, other in ((0, 1), (1, 0), (2, 2)):
        place = {int(v): k for k, v in enumerate(loops[other])}
        across = np.array([place[int(GRID.mirror[v])] for v in loops[number]])
        for ring in range(len(rims[number]) - 1):
            out.append(offsets[other] + ring * len(loops[other]) + across)
    return out
