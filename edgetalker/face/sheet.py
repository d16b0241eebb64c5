"""Still pictures of the talking face: one frame, or a contact sheet of several."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import PartFile
from edgetalker.face.head import head
from edgetalker.face.names import HEAD_ANGLES, MOTION_NAMES
from edgetalker.face.part import Face, normals_of
from edgetalker.face.png import write_png
from edgetalker.face.raster import draw
from edgetalker.face.turn import rotation_matrix

__all__ = ["render_face", "render_sheet"]


def render_face(
    motion: NDArray[Any], names: Sequence[str] = MOTION_NAMES, size: int = 256, face: Face | None = None
) -> NDArray[np.uint8]:
    """Return a picture (size, size, 3) uint8 of the face under one frame of motion (len(names),)."""
    face = face or head()
    weights = dict(zip(names, np.asarray(motion, np.float64).tolist(), strict=True))
    turn = rotation_matrix(*(weights.get(name, 0.0) for name in HEAD_ANGLES))
    pivot = np.asarray(face.pivot)
    points, normals, colours, triangles, start = [], [], [], [], 0
    for part in face.parts:
        p = part.posed(weights)
        n = normals_of(p, part.triangles)
        if part.moves:
            p, n = (p - pivot) @ turn.T + pivot, n @ turn.T
        points.append(p)
        normals.append(n)
        colours.append(part.colours)
        triangles.append(part.triangles + start)
        start += len(p)
    whole = [np.concatenate(k) for k in (points, normals, colours)]
    return draw(whole[0], whole[1], whole[2], np.concatenate(triangles), size)


def render_sheet(
    path: Path | str | PartFile,
    motion: NDArray[Any],
    fps: Fraction | float,
    times: Sequence[float] | NDArray[np.float64],
    names: Sequence[str] = MOTION_NAMES,
    *,
    columns: int = 4,
    size: int = 256,
) -> None:
    """Write a contact sheet (PNG) of the face at the given times in seconds, in reading order.

    motion: (T, len(names)). A time past the end shows the last frame. Raises InputError without motion or times.
    """
    if not len(motion) or not len(times):
        raise InputError("nothing to draw: the motion has no frames, or no times were asked for")
    picked = [min(max(int(time * float(fps)), 0), len(motion) - 1) for time in times]
    tiles = [render_face(motion[index], names, size) for index in picked]
    columns = min(columns, len(tiles))
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    write_png(path, np.concatenate(rows, axis=0))
