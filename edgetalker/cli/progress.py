"""A progress line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from edgetalker.runtime.frame import Frame
from edgetalker.runtime.loop import Observer

__all__ = ["Progress"]

_WIDTH = 30


class Progress(Observer):
    """Draws `[=====     ] 120/300 frames, 4.1x real time` a few times a second on a terminal's line."""

    def __init__(self, stream: TextIO, fps: float, total: int | None) -> None:
        """total: frames to come, None when nobody knows."""
        self._stream, self._fps, self._total = stream, fps, total
        self._active = stream.isatty()
        self._begun = self._drawn = time.monotonic()
        self._frames = 0

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Count one frame."""
        self._frames += 1
        now = time.monotonic()
        if self._active and now - self._drawn > 0.1:
            self._drawn = now
            self._draw(now)

    def _draw(self, now: float) -> None:
        speed = self._frames / self._fps / max(now - self._begun, 1e-9)
        if self._total:
            done = min(_WIDTH * self._frames // self._total, _WIDTH)
            bar = f"[{'=' * done}{' ' * (_WIDTH - done)}] {self._frames}/{self._total} frames"
        else:
            bar = f"{self._frames} frames"
        self._stream.write(f"\r{bar}, {speed:.1f}x real time ")
        self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._active and self._frames:
            self._draw(time.monotonic())
            self._stream.write("\n")
