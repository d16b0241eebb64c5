"""A configuration file for a command: TOML with the same names as the command's long options.

    speech = "speech.wav"
    loop = true
    emotion = { joy = 0.5 }
    to = ["view", { url = "vmc://127.0.0.1:39540", rate = 60, map = { JawOpen = "JawOpen*1.2" } }]

What the command line says goes before the file, the file before the defaults.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import InputError, MissingPackageError, OptionError, nearest
from edgetalker.engines.files import read_text

__all__ = ["Settings", "Target", "read_toml", "targets"]

Target = tuple[str, Mapping[str, object] | None]
"""An output: its URL or file name, and a table of options over the URL's."""


def read_toml(path: Path) -> dict[str, Any]:
    """Return a file's tables. Raises InputError for a file that is absent or not TOML."""
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ImportError as fault:
        raise MissingPackageError("tomli", "a configuration file on Python 3.10", extra="net") from fault
    try:
        text = read_text(path)
    except OSError as fault:
        raise InputError(f"{path} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:  # a name with a zero in it, or no text
        raise InputError(f"{path} cannot be read: {fault}", hint="docs/live.md shows the form, in UTF-8") from None
    try:
        return tomllib.loads(text)
    except ValueError as fault:  # TOML's and the encodings' own errors are such, and numbers of thousands of digits
        raise InputError(f"{path} is not TOML: {fault}", hint="docs/live.md shows the form, in UTF-8") from None
    except RecursionError:
        raise InputError(f"{path} is not TOML that can be read: its values are nested too deep") from None


class Settings:
    """The options of one command, from its command line, a configuration file and its defaults, in this order.

    Made after all options were added to the parser: it takes their defaults away, so that a parsed command line
    holds what was given and nothing else.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._actions: dict[str, argparse.Action] = {}
        self._defaults: dict[str, Any] = {}
        for action in parser._actions:
            if action.dest in ("help", "config", "list_inputs"):
                continue
            names = [option[2:] for option in action.option_strings if option.startswith("--")] or [action.dest]
            self._actions.update({name: action for name in names if not name.startswith("no-")})
            self._defaults[action.dest] = action.default
            action.default = argparse.SUPPRESS
        parser.set_defaults(settings=self)

    def merge(self, args: argparse.Namespace, path: Path | None) -> argparse.Namespace:
        """Return every option's value. Raises OptionError that lists all faults of the file at once."""
        given = vars(args)
        from_file = self._read(path) if path is not None else {}
        if "speech" in given or given.get("mic"):  # the command line names the sound: the file's is another one
            from_file = {name: value for name, value in from_file.items() if name not in ("speech", "mic")}
        return argparse.Namespace(**{**self._defaults, **from_file, **given})

    def _read(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        faults: list[str] = []
        for key, value in read_toml(path).items():
            if key not in self._actions:
                faults.append(f"unknown key `{key}`{nearest(key, self._actions)}")
                continue
            try:
                values[self._actions[key].dest] = _value(self._actions[key], value)
            except (ValueError, argparse.ArgumentTypeError, OptionError) as fault:
                faults.append(f"`{key}`: {fault}")
        if faults:
            listed = ", ".join(sorted(self._actions))
            raise OptionError("\n".join([f"{path}:", *(f"  - {fault}" for fault in faults)]), hint=f"keys: {listed}")
        return values


def _value(action: argparse.Action, value: Any) -> Any:
    """Return a TOML value as the option's own reader would."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ValueError(f"true or false was wanted, `{value}` came")
        return value
    if action.nargs == "?" and action.option_strings and value is True:  # play = true: the default device
        return action.const
    if isinstance(action, argparse._AppendAction):
        items = value if isinstance(value, list) else [value]
        return [_target(item) if action.dest == "to" else _one(action, item) for item in items]
    return _one(action, value)


def _one(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, dict):  # { joy = 0.5, anger = 0.1 } as on the command line: joy:0.5,anger:0.1
        if action.dest not in ("emotion", "style"):
            raise ValueError("a table came where a value was wanted")
        value = ",".join(f"{name}:{amount}" for name, amount in value.items())
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"a text or a number was wanted, `{value}` came")
    read = action.type if callable(action.type) else str
    result = read(str(value))
    if action.choices is not None and result not in action.choices:
        raise ValueError(f"`{value}` is none of {', '.join(map(str, action.choices))}")
    return result


def _target(item: Any) -> Target:
    if isinstance(item, str):
        return item, None
    if not isinstance(item, dict) or not isinstance(item.get("url"), str):
        raise ValueError("a URL, or a table with `url` and the sink's options, was wanted")
    return item["url"], {name: value for name, value in item.items() if name != "url"}


def targets(values: Sequence[str | Target]) -> list[Target]:
    """Return outputs in one form, whether they came from the command line or a file."""
    return [(value, None) if isinstance(value, str) else value for value in values]
