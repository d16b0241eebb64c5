"""From queued frames to packets: smoothing, another rate, encoding. Knows the time only as a number it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.queue import FrameQueue, Slot
from edgetalker.runtime.sinks.resample import Resampler, Ticker
from edgetalker.runtime.sinks.smooth import Smoother
from edgetalker.runtime.sinks.statistics import SinkStatistics

__all__ = ["Encoder", "Pump", "Stamp"]


@dataclass(frozen=True)
class Stamp:
    """What is known about the values of a packet.

    number: packets' own count, exact on the time line of `rate` (ticks that were missed leave a gap). index, time,
    outcome: of the newest frame in the values; time in seconds of sound. seconds: of the sender since it began.
    """

    number: int
    rate: Fraction
    index: int
    time: float
    outcome: str
    seconds: float


class Encoder(Protocol):
    """Turns values into datagrams or messages. What it returns may be reused at the next call."""

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytes | bytearray | str]: ...


class Pump:
    """The sender's half that holds no socket and no thread, so that it can be driven by any clock.

    Without a rate each frame becomes a packet when it comes. With a rate, packets leave on exact ticks from the
    first frame on, with values between the last two frames.
    """

    def __init__(
        self,
        layout: MotionLayout,
        encoder: Encoder,
        statistics: SinkStatistics,
        *,
        rate: Fraction | None,
        smooth: float,
        capacity: int,
    ) -> None:
        self.queue = FrameQueue(layout.shape, capacity)
        self.statistics = statistics
        self._encoder = encoder
        self._fps = layout.fps
        self._ticker = Ticker(rate) if rate else None
        self._resampler = Resampler(layout.shape, layout.fps)
        self._smoother = Smoother(layout.shape, smooth)
        self._slot = Slot(np.zeros(layout.shape, np.float32))
        self._begun_ns = 0
        self._number = 0
        self._before_ns = 0
        self._taken = 0
        self._rested = True

    def accept(self, frame: Frame, now_ns: int) -> None:
        """Queue a copy of `frame`. Called from the talker's thread."""
        self.statistics.frames += 1
        self.statistics.dropped += self.queue.put(frame, now_ns)

    def wake_ns(self) -> int | None:
        """Return when `step` is due next, or None when only a new frame can make it due."""
        if self._ticker and self._resampler.ready:
            return self._ticker.next_ns
        return None

    def step(self, now_ns: int) -> Sequence[bytes | bytearray | str] | None:
        """Return the packets that are due now, or None."""
        return self._tick(now_ns) if self._ticker else self._next(now_ns)

    @property
    def at_rest(self) -> bool:
        """True when the last packet held the newest frame whole and none waits."""
        return self._rested and not len(self.queue)

    @property
    def period_ns(self) -> int:
        """Duration of one model frame."""
        return 10**9 * self._fps.denominator // self._fps.numerator

    def settle(self, good: bool, now_ns: int) -> None:
        """Say what became of the packets of the last `step`."""
        if good:
            self.statistics.sent += self._taken
            if self._taken:
                self.statistics.delay.add(now_ns - self._slot.arrived_ns)
        else:
            self.statistics.failed += self._taken
        self._taken = 0

    def discard(self, keep: int = 0) -> None:
        """Drop what waits, but for the newest `keep` frames."""
        self.statistics.dropped += self.queue.clear(keep)

    def _next(self, now_ns: int) -> Sequence[bytes | bytearray | str] | None:
        if not self.queue.get(self._slot):
            return None
        self._taken += 1
        dt = float(1 / self._fps) if self._number else 0.0
        return self._packets(self._slot.motion, dt, now_ns, self._fps)

    def _tick(self, now_ns: int) -> Sequence[bytes | bytearray | str] | None:
        assert self._ticker is not None
        first = not self._resampler.ready
        while self.queue.get(self._slot):
            self._taken += 1
            self._resampler.push(self._slot.motion, self._slot.index, self._slot.arrived_ns)
        if not self._resampler.ready:
            return None
        if first:
            self._ticker.begin(now_ns)
        due = self._ticker.next_ns
        passed = self._ticker.pass_until(now_ns)
        if not passed:
            return None
        self.statistics.ticks_missed += passed - 1
        self.statistics.late_ns = max(self.statistics.late_ns, now_ns - self._ticker.due_ns(self._ticker.next - 1))
        dt = (now_ns - self._before_ns) * 1e-9 if due > self._ticker.start_ns else 0.0
        self._number = self._ticker.next - 1
        self._rested = self._resampler.phase(now_ns) == 1
        return self._packets(self._resampler.at(now_ns), dt, now_ns, self._ticker.rate)

    def _packets(
        self, values: NDArray[np.float32], dt: float, now_ns: int, rate: Fraction
    ) -> Sequence[bytes | bytearray | str]:
        if not self._begun_ns:
            self._begun_ns = now_ns
        seconds = (now_ns - self._begun_ns) * 1e-9
        slot = self._slot
        stamp = Stamp(self._number, rate, slot.index, slot.time, slot.outcome, seconds)
        self._before_ns = now_ns
        self._number += 1
        return self._encoder.encode(self._smoother.apply(values, dt), stamp)
