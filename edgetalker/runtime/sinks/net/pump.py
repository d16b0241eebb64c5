"""From frames to packets: a bounded queue, another rate, smoothing, encoding. The time is a number that it is given."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.sink import SinkStatistics

__all__ = ["Encoder", "FrameQueue", "Pump", "Resampler", "Slot", "Smoother", "Stamp", "Ticker"]


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


@dataclass
class Slot:
    """A copy of one frame: its motion (float32, the layout's shape) and the numbers a receiver may want."""

    motion: NDArray[np.float32]
    index: int = 0
    time: float = 0.0
    outcome: str = ""
    arrived_ns: int = 0

    def take(self, frame: Frame, arrived_ns: int) -> None:
        """Copy `frame` in; allocates nothing that lasts."""
        np.copyto(self.motion, frame.motion)
        self.index = frame.index
        self.time = float(frame.time)
        self.outcome = frame.outcome.value
        self.arrived_ns = arrived_ns

    def copy_from(self, other: Slot) -> None:
        """Copy another slot in."""
        np.copyto(self.motion, other.motion)
        self.index, self.time, self.outcome, self.arrived_ns = other.index, other.time, other.outcome, other.arrived_ns


class FrameQueue:
    """At most `capacity` frames, oldest first. `put` never waits: it copies and, when full, drops the oldest.

    One thread puts, one thread gets.
    """

    def __init__(self, shape: tuple[int, ...], capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} frames cannot hold one")
        self._slots = [Slot(np.zeros(shape, np.float32)) for _ in range(capacity)]
        self._first = 0
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def put(self, frame: Frame, arrived_ns: int) -> int:
        """Copy `frame` in and return how many older frames gave way (0 or 1)."""
        with self._lock:
            dropped = int(self._count == len(self._slots))
            self._first = (self._first + dropped) % len(self._slots)
            self._count += 1 - dropped
            self._slots[(self._first + self._count - 1) % len(self._slots)].take(frame, arrived_ns)
        return dropped

    def get(self, into: Slot) -> bool:
        """Move the oldest frame into `into`; False when there is none."""
        with self._lock:
            if not self._count:
                return False
            into.copy_from(self._slots[self._first])
            self._first = (self._first + 1) % len(self._slots)
            self._count -= 1
        return True

    def clear(self, keep: int = 0) -> int:
        """Forget all but the newest `keep` frames and return how many were forgotten."""
        with self._lock:
            gone = max(self._count - keep, 0)
            self._first = (self._first + gone) % len(self._slots)
            self._count -= gone
        return gone


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


class Smoother:
    """A first-order low-pass: y += (1 - exp(-dt / tau)) * (x - y), tau in seconds; 0 lets everything pass.

    A slow movement comes out tau later. A blink of 100 ms loses about a third of its depth at tau = 50 ms, and a
    lip closure more, so values above 30 ms cost articulation.
    """

    def __init__(self, shape: tuple[int, ...], tau: float) -> None:
        self.tau = tau
        self._state = np.zeros(shape, np.float32)
        self._started = False

    def apply(self, values: NDArray[np.float32], dt: float) -> NDArray[np.float32]:
        """Return the smoothed values, an array of the smoother's own; dt: seconds since the values before."""
        if self.tau <= 0 or not self._started:
            np.copyto(self._state, values)
            self._started = True
        else:
            self._state += np.float32(-math.expm1(-max(dt, 0.0) / self.tau)) * (values - self._state)
        return self._state
