"""What users are told: the errors that they can cause and mend, and how far a long work is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

__all__ = [
    "BundleError",
    "DeviceError",
    "EngineError",
    "FileFaults",
    "InputError",
    "MissingPackageError",
    "OptionError",
    "OutputError",
    "Progress",
    "Say",
    "UnsupportedGpuError",
    "UserError",
    "install",
    "nearest",
    "real",
    "unheard",
    "unknown",
    "whole",
]

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done, 0 to 1."""

Say = Callable[[str], None]
"""Told a line for people, of work that is done or of what is odd in what came."""


def unheard(what: str, share: float) -> None:
    """The Progress of those who do not listen."""


class UserError(Exception):
    """A mistake that the user can mend: printed as one message and a hint, never as a traceback.

    `exit_code` follows sysexits.h where a code fits (64 usage, 65 data, 66 no input, 69 unavailable, 74 I/O).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"

    def to_json(self) -> dict[str, Any]:
        """Return the error as plain JSON values, for another process."""
        return {"kind": type(self).__name__, **vars(self)}

    @staticmethod
    def from_json(words: Mapping[str, Any]) -> UserError:
        """Return the error that `to_json` of another process wrote; a class that is not known here is a UserError."""
        kinds = [UserError]
        for kind in kinds:
            kinds += kind.__subclasses__()
        kind = next((kind for kind in kinds if kind.__name__ == words["kind"]), UserError)
        error = kind.__new__(kind, words["message"])
        vars(error).update({name: value for name, value in words.items() if name != "kind"})
        return error


class OptionError(UserError):
    """An option, environment variable or name that does not exist or cannot be used so."""

    exit_code = 64


class InputError(UserError):
    """An input (sound, file, checkpoint) that cannot be read or used."""

    exit_code = 65


class FileFaults:
    """What is wrong with each of many files, gathered so that it is said of all of them at once."""

    def __init__(self) -> None:
        self._found: list[tuple[str, InputError]] = []

    @contextmanager
    def of(self, path: Path, *others: Path | None) -> Iterator[None]:
        """Note an InputError of this block as one of the file, or of the others that it names, and go on behind it."""
        try:
            yield
        except InputError as error:
            told = any(str(name) in error.message for name in (path, *filter(None, others)))
            self._found.append((error.message if told else f"{path}: {error.message}", error))

    def tell(self) -> None:
        """Raise InputError when any was noted: one that lists all files, or says once what is wrong with each."""
        if not self._found:
            return
        alike = {error.message for _, error in self._found}
        named = [message for message, _ in self._found]
        hints = "; ".join(dict.fromkeys(error.hint for _, error in self._found if error.hint)) or None
        if len(named) == 1:
            raise InputError(named[0], hint=hints)
        if len(alike) == 1:
            raise InputError(f"{alike.pop()} ({len(named)} files)", hint=hints)
        raise InputError("\n  - ".join([f"{len(named)} files cannot be used:", *named]), hint=hints)


class OutputError(UserError):
    """A result that cannot be written."""

    exit_code = 74


class BundleError(UserError):
    """A bundle that contradicts itself or its files; lists every fault that was found."""

    exit_code = 65

    def __init__(self, where: str, faults: Sequence[str], *, hint: str | None = None) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{where}: {count}", *(f"  - {fault}" for fault in faults)]), hint=hint)


class EngineError(UserError):
    """A stage that cannot be loaded, bound or run on the chosen device."""

    exit_code = 70


class UnsupportedGpuError(EngineError):
    """A GPU that a library does not know, or that a plan was not made for."""


class DeviceError(UserError):
    """A device (GPU, microphone, socket) that is absent, lost or out of memory."""

    exit_code = 69


class MissingPackageError(UserError):
    """A package that this action needs is not installed.

    `extra` names the extra that brings it; the hint is what `install` says.
    """

    exit_code = 69

    def __init__(self, package: str, purpose: str, *, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package `{package}`, which is not installed",
            hint=install(extra),
        )
        self.package = package


def nearest(name: object, known: Iterable[str]) -> str:
    """Return ` (did you mean `x`?)` for the closest known name, or `` when none is close."""
    if not isinstance(name, str):
        return " (a name was wanted)"
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def unknown(
    what: str, name: object, known: Iterable[str], there: str = "known are", *, hint: str | None = None
) -> OptionError:
    """Return the error of a name that is not there. what: such as `schedule`; there: said before those that are."""
    names = list(known)
    return OptionError(f"no {what} `{name}`; {there} {', '.join(names)}{nearest(name, names)}", hint=hint)


def whole(what: str, value: Any, *, least: float = -math.inf, most: float = math.inf, hint: str | None = None) -> int:
    """Return a whole number: an int of Python or numpy, or a float that is one (48000.0).

    what: said first, such as `rate`. Raises OptionError for anything else, and outside least to most.
    """
    number = real(what, value, least=least, most=most, wanted="a whole number", hint=hint)
    if number != int(number):
        raise OptionError(f"{what} is {_shown(value)}; a whole number was wanted", hint=hint)
    return int(number)


def real(
    what: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    wanted: str = "a number",
    hint: str | None = None,
) -> float | Fraction:
    """Return a finite number as it came. Raises OptionError for anything else (texts and switches too), and outside
    least to most."""
    kind = getattr(value, "dtype", None)
    if kind is not None and getattr(value, "ndim", 1) == 0 and kind.kind in "iuf":
        value = value.item()  # numpy's numbers, and arrays of one
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise OptionError(f"{what} is {_shown(value)}; {wanted} was wanted", hint=hint)
    with suppress(OverflowError):  # whole numbers and fractions of any size are finite
        if not math.isfinite(value):
            raise OptionError(f"{what} is {value}; {wanted} was wanted", hint=hint)
    if not least <= value <= most:
        ends = f"{least:g} to {most:g}" if math.isfinite(most) else f"at least {least:g}"
        raise OptionError(f"{what} is {_shown(value)}; {ends} was wanted", hint=hint)
    return value


def _shown(value: object) -> str:
    """Return a value as errors show it: short, and with its type where that is no number."""
    if isinstance(value, str):
        return f"the text `{value:.50}`"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value) if isinstance(value, float) or abs(value) < 1 << 64 else "a number of many digits"
    return f"{repr(value)[:50]} ({type(value).__name__})"


def install(*extras: str) -> str:
    """Return the command that adds extras to this install: the one place that knows where the package comes from.

    The package is on no index yet. Where it is installed, from a checkout or a wheel, pip takes what is there and
    fetches only what the extras name; where it is run out of a checkout without that, the checkout is named.
    """
    from importlib import metadata  # reads files and takes a while: only errors pay for it

    names = ",".join(extras)
    try:
        metadata.version("edgetalker")
    except metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[2]
        if (root / "pyproject.toml").exists():
            return f'pip install "{root}[{names}]"'
    return f'pip install "edgetalker[{names}]"'
