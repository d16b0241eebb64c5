"""Pictures of a mesh without a screen: a small z-buffer rasteriser, smooth Lambert light, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "View", "draw"]

Array = NDArray[np.float64]
BACKGROUND = np.array([0.023, 0.028, 0.042])
# direction towards the light, linear RGB; then a soft light from the sky
_LIGHTS = (((-0.45, 0.50, 0.75), (0.95, 0.90, 0.84)), ((0.9, 0.1, 0.35), (0.22, 0.26, 0.32)))
_SKY, _GROUND = np.array([0.36, 0.37, 0.40]), np.array([0.16, 0.13, 0.12])
_BUCKETS = (2, 4, 8, 16, 32, 64, 128, 256, 1024)


class View(Protocol):
    """What `draw` looks through."""

    def project(self, p: Array, size: int) -> Array:
        """Return (N, 3): pixel x, pixel y, depth (smaller is nearer) on a square of `size` pixels."""
        ...


@dataclass(frozen=True)
class Camera:
    """A camera in front of the mesh, on the z axis. Lengths as the mesh's; field of view in degrees."""

    distance: float = 0.80
    height: float = -0.006
    field: float = 22.0

    def project(self, p: Array, size: int) -> Array:
        """Return (N, 3): pixel x, pixel y, depth (smaller is nearer) on a square of `size` pixels."""
        depth = self.distance - p[:, 2]
        scale = 0.5 * size / np.tan(np.radians(self.field) / 2) / depth
        return np.stack([0.5 * size + p[:, 0] * scale, 0.5 * size - (p[:, 1] - self.height) * scale, depth], 1)


def draw(
    positions: Array,
    normals: Array,
    colours: Array,
    triangles: NDArray[np.int64],
    size: int,
    camera: View | None = None,
    light: Callable[[Array], Array] | None = None,
) -> NDArray[np.uint8]:
    """Return a picture (size, size, 3) uint8 sRGB of triangles that face the camera, twice oversampled.

    positions, normals, colours: (N, 3); colours are linear RGB in [0, 1]. light: what normals (N, 3) receive, (N, 1) or
    (N, 3); default: two lamps and the sky.
    """
    fine = 2 * size
    screen = (camera or Camera()).project(positions, fine)
    triangles = _facing(screen, triangles)
    pixel, triangle, weights = _covered(screen, triangles, fine)
    image = np.tile(BACKGROUND, (fine * fine, 1))
    corners = triangles[triangle]
    normal = np.einsum("nc,ncx->nx", weights, normals[corners])
    colour = np.einsum("nc,ncx->nx", weights, colours[corners])
    image[pixel] = colour * (light or _light)(normal)
    coarse = image.reshape(size, 2, size, 2, 3).mean((1, 3))
    return _to_srgb(coarse)


def _facing(screen: Array, triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    a, b, c = (screen[triangles[:, k], :2] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return triangles[area < 0]  # y grows downwards on the screen


def _covered(
    screen: Array, triangles: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return the visible pixels: their number, the triangle seen there, its corners' weights (n, 3)."""
    corner = screen[triangles]
    low = np.floor(corner[..., :2].min(1)).astype(np.int64)
    span = np.ceil(corner[..., :2].max(1)).astype(np.int64) - low + 1
    extent = span.max(1) * ((low < size) & (low + span > 0)).all(1)  # nothing of what lies beside the picture
    found = []
    for least, most in zip((0, *_BUCKETS), _BUCKETS, strict=False):
        chosen = np.flatnonzero((extent > least) & (extent <= most))
        found += [
            _inside(corner, low, group, most, size)
            for group in np.array_split(chosen, 1 + len(chosen) * most**2 // 2_000_000)
        ]
    pixel, triangle, weights, depth = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((triangle, depth, pixel))
    first = order[np.flatnonzero(np.diff(pixel[order], prepend=-1))]
    return pixel[first], triangle[first], weights[first]


def _inside(
    corner: Array, low: NDArray[np.int64], chosen: NDArray[np.int64], most: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Return pixel, triangle, weights and depth of the pixel centres inside the chosen triangles."""
    step = np.arange(most)
    x, y = low[chosen, 0, None, None] + step[None, None, :], low[chosen, 1, None, None] + step[None, :, None]
    ax, ay = (corner[chosen, 0, k, None, None] for k in range(2))
    bx, by, cx, cy = (corner[chosen, of, k, None, None] - (ax, ay)[k] for of in (1, 2) for k in range(2))
    whole = bx * cy - by * cx
    whole = np.where(np.abs(whole) < 1e-12, 1e-12, whole)
    right, down = x + 0.5 - ax, y + 0.5 - ay
    wb, wc = (right * cy - down * cx) / whole, (bx * down - by * right) / whole
    inside = (x >= 0) & (y >= 0) & (x < size) & (y < size)
    which, row, column = np.nonzero((wb >= 0) & (wc >= 0) & (wb + wc <= 1) & inside)
    wb, wc = wb[which, row, column], wc[which, row, column]
    pixel = (low[chosen[which], 1] + row) * size + low[chosen[which], 0] + column
    weights = np.stack([1 - wb - wc, wb, wc], 1)
    depth = np.einsum("nc,nc->n", weights, corner[chosen[which], :, 2])
    return pixel, chosen[which], weights, depth


def _light(normal: Array) -> Array:
    n = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    up = 0.5 + 0.5 * n[:, 1:2]
    total: Array = _GROUND + (_SKY - _GROUND) * up
    for direction, colour in _LIGHTS:
        towards = np.asarray(direction) / np.linalg.norm(direction)
        lambert = np.clip((n @ towards + 0.25) / 1.25, 0, 1)  # wrapped a little round the edge, as on skin
        total = total + lambert[:, None] * np.asarray(colour)
    return total


def _to_srgb(linear: Array) -> NDArray[np.uint8]:
    c = np.clip(linear, 0, 1)
    encoded = np.where(c <= 0.0031308, c * 12.92, 1.055 * c ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)
