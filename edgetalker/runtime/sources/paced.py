"""Any source, released as if it were being recorded now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.clock import Clock
from edgetalker.runtime.frame import Source

__all__ = ["PacedSource"]

SECOND = 1_000_000_000


class PacedSource:
    """Hands out sample k of another source no earlier than k / rate seconds after the first read.

    This is how a file is played on the clock: the reader sees what a microphone would have given it.
    """

    live = True

    def __init__(self, inner: Source, clock: Clock) -> None:
        self._inner, self._clock = inner, clock
        self._start_ns: int | None = None
        self._given = 0

    @property
    def rate(self) -> int:
        return self._inner.rate

    @property
    def ended(self) -> bool:
        return self._inner.ended

    @property
    def start_ns(self) -> int | None:
        """Clock time of sample 0: that of the first read; None before it."""
        return self._start_ns

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Wait until `samples` more are due, at most `timeout` seconds, and return those that are due."""
        if self._start_ns is None:
            self._start_ns = self._clock.now_ns()
        enough = self._due_ns(self._given + samples)
        latest = enough if timeout == float("inf") else self._clock.now_ns() + round(timeout * SECOND)
        self._clock.sleep_until_ns(min(enough, latest))
        passed = self._clock.now_ns() - self._start_ns
        due = min(samples, passed * self.rate // SECOND - self._given)
        if due <= 0:
            return np.zeros(0, np.float32)
        taken = self._inner.read(due, 0.0)
        self._given += len(taken)
        return taken

    def _due_ns(self, sample: int) -> int:
        """Return the first clock time at which so many samples are due."""
        assert self._start_ns is not None
        return self._start_ns - (-sample * SECOND // self.rate)

    def warnings(self) -> list[str]:
        """Return the inner source's warnings."""
        return self._inner.warnings()

    def close(self) -> None:
        self._inner.close()
