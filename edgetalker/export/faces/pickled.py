"""Arrays out of what a pickle describes (`models.weights.pickled`): numpy's own, scipy's sparse and chumpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.weights.pickled import Made, Name

__all__ = ["PickleError", "array_of"]


class PickleError(ValueError):
    """What a pickle describes is no array, or one that contradicts itself."""


def array_of(value: Any) -> NDArray[Any]:
    """Return the array that a value of a pickle stands for: numpy's own, scipy's sparse as dense, chumpy's content.

    Raises:
        PickleError: anything else, or an array that contradicts itself.
    """
    if not isinstance(value, Made) or not isinstance(value.of, Name):
        raise PickleError(f"holds a value of type {type(value).__name__} where an array was wanted")
    of, given = value.of, value.given
    if of.full.endswith("._reconstructor") and given and isinstance(given[0], Name):
        of = given[0]  # how Python 2 made objects: _reconstructor(class, object, None)
    kind = of.full.rpartition(".")[2]
    if kind == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, content = value.state
        return _dense(shape, dtype, fortran, _bytes(content))
    if kind == "_frombuffer" and len(given) == 4:  # since protocol 5
        content, dtype, shape, order = given
        return _dense(shape, dtype, order == "F", _bytes(content))
    state = value.state if isinstance(value.state, dict) else {}
    if kind in ("csc_matrix", "csr_matrix", "csc_array", "csr_array"):
        return _sparse(kind[:3], {str(key).lstrip("_"): item for key, item in state.items()})
    if kind == "Ch" and "x" in state:
        return array_of(state["x"])
    raise PickleError(f"holds a {of.full} where an array was wanted")


def _bytes(content: Any) -> bytes:
    if isinstance(content, (bytes, bytearray)):
        return bytes(content)
    if isinstance(content, str):  # a string of Python 2, byte for byte
        return content.encode("latin-1")
    if isinstance(content, Made) and isinstance(content.of, Name) and content.of.full == "_codecs.encode":
        return str(content.given[0]).encode("latin-1")  # bytes that Python 3 wrote for Python 2
    raise PickleError("an array's content is no bytes")


def _dense(shape: Any, dtype: Any, fortran: Any, content: bytes) -> NDArray[Any]:
    if not isinstance(dtype, Made) or not dtype.given or not isinstance(shape, tuple):
        raise PickleError("an array without a type or a shape")
    name, state = str(dtype.given[0]), dtype.state
    order = str(state[1]) if isinstance(state, tuple) and len(state) > 1 else "|"
    if name[:1] not in "fiu" or name[1:] not in ("1", "2", "4", "8") or order not in "<>|=":
        raise PickleError(f"an array of type {order}{name}; numbers were wanted")
    kind = np.dtype(f"{'=' if order == '|' else order}{name}")
    if any(not isinstance(size, int) or size < 0 for size in shape) or len(content) != kind.itemsize * _product(shape):
        raise PickleError(f"an array of shape {shape} and type {name} with {len(content)} bytes")
    values = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
    return values.astype(kind.newbyteorder("="))


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _sparse(kind: str, state: dict[str, Any]) -> NDArray[Any]:
    """Return a compressed sparse matrix, written out."""
    missing = {"data", "indices", "indptr", "shape"} - state.keys()
    if missing:
        raise PickleError(f"a sparse matrix without {', '.join(sorted(missing))}")
    data, indices, starts = (array_of(state[key]) for key in ("data", "indices", "indptr"))
    rows, columns = (int(size) for size in state["shape"])
    major, minor = (columns, rows) if kind == "csc" else (rows, columns)
    fits = len(starts) == major + 1 and len(data) == len(indices) and bool(np.all(np.diff(starts) >= 0))
    if (
        not fits
        or starts[0] != 0
        or starts[-1] != len(data)
        or (len(indices) and not 0 <= indices.min() <= indices.max() < minor)
    ):
        raise PickleError("a sparse matrix that contradicts itself")
    dense = np.zeros((major, minor), data.dtype)
    np.add.at(dense, (np.repeat(np.arange(major), np.diff(starts)), indices), data)
    return dense.T if kind == "csc" else dense
