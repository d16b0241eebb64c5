"""Clips of motion as files: what a talker may be told to move like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError

__all__ = ["read_clip"]


def read_clip(path: Path, width: int, longest: int) -> NDArray[np.float32]:
    """Return the motion (n, width) of a clip: the array `motion` of an .npz (as our own recordings hold it), its only
    array, or an .npy.

    Raises:
        InputError: no such array, or one that does not fit.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            values = loaded
        else:
            with loaded:
                key = "motion" if "motion" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
                if key is None:
                    raise InputError(f"{path} holds {', '.join(loaded.files)}; an array named `motion` was wanted")
                values = loaded[key]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no array file (.npy or .npz): {error}") from None
    if values.ndim != 2 or values.shape[1] != width or values.dtype.kind != "f" or not 1 <= len(values) <= longest:
        raise InputError(
            f"{path} is {values.dtype} of {values.shape}; floats (frames, {width}), 1 to {longest} of them, were wanted"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinite values")
    return values.astype(np.float32)
