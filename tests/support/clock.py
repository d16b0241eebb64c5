"""A clock that tests move."""

from __future__ import annotations


class FakeClock:
    """A clock that moves only when told to: by `advance`, or by sleeping, which takes no real time.

    leap_ns: what the next sleep takes too long, as when the machine sleeps meanwhile.
    """

    __slots__ = ("_now", "leap_ns", "slept_ns")

    def __init__(self, now_ns: int = 0) -> None:
        self._now = now_ns
        self.slept_ns = self.leap_ns = 0

    def now_ns(self) -> int:
        return self._now

    def sleep_until_ns(self, when: int) -> None:
        if when > self._now:
            self.slept_ns += when - self._now
            self._now, self.leap_ns = when + self.leap_ns, 0

    def advance(self, ns: int) -> None:
        """Let `ns` nanoseconds pass. Raises ValueError below 0: the clock is monotonic."""
        if ns < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-ns} ns")
        self._now += ns
