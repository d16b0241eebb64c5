"""Reads a JSON object strictly: every missing, unknown or mistyped key becomes a fault, none stops the reading."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeVar, cast

from edgetalker.engines.errors import nearest

__all__ = ["Reader"]

T = TypeVar("T")
_MISSING: Any = object()
_NAMES = {dict: "an object", list: "an array", str: "a string", int: "a whole number", bool: "true or false"}


class Reader:
    """One JSON object on its way into a typed value.

    Faults are collected in the list given at the root, each with the path of the key, so that a file's
    faults are reported together. A faulty value reads as its default or a neutral value; the caller must
    not use what was read when `faults` is not empty.
    """

    def __init__(self, value: object, path: str, faults: list[str]) -> None:
        self.path = path
        self.faults = faults
        self._known: list[str] = []
        self._children: list[Reader] = []
        self._object: Mapping[str, Any] = {}
        if isinstance(value, dict):
            self._object = value
        else:
            self.fault(f"{_shown(value)} where an object was wanted")

    def fault(self, text: str) -> None:
        """Note one fault of this object."""
        self.faults.append(f"{self.path}: {text}" if self.path else text)

    def take(self, key: str, kind: type[T], default: T = _MISSING) -> T:
        """Return the value of `key` as `kind` (dict, list, str, int, bool); a fault when absent or mistyped."""
        self._known.append(key)
        if key not in self._object:
            if default is _MISSING:
                self.fault(f"`{key}` is missing")
                return kind()
            return default
        value = self._object[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(f"`{key}` is {_shown(value)} where {_NAMES[kind]} was wanted")
            return kind()
        return value

    def number(self, key: str, default: float = _MISSING) -> float:
        """Return the value of `key` as a finite number."""
        self._known.append(key)
        if key not in self._object and default is not _MISSING:
            return default
        return self._finite(f"`{key}`", self._object.get(key, "nothing"))

    def numbers(self, key: str, default: tuple[float, ...] = _MISSING) -> tuple[float, ...]:
        """Return the value of `key` as a tuple of finite numbers."""
        values = self.take(key, list, cast("list[Any]", default))
        return tuple(self._finite(f"`{key}[{i}]`", value) for i, value in enumerate(values))

    def _finite(self, what: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 3.4e38 or value != value:
            self.fault(f"{what} is {_shown(value)} where a finite number was wanted")
            return 0.0
        return float(value)

    def strings(self, key: str, default: tuple[str, ...] = _MISSING) -> tuple[str, ...]:
        """Return the value of `key` as a tuple of strings without repeats."""
        values = self.take(key, list, cast("list[Any]", default))
        for i, value in enumerate(values):
            if not isinstance(value, str):
                self.fault(f"`{key}[{i}]` is {_shown(value)} where a string was wanted")
        texts = tuple(value for value in values if isinstance(value, str))
        for text in sorted({text for text in texts if texts.count(text) > 1}):
            self.fault(f"`{key}` names `{text}` more than once")
        return texts

    def mapping(self, key: str, default: Mapping[str, str] = _MISSING) -> dict[str, str]:
        """Return the value of `key` as a mapping from strings to strings."""
        values = self.take(key, dict, cast("dict[str, Any]", default))
        return self._reader(values, key).texts()

    def texts(self) -> dict[str, str]:
        """Return this whole object as a mapping from strings to strings."""
        self._known.extend(self._object)
        for name, value in self._object.items():
            if not isinstance(value, str):
                self.fault(f"`{name}` is {_shown(value)} where a string was wanted")
        return {name: value for name, value in self._object.items() if isinstance(value, str)}

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the value of `key` as a shape: one to eight whole numbers of at least 1."""
        values = self.take(key, list)
        if not 1 <= len(values) <= 8 and self.has(key):
            self.fault(f"`{key}` has {len(values)} axes; 1 to 8 were wanted")
            return (1,)
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self.fault(f"`{key}[{i}]` is {_shown(value)} where a size of at least 1 was wanted")
        return tuple(value if isinstance(value, int) and value >= 1 else 1 for value in values)

    def fraction(self, key: str) -> Fraction:
        """Return the value of `key` as an exact positive fraction: `30` or `"30000/1001"`."""
        self._known.append(key)
        value = self._object.get(key)
        text = str(value) if isinstance(value, (int, str)) else ""
        # Fraction() itself would compute "1e999999999" to the last digit.
        if re.fullmatch(r"\d{1,9}(\.\d{1,9}|/(?=0*[1-9])\d{1,9})?", text) and (fraction := Fraction(text)) > 0:
            return fraction
        self.fault(
            f'`{key}` is {_shown(value)} where a positive whole number or a fraction such as "30000/1001" was wanted'
        )
        return Fraction(1)

    def choice(self, key: str, options: tuple[str, ...], default: str = _MISSING) -> str:
        """Return the value of `key`, one of `options`."""
        value = self.take(key, str, default)
        if value in options:
            return value
        if isinstance(self._object.get(key), str):
            self.fault(f"`{key}` is {_shown(value)}; known are {', '.join(options)}{nearest(value, options)}")
        return options[0]

    def objects(self, key: str, default: Mapping[str, Any] = _MISSING) -> Iterator[tuple[str, Reader]]:
        """Yield name and reader of each object in the object `key`."""
        for name, value in self.take(key, dict, cast("dict[str, Any]", default)).items():
            yield name, self._reader(value, f"{key}.{name}")

    def items(self, key: str) -> Iterator[Reader]:
        """Yield a reader for each object in the array `key`."""
        for i, value in enumerate(self.take(key, list)):
            yield self._reader(value, f"{key}[{i}]")

    def child(self, key: str) -> Reader:
        """Return a reader for the object `key`."""
        return self._reader(self.take(key, dict), key)

    def has(self, key: str) -> bool:
        """Return whether `key` is there."""
        return key in self._object

    def finish(self) -> None:
        """Note every key that nobody asked for, here and below, as a fault with the nearest known one."""
        for key in self._object:
            if key not in self._known:
                self.fault(f"unknown key `{key}`{nearest(key, self._known)}")
        for below in self._children:
            below.finish()

    def _reader(self, value: object, key: str) -> Reader:
        below = Reader(value, f"{self.path}.{key}" if self.path else key, self.faults)
        self._children.append(below)
        return below


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
