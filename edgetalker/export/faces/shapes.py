"""Reads the 52 ARKit shapes on a model's own topology: a folder of OBJ files, a GLB with morph targets, or an .npz."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_regular
from edgetalker.engines.mesh import read_template
from edgetalker.runtime.sinks.names import ARKIT_SHAPES

__all__ = ["Shapes", "read_mesh", "read_shapes", "shape_named"]

Array = NDArray[np.float64]
_NEUTRAL = ("neutral", "basis", "base", "rest", "default")
_KNOWN = {name.lower(): name for name in ARKIT_SHAPES}


@dataclass(frozen=True)
class Shapes:
    """neutral (V, 3); deltas: shape name -> (V, 3), what the shape at 1 adds. ignored: what matched no name."""

    neutral: Array
    deltas: Mapping[str, Array]
    ignored: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Shapes that the file does not have."""
        return tuple(name for name in ARKIT_SHAPES if name not in self.deltas)


def shape_named(text: str) -> str | None:
    """Return the ARKit shape that a name means, whatever its case, separators, side's form (`_L`) and suffix."""
    plain = re.sub(r"[\s_.\-]+([lr])(?=$|[\s_.\-])", lambda side: {"l": "left", "r": "right"}[side[1]], text.lower())
    plain = re.sub(r"[^a-z0-9]", "", plain)
    found = [known for known in _KNOWN if plain.startswith(known)]
    return _KNOWN[max(found, key=len)] if found else None


def read_shapes(path: Path) -> Shapes:
    """Read neutral and shapes. `.npz`: arrays by shape name and `neutral`, each (V, 3), positions not offsets.

    Raises:
        InputError: no neutral, no shape that has a known name, two files of one shape, or meshes of different sizes.
    """
    if path.is_dir():
        meshes: dict[str, Array] = {}
        for file in sorted(path.iterdir()):
            if file.suffix.lower() == ".obj":
                meshes[file.stem] = read_template(file, faces=False)[0]
    elif path.suffix.lower() == ".glb":
        meshes = _read_glb(path)
    elif path.suffix.lower() == ".npz":
        meshes = _reading(path, _read_npz)
    else:
        raise InputError(f"{path} is no folder, .glb or .npz", hint="give the 52 shapes as one of the three")
    return _sorted(path, meshes)


def _sorted(path: Path, meshes: Mapping[str, Array]) -> Shapes:
    neutral: Array | None = None
    found: dict[str, str] = {}
    faults, ignored = [], []
    for text, mesh in meshes.items():
        if text.lower().lstrip("_").startswith(_NEUTRAL):
            if neutral is not None:
                faults.append(f"`{text}` is a second neutral mesh")
            neutral = mesh
        elif (name := shape_named(text)) is None:
            ignored.append(text)
        elif name in found:
            faults.append(f"`{found[name]}` and `{text}` both mean {name}")
        else:
            found[name] = text
    if neutral is None:
        faults.append(f"no neutral mesh; one named {', '.join(_NEUTRAL)} was wanted")
    if not found:
        faults.append("no mesh has the name of an ARKit shape, such as jawOpen")
    for text in found.values():
        if neutral is not None and meshes[text].shape != neutral.shape:
            faults.append(f"`{text}` has {len(meshes[text])} vertices, the neutral {len(neutral)}")
        elif not np.isfinite(meshes[text]).all():
            faults.append(f"`{text}` holds NaN or infinite values")
    if faults or neutral is None:
        raise InputError("\n".join([f"{path}: the shapes cannot be used", *(f"  - {fault}" for fault in faults)]))
    return Shapes(neutral, {name: meshes[text] - neutral for name, text in found.items()}, tuple(ignored))


def read_mesh(path: Path) -> tuple[Array, NDArray[np.int64] | None]:
    """Read a neutral face: vertices (V, 3) and, from an .obj, triangles (F, 3). `.npy` holds vertices alone.

    Raises:
        InputError: not such a file.
    """
    if path.suffix.lower() == ".obj":
        return read_template(path, faces=False)
    values = read_arrays(path)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind != "f":
        raise InputError(f"{path} holds no floats (V, 3)")
    return values.astype(np.float64), None


