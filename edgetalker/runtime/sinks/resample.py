"""Motion at another rate: exact sending times, and values between the last two frames."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["Resampler", "Ticker"]

SECOND = 10**9


class Ticker:
    """Sending times of an exact rate: tick k is due at start + k / rate, rounded down to a nanosecond, for ever."""

    def __init__(self, rate: Fraction) -> None:
        if rate <= 0:
            raise ValueError(f"a rate of {rate} a second has no sending times")
        self.rate = rate
        self.start_ns = 0
        self.next = 0

    def begin(self, now_ns: int) -> None:
        """Make `now_ns` the time of tick 0."""
        self.start_ns, self.next = now_ns, 0

    def due_ns(self, tick: int) -> int:
        """Return the clock time of `tick`."""
        return self.start_ns + tick * SECOND * self.rate.denominator // self.rate.numerator

    @property
    def next_ns(self) -> int:
        """Clock time of the next tick."""
        return self.due_ns(self.next)

    def pass_until(self, now_ns: int) -> int:
        """Move past every tick that is due; return how many those are."""
        if now_ns < self.next_ns:
            return 0
        latest = (now_ns - self.start_ns + 1) * self.rate.numerator - 1
        latest //= SECOND * self.rate.denominator
        passed = latest + 1 - self.next
        self.next = latest + 1
        return passed


class Resampler:
    """Interpolates between the last two frames, on a time line that follows the frames' arrival.

    A frame reaches full weight one frame period after it was due to arrive, so one model frame of delay is added.
    Due is what the arrivals of about the last `1 / FOLLOW` frames say; whatever the newest one does, the position
    is never more than one frame behind it. Arrivals that are off by more than two frames (a pause) start the time
    line anew. Nothing is extrapolated: late frames hold the motion.
    """

    FOLLOW = 0.05

    def __init__(self, shape: tuple[int, ...], fps: Fraction) -> None:
        self._period = SECOND * fps.denominator / fps.numerator
        self._older = np.zeros(shape, np.float32)
        self._newer = np.zeros(shape, np.float32)
        self._out = np.zeros(shape, np.float32)
        self._place = -1
        self._index = -1
        self._anchor = 0.0

    @property
    def ready(self) -> bool:
        """True once a frame has come."""
        return self._place >= 0

    def push(self, motion: NDArray[np.float32], index: int, arrived_ns: int) -> None:
        """Take the next frame; a smaller or equal index (after a reset) counts as the next one."""
        self._older, self._newer = self._newer, self._older
        np.copyto(self._newer, motion)
        if self._place < 0:
            np.copyto(self._older, motion)
        self._place += max(index - self._index, 1) if self._place >= 0 else 1
        self._index = index
        self._follow(arrived_ns)

    def _follow(self, arrived_ns: int) -> None:
        error = arrived_ns - (self._anchor + self._place * self._period)
        if self._place == 0 or abs(error) > 2 * self._period:
            self._anchor = arrived_ns - self._place * self._period
        else:
            self._anchor += self.FOLLOW * error

    def phase(self, now_ns: int) -> float:
        """Return how far between the last two frames the output is now: 0 the older, 1 the newer."""
        position = (now_ns - self._anchor) / self._period - self._place
        return min(max(position, 0.0), 1.0)

    def at(self, now_ns: int) -> NDArray[np.float32]:
        """Return the values at `now_ns`, an array of the resampler's own."""
        phase = np.float32(self.phase(now_ns))
        np.subtract(self._newer, self._older, out=self._out)
        self._out *= phase
        self._out += self._older
        return self._out
