"""Reads what a pickle describes without building it: no class is imported, no function is called.

`describe` interprets the opcodes of a pickle as plain data. Where the pickle names a class or a function there is a
`Name`, and where it would call one there is a `Made`, which keeps what it was given. So every checkpoint can be looked
through, whatever classes lie beside its weights, and none of its code can run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Made", "Name", "Stored", "describe"]

# The pickle of 400 tensors has 0.1 MB and 20,000 opcodes; a hostile one would keep the reader for hours.
_LARGEST = 4 << 20
_MOST_OPCODES = 1_000_000


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, such as `torch._utils._rebuild_tensor_v2`."""

    full: str


@dataclass(frozen=True)
class Stored:
    """What lies outside the pickle, by the identity that the pickle gives for it."""

    identity: Any


@dataclass(eq=False)
class Made:
    """What a call of `of` with `given` would have made; `items`, `values`, `state`: what was put into it then."""

    of: Any
    given: tuple[Any, ...]
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    state: Any = None


def describe(content: bytes, largest: int = _LARGEST) -> Any:
    """Return what the pickle describes, of dicts, lists, tuples, plain values, `Name`, `Made` and `Stored`.

    largest: bytes that it may have; a checkpoint's pickle is small, for its tensors lie beside it. Raises ValueError
    for what is no whole pickle or is larger than that.
    """
    if len(content) > largest:
        raise ValueError(f"its pickle has {len(content) / 1e6:.0f} MB; at most {largest >> 20} were wanted")
    try:
        return _Machine().run(content)
    except ValueError:
        raise
    except Exception as error:  # a damaged pickle goes wrong in every way that Python has
        raise ValueError(f"{type(error).__name__}: {error}") from None


_MARK: Any = object()


class _Machine:
    """The pickle machine's stack and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            name = opcode.name
            if count >= _MOST_OPCODES:
                raise ValueError(f"its pickle has more than {_MOST_OPCODES} steps")
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSHES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name not in ("PROTO", "FRAME"):
                act = _ACTIONS.get(name)
                if act is None:
                    raise ValueError(f"opcode {name} is not read")
                act(self, argument)
        raise ValueError("it has no end")

    def marked(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        place = len(self.stack) - 1 - next(i for i, value in enumerate(reversed(self.stack)) if value is _MARK)
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def some(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("its stack is empty")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def pairs(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Made) else target
        if not isinstance(items, dict) or len(pairs) % 2:
            raise ValueError("items are put into what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, (str, bytes, int, float)):  # a tuple may be nested so deeply that its hash overflows
                items[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        into = target.values if isinstance(target, Made) else target
        if not isinstance(into, list):
            raise ValueError("values are put into what is no list")
        into.extend(values)

    def call(self, of: Any, given: Any) -> None:
        self.stack.append(Made(of, given if isinstance(given, tuple) else (given,)))

    def build(self) -> None:
        (state,) = self.some(1)
        target = self.stack[-1]
        if isinstance(target, Made):
            target.state = state

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])


def _named(machine: _Machine, argument: Any) -> None:
    machine.stack.append(Name(str(argument).replace(" ", ".")))


def _stack_named(machine: _Machine, _: Any) -> None:
    module, name = machine.some(2)
    machine.stack.append(Name(f"{module}.{name}"))


def _instance(machine: _Machine, argument: Any) -> None:
    given = machine.marked()
    machine.call(Name(str(argument).replace(" ", ".")), tuple(given))


def _object(machine: _Machine, _: Any) -> None:
    of, *given = machine.marked()
    machine.call(of, tuple(given))


def _new_with_names(machine: _Machine, _: Any) -> None:
    of, given, named = machine.some(3)
    machine.call(of, (*given, named))


def _dict(machine: _Machine, _: Any) -> None:
    pairs = machine.marked()
    machine.stack.append({})
    machine.pairs(pairs)


_PUSHES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "POP": lambda machine, _: machine.some(1),
    "POP_MARK": lambda machine, _: machine.marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.some(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.some(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.some(3))),
    "LIST": lambda machine, _: machine.stack.append(machine.marked()),
    "FROZENSET": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "DICT": _dict,
    "SETITEM": lambda machine, _: machine.pairs(machine.some(2)),
    "SETITEMS": lambda machine, _: machine.pairs(machine.marked()),
    "APPEND": lambda machine, _: machine.extend(machine.some(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.marked()),
    "GLOBAL": _named,
    "STACK_GLOBAL": _stack_named,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": lambda machine, _: machine.call(*machine.some(2)),
    "NEWOBJ": lambda machine, _: machine.call(*machine.some(2)),
    "NEWOBJ_EX": _new_with_names,
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": lambda machine, argument: machine.stack.append(Stored(argument)),
    "BINPERSID": lambda machine, _: machine.stack.append(Stored(machine.some(1)[0])),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
}
