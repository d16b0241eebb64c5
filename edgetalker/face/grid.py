"""The grid that is laid over the sculpted head: rows from the crown to the neck, columns around it, three slits.

Column 0 is the middle of the face, columns 1 to 43 go round its own left side, column 44 is the middle of the
back; the right side mirrors the left exactly. The row of the eyes and the row of the mouth are cut open where
lids and lips meet: each vertex of a slit exists twice, once for the side above and once for the side below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID", "Grid", "Slit"]

Index = NDArray[np.int64]

# Rays start on an axis at (height, depth); elevation in degrees at the front, the side and the back;
# then the number of rows until the next station.
_STATIONS = (
    (3.0, -0.5, 90, 90, 90, 9),
    (3.0, -0.5, 38, 30, 30, 6),
    (1.7, 0.0, 12, 5, 5, 4),
    (0.95, 0.0, 5, 0, 0, 4),
    (0.45, 0.0, 2, 0, 0, 4),
    (0.0, 0.0, 0, 0, 0, 4),  # eyes
    (-0.7, 0.0, 0, 0, 0, 4),
    (-1.7, 0.0, 0, 0, 0, 6),
    (-3.7, 0.0, 0, 0, 0, 6),
    (-5.1, 0.0, 0, 0, 0, 4),
    (-5.9, 0.0, 0, 0, 0, 8),
    (-6.9, 0.0, 0, 0, 0, 9),  # mouth
    (-8.0, 0.0, 0, 2, 0, 4),
    (-8.9, 0.2, -3, 3, 0, 4),
    (-9.2, 1.5, -17, 2, 0, 4),
    (-8.6, 3.0, -56, -8, -4, 4),
    (-9.8, 0.0, -56, -25, -8, 4),
    (-13.0, -2.6, 0, 0, 0, 4),
    (-17.0, -3.2, 0, 0, 0, 0),
)
_EYE_STATION, _MOUTH_STATION = 5, 11
_COLUMNS = ((0.0, 7), (14.2, 2), (17.2, 8), (31.5, 15), (90.0, 12), (180.0, 0))
_EYE_COLUMNS, _MOUTH_COLUMN = (7, 17), 9


@dataclass(frozen=True)
class Slit:
    """A cut in a row, from corner to corner: equal vertices of the side above and of the side below.

    The first and the last vertex are the corners, which both sides share.
    """

    above: Index
    below: Index

    def loop(self) -> Index:
        """Return the closed ring of vertices: along the upper side, back along the lower one."""
        return np.concatenate([self.above, self.below[-2:0:-1]])


@dataclass(frozen=True)
class Grid:
    """Topology alone. `ray` rows are the origin (3) and the direction (3) that place each vertex.

    mirror: for each vertex its partner on the other side. below_eye / below_mouth: vertices on or under the
    lower edge of that row.
    """

    rays: NDArray[np.float64]
    triangles: Index
    mirror: Index
    below_eye: NDArray[np.bool_]
    below_mouth: NDArray[np.bool_]
    eyes: tuple[Slit, Slit]
    mouth: Slit


def _spread(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate stations (the last column counts steps) into one line a step."""
    at = np.concatenate([[0], np.cumsum(table[:-1, -1])])
    steps = np.arange(int(at[-1]) + 1)
    return np.stack([np.interp(steps, at, column) for column in table[:, :-1].T], axis=1)


def _rays(stations: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (rows, columns, 6): origin and direction of the ray of each grid point."""
    height, depth, front, side, back = stations.T[:, :, None]
    turn = np.abs(np.degrees(angles))[None, :]
    to_side, to_back = (_smooth((turn - a) / (b - a)) for a, b in ((25, 95), (95, 180)))
    lift = np.radians(front + (side - front) * to_side + (back - side) * to_back)
    u = np.stack([np.sin(angles) * np.cos(lift), np.sin(lift), np.cos(angles) * np.cos(lift)], -1)
    origin = np.broadcast_to(np.stack([0 * height, height, depth], -1), u.shape)
    return np.concatenate([origin, u], -1)


def _smooth(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _quads(upper: Index, lower: Index) -> Index:
    """Return triangles (2 n, 3) between two closed rows of n vertices, the diagonals mirrored in the middle."""
    a, b, c, d = upper, np.roll(upper, -1), np.roll(lower, -1), lower
    half = np.arange(len(upper)) < len(upper) // 2
    first = np.where(half[:, None], np.stack([a, d, c], 1), np.stack([a, d, b], 1))
    second = np.where(half[:, None], np.stack([a, c, b], 1), np.stack([b, d, c], 1))
    return np.concatenate([first, second])


def _build() -> Grid:
    stations = np.asarray(_STATIONS, np.float64)
    starts = np.concatenate([[0], np.cumsum(stations[:-1, -1])]).astype(int)
    eye_row, mouth_row = int(starts[_EYE_STATION]), int(starts[_MOUTH_STATION])
    half = np.radians(_spread(np.asarray(_COLUMNS))[:, 0])
    angles = np.concatenate([half, -half[-2:0:-1]])
    rays = _rays(_spread(stations), angles)
    rows, width = rays.shape[:2]
    ids = np.concatenate([np.zeros((1, width), np.int64), np.arange(1, 1 + (rows - 1) * width).reshape(-1, width)])
    flat = np.concatenate([rays[0, :1], rays[1:].reshape(-1, 6)])
    cuts = (
        (eye_row, _cut_columns(*_EYE_COLUMNS)),
        (eye_row, -_cut_columns(*_EYE_COLUMNS) % width),
        (mouth_row, np.arange(-_MOUTH_COLUMN, _MOUTH_COLUMN + 1) % width),
    )
    upper, lower = ids.copy(), ids.copy()  # the row as seen from above it and from below it
    slits, twins, count = [], [], len(flat)
    for row, columns in cuts:
        inner = columns[1:-1]
        twin = np.arange(count, count + len(inner))
        count += len(inner)
        twins.append(ids[row, inner])
        lower[row, inner] = twin
        slits.append(Slit(ids[row, columns], lower[row, columns]))
    flat = np.concatenate([flat, *(flat[t] for t in twins)])
    triangles = np.concatenate([_quads(lower[i], upper[i + 1]) for i in range(rows - 1)])
    triangles = triangles[np.all(triangles != np.roll(triangles, 1, axis=1), axis=1)]
    mirror = _mirror(ids, lower, count)
    row_of = np.zeros(count, np.int64)
    row_of[upper] = row_of[lower] = np.arange(rows)[:, None]
    return Grid(
        flat,
        triangles,
        mirror,
        _under(row_of, lower, eye_row, slits[:2]),
        _under(row_of, lower, mouth_row, slits[2:]),
        (slits[0], slits[1]),
        slits[2],
    )


def _cut_columns(first: int, last: int) -> Index:
    return np.arange(first, last + 1)


def _mirror(ids: Index, lower: Index, count: int) -> Index:
    mirror = np.arange(count)
    for table in (ids, lower):
        mirror[table] = np.roll(table[:, ::-1], 1, axis=1)
    return mirror


def _under(row_of: Index, lower: Index, row: int, slits: list[Slit]) -> NDArray[np.bool_]:
    under = row_of > row
    for slit in slits:
        under[slit.below[1:-1]] = True
        under[slit.above[1:-1]] = False
    return under


GRID = _build()
