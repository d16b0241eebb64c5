"""The glTF 2.0 container: typed arrays, sparse arrays and the JSON around them, packed into one .glb."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import PartFile, write_whole

__all__ = ["Gltf"]

_COMPONENT = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_SHAPE = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_VERTICES, _INDICES = 34962, 34963


class Gltf:
    """A glTF document that grows: `add` puts an array into the buffer and returns its accessor.

    Every other part of the document is plain JSON in `document`, by the names of the specification (Khronos
    glTF 2.0, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html).
    """

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "edgetalker"},
            "bufferViews": [],
            "accessors": [],
        }
        self._buffer = bytearray()

    def _view(self, data: bytes, target: int | None = None) -> int:
        self._buffer += b"\0" * (-len(self._buffer) % 4)
        view: dict[str, int] = {"buffer": 0, "byteOffset": len(self._buffer), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self._buffer += data
        self.document["bufferViews"].append(view)
        return len(self.document["bufferViews"]) - 1

    def _accessor(self, values: NDArray[Any], bounds: bool) -> dict[str, Any]:
        flat = values.reshape(len(values), -1)
        accessor: dict[str, Any] = {
            "componentType": _COMPONENT[values.dtype.name],
            "count": len(values),
            "type": _SHAPE[flat.shape[1]],
        }
        if bounds:
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        return accessor

    def _append(self, accessor: dict[str, Any]) -> int:
        self.document["accessors"].append(accessor)
        return len(self.document["accessors"]) - 1

    def add(self, values: NDArray[Any], *, bounds: bool = False, purpose: str = "") -> int:
        """Store an array (N,) or (N, 1..4) of float32 or unsigned integers; return its accessor.

        bounds: write min and max (asked for on positions and key times). purpose: `vertices`, `indices` or "".
        """
        values = np.ascontiguousarray(values)
        target = {"vertices": _VERTICES, "indices": _INDICES}.get(purpose)
        accessor = self._accessor(values, bounds)
        accessor["bufferView"] = self._view(values.tobytes(), target)
        return self._append(accessor)

    def add_sparse(self, values: NDArray[np.float32], least: float, *, bounds: bool) -> int:
        """Store (N, 3) float32 of which most rows are (nearly) zero: only rows longer than `least` are kept."""
        rows = np.flatnonzero(np.linalg.norm(values, axis=1) > least)
        kept = np.zeros_like(values)
        kept[rows] = values[rows]
        accessor = self._accessor(kept, bounds)
        if len(rows):
            index = rows.astype(np.uint16 if len(values) <= 0xFFFF else np.uint32)
            accessor["sparse"] = {
                "count": len(rows),
                "indices": {
                    "bufferView": self._view(index.tobytes()),
                    "componentType": _COMPONENT[index.dtype.name],
                },
                "values": {"bufferView": self._view(kept[rows].tobytes())},
            }
        return self._append(accessor)

    def pack(self) -> bytes:
        """Return the document as the bytes of a .glb file (12-byte header, a JSON chunk, a binary chunk)."""
        body = bytes(self._buffer) + b"\0" * (-len(self._buffer) % 4)
        document = self.document | {"buffers": [{"byteLength": len(body)}]}
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(body)
        head = struct.pack("<4sII", b"glTF", 2, length)
        return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body

    def write(self, path: Path | str | PartFile) -> None:
        """Write the .glb file, whole or not at all."""
        with write_whole(path) as file:
            file.write(self.pack())
