"""Live Link Face CSV: what the phone app of that name saves, as importers for Unreal, Blender and Maya read it.

Header `Timecode,BlendShapeCount,` and 61 names: 52 ARKit shapes in Epic's order, HeadYaw, HeadPitch, HeadRoll, then
yaw, pitch and roll of the left and of the right eye. Shapes are in [0, 1]; angles are in **radians**, as in the model's
motion. Names that the model does not give are 0. Importers should read by name: apps differ in the order.

Timecode is HH:MM:SS:FF.sss with the hours, minutes and seconds of the sound, the frame inside the second, and its
thousandths. At 30000/1001 frames a second a second does not begin with a frame, hence the thousandths; the time stays
that of the sound and never drifts from it.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from edgetalker.engines.files import PartFile, checked_target
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.names import LIVELINK_NAMES, positions, require_named
from edgetalker.runtime.sinks.sink import Sink

__all__ = ["LiveLinkCsvSink", "timecode"]


class LiveLinkCsvSink(Sink):
    """Writes each frame as it comes, so that memory does not grow. No frames: no file."""

    def __init__(self, path: Path | str) -> None:
        """Raises OutputError when nothing can be written there."""
        self.path = checked_target(path)
        self.frames = 0

    def open(self, layout: MotionLayout) -> None:
        """Raises OptionError for a motion that is not ARKit shapes by name."""
        require_named(layout, "a Live Link Face CSV")
        self._fps = layout.fps
        place = positions(LIVELINK_NAMES, layout.names)
        self._to = np.flatnonzero(place >= 0)
        self._from = place[self._to]
        self._row = np.zeros(len(LIVELINK_NAMES))
        self._part = PartFile(self.path)
        self._part.write(",".join(["Timecode", "BlendShapeCount", *LIVELINK_NAMES]).encode() + b"\r\n")

    def send(self, frame: Frame) -> None:
        """Write one line. Raises OutputError when the disk is full."""
        self._row[self._to] = frame.motion[self._from]
        values = ",".join(f"{value:.9g}" for value in self._row.tolist())
        self._part.write(f"{timecode(frame.time, self._fps)},{len(self._row)},{values}\r\n".encode())
        self.frames += 1

    def close(self) -> None:
        """Give the file its name; without any frame there is none."""
        if self.frames:
            self._part.keep()
        else:
            self._part.discard()


def timecode(time: Fraction, fps: Fraction) -> str:
    """Return HH:MM:SS:FF.sss for a time in seconds; exact but for the last digit, which is rounded down."""
    second = int(time)
    thousandths = int((time - second) * fps * 1000)
    minute, hour = second // 60 % 60, second // 3600
    return f"{hour:02}:{minute:02}:{second % 60:02}:{thousandths // 1000:02}.{thousandths % 1000:03}"