def _reading(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError, EOFError, KeyError, IndexError, struct.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _read_npz(path: Path) -> dict[str, Array]:
    found = read_arrays(path)
    found = found if isinstance(found, dict) else {path.stem: found}
    for name, values in found.items():
        if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "fiu":
            raise ValueError(f"`{name}` is {values.dtype} of {values.shape}; numbers (V, 3) were wanted")
    return {name: values.astype(np.float64) for name, values in found.items()}


_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}


def _read_glb(path: Path) -> dict[str, Array]:
    """Return neutral and morph targets of a glTF binary's first mesh that has any, its primitives one after another."""
    return dict(_reading(path, lambda file: _glb_meshes(read_regular(file, 1 << 30))))


def _glb_meshes(data: bytes) -> dict[str, Array]:
    magic, version, _ = struct.unpack_from("<4sII", data)
    if magic != b"glTF" or version != 2:
        raise ValueError("not a binary glTF of version 2")
    chunks, place = {}, 12
    while place + 8 <= len(data):
        size, kind = struct.unpack_from("<I4s", data, place)
        chunks[kind] = data[place + 8 : place + 8 + size]
        place += 8 + size
    document, content = json.loads(chunks[b"JSON"]), chunks.get(b"BIN\0", b"")
    mesh = next((one for one in document["meshes"] if one["primitives"][0].get("targets")), None)
    if mesh is None:
        raise ValueError("no mesh with morph targets")
    primitives = mesh["primitives"]
    names = mesh.get("extras", {}).get("targetNames") or primitives[0].get("extras", {}).get("targetNames")
    if not names or len(names) != len(primitives[0]["targets"]):
        raise ValueError("the morph targets have no names (extras.targetNames)")
    neutral = np.concatenate([_accessor(document, content, one["attributes"]["POSITION"]) for one in primitives])
    meshes = {"neutral": neutral}
    for number, name in enumerate(names):
        parts = []
        for one in primitives:
            target = one["targets"][number].get("POSITION")
            count = document["accessors"][one["attributes"]["POSITION"]]["count"]
            parts.append(np.zeros((count, 3)) if target is None else _accessor(document, content, target))
        meshes[str(name)] = neutral + np.concatenate(parts)
    return meshes


def _accessor(document: Mapping[str, Any], content: bytes, index: int) -> Array:
    """Return a VEC3 accessor (count, 3), sparse or not."""
    accessor = document["accessors"][index]
    if accessor["type"] != "VEC3":
        raise ValueError(f"positions of type {accessor['type']}; VEC3 was wanted")
    values = np.zeros((accessor["count"], 3))
    if "bufferView" in accessor:
        values = _view(document, content, accessor, accessor["count"], 3)
    if "sparse" in accessor:
        sparse = accessor["sparse"]
        places = _view(document, content, sparse["indices"], sparse["count"], 1).astype(int)[:, 0]
        values[places] = _view(
            document, content, {**sparse["values"], "componentType": accessor["componentType"]}, sparse["count"], 3
        )
    return values


def _view(document: Mapping[str, Any], content: bytes, what: Mapping[str, Any], count: int, width: int) -> Array:
    view, kind = document["bufferViews"][what["bufferView"]], np.dtype(_COMPONENTS[what["componentType"]])
    first = view.get("byteOffset", 0) + what.get("byteOffset", 0)
    stride = view.get("byteStride", kind.itemsize * width)
    if stride < kind.itemsize * width or first + stride * (count - 1) + kind.itemsize * width > len(content):
        raise ValueError("an accessor reaches past the file's end")
    rows = np.ndarray((count, width), kind, content, first, (stride, kind.itemsize))
    return np.asarray(rows, np.float64)
