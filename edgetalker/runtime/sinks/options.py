"""The options of a sink: a URL, its query, and a table of a configuration file, read strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.sinks.names import NameMap

__all__ = ["COMMON", "Endpoint", "Option", "choice", "choices", "number", "read_endpoint", "switch", "text", "whole"]


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
        words = value.split(",") if isinstance(value, str) else list(value)
        return tuple(one(word) for word in words if word)

    return read


def _rate(value: Any) -> Fraction | None:
    if value in ("", "model", None):
        return None
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
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
) -> Endpoint:
    """Read `scheme://host:port?name=value` and a table over it, strictly.

    default: host and port where the URL gives none. known: the sink's own options, to which COMMON is added.
    Raises OptionError that lists every unknown option (with the nearest known one) and every bad value at once.
    """
    known = {**COMMON, **known}
    faults: list[str] = []
    parts = urlsplit(url)
    if parts.scheme != scheme or parts.path not in ("", "/") or parts.fragment or "@" in parts.netloc:
        faults.append(f"not of the form {scheme}://host:port?option=value")
    try:
        port = default[1] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        faults.append("the port is not a number from 1 to 65535")
    given: dict[str, object] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in given:
            faults.append(f"option `{name}` twice")
        given[name] = value
    options = _values({**given, **(table or {})}, known, faults)
    if faults:
        listed = ", ".join(sorted(known))
        raise OptionError("\n".join([f"{url}:", *(f"  - {fault}" for fault in faults)]), hint=f"options: {listed}")
    return Endpoint(url, unquote(parts.hostname or default[0]), port, options)


def _values(given: Mapping[str, object], known: Mapping[str, Option], faults: list[str]) -> dict[str, Any]:
    values = {name: option.default for name, option in known.items()}
    for name, value in given.items():
        if name not in known:
            faults.append(f"unknown option `{name}`{nearest(name, known)}")
            continue
        try:
            values[name] = known[name].read(value)
        except ValueError as fault:
            faults.append(f"option `{name}` {fault}, and got `{value}`")
    return values
