"""Clips of motion as files: what a talker may be told to move like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import fits, read_arrays
from edgetalker.engines.errors import InputError

__all__ = ["read_clip"]


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
