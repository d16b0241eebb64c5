"""Reads arrays out of a pickle without running it.

A pickle is a program for a small machine whose instructions can import and call anything. Here its instructions are
read one by one (`pickletools` names them), and what would import or call only notes what was asked for. Arrays
are then built from such notes where they say numpy's, scipy's or chumpy's own layout; every other note stays one.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PickleError", "array_of", "read_pickle"]

_MARK = object()


class PickleError(ValueError):
    """A pickle that is damaged, or that holds something else than arrays where one was wanted."""


@dataclass(frozen=True)
class _Name:
    """What a pickle would import."""

    module: str
    name: str


@dataclass
class _Made:
    """What a pickle would make by a call, and the state that it would give it."""

    maker: Any
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)


def read_pickle(data: bytes) -> Any:
    """Return the pickle's value: plain values as they are, everything else as inert notes for `array_of`.

    Raises:
        PickleError: not a pickle, or a damaged one.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"not a pickle of arrays: {error}") from None
    raise PickleError("the pickle ends before its end")


class _Machine:
    """The stack and the memory of the pickle's machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise ValueError(f"instruction {name}")
            action(*([argument] if name == "GLOBAL" else []))

    def _marked(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _mark(self) -> None:
        self.stack.append(_MARK)

    def _pop(self) -> None:
        self.stack.pop()

    def _pop_mark(self) -> None:
        self._marked()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self) -> None:
        self.stack.append(self._marked())

    def _dict(self) -> None:
        items = self._marked()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _some(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def _tuple1(self) -> None:
        self._some(1)

    def _tuple2(self) -> None:
        self._some(2)

    def _tuple3(self) -> None:
        self._some(3)

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, _Made) else target).extend(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self._marked())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = list(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, _Made):
            target.items.extend(pairs)
        else:
            target.update(pairs)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_Name(module, name))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(str(module), str(name)))

    def _reduce(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        self.stack.append(_Made(maker, arguments))

    _newobj = _reduce

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Made):
            raise ValueError("a state for a plain value")
        target.state = state


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict,
}  # fmt: skip
_LITERALS = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()
)


def array_of(value: Any) -> NDArray[Any]:
    """Return the array that a value of a pickle stands for: numpy's own, scipy's sparse as dense, chumpy's content.

    Raises:
        PickleError: anything else, or an array that contradicts itself.
    """
    if not isinstance(value, _Made):
        raise PickleError(f"holds {_called(value)} where an array was wanted")
    maker, arguments = _maker(value)
    kind = maker.name.rpartition(".")[2]
    if kind == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, content = value.state
        return _dense(shape, dtype, fortran, _bytes(content))
    if kind == "_frombuffer" and len(arguments) == 4:  # since protocol 5
        content, dtype, shape, order = arguments
        return _dense(shape, dtype, order == "F", _bytes(content))
    state = value.state if isinstance(value.state, dict) else {}
    if kind in ("csc_matrix", "csr_matrix", "csc_array", "csr_array"):
        return _sparse(kind[:3], {str(key).lstrip("_"): item for key, item in state.items()})
    if kind == "Ch" and "x" in state:
        return array_of(state["x"])
    raise PickleError(f"holds a {_called(maker)} ({len(arguments)} arguments) where an array was wanted")


def _maker(value: _Made) -> tuple[_Name, tuple[Any, ...]]:
    maker, arguments = value.maker, value.arguments
    if isinstance(maker, _Name) and maker.name == "_reconstructor" and isinstance(arguments, tuple) and arguments:
        maker = arguments[0]  # how Python 2 made objects: _reconstructor(class, object, None)
    if not isinstance(maker, _Name) or not isinstance(arguments, tuple):
        raise PickleError(f"holds {_called(maker)} where an array was wanted")
    return maker, arguments


def _called(value: Any) -> str:
    return f"{value.module}.{value.name}" if isinstance(value, _Name) else f"a value of type {type(value).__name__}"


def _bytes(content: Any) -> bytes:
    if isinstance(content, (bytes, bytearray)):
        return bytes(content)
    if isinstance(content, str):  # a string of Python 2, byte for byte
        return content.encode("latin-1")
    if isinstance(content, _Made) and isinstance(content.maker, _Name) and content.maker.name == "encode":
        return str(content.arguments[0]).encode("latin-1")  # bytes that Python 3 wrote for Python 2
    raise PickleError("an array's content is no bytes")


def _dense(shape: Any, dtype: Any, fortran: Any, content: bytes) -> NDArray[Any]:
    if not isinstance(dtype, _Made) or not dtype.arguments or not isinstance(shape, tuple):
        raise PickleError("an array without a type or a shape")
    name, state = str(dtype.arguments[0]), dtype.state
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
