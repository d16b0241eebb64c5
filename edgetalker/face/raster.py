"""Pictures of a mesh without a screen: a small z-buffer rasteriser, smooth Lambert light, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "draw"]

Array = NDArray[np.float64]
BACKGROUND = np.array([0.023, 0.028, 0.042])
# direction towards the light, linear RGB; then a soft light from the sky
_LIGHTS = (((-0.45, 0.50, 0.75), (0.95, 0.90, 0.84)), ((0.9, 0.1, 0.35), (0.22, 0.26, 0.32)))
_SKY, _GROUND = np.array([0.36, 0.37, 0.40]), np.array([0.16, 0.13, 0.12])
_BUCKETS = (2, 4, 8, 16, 32, 64, 128, 256, 1024)


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
    camera: Camera | None = None,
) -> NDArray[np.uint8]:
    """Return a picture (size, size, 3) uint8 sRGB of triangles that face the camera, twice oversampled.

    positions, normals, colours: (N, 3); colours are linear RGB in [0, 1].
    """
    fine = 2 * size
    screen = (camera or Camera()).project(positions, fine)
    triangles = _facing(screen, triangles)
    pixel, triangle, weights = _covered(screen, triangles, fine)
    image = np.tile(BACKGROUND, (fine * fine, 1))
    corners = triangles[triangle]
    normal = np.einsum("nc,ncx->nx", weights, normals[corners])
    colour = np.einsum("nc,ncx->nx", weights, colours[corners])
    image[pixel] = colour * _light(normal)
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
    extent = span.max(1)
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
    x = (low[chosen, 0, None, None] + step[None, None, :]) + 0 * step[None, :, None]
    y = (low[chosen, 1, None, None] + step[None, :, None]) + 0 * step[None, None, :]
    a, b, c = (corner[chosen, k, :, None, None] for k in range(3))
    whole = _cross(b - a, c - a)
    whole = np.where(np.abs(whole) < 1e-12, 1e-12, whole)
    spot = np.stack([x + 0.5, y + 0.5, np.zeros(x.shape)], 1)
    wb, wc = _cross(spot - a, c - a) / whole, _cross(b - a, spot - a) / whole
    hit = (wb >= 0) & (wc >= 0) & (wb + wc <= 1) & (x >= 0) & (y >= 0) & (x < size) & (y < size)
    which = np.broadcast_to(chosen[:, None, None], hit.shape)[hit]
    weights = np.stack([1 - wb[hit] - wc[hit], wb[hit], wc[hit]], 1)
    depth = np.einsum("nc,nc->n", weights, corner[which, :, 2])
    return y[hit] * size + x[hit], which, weights, depth


def _cross(u: Array, v: Array) -> Array:
    cross: Array = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    return cross


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
