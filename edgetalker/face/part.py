"""A piece of the face: vertices, triangles, colours and what each shape adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Face", "Part", "normals_of"]


@dataclass
class Part:
    """positions (N, 3) and deltas (N, 3) a shape, in metres once the face is built; triangles (T, 3) seen
    counter-clockwise from outside; colours (N, 3) linear RGB in [0, 1]. Shapes that do not move it are absent.
    moves: False for what stays when the head turns.
    """

    name: str
    material: str
    positions: NDArray[np.float64]
    triangles: NDArray[np.int64]
    colours: NDArray[np.float64]
    deltas: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    moves: bool = True

    def posed(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """Return positions (N, 3) under the given shape weights; names that move nothing here are ignored."""
        out: NDArray[np.float64] = self.positions.copy()
        for name, weight in weights.items():
            if weight and name in self.deltas:
                out += weight * self.deltas[name]
        return out


@dataclass(frozen=True)
class Face:
    """A head: its parts, the names of its shapes in order, and the point it turns about, in metres."""

    parts: tuple[Part, ...]
    names: tuple[str, ...]
    pivot: tuple[float, float, float]

    def part(self, name: str) -> Part:
        """Return the part called `name`. Raises KeyError when there is none."""
        return {part.name: part for part in self.parts}[name]


def normals_of(positions: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return smooth unit normals (N, 3): the sum of the area-weighted normals of the triangles around."""
    a, b, c = (positions[triangles[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros_like(positions)
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(triangles[:, corner], across[:, axis], len(positions))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total[length[:, 0] < 1e-15] = (0.0, 0.0, 1.0)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-15)
    return total
