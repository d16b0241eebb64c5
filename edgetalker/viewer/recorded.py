"""Recorded motion, read back from the .npz that `animate` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.arrays import fits, read_arrays
from edgetalker.engines.errors import InputError
from edgetalker.face.names import ARKIT_SHAPES
from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.viewer.wire import OUTCOMES, Shown

__all__ = ["Recording", "read_recording"]


@dataclass(frozen=True)
class Recording:
    """Motion and what its numbers mean."""

    layout: MotionLayout
    frames: list[Shown]


def read_recording(path: Path | str) -> Recording:
    """Read an .npz with `motion` (n, ...), `fps`, and where they are there `names`, `index`, `time`, `outcome`,
    `cost_ns`, `due_ns`, `done_ns`, `triangles`. Raises InputError that lists what cannot be shown; nothing in it is
    unpickled.
    """
    path = Path(path)
    arrays = read_arrays(path, _KNOWN)
    if not isinstance(arrays, dict) or "motion" not in arrays or "fps" not in arrays:
        found = ", ".join(arrays) if isinstance(arrays, dict) else "one array"
        raise InputError(f"{path} has {found or 'nothing of a recording'}; `motion` and `fps` were wanted")
    faults = list(_faults(arrays))
    if faults:
        raise InputError("\n".join([f"{path}:", *(f"  - {fault}" for fault in faults)]))
    layout = _layout(arrays)
    return Recording(layout, _frames(arrays, layout))


_NUMBERS = ("index", "time", "cost_ns", "due_ns", "done_ns")
_KNOWN = ("motion", "fps", "names", "outcome", "triangles", *_NUMBERS)


def _faults(arrays: dict[str, NDArray[Any]]) -> Iterator[str]:
    motion, fps = arrays["motion"], arrays["fps"].ravel()
    if motion.ndim < 2 or not motion.size or motion.dtype.kind != "f" or not fits(motion):
        yield f"motion is {motion.shape} of {motion.dtype}; frames of finite numbers were wanted"
        return
    whole = len(fps) == 2 and fps.dtype.kind in "iu" and fps[1] > 0
    if not whole or not 1 <= Fraction(int(fps[0]), int(fps[1])) <= 1000:
        yield f"fps is {fps[:4].tolist()}; numerator and denominator of 1 to 1000 frames a second were wanted"
    names = arrays.get("names", np.zeros(0, str))
    if names.ndim != 1 or names.dtype.kind not in "US":
        yield f"names are {names.shape} of {names.dtype}; texts were wanted"
    elif len(names) and motion.shape[1:] != (len(names),):
        yield f"{len(names)} names do not fit motion {motion.shape}"
    elif len(names) and not set(map(_pascal, names)) & set(ARKIT_SHAPES):
        yield "its names are none of the ARKit shapes"
    elif not len(names) and (motion.ndim > 3 or motion.shape[-1] != 3):
        yield "neither names nor vertices: the motion cannot be shown"
    for name in _NUMBERS:
        values = arrays.get(name)
        if values is not None and (values.shape != motion.shape[:1] or values.dtype.kind not in "iuf"):
            yield f"{name} is {values.shape} of {values.dtype}; ({len(motion)},) numbers were wanted"
        elif values is not None and not np.isfinite(values).all():
            yield f"{name} holds what is not finite"
        elif name == "index" and values is not None and not (values.min() >= 0 and values.max() < 2**32):
            yield f"index goes from {values.min()} to {values.max()}; 0 to 2^32 - 1 was wanted"
    outcome = arrays.get("outcome")
    if outcome is not None and (outcome.shape != motion.shape[:1] or outcome.dtype.kind not in "US"):
        yield f"outcome is {outcome.shape} of {outcome.dtype}; ({len(motion)},) texts were wanted"
    triangles = arrays.get("triangles")
    if triangles is not None and (triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu"):
        yield f"triangles are {triangles.shape} of {triangles.dtype}; (f, 3) whole numbers were wanted"


def _pascal(name: Any) -> str:
    """Names as web avatars have them (`case=camel`) are read too."""
    text = str(name)
    return text[:1].upper() + text[1:]


def _layout(arrays: dict[str, NDArray[Any]]) -> MotionLayout:
    motion, fps = arrays["motion"], arrays["fps"].ravel()
    names = tuple(_pascal(name) for name in arrays.get("names", ()))
    shape = tuple(motion.shape[1:])
    if not names and len(shape) == 1:
        shape = (shape[0] // 3, 3)
    extra = {"triangles": arrays["triangles"].tolist()} if "triangles" in arrays and not names else {}
    rate = Fraction(int(fps[0]), int(fps[1]))
    return MotionLayout("arkit" if names else "vertices", shape, rate, names, extra=extra)


def _frames(arrays: dict[str, NDArray[Any]], layout: MotionLayout) -> list[Shown]:
    motion = arrays["motion"].astype(np.float32).reshape(len(arrays["motion"]), -1)
    count = len(motion)
    index = arrays.get("index", np.arange(count)).astype(np.int64)
    time = arrays.get("time", index / float(layout.fps))
    cost = arrays.get("cost_ns", np.zeros(count)) * 1e-6
    due, done = (arrays.get(name, np.zeros(count)) for name in ("due_ns", "done_ns"))
    late = np.where(due > 0, (done - due) * 1e-6, np.nan)
    known = {name: number for number, name in enumerate(OUTCOMES)}
    names = arrays.get("outcome", np.full(count, Outcome.ON_TIME.value))
    outcomes = [known.get(str(name), 0) for name in names]
    columns = (index.tolist(), time.tolist(), outcomes, cost.tolist(), late.tolist(), motion)
    return [Shown(*row) for row in zip(*columns, strict=True)]
