"""The options of a sink: a URL, its query, and a table of a configuration file, read strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.names import NameMap

__all__ = [
    "CASE",
    "COMMON",
    "Endpoint",
    "Option",
    "camel",
    "cased",
    "choice",
    "choices",
    "frame_rate",
    "number",
    "read_endpoint",
    "read_query",
    "read_table",
    "switch",
    "text",
    "whole",
]


@dataclass(frozen=True)
class Option:
    """One option: how its value is read (from a query's text or a TOML value), its default and what it does."""

    read: Callable[[Any], Any]
    default: Any
    purpose: str


@dataclass(frozen=True)
class Endpoint:
    """Where a sink sends or listens, and its options by name."""

    url: str
    host: str
    port: int
    options: Mapping[str, Any]


def camel(name: str) -> str:
    """Return `jawOpen` for `JawOpen`, as web avatars spell it."""
    return name[:1].lower() + name[1:]


def text(value: Any) -> str:
    """Read a text without control characters."""
    if not isinstance(value, str) or any(ord(letter) < 32 for letter in value):
        raise ValueError("wants a text")
    return value


def switch(value: Any) -> bool:
    """Read yes or no."""
    words = {"yes": True, "true": True, "1": True, "on": True, "no": False, "false": False, "0": False, "off": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("wants yes or no")
    return words[str(value).lower()]


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers in [low, high]."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not str(value).lstrip("-").isdigit() or not low <= int(value) <= high:
            raise ValueError(f"wants a whole number from {low} to {high}")
        return int(value)

    return read


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a reader of numbers in [low, high]."""

    def read(value: Any) -> float:
        try:
            result = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            result = math.nan
        if not low <= result <= high:
            raise ValueError(f"wants a number from {low:g} to {high:g}")
        return result

    return read


def choice(*known: str) -> Callable[[Any], str]:
    """Return a reader of one word out of `known`."""

    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"wants one of {', '.join(known)}{nearest(str(value), known)}")
        return str(value)

    return read


def choices(*known: str) -> Callable[[Any], tuple[str, ...]]:
    """Return a reader of one or more words out of `known`: `a,b` or a list."""
    one = choice(*known)

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError("wants words with commas between them, or a list of them")
        words = value.split(",") if isinstance(value, str) else value
        return tuple(one(word) for word in words if word)

    return read


def frame_rate(text: str) -> Fraction:
    """Read an exact frame rate. What is written 23.976, 23.98, 29.97, 59.94 or 119.88 means N * 1000 / 1001 (SMPTE ST
    12-1, ST 2059-1). Raises ValueError."""
    try:
        rate = Fraction(text)
    except ZeroDivisionError:
        raise ValueError(f"`{text}` is no number") from None
    if "/" not in text and rate.denominator > 1:
        for exact in (Fraction(whole * 1000, 1001) for whole in (24, 30, 48, 60, 72, 90, 120, 240)):
            if abs(rate - exact) < Fraction(6, 1000):
                return exact
    return rate


def _rate(value: Any) -> Fraction | None:
    if value in ("", "model", None):
        return None
    try:
        rate = frame_rate(str(value))
    except ValueError:
        rate = Fraction(0)
    if not 1 <= rate <= 240:
        raise ValueError("wants frames a second from 1 to 240, as 60, 59.94 or 60000/1001, or `model`")
    return rate


def _seconds(value: Any) -> float:
    digits = str(value).strip()
    scale = 1.0 if digits.endswith("s") and not digits.endswith("ms") else 1e-3
    try:
        seconds = float(digits.removesuffix("s").removesuffix("m")) * scale
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1:
        raise ValueError("wants a time from 0 to 1 s, as 20ms or 20 (milliseconds)")
    return seconds


CASE = Option(choice("pascal", "camel"), "pascal", "names as JawOpen or jawOpen, as web avatars have them")

COMMON: Mapping[str, Option] = {
    "rate": Option(_rate, None, "packets a second, exact (60, 72, 90, 60000/1001); without it one for each frame"),
    "smooth": Option(_seconds, 0.0, "time constant of a low-pass, 20ms; what it smooths comes that much later"),
    "queue": Option(whole(1, 1024), 8, "frames that may wait; when it is full the oldest gives way and is counted"),
    "map": Option(NameMap.read, NameMap(), "other names and gains: JawOpen:MouthOpen*1.2,TongueOut: (a table in TOML)"),
}


def read_endpoint(
    url: str,
    scheme: str,
    default: tuple[str, int],
    known: Mapping[str, Option],
    table: Mapping[str, object] | None = None,
    common: Mapping[str, Option] = COMMON,
) -> Endpoint:
    """Read `scheme://host:port?name=value` and a table over it, strictly.

    default: host and port where the URL gives none; port 0 there means any that is free. known: the sink's own
    options, to which `common` is added.
    Raises OptionError that lists every unknown option (with the nearest known one) and every bad value at once.
    """
    known = {**common, **known}
    faults: list[str] = []
    try:
        parts = urlsplit(url)
    except ValueError as fault:  # such as a bracket that is never closed
        raise OptionError(f"{url}: {fault}", hint=f"the form is {scheme}://host:port?option=value") from None
    if parts.scheme != scheme or parts.path not in ("", "/") or parts.fragment or "@" in parts.netloc:
        faults.append(f"not of the form {scheme}://host:port?option=value")
    try:
        port = default[1] if parts.port is None else parts.port
    except ValueError:
        port = -1
    if not (0 if default[1] == 0 else 1) <= port < 65536:
        faults.append("the port is not a number from 1 to 65535")
    options = _values(url, {**read_query(parts.query, faults), **(table or {})}, known, faults)
    return Endpoint(url, unquote(parts.hostname or default[0]), port, options)


def read_table(name: str, known: Mapping[str, Option], table: Mapping[str, object] | None) -> dict[str, Any]:
    """Read the options of an output that is no URL. Raises OptionError that lists all faults, as read_endpoint does."""
    return _values(name, table or {}, known, [])


def read_query(query: str, faults: list[str]) -> dict[str, object]:
    """Return the names and texts of a URL's query; a name given twice is a fault."""
    given: dict[str, object] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in given:
            faults.append(f"option `{name}` twice")
        given[name] = value
    return given


def cased(layout: MotionLayout, case: str) -> MotionLayout:
    """Return a layout whose names are spelt as the option `case` says."""
    return replace(layout, names=tuple(map(camel, layout.names))) if case == "camel" else layout


def _values(where: str, given: Mapping[str, object], known: Mapping[str, Option], faults: list[str]) -> dict[str, Any]:
    """Return every option's value. Raises OptionError that lists the faults so far and those of the values."""
    values = {name: option.default for name, option in known.items()}
    for name, value in given.items():
        if name not in known:
            faults.append(f"unknown option `{name}`{nearest(name, known)}")
            continue
        try:
            values[name] = known[name].read(value)
        except ValueError as fault:
            faults.append(f"option `{name}` {fault}, and got `{value}`")
    if faults:
        listed = f"options: {', '.join(sorted(known))}" if known else "it takes no options"
        raise OptionError("\n".join([f"{where}:", *(f"  - {fault}" for fault in faults)]), hint=listed)
    return values
