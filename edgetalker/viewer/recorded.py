"""Recorded motion, read back from the .npz that `animate` writes."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Read an .npz with `motion` (n, ...), `fps`, and where they are there `names`, `kind`, `index`, `time`,
    `outcome`, `cost_ns`. Raises InputError for what cannot be shown; nothing in it is unpickled.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from None
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as fault:
        raise InputError(f"{path} is no readable .npz of motion: {fault}") from None
    if "motion" not in arrays or "fps" not in arrays:
        raise InputError(f"{path} has {', '.join(arrays) or 'nothing'}; `motion` and `fps` were wanted")
    layout = _layout(path, arrays)
    return Recording(layout, _frames(arrays, layout))


def _layout(path: Path, arrays: dict[str, NDArray[Any]]) -> MotionLayout:
    motion, fps = arrays["motion"], arrays["fps"].ravel()
    faults = []
    if motion.ndim < 2 or not len(motion) or motion.dtype.kind != "f" or not np.isfinite(motion).all():
        faults.append(f"motion is {motion.shape} of {motion.dtype}; frames of finite numbers were wanted")
    rate = Fraction(int(fps[0]), int(fps[1])) if len(fps) == 2 and fps[1] > 0 else Fraction(0)
    if not 1 <= rate <= 1000:
        faults.append(f"fps is {fps.tolist()}")
    names = tuple(str(name) for name in arrays.get("names", np.zeros(0, str)))
    if names and names != () and motion.shape[1:] != (len(names),):
        faults.append(f"{len(names)} names do not fit motion {motion.shape}")
    if not names and motion.shape[-1] != 3:
        faults.append("neither names nor vertices: the motion cannot be shown")
    elif names and not set(names) & set(ARKIT_SHAPES):
        faults.append("its names are none of the ARKit shapes")
    if faults:
        raise InputError("\n".join([f"{path}:", *(f"  - {fault}" for fault in faults)]))
    shape = tuple(motion.shape[1:])
    if not names and len(shape) == 1:
        shape = (shape[0] // 3, 3)
    return MotionLayout("arkit" if names else "vertices", shape, rate, names)


def _frames(arrays: dict[str, NDArray[Any]], layout: MotionLayout) -> list[Shown]:
    motion = arrays["motion"].astype(np.float32).reshape(len(arrays["motion"]), -1)
    count = len(motion)
    index = arrays.get("index", np.arange(count))
    time = arrays.get("time", index / float(layout.fps))
    cost = arrays.get("cost_ns", np.zeros(count)) * 1e-6
    due, done = (arrays.get(name, np.zeros(count)) for name in ("due_ns", "done_ns"))
    late = np.where(due > 0, (done - due) * 1e-6, np.nan)
    known = {name: number for number, name in enumerate(OUTCOMES)}
    names = arrays.get("outcome", np.full(count, Outcome.ON_TIME.value))
    outcomes = [known.get(str(name), 0) for name in names]
    columns = (index.tolist(), time.tolist(), outcomes, cost.tolist(), late.tolist(), motion)
    return [Shown(*row) for row in zip(*columns, strict=True)]
