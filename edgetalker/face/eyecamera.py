"""What cameras in a headset see of our head: small grey pictures of an eye with its brow and cheek, for training.

The head is symmetric, so the right eye's picture is the left eye's of the mirrored face under mirrored light, flipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.head import head
from edgetalker.face.names import mirrored_name
from edgetalker.face.part import normals_of
from edgetalker.face.raster import draw
from edgetalker.face.sculpt import EYE_CENTRE

__all__ = ["SIZE", "EyeViews", "Light", "Mounted"]

Array = NDArray[np.float64]
SIZE = 48
"""Pixels of a picture's side."""
_REACH = 0.062
_PLACE, _AIM = np.array([0.012, -0.018, 0.058]), np.array([0.002, 0.004, 0.012])
_MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Mounted:
    """The camera before the left eye. offset: metres from where it is meant to be; turn: radians about its own right,
    up and forward axes; field: degrees. How a headset sits differs from face to face and from day to day."""

    offset: Array
    turn: Array
    field: float = 54.0

    def project(self, p: Array, size: int) -> Array:
        """Return (N, 3): pixel x, pixel y, depth, as `raster.Camera.project` does."""
        eye = 0.01 * EYE_CENTRE
        forward = _AIM - _PLACE
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, forward), forward])
        x, y, z = self.turn  # small: what is of the second order does not matter
        axes = axes + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ axes
        q = (p - eye - _PLACE - self.offset) @ axes.T
        scale = 0.5 * size / np.tan(np.radians(self.field) / 2) / q[:, 2]
        return np.stack([0.5 * size + q[:, 0] * scale, 0.5 * size - q[:, 1] * scale, q[:, 2]], 1)


@dataclass(frozen=True)
class Light:
    """Directions towards lamps (n, 3), their strengths (n,), and the light that comes from everywhere."""

    directions: Array
    strengths: Array
    ambient: float = 0.2

    def __call__(self, normal: Array) -> Array:
        """Return what normals (N, 3) receive, (N, 1): Lambert, wrapped a little round the edge."""
        n = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        towards = self.directions / np.linalg.norm(self.directions, axis=1, keepdims=True)
        received: Array = np.clip((n @ towards.T + 0.2) / 1.2, 0.0, 1.0) @ self.strengths[:, None]
        return self.ambient + received

    def mirrored(self) -> Light:
        """Return the light as the other side receives it."""
        return Light(self.directions * _MIRROR, self.strengths, self.ambient)


class EyeViews:
    """The head near its left eye, and the pictures of both eyes."""

    def __init__(self) -> None:
        positions, triangles, colours, deltas, count = [], [], [], [], 0
        for part in head().parts:
            near = np.linalg.norm(part.positions - 0.01 * EYE_CENTRE, axis=1) < _REACH
            inside = part.triangles[near[part.triangles].all(1)]
            if len(inside):
                place = np.cumsum(near) - 1 + count
                positions.append(part.positions[near])
                colours.append(part.colours[near])
                triangles.append(place[inside])
                deltas.append({name: delta[near] for name, delta in part.deltas.items() if np.abs(delta[near]).any()})
                count += int(near.sum())
        self._rest, self._colours = np.concatenate(positions), np.concatenate(colours)
        self._triangles = np.concatenate(triangles)
        self.names = sorted({name for of_part in deltas for name in of_part})
        zeros = [np.zeros_like(p) for p in positions]
        self._deltas = np.stack([
            np.concatenate([of_part.get(name, zero) for of_part, zero in zip(deltas, zeros, strict=True)])
            for name in self.names
        ])  # fmt: skip

    def left(self, shapes: Mapping[str, float], camera: Mounted, light: Light, size: int = SIZE) -> NDArray[np.uint8]:
        """Return the left eye's picture, (size, size) uint8, of a face with these shapes."""
        weights = np.array([shapes.get(name, 0.0) for name in self.names])
        p = self._rest + np.tensordot(weights, self._deltas, 1)
        normals = normals_of(p, self._triangles)
        picture = draw(p, normals, self._colours, self._triangles, size, camera, light)
        grey: NDArray[np.uint8] = np.round(picture.mean(-1)).astype(np.uint8)
        return grey

    def both(
        self, shapes: Mapping[str, float], cameras: tuple[Mounted, Mounted], light: Light, size: int = SIZE
    ) -> NDArray[np.uint8]:
        """Return both eyes' pictures, (2, size, size), the left one first. cameras: the right one's offset and turn are
        told as they are in a mirror."""
        mirrored = {mirrored_name(name): value for name, value in shapes.items()}
        right = self.left(mirrored, cameras[1], light.mirrored(), size)[:, ::-1]
        return np.stack([self.left(shapes, cameras[0], light, size), right])
