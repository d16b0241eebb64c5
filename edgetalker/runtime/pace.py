"""When frames are due on a clock whose relation to the sound is only known from when sound arrives."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["Pace"]

_NS = 1_000_000_000


class Pace:
    """Maps the sample clock to the wall clock.

    `origin` is the time at which sample 0 seems to have begun: the earliest of (arrival - samples heard / rate),
    because a packet can come late but never before its sound. It leaks forward by 200 ppm of the time passed, so
    that a sound card whose crystal runs slow is followed. All frames have the same latency: frame i's slot opens
    when the last frame of a block has heard its sound, counted back to i, and it is due `budget` later:

        slot(i) = origin + (i + block) / fps + lookahead / rate
    """

    LEAK = 200e-6

    def __init__(self, rate: int, fps: Fraction, lookahead: int, block: int, budget_ns: int) -> None:
        self.rate = rate
        self.budget_ns = budget_ns
        self._period = _NS / fps
        self._latency_ns = int(block * self._period) + lookahead * _NS // rate
        self._origin: int | None = None
        self._heard_ns = 0

    @property
    def period_ns(self) -> int:
        """Length of a frame in ns, rounded."""
        return int(self._period)

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

    def due_ns(self, index: int) -> int:
        """Return the deadline of frame `index`. Raises ValueError before any sound came."""
        return self.slot_ns(index) + self.budget_ns

    def restart(self) -> None:
        """Forget the origin: the sample clock begins anew."""
        self._origin = None
