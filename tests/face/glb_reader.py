"""A reader of .glb files for tests, written from the specification, apart from the writer."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class Glb:
    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<III", data)
        assert (magic, version, length) == (0x46546C67, 2, len(data))
        size, kind = struct.unpack_from("<II", data, 12)
        assert kind == 0x4E4F534A
        self.json: dict[str, Any] = json.loads(data[20 : 20 + size])
        body, kind = struct.unpack_from("<II", data, 20 + size)
        assert kind == 0x004E4942
        self.body = data[28 + size : 28 + size + body]

    def view(self, number: int) -> bytes:
        view = self.json["bufferViews"][number]
        return self.body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]

    def read(self, number: int) -> NDArray[Any]:
        accessor = self.json["accessors"][number]
        shape = (accessor["count"], WIDTH[accessor["type"]])
        kind = TYPES[accessor["componentType"]]
        values = np.zeros(shape, kind)
        if "bufferView" in accessor:
            values = np.frombuffer(self.view(accessor["bufferView"]), kind).reshape(shape).copy()
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            rows = np.frombuffer(self.view(sparse["indices"]["bufferView"]), TYPES[sparse["indices"]["componentType"]])
            assert len(rows) == sparse["count"]
            assert (np.diff(rows.astype(int)) > 0).all()
            values[rows] = np.frombuffer(self.view(sparse["values"]["bufferView"]), kind).reshape(-1, shape[1])
        if "min" in accessor:
            assert np.allclose(accessor["min"], values.min(0))
            assert np.allclose(accessor["max"], values.max(0))
        return values
