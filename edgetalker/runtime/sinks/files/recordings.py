"""Recordings of any motion: JSON lines and NumPy archives.

**JSON lines**: a header `{"format": "edgetalker-motion", "version": 1, "kind", "shape", "fps": [numerator,
denominator], "names", "units", "extra"}`, then a line a frame: `{"index", "time", "sample", "outcome", "schedule",
"motion"}`, time in seconds, motion nested as its shape says, in the order of the header's names. A value that is not
finite is null.

**NumPy archive**: everything a frame carries, as arrays (no pickle).

| array | shape | what |
|---|---|---|
| motion | (n, ...) float32 | frames in the order in which they were sent |
| names | (k,) text | the motion's names, or empty |
| kind, units, extra | () text | the layout; extra is JSON |
| fps | (2,) int64 | numerator, denominator |
| index, sample | (n,) int64 | frame index (a gap is a skipped frame); samples after which all that it sees was heard |
| time | (n,) float64 | start in seconds of sound |
| outcome, schedule | (n,) text | how the frame came about |
| cost_ns, due_ns, done_ns | (n,) int64 | wall time of the step; clock times, 0 when not on a clock |
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import PartFile, checked_target, reported
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["JsonlSink", "NpzSink"]

INTEGERS = ("index", "sample", "cost_ns", "due_ns", "done_ns")
PIECE = 1 << 16


class JsonlSink(Sink):
    """Writes each frame as it comes, so that memory does not grow. No frames: no file."""

    def __init__(self, path: Path | str) -> None:
        """Raises OutputError when nothing can be written there."""
        self.path = checked_target(path)
        self.frames = 0

    def open(self, layout: MotionLayout) -> None:
        self._part = PartFile(self.path)
        self._line(
            {
                "format": "edgetalker-motion",
                "version": 1,
                "kind": layout.kind,
                "shape": list(layout.shape),
                "fps": [layout.fps.numerator, layout.fps.denominator],
                "names": list(layout.names),
                "units": layout.units,
                "extra": dict(layout.extra),
            }
        )

    def send(self, frame: Frame) -> None:
        """Write one line. Raises OutputError when the disk is full."""
        self._line(
            {
                "index": frame.index,
                "time": float(frame.time),
                "sample": frame.sample,
                "outcome": frame.outcome.value,
                "schedule": frame.schedule,
                "motion": _plain(frame.motion),
            }
        )
        self.frames += 1

    def close(self) -> None:
        """Give the file its name; without any frame there is none."""
        if self.frames:
            self._part.keep()
        else:
            self._part.discard()

    def _line(self, values: dict[str, Any]) -> None:
        text = json.dumps(values, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        self._part.write(text.encode() + b"\n")


def _plain(motion: NDArray[np.float32]) -> Any:
    """Nested lists; a float64 shows every float32 exactly."""
    if np.isfinite(motion).all():
        return motion.tolist()
    values = motion.astype(object)
    values[~np.isfinite(motion)] = None
    return values.tolist()


class NpzSink(Sink):
    """Spools motion to a nameless file beside the target and packs it at the end.

    Memory grows by some 50 bytes a frame, whatever the size of its motion; the disk holds it twice for a moment.
    No frames: no file.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises OutputError when nothing can be written there."""
        self.path = checked_target(path)
        self.frames = 0

    def open(self, layout: MotionLayout) -> None:
        self._layout = layout
        self._columns = {name: array("q") for name in INTEGERS}
        self._times = array("d")
        self._texts: dict[str, tuple[array[int], dict[str, int]]] = {
            name: (array("H"), {}) for name in ("outcome", "schedule")
        }
        with reported(self.path):
            self._spool: IO[bytes] = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - closed in close()

    def send(self, frame: Frame) -> None:
        """Take one frame. Raises OutputError when the disk is full, ValueError for a motion of another shape."""
        if frame.motion.shape != self._layout.shape:
            raise ValueError(f"motion of shape {frame.motion.shape}; the layout says {self._layout.shape}")
        with reported(self.path):
            self._spool.write(np.ascontiguousarray(frame.motion, np.float32).data)
        for name, column in self._columns.items():
            column.append(getattr(frame, name))
        self._times.append(float(frame.time))
        for name, text in (("outcome", frame.outcome.value), ("schedule", frame.schedule)):
            codes, known = self._texts[name]
            codes.append(known.setdefault(text, len(known)))
        self.frames += 1

    def close(self) -> None:
        """Write the archive; without any frame there is none."""
        try:
            if self.frames:
                self._write()
        finally:
            with suppress(OSError):  # what a full disk did not take is told by send or _write
                self._spool.close()

    def _write(self) -> None:
        part = PartFile(self.path)
        try:
            with reported(self.path):
                self._pack(part.file)
        except BaseException:
            part.discard()
            raise
        part.keep()

    def _pack(self, file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("motion.npy", "w", force_zip64=True) as entry:
                self._copy_motion(entry)
            for name, values in self._small_arrays().items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, values, allow_pickle=False)

    def _copy_motion(self, entry: IO[bytes]) -> None:
        shape = (self.frames, *self._layout.shape)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(entry, header)
        # A write that failed midway left a piece of a frame behind; only whole frames are counted.
        left = 4 * int(np.prod(shape))
        self._spool.seek(0)
        while left and (piece := self._spool.read(min(left, PIECE))):
            entry.write(piece)
            left -= len(piece)

    def _small_arrays(self) -> Mapping[str, NDArray[np.generic]]:
        layout = self._layout
        texts = {name: np.array(list(known))[np.asarray(codes)] for name, (codes, known) in self._texts.items()}
        return {
            "names": np.array(layout.names, dtype=str),
            "kind": np.array(layout.kind),
            "units": np.array(layout.units),
            "extra": np.array(json.dumps(dict(layout.extra))),
            "fps": np.array([layout.fps.numerator, layout.fps.denominator], np.int64),
            "time": np.array(self._times),
            **{name: np.array(column) for name, column in self._columns.items()},
            **texts,
        }
