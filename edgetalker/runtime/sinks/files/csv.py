"""Live Link Face CSV: what the phone app of that name saves, as importers for Unreal, Blender and Maya read it.

Header `Timecode,BlendShapeCount,` and 61 names, in the order of the app's own takes, because readers by position exist:
as Epic's enum, but JawRight before JawLeft and MouthRight before MouthLeft (packets over UDP have the enum's order).
Shapes are in [0, 1] with ten decimals; HeadYaw, HeadPitch, HeadRoll and the eyes' angles are in **radians**, as in the
model's motion. Names that the model does not give are 0.

Timecode is HH:MM:SS:FF.sss: hours, minutes and seconds of the frame's time, the frame inside the second, and its
thousandths. At 30000/1001 and 60000/1001 frames a second it is drop-frame (SMPTE ST 12-1): the first two (four) numbers
of every minute that is no multiple of ten are left out, so that the label stays with the clock. Other rates that do not
divide a second have seconds that begin between two frames, hence the thousandths.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.names import LIVELINK_NAMES, positions, require_named
from edgetalker.runtime.sinks.sink import FileSink

__all__ = ["CSV_NAMES", "LiveLinkCsvSink", "timecode"]

_SWAPPED = {"JawLeft": "JawRight", "JawRight": "JawLeft", "MouthLeft": "MouthRight", "MouthRight": "MouthLeft"}
CSV_NAMES: tuple[str, ...] = tuple(_SWAPPED.get(name, name) for name in LIVELINK_NAMES)
_LINE = f"%s,{len(CSV_NAMES)}" + ",%.10f" * len(CSV_NAMES) + "\r\n"


class LiveLinkCsvSink(FileSink):
    """Writes each frame as it comes, so that memory does not grow. It has no options: the format fixes its names."""

    def open(self, layout: MotionLayout) -> None:
        """Raises OptionError for a motion that is not ARKit shapes by name."""
        require_named(layout, "a Live Link Face CSV")
        self._fps = layout.fps
        place = positions(CSV_NAMES, layout.names)
        self._to = np.flatnonzero(place >= 0)
        self._from = place[self._to]
        self._row = np.zeros(len(CSV_NAMES))
        self.begin().write(",".join(["Timecode", "BlendShapeCount", *CSV_NAMES]).encode() + b"\r\n")

    def send(self, frame: Frame) -> None:
        """Write one line. Raises OutputError when the disk is full; the lines before it stay."""
        self._row[self._to] = frame.motion[self._from]
        self._part.write((_LINE % (timecode(frame.time, self._fps), *self._row.tolist())).encode())
        self.frames += 1


def timecode(time: Fraction, fps: Fraction) -> str:
    """Return HH:MM:SS:FF.sss for a time in seconds; exact but for the last digit, which is rounded down."""
    if fps.denominator == 1001 and fps.numerator in (30000, 60000):
        nominal = fps.numerator // 1000
        count = int(time * fps * 1000)
        number, rest = divmod(count, 1000)
        # A minute holds 60 * nominal frames less the dropped numbers, but every tenth one; ten minutes are exact.
        dropped = nominal // 15
        ten, within = divmod(number, 600 * nominal - 9 * dropped)
        number += dropped * (9 * ten + max(within - dropped, 0) // (60 * nominal - dropped))
        second, thousandths = number // nominal, number % nominal * 1000 + rest
    else:
        second = int(time)
        thousandths = int((time - second) * fps * 1000)
    minute, hour = second // 60 % 60, second // 3600
    return f"{hour:02}:{minute:02}:{second % 60:02}:{thousandths // 1000:02}.{thousandths % 1000:03}"
