"""What the page shows motion on: our own face, or the mesh that the motion belongs to."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.web.server import Asset

__all__ = ["face_asset", "mesh_asset", "mesh_bytes"]


@lru_cache(maxsize=1)
def face_asset() -> Asset:
    """Return our own face as glTF; the first call takes a second or two."""
    from edgetalker.face.glb import face_document

    return Asset("model/gltf-binary", face_document().pack(), foreign=True)


def mesh_bytes(count: int, triangles: NDArray[Any]) -> bytes:
    """Return `ETM1`, uint32 vertices, uint32 triangles, uint32 corners[triangles * 3], little-endian."""
    return struct.pack("<4sII", b"ETM1", count, len(triangles)) + np.asarray(triangles, "<u4").tobytes()


def mesh_asset(layout: MotionLayout, triangles: NDArray[Any] | None = None) -> tuple[str, Asset]:
    """Return the path and the asset of the mesh that vertex motion (V, 3) belongs to.

    triangles (F, 3): by default `layout.extra["triangles"]`. Raises OptionError when there are none or they do
    not fit the motion.
    """
    given: Any = triangles if triangles is not None else layout.extra.get("triangles")
    if given is None:
        raise OptionError(
            "the motion is vertices, and the triangles between them are not known",
            hint="add --template MESH.obj (or .ply), the mesh that the model was made for",
        )
    faces = np.asarray(given)
    count = layout.shape[0] if len(layout.shape) == 2 else int(np.prod(layout.shape)) // 3
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min(initial=0) < 0 or faces.max(initial=0) >= count:
        raise OptionError(f"the mesh's triangles (shape {faces.shape}) do not fit motion of {count} vertices")
    return "/mesh.bin", Asset("application/octet-stream", mesh_bytes(count, faces), private=True)
