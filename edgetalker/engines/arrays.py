"""Array files of any origin: never unpickled, and whatever is wrong with one is an InputError."""

from __future__ import annotations

import warnings
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.engine import Array
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import open_regular
from edgetalker.engines.kinds import kind_of_file

__all__ = ["fits", "read_arrays", "read_clip"]

_MOST_BYTES = 1 << 34
"""Of one array in an archive: 16 GiB. A header that says more lies, or means harm."""


def read_arrays(path: Path, wanted: Container[str] | None = None) -> Array | dict[str, Array]:
    """Return the array of an .npy, or the arrays of an .npz by name, of which `wanted` may choose.

    Raises InputError for what cannot be read, is neither, or holds objects.
    """
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy's header parser, on headers that then fail
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                names = [name for name in loaded.files if wanted is None or name in wanted]
                for entry in loaded.zip.infolist():
                    if entry.filename.removesuffix(".npy") in names and entry.file_size > _MOST_BYTES:
                        raise ValueError(f"`{entry.filename}` says that it has {entry.file_size} bytes")
                found = {name: loaded[name] for name in names}
                if other := next((name for name, values in found.items() if not isinstance(values, np.ndarray)), None):
                    raise ValueError(f"`{other}` in it is no array")
                return found
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # zipfile, zlib, struct, the header's own parser and memory all object in their own way
        raise InputError(f"{path} is no array file (.npy or .npz) of numbers: {_reason(path, error)}") from None


def _reason(path: Path, error: Exception) -> str:
    """NumPy takes what it does not know for a pickle, and advises to run it."""
    text = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if "allow_pickle" not in text:
        return text
    with suppress(OSError):
        kind = kind_of_file(path)
        return "it holds Python objects" if "array" in kind else f"it is {kind or 'of no kind that is known here'}"
    return "it holds Python objects"


def fits(values: Array) -> bool:
    """Return whether these are numbers that a float32 can hold: none of them NaN, infinite or too large."""
    if values.dtype.kind not in "fiu":
        return False
    if values.dtype.kind == "f" and values.itemsize > 4:
        return bool((np.abs(values) <= np.finfo(np.float32).max).all())
    return bool(np.isfinite(values).all())


def read_clip(path: Path, width: int, longest: int) -> NDArray[np.float32]:
    """Return the motion (n, width) of a clip: the array `motion` of an .npz (as our own recordings hold it), its only
    array, or an .npy.

    Raises:
        InputError: no such array, or one that does not fit.
    """
    values = read_arrays(path)
    if isinstance(values, dict):
        key = "motion" if "motion" in values else next(iter(values)) if len(values) == 1 else None
        if key is None:
            raise InputError(f"{path} holds {', '.join(values)}; an array named `motion` was wanted")
        values = values[key]
    if values.ndim != 2 or values.shape[1] != width or values.dtype.kind != "f" or not 1 <= len(values) <= longest:
        raise InputError(
            f"{path} is {values.dtype} of {values.shape}; floats (frames, {width}), 1 to {longest} of them, were wanted"
        )
    if not fits(values):
        raise InputError(f"{path} holds NaN, infinite or huge values")
    return values.astype(np.float32)
