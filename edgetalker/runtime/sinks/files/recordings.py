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
| triangles | (f, 3) int32 | of motion that is vertices, where the bundle knows them |
| fps | (2,) int64 | numerator, denominator |
| index, sample | (n,) int64 | frame index (a gap is a skipped frame); samples after which all that it sees was heard |
| time | (n,) float64 | start in seconds of sound |
| outcome, schedule | (n,) text | how the frame came about |
| cost_ns, due_ns, done_ns | (n,) int64 | wall time of the step; clock times, 0 when not on a clock |
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from array import array
from collections.abc import Mapping
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import reported
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.options import CASE, Option, cased
from edgetalker.runtime.sinks.sink import FileSink

__all__ = ["JsonlSink", "NpzSink"]

INTEGERS = ("index", "sample", "cost_ns", "due_ns", "done_ns")
RESERVE = 1 << 16
"""Bytes of motion for which room is made at a time, at most (but for 16 frames)."""


class JsonlSink(FileSink):
    """Writes each frame as it comes, so that memory does not grow. No frames: no file."""

    OPTIONS: Mapping[str, Option] = {"case": CASE}

    def open(self, layout: MotionLayout) -> None:
        layout = cased(layout, self.options["case"])
        self.begin()
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
        """Write one line. Raises OutputError when the disk is full; the lines before it stay."""
        self._line(
            {
                "index": frame.index,
                "time": float(frame.time),
                "sample": frame.sample,
                "outcome": frame.outcome.value,
                "schedule": frame.schedule,
                "motion": _plain(frame.motion),
                **({"inputs": {name: _plain(values) for name, values in frame.inputs.items()}} if frame.inputs else {}),
            }
        )
        self.frames += 1

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


class NpzSink(FileSink):
    """Writes motion into the archive as it comes and everything else at the end, for which it reserves room.

    So a disk that fills up ends the recording and not what was recorded. Memory grows by some 50 bytes a frame,
    whatever the size of its motion. No frames: no file.
    """

    OPTIONS: Mapping[str, Option] = {"case": CASE}

    def open(self, layout: MotionLayout) -> None:
        layout = cased(layout, self.options["case"])
        self._layout = layout
        self._columns = {name: array("q") for name in INTEGERS}
        self._times = array("d")
        self._inputs: dict[str, array[float]] = {}
        self._texts: dict[str, tuple[array[int], dict[str, int]]] = {
            name: (array("H"), {}) for name in ("outcome", "schedule")
        }
        self._frame_bytes = 4 * int(np.prod(layout.shape))
        self.begin(seekable=True)
        self._entry = zipfile.ZipInfo("motion.npy")
        self._entry.external_attr = 0o600 << 16
        self._entry.CRC = self._entry.header_offset = 0
        with reported(self.path):
            self._reserved = 0
            self._begin = self._part.file.write(self._entry.FileHeader(zip64=True))
            self._first = self._begin + self._part.file.write(self._header())

    def send(self, frame: Frame) -> None:
        """Take one frame. Raises OutputError when the disk is full, ValueError for a motion of another shape."""
        if frame.motion.shape != self._layout.shape:
            raise ValueError(f"motion of shape {frame.motion.shape}; the layout says {self._layout.shape}")
        with reported(self.path):
            if self.frames >= self._reserved:
                self._reserve()
            self._part.file.write(np.ascontiguousarray(frame.motion, np.float32).data)
        for name, column in self._columns.items():
            column.append(getattr(frame, name))
        self._times.append(float(frame.time))
        for name, values in frame.inputs.items():
            self._inputs.setdefault(name, array("f")).extend(values.reshape(-1).tolist())
        for name, text in (("outcome", frame.outcome.value), ("schedule", frame.schedule)):
            codes, known = self._texts[name]
            codes.append(known.setdefault(text, len(known)))
        self.frames += 1

    def _reserve(self) -> None:
        """Fill up with zeros to where the archive will end after the next frames, their columns included."""
        file, layout = self._part.file, self._layout
        count = self.frames + max(min(self.frames, RESERVE // self._frame_bytes), 16)
        letters = sum(max(map(len, known), default=8) for _, known in self._texts.values())
        values = sum(4 * len(column) // self.frames for column in self._inputs.values()) if self.frames else 0
        columns = count * (8 * (len(INTEGERS) + 1) + 4 * letters + values) + 512 * len(self._inputs)
        rest = 4096 + 4 * len(json.dumps(dict(layout.extra))) + np.array(layout.names, str).nbytes
        size = self._first + count * self._frame_bytes + columns + rest
        at = file.tell()
        file.seek(0, 2)
        while (left := size - file.tell()) > 0:
            file.write(bytes(min(left, RESERVE)))
        file.seek(at)
        self._reserved = count

    def _header(self) -> bytes:
        """The header of motion.npy, padded by its format (NEP 1) to the same length for any number of frames."""
        into = io.BytesIO()
        shape = (self.frames, *self._layout.shape)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(into, header)
        return into.getvalue()

    def finish(self) -> None:
        """Write the archive's other arrays and its directory."""
        file, entry = self._part.file, self._entry
        file.seek(self._begin)
        file.write(self._header())
        end = self._first + self.frames * self._frame_bytes  # what a failed write left after it does not count
        entry.file_size = entry.compress_size = end - self._begin
        file.seek(self._begin)
        left, entry.CRC = entry.file_size, 0
        while left and (piece := file.read(min(left, RESERVE))):
            entry.CRC = zlib.crc32(piece, entry.CRC)
            left -= len(piece)
        file.seek(0)
        file.write(entry.FileHeader(zip64=True))
        file.seek(end)
        with zipfile.ZipFile(cast(IO[bytes], file), "w") as archive:
            archive.filelist.append(entry)
            for name, values in self._small_arrays().items():
                with archive.open(f"{name}.npy", "w") as into:
                    np.lib.format.write_array(into, values, allow_pickle=False)
        file.truncate()

    def _small_arrays(self) -> Mapping[str, NDArray[np.generic]]:
        layout = self._layout
        texts = {name: np.array(list(known))[np.asarray(codes)] for name, (codes, known) in self._texts.items()}
        return {
            **{f"input.{n}": np.asarray(c, np.float32).reshape(self.frames, -1) for n, c in self._inputs.items()},
            "names": np.array(layout.names, dtype=str),
            "kind": np.array(layout.kind),
            "units": np.array(layout.units),
            "extra": np.array(json.dumps({name: value for name, value in layout.extra.items() if name != "triangles"})),
            **({"triangles": np.array(layout.extra["triangles"], np.int32)} if "triangles" in layout.extra else {}),
            "fps": np.array([layout.fps.numerator, layout.fps.denominator], np.int64),
            "time": np.array(self._times),
            **{name: np.array(column) for name, column in self._columns.items()},
            **texts,
        }
