"""When it is now, waiting until it is later, and when frames are due on a clock."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Protocol

__all__ = ["Clock", "FakeClock", "Pace", "SystemClock"]

_NS = 1_000_000_000


class Clock(Protocol):
    """A monotonic clock in nanoseconds from an arbitrary origin."""

    def now_ns(self) -> int:
        """Return the time now."""
        ...

    def sleep_until_ns(self, when: int) -> None:
        """Return at `when` or a little after it; at once when it has passed."""
        ...


class SystemClock:
    """The machine's monotonic clock (`time.perf_counter_ns`).

    A sleep wakes some 50 to 200 us late, so it ends `spin_ns` early and the rest is polled. `spin_ns=0` never
    polls: kinder to a battery and to other processes, less exact.
    """

    __slots__ = ("spin_ns",)

    def __init__(self, spin_ns: int = 200_000) -> None:
        self.spin_ns = spin_ns

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def sleep_until_ns(self, when: int) -> None:
        coarse = when - self.spin_ns - time.perf_counter_ns()
        if coarse > 0:
            time.sleep(coarse * 1e-9)
        # The second half of the condition only matters without spinning, where sleep may return a hair early.
        while time.perf_counter_ns() < when:
            if self.spin_ns == 0:
                time.sleep(max(when - time.perf_counter_ns(), 0) * 1e-9)


class FakeClock:
    """A clock that moves only when told to: by `advance`, or by sleeping, which takes no real time."""

    __slots__ = ("_now", "slept_ns")

    def __init__(self, now_ns: int = 0) -> None:
        self._now = now_ns
        self.slept_ns = 0

    def now_ns(self) -> int:
        return self._now

    def sleep_until_ns(self, when: int) -> None:
        if when > self._now:
            self.slept_ns += when - self._now
            self._now = when

    def advance(self, ns: int) -> None:
        """Let `ns` nanoseconds pass. Raises ValueError below 0: the clock is monotonic."""
        if ns < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-ns} ns")
        self._now += ns


class Pace:
    """Maps the sample clock to the wall clock.

    `origin` is the time at which sample 0 seems to have begun: the earliest of (arrival - samples heard / rate),
    because a packet can come late but never before its sound. It leaks forward by 200 ppm of the time passed, so
    that a sound card whose crystal runs slow is followed. All frames have the same latency: frame i's slot opens
    when the last frame of a block has heard its sound, counted back to i, and it is due `budget` later:

        slot(i) = origin + (i + block + spread) / fps + lookahead / rate
    """

    LEAK = 200e-6

    def __init__(self, rate: int, fps: Fraction, lookahead: int, block: int, budget_ns: int, spread: int = 0) -> None:
        self.rate = rate
        self.budget_ns = budget_ns
        self._period = _NS / fps
        self.period_ns = int(self._period)
        self._latency_ns = int((block + spread) * self._period) + lookahead * _NS // rate
        self._origin: int | None = None
        self._heard_ns = 0

    @property
    def started(self) -> bool:
        """Whether any sound came yet."""
        return self._origin is not None

    def hear(self, total: int, now_ns: int) -> None:
        """Note that `total` samples had come by `now_ns`."""
        seen = now_ns - total * _NS // self.rate
        if self._origin is None:
            self._origin = seen
        else:
            leaked = self._origin + int((now_ns - self._heard_ns) * self.LEAK)
            self._origin = min(leaked, seen)
        self._heard_ns = now_ns

    def wait(self) -> None:
        """Move everything by one frame: a slot passed whose sound did not come."""
        if self._origin is not None:
            self._origin += self.period_ns

    def slot_ns(self, index: int) -> int:
        """Return when frame `index` may be started. Raises ValueError before any sound came."""
        if self._origin is None:
            raise ValueError("no sound has come yet")
        return self._origin + int(index * self._period) + self._latency_ns

    def sound_time(self, when_ns: int) -> float:
        """Return which second of the sound `when_ns` is. Raises ValueError before any sound came."""
        if self._origin is None:
            raise ValueError("no sound has come yet")
        return (when_ns - self._origin) / _NS

    def due_ns(self, index: int) -> int:
        """Return the deadline of frame `index`. Raises ValueError before any sound came."""
        return self.slot_ns(index) + self.budget_ns

    def restart(self) -> None:
        """Forget the origin: the sample clock begins anew."""
        self._origin = None
