"""JSON lines: a header, then one line a frame.

The header is `{"format": "edgetalker-motion", "version": 1, "kind", "shape", "fps": [numerator, denominator], "names",
"units", "extra"}`; a frame is `{"index", "time", "sample", "outcome", "schedule", "motion"}`, time in seconds, motion
nested as its shape says, in the order of the header's names. A value that is not finite is null.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.part import PartFile, checked_target

__all__ = ["JsonlSink"]


class JsonlSink:
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
