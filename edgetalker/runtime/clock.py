"""When it is now, and waiting until it is later: the system's clock, and one that tests turn by hand."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "FakeClock", "SystemClock"]


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
