"""Mesh motion (vertices of the user's own template) as glTF: few morph targets instead of a mesh a frame.

glTF animates meshes by morph weights alone, so the motion (T, V, 3) is written as its mean, k principal
components as targets, and k weights a frame. k is the least number whose largest vertex error stays under the
tolerance, at most `most`; what error is left is returned, so that nobody has to trust it blindly. A talking face
has few degrees of freedom; k stays small for long clips, where a target a frame would need T * V * 12 bytes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import PartFile
from edgetalker.face.glb import add_weight_animation
from edgetalker.face.gltf import Gltf
from edgetalker.face.part import normals_of

__all__ = ["Components", "components_of", "write_vertex_glb"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """motion[t] ~ mean + sum_k weights[t, k] * targets[k]; mean (V, 3), targets (k, V, 3), weights (T, k).

    error: the largest distance of any vertex in any frame from where it should be, in the motion's units.
    """

    mean: Array
    targets: Array
    weights: Array
    error: float


def components_of(motion: NDArray[Any], tolerance: float | None = None, most: int = 64) -> Components:
    """Return the principal components of a motion (T, V, 3), scaled so that weights span [-1, 1].

    tolerance: largest vertex error allowed, by default 1/2000 of the mesh's diagonal. The components come from
    the T x T Gram matrix (method of snapshots, Sirovich 1987), exact and cheap while T is below some thousands.
    """
    frames = np.asarray(motion, np.float64)
    mean = frames.mean(0)
    if tolerance is None:
        tolerance = float(np.linalg.norm(np.ptp(mean, axis=0))) / 2000
    offset = (frames - mean).reshape(len(frames), -1)
    value, vector = np.linalg.eigh(offset @ offset.T)
    useful = np.flatnonzero(value[::-1] > max(value[-1], 0.0) * 1e-12)[:most]
    basis = vector[:, ::-1][:, useful]
    targets, weights, error = np.zeros((0, offset.shape[1])), np.zeros((len(frames), 0)), _largest(offset)
    rest = offset.copy()
    for column in basis.T:
        if error <= tolerance:
            break
        direction = column @ offset
        scale = max(float(np.abs(column).max()), 1e-300)
        targets = np.concatenate([targets, direction[None] * scale])
        weights = np.concatenate([weights, column[:, None] / scale], axis=1)
        rest -= np.outer(column, direction)
        error = _largest(rest)
    return Components(mean, targets.reshape(-1, *mean.shape), weights, error)


def _largest(offset: Array) -> float:
    return float(np.linalg.norm(offset.reshape(len(offset), -1, 3), axis=2).max(initial=0.0))


def write_vertex_glb(
    path: Path | str | PartFile,
    motion: NDArray[Any],
    triangles: NDArray[Any],
    fps: Fraction | float,
    *,
    metres: float = 1.0,
    tolerance: float | None = None,
    most: int = 64,
    times: Sequence[float] | None = None,
) -> Components:
    """Write a mesh's motion (T, V, 3) with triangles (F, 3) as an animated .glb; return what was written.

    metres: the length of the motion's unit in metres (glTF is in metres). tolerance and the returned error are
    in the motion's units. times: (T,) seconds, growing; by default index / fps. Raises InputError when shapes do not
    fit or numbers are not finite.
    """
    frames, faces = _checked(motion, triangles)
    parts = components_of(frames, tolerance, most)
    gltf = Gltf()
    normals = normals_of(parts.mean, faces)
    primitive: dict[str, Any] = {
        "attributes": {
            "POSITION": gltf.add(_f32(parts.mean * metres), bounds=True, purpose="vertices"),
            "NORMAL": gltf.add(_f32(normals), purpose="vertices"),
        },
        "indices": gltf.add(faces.ravel().astype(np.uint32), purpose="indices"),
        "material": 0,
    }
    mesh: dict[str, Any] = {"name": "mesh", "primitives": [primitive]}
    if len(parts.targets):
        primitive["targets"] = [_target(gltf, parts.mean, t, faces, normals, metres) for t in parts.targets]
        mesh["weights"] = [0.0] * len(parts.targets)
        mesh["extras"] = {"targetNames": _names(len(parts.targets))}
    gltf.document |= {
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "mesh", "mesh": 0}],
        "meshes": [mesh],
        "materials": [{"name": "mesh", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.6}}],
    }
    if len(parts.targets):
        add_weight_animation(gltf, 0, parts.weights, fps, times)
    gltf.write(path)
    return parts


def _checked(motion: NDArray[Any], triangles: NDArray[Any]) -> tuple[Array, NDArray[np.int64]]:
    frames, faces = np.asarray(motion, np.float64), np.asarray(triangles)
    if frames.ndim != 3 or frames.shape[2] != 3 or not len(frames) or not np.isfinite(frames).all():
        raise InputError(f"mesh motion has the shape {frames.shape}; wanted (frames, vertices, 3), all finite")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise InputError(f"triangles have the shape {faces.shape} of {faces.dtype}; wanted (faces, 3) integers")
    if faces.size and (faces.min() < 0 or faces.max() >= frames.shape[1]):
        raise InputError(f"triangles name vertex {faces.max()}; the motion has {frames.shape[1]} vertices")
    return frames, faces.astype(np.int64)


def _target(
    gltf: Gltf, mean: Array, delta: Array, faces: NDArray[np.int64], normals: Array, metres: float
) -> dict[str, int]:
    turned = normals_of(mean + delta, faces) - normals
    return {
        "POSITION": gltf.add(_f32(delta * metres), bounds=True, purpose="vertices"),
        "NORMAL": gltf.add(_f32(turned), purpose="vertices"),
    }


def _names(count: int) -> Sequence[str]:
    return [f"component{k}" for k in range(count)]


def _f32(values: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
