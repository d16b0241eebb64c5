"""The face and its motion as an animated glTF file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import PartFile
from edgetalker.face.gltf import Gltf
from edgetalker.face.head import head
from edgetalker.face.names import HEAD_ANGLES
from edgetalker.face.part import Face, Part, normals_of
from edgetalker.face.turn import quaternions
from edgetalker.runtime.sinks.options import camel

__all__ = ["FACE", "HEAD", "MATERIALS", "add_weight_animation", "face_document", "write_glb"]

MATERIALS: dict[str, dict[str, Any]] = {
    "skin": {"roughness": 0.58},
    "eye": {"roughness": 0.10},
    "hair": {"roughness": 0.78},
    "mouth": {"roughness": 0.30},
    "cloth": {"roughness": 0.90},
}
_STILL = 2e-6  # metres: deltas shorter than this move nothing that can be seen
_STILL_NORMAL = 2e-3
Array = NDArray[np.float64]


HEAD, FACE = 0, 1
"""Numbers of the node that turns and of the node whose weights move."""


def face_document(face: Face | None = None) -> Gltf:
    """Return the face at rest as a glTF document.

    Node HEAD turns about its pivot. Its child FACE is one mesh with a primitive a part, so that one weight moves
    all parts; `extras.targetNames` names the targets. Hair and ears, which no shape moves, hang beside it; the
    bust does not turn.
    """
    face = face or head()
    gltf = Gltf()
    pivot = np.asarray(face.pivot)
    groups = {
        "face": [part for part in face.parts if part.moves and part.deltas],
        "around": [part for part in face.parts if part.moves and not part.deltas],
        "bust": [part for part in face.parts if not part.moves],
    }
    names = list(face.names)
    meshes: list[dict[str, Any]] = []
    for name, parts in groups.items():
        primitives = [_primitive(gltf, part, names if name == "face" else (), pivot) for part in parts]
        meshes.append({"name": name, "primitives": primitives})
    meshes[0] |= {"weights": [0.0] * len(names), "extras": {"targetNames": names}}
    place = pivot.tolist()
    gltf.document |= {
        "scene": 0,
        "scenes": [{"nodes": [HEAD, 3]}],
        "nodes": [
            {"name": "head", "translation": place, "children": [FACE, 2]},
            {"name": "face", "mesh": 0},
            {"name": "around", "mesh": 1},
            {"name": "bust", "mesh": 2, "translation": place},
        ],
        "meshes": meshes,
        "materials": [_material(name, **MATERIALS[name]) for name in MATERIALS],
    }
    return gltf


def _material(name: str, roughness: float) -> dict[str, Any]:
    return {
        "name": name,
        "doubleSided": name == "cloth",
        "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0.0, "roughnessFactor": roughness},
    }


def _primitive(gltf: Gltf, part: Part, names: Sequence[str], pivot: Array) -> dict[str, Any]:
    normals = normals_of(part.positions, part.triangles)
    small = len(part.positions) <= 0xFFFF
    primitive: dict[str, Any] = {
        "attributes": {
            "POSITION": gltf.add(_f32(part.positions - pivot), bounds=True, purpose="vertices"),
            "NORMAL": gltf.add(_f32(normals), purpose="vertices"),
            "COLOR_0": gltf.add(_f32(part.colours), purpose="vertices"),
        },
        "indices": gltf.add(part.triangles.ravel().astype(np.uint16 if small else np.uint32), purpose="indices"),
        "material": list(MATERIALS).index(part.material),
    }
    if names:
        primitive["targets"] = [_target(gltf, part, name, normals) for name in names]
    return primitive


def _target(gltf: Gltf, part: Part, name: str, normals: Array) -> dict[str, int]:
    delta = part.deltas.get(name)
    if delta is None:
        zero = np.zeros_like(part.positions, np.float32)
        return {"POSITION": gltf.add_sparse(zero, 0.0, bounds=True), "NORMAL": gltf.add_sparse(zero, 0.0, bounds=False)}
    turned = normals_of(part.positions + delta, part.triangles) - normals
    return {
        "POSITION": gltf.add_sparse(_f32(delta), _STILL, bounds=True),
        "NORMAL": gltf.add_sparse(_f32(turned), _STILL_NORMAL, bounds=False),
    }


def _f32(values: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


def write_glb(
    path: Path | str | PartFile,
    weights: NDArray[Any],
    fps: Fraction | float,
    names: Sequence[str],
    face: Face | None = None,
    times: Sequence[float] | None = None,
    camels: bool = False,
) -> None:
    """Write the face with its motion as an animated .glb.

    weights: (T, len(names)), shapes in [0, 1] and head angles in radians, matched **by name**; shapes that the
    motion lacks rest. times: (T,) seconds, growing; by default index / fps. camels: targets are called
    jawOpen instead of JawOpen. Raises InputError when the motion is
    empty, not finite, or has none of the face's shapes.
    """
    face = face or head()
    motion = _checked(weights, names, face.names)
    gltf = face_document(face)
    column = {name: index for index, name in enumerate(names)}
    zero = np.zeros(len(motion))
    shapes = np.stack([motion[:, column[n]] if n in column else zero for n in face.names], 1)
    turns = np.stack([motion[:, column[n]] if n in column else zero for n in HEAD_ANGLES], 1)
    if camels:
        gltf.document["meshes"][0]["extras"]["targetNames"] = list(map(camel, face.names))
    add_weight_animation(gltf, FACE, shapes, fps, times)
    _add_rotation(gltf, HEAD, quaternions(turns))
    gltf.write(path)


def _checked(weights: NDArray[Any], names: Sequence[str], known: Sequence[str]) -> Array:
    motion = np.asarray(weights, np.float64)
    if motion.ndim != 2 or motion.shape[1] != len(names) or not len(motion):
        raise InputError(f"motion has the shape {motion.shape}; wanted (frames, {len(names)}), at least one frame")
    if not np.isfinite(motion).all():
        raise InputError("motion holds numbers that are not finite")
    if not set(names) & set(known):
        raise InputError("motion names none of the face's 52 ARKit shapes", hint="the names look like JawOpen")
    return motion


def add_weight_animation(
    gltf: Gltf, node: int, weights: Array, fps: Fraction | float, times: Sequence[float] | None = None
) -> None:
    """Animate the morph weights (T, targets) of a node's mesh, a key a frame at its time (default: index / fps)."""
    keys = np.arange(len(weights)) / float(fps) if times is None else np.asarray(times, np.float64)
    sampler = {
        "input": gltf.add(_f32(keys), bounds=True),
        "output": gltf.add(_f32(weights).ravel()),
        "interpolation": "LINEAR",
    }
    channel = {"sampler": 0, "target": {"node": node, "path": "weights"}}
    gltf.document["animations"] = [{"name": "speech", "samplers": [sampler], "channels": [channel]}]


def _add_rotation(gltf: Gltf, node: int, turns: NDArray[np.float32]) -> None:
    animation = gltf.document["animations"][0]
    times = animation["samplers"][0]["input"]
    animation["samplers"].append({"input": times, "output": gltf.add(turns), "interpolation": "LINEAR"})
    animation["channels"].append({"sampler": 1, "target": {"node": node, "path": "rotation"}})
