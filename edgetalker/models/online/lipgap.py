"""How far apart the lips are in millimetres, on the face of ICT-FaceKit (USC, MIT licence), which the user has.

Its folder holds a neutral mesh and one a shape, all with the same vertices, in centimetres, and vertex_indices.json
with the vertices of the usual 68 landmarks. Shapes it lacks (TongueOut) and those far from the lips are left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.mesh import read_template
from edgetalker.models.online.data.shapes import MOTION_NAMES

__all__ = ["LipRuler"]

_PAIRS = ((61, 67), (62, 66), (63, 65))
"""Landmarks of the inner lips that face each other, upper and lower."""
_NEAR = ("Jaw", "Mouth", "Cheek", "NoseSneer")
_MILLIMETRES = 10.0


class LipRuler:
    """Measures the gap between the inner lips: the widest of three facing pairs, against the neutral face's."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a folder that lacks the neutral mesh, the landmarks, or every shape of the mouth."""
        root = next((place for place in (folder, folder / "FaceXModel") if (place / _INDICES).exists()), folder)
        try:
            marks = json.loads((root / _INDICES).read_text(encoding="utf-8"))["idx_to_landmark_verts"]
            self._upper, self._lower = (np.array([marks[pair[side]] for pair in _PAIRS], int) for side in (0, 1))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            hint = "name the folder FaceXModel of github.com/ICT-VGL/ICT-FaceKit"
            raise InputError(f"{root / _INDICES} tells no landmarks: {error}", hint=hint) from None
        neutral = self._apart(root / "generic_neutral_mesh.obj")
        near = [(place, name) for place, name in enumerate(MOTION_NAMES) if name.startswith(_NEAR)]
        moved = {place: [self._apart(file) - neutral for file in _files(root, name)] for place, name in near}
        self._moved = {place: np.sum(parts, 0) for place, parts in moved.items() if parts}
        if not self._moved:
            raise InputError(f"{root} has no shapes of the mouth, such as jawOpen.obj")

    def _apart(self, path: Path) -> NDArray[np.float64]:
        vertices, _ = read_template(path)
        if max(self._upper.max(), self._lower.max()) >= len(vertices):
            raise InputError(f"{path} has {len(vertices)} vertices; the landmarks name more")
        return np.asarray(vertices[self._upper, 1] - vertices[self._lower, 1])

    def millimetres(self, motion: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the gap (T,) of motion (T, 55); below 0 the lips are pressed into each other."""
        opened = sum(motion[:, place, None] * part for place, part in self._moved.items())
        return np.asarray(_MILLIMETRES * np.max(opened, axis=1), np.float64)


_INDICES = "vertex_indices.json"


def _files(root: Path, name: str) -> list[Path]:
    """Return the meshes of a shape: `mouthSmile_L.obj` for MouthSmileLeft, both sides for what ARKit does not part."""
    plain = name[0].lower() + name[1:]
    for side, letter in (("Left", "_L"), ("Right", "_R")):
        if plain.endswith(side) and plain not in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            plain = plain.removesuffix(side) + letter
    return [path for end in ("", "_L", "_R") if (path := root / f"{plain}{end}.obj").exists()]
