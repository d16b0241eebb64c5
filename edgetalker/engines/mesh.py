"""Template meshes: the vertices and triangles of an OBJ or PLY file, vertex by vertex as the file numbers them.

Motion moves vertices by number, so a reader may neither split nor drop one. trimesh (4.5 and 5.2, process=False and
maintain_order=True) does both where an OBJ has materials or texture coordinates, and refuses a binary PLY whose faces
are triangles and quads; hence these lines.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import read_regular

__all__ = ["read_template"]

_PLY = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_MOST_BYTES = 1 << 28  # a face of a million vertices as text has some 100 MB
Polygons = list[list[int]]
Elements = list[tuple[str, int, list[list[str]]]]
"""(name, count, properties) in a file's order; a property is its words after `property`."""


def read_template(path: Path | str, *, faces: bool = True) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices (V, 3) and triangles (F, 3) of an .obj or .ply file; larger polygons are fanned out.

    faces: whether there must be any.
    Raises InputError for a file that is absent, of another kind, broken, or whose faces name absent vertices.
    """
    path = Path(path)
    readers = {".obj": _read_obj, ".ply": _read_ply}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: a template mesh is an .obj or a .ply file")
    try:
        vertices, polygons = readers[path.suffix.lower()](read_regular(path, _MOST_BYTES))
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}") from None
    except (ValueError, IndexError, KeyError, StopIteration, OverflowError, MemoryError) as fault:
        raise InputError(f"{path} is no readable {path.suffix} mesh: {fault}") from None
    triangles = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
    found = np.array(triangles, np.int64).reshape(-1, 3)
    if not len(vertices):
        raise InputError(f"{path} holds no vertices")
    if faces and not len(found):
        raise InputError(f"{path} holds {len(vertices)} vertices and no triangles")
    if len(found) and (found.min() < 0 or found.max() >= len(vertices)):
        raise InputError(f"{path}: a face names a vertex that is not there; {len(vertices)} are")
    return vertices, found


def _read_obj(data: bytes) -> tuple[NDArray[np.float64], Polygons]:
    vertices: list[list[float]] = []
    polygons: Polygons = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if words[:1] == ["v"]:
            if len(words) < 4:
                raise ValueError(f"line {number}: a vertex of {len(words) - 1} numbers")
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) for word in words[1:]]
            polygons.append([c - 1 if c > 0 else len(vertices) + c for c in corners])  # -1 is the last so far
    return np.array(vertices, np.float64).reshape(-1, 3), polygons


def _read_ply(data: bytes) -> tuple[NDArray[np.float64], Polygons]:
    end = data.index(b"end_header")
    body = data.index(b"\n", end) + 1
    lines = [line.split() for line in data[:end].decode("ascii").splitlines()]
    if lines[:1] != [["ply"]]:
        raise ValueError("it does not begin with `ply`")
    form = next(line[1] for line in lines if line[:1] == ["format"])
    elements = _elements(lines)
    if form == "ascii":
        return _ply_ascii(data[body:].decode("ascii").split("\n"), elements)
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[form]
    return _ply_binary(data[body:], elements, order)


def _elements(lines: list[list[str]]) -> Elements:
    elements: Elements = []
    for line in lines:
        if line[:1] == ["element"]:
            elements.append((line[1], int(line[2]), []))
        elif line[:1] == ["property"]:
            elements[-1][2].append(line[1:])
    return elements


def _ply_ascii(rows: list[str], elements: Elements) -> tuple[NDArray[np.float64], Polygons]:
    vertices, at = np.zeros((0, 3)), 0
    polygons: Polygons = []
    for name, count, properties in elements:
        block = [row.split() for row in rows[at : at + count]]
        at += count
        if name == "vertex":
            places = [[p[-1] for p in properties].index(axis) for axis in "xyz"]
            vertices = np.array([[float(row[k]) for k in places] for row in block]).reshape(-1, 3)
        elif name == "face":
            polygons = [[int(word) for word in row[1 : 1 + int(row[0])]] for row in block]
    return vertices, polygons


def _ply_binary(data: bytes, elements: Elements, order: str) -> tuple[NDArray[np.float64], Polygons]:
    vertices, at = np.zeros((0, 3)), 0
    polygons: Polygons = []
    for name, count, properties in elements:
        if all(p[0] != "list" for p in properties):
            record = np.dtype([(p[1], order + _PLY[p[0]]) for p in properties])
            block = np.frombuffer(data, record, count, at)
            at += record.itemsize * count
            if name == "vertex":
                vertices = np.stack([block[axis].astype(np.float64) for axis in "xyz"], 1)
            continue
        if len(properties) != 1:
            raise ValueError(f"element `{name}` mixes lists and numbers")
        polygons, at = _ply_lists(data, at, count, order + _PLY[properties[0][1]], order + _PLY[properties[0][2]])
    return vertices, polygons


def _ply_lists(data: bytes, at: int, count: int, length: str, item: str) -> tuple[Polygons, int]:
    lists, head = [], np.dtype(length).itemsize
    if count < 0 or count > len(data):
        raise ValueError(f"{count} faces do not fit {len(data)} bytes")
    if count:  # nearly always all faces have as many corners as the first
        size = int(np.frombuffer(data, length, 1, at)[0])
        record = np.dtype([("size", length), ("corners", item, (size,))])
        block = np.frombuffer(data, record, min(count, (len(data) - at) // record.itemsize), at)
        if len(block) == count and (block["size"] == size).all():
            return block["corners"].reshape(count, size).tolist(), at + block.nbytes
    for _ in range(count):
        size = int(np.frombuffer(data, length, 1, at)[0])
        values = np.frombuffer(data, item, size, at + head)
        lists.append([int(value) for value in values])
        at += head + values.nbytes
    return lists, at
