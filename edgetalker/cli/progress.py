"""One line of progress on a terminal's stderr, overwritten in place, and nothing elsewhere."""

from __future__ import annotations

import sys
import time

from edgetalker.runtime.frame import Frame
from edgetalker.runtime.loop import Observer

__all__ = ["FrameLine", "Line"]

_WIDTH = 30


class Line:
    """A Progress that shows what is being done, and how much of it is done. seen: whether anything was told.

    Use with `with`: the line is cleared in the end, so that an error stands on a line of its own.
    """

    def __init__(self) -> None:
        self.seen = False
        self._stream, self._last = sys.stderr, ""

    def __call__(self, what: str, share: float) -> None:
        """Show `what` and the share of it that is done."""
        self.seen = True
        self.show(f"  {what} {share:.0%}")

    def show(self, text: str) -> None:
        """Show a text in place of the last one, where that is a terminal."""
        if text != self._last and self._stream.isatty():
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._last = text

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, *, keep: bool = False) -> None:
        """Clear the line for what is printed next, or keep it and go on below."""
        if self._last:
            self._stream.write("\n" if keep else "\r\x1b[K")
            self._stream.flush()
        self._last = ""


class FrameLine(Observer):
    """Draws `[=====     ] 120/300 frames, 4.1x real time` ten times a second."""

    def __init__(self, fps: float, total: int | None) -> None:
        """total: frames to come, None when nobody knows."""
        self._line, self._fps, self._total = Line(), fps, total
        self._begun = self._drawn = time.monotonic()
        self._frames = 0

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Count one frame."""
        self._frames += 1
        now = time.monotonic()
        if now - self._drawn > 0.1:
            self._drawn = now
            self._draw(now)

    def _draw(self, now: float) -> None:
        speed = self._frames / self._fps / max(now - self._begun, 1e-9)
        if self._total:
            done = min(_WIDTH * self._frames // self._total, _WIDTH)
            bar = f"[{'=' * done}{' ' * (_WIDTH - done)}] {self._frames}/{self._total} frames"
        else:
            bar = f"{self._frames} frames"
        self._line.show(f"{bar}, {speed:.1f}x real time")

    def close(self) -> None:
        """End the line with what was reached."""
        if self._frames:
            self._draw(time.monotonic())
        self._line.end(keep=True)
