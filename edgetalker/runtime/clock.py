"""Time: which samples frame i sees, the window that holds them, when frame i is due, the clock on the wall, and how
long things took.

Samples and frames are counted in integers and fractions, so that no number of frames makes them drift.
"""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AWAY_NS", "LEAP_NS", "AudioWindow", "Clock", "Durations", "Pace", "SampleClock", "SystemClock"]

_NS = 1_000_000_000
LEAP_NS = 2 * _NS
"""Behind by more than this, nobody was at work: the machine slept (Windows' clock counts that) or the program was
stopped. What was missed is then not made up for."""
AWAY_NS = 10 * _NS
"""A loop does not look for sound while it plays a chunk of frames; for longer than this, only after a leap."""


class SampleClock:
    """The sample count at which each frame has heard all that it sees.

    boundary(j) = floor(j * rate / fps), exact for any rational fps (30000/1001 too), and
    end(i) = boundary((i // block + 1) * block) + lookahead: the frames of one block become ready together.
    rate in samples a second, fps in frames a second, lookahead in samples, block in frames.
    """

    __slots__ = ("_denominator", "_numerator", "block", "fps", "lookahead", "rate")

    def __init__(self, rate: int, fps: Fraction, lookahead: int = 0, block: int = 1) -> None:
        """Raises ValueError unless rate, fps and block are above 0 and lookahead is at least 0."""
        if rate < 1 or fps <= 0 or block < 1 or lookahead < 0:
            raise ValueError(f"no sample clock of rate {rate}, fps {fps}, look-ahead {lookahead}, block {block}")
        self.fps, self.lookahead, self.block = Fraction(fps), lookahead, block
        self.rate = rate
        self._numerator, self._denominator = rate * self.fps.denominator, self.fps.numerator

    def boundary(self, frame: int) -> int:
        """Return the number of whole samples before the exact start of `frame`."""
        return frame * self._numerator // self._denominator

    def end(self, frame: int) -> int:
        """Return the number of samples after which `frame` can be computed."""
        frames = (frame // self.block + 1) * self.block
        return frames * self._numerator // self._denominator + self.lookahead

    def frame_time(self, frame: int) -> Fraction:
        """Return the exact start of `frame` in seconds of sound."""
        return Fraction(frame * self.fps.denominator, self.fps.numerator)

    def frames_spanned(self, samples: int) -> int:
        """Return how many frames start before the end of a sound of so many samples.

        That is the number of frames of motion for the whole sound; the last ones see silence after its end.
        """
        return -(-samples * self._denominator // self._numerator)


class AudioWindow:
    """The newest samples of one stream, in memory that is allocated once.

    It keeps at least the newest `size + backlog` samples. Samples are counted from the start of the stream
    (or the last reset), and those before it read as zeros. How the sound was cut for `append` changes nothing
    of what `read` returns. total: samples appended since the start or the last reset.
    """

    __slots__ = ("_buffer", "_kept", "_origin", "size", "total")

    def __init__(self, size: int, backlog: int = 1 << 15) -> None:
        """Raises ValueError unless size > 0 and backlog >= 0 (both in samples)."""
        if size < 1 or backlog < 0:
            raise ValueError(f"no window of {size} samples and a backlog of {backlog}")
        self.size = size
        self._kept = size + backlog
        # Twice what is kept: moving the newest half to the front never overlaps, and happens once in `_kept` samples.
        self._buffer = np.zeros(2 * self._kept, np.float32)
        self._origin = self.total = 0

    @property
    def oldest(self) -> int:
        """Number of the oldest sample that is certainly still here."""
        return max(0, self.total - self._kept)

    def append(self, samples: NDArray[np.float32]) -> None:
        """Take new samples, shape (n,), float32; the oldest beyond what is kept are dropped."""
        done = 0
        while done < len(samples):
            at = self._make_room()
            take = min(len(samples) - done, len(self._buffer) - at)
            self._buffer[at : at + take] = samples[done : done + take]
            self.total += take
            done += take

    def _make_room(self) -> int:
        """Return where the next sample goes; moves the newest half to the front when the end is reached."""
        at = self.total - self._origin
        if at == len(self._buffer):
            self._buffer[: self._kept] = self._buffer[self._kept :]
            self._origin += self._kept
            at = self._kept
        return at

    def read(self, end: int, into: NDArray[np.float32]) -> int:
        """Copy samples [end - size, end) into `into`, shape (size,), and return how many of them were heard.

        Those before the stream's start are zeros and come first. Raises ValueError for samples that have not
        come yet or are no longer kept, and for a target of another length.
        """
        if len(into) != self.size:
            raise ValueError(f"the target holds {len(into)} samples; the window holds {self.size}")
        if not 0 <= end <= self.total:
            raise ValueError(f"samples up to {end} were asked for; {self.total} have come")
        first = end - self.size
        if max(first, 0) < self._origin:
            raise ValueError(f"samples from {max(first, 0)} were asked for; the oldest kept is {self._origin}")
        heard = min(self.size, end)
        into[: self.size - heard] = 0.0
        into[self.size - heard :] = self._buffer[end - heard - self._origin : end - self._origin]
        return heard

    def save(self) -> tuple[int, NDArray[np.float32]]:
        """Return how many samples came and a copy of those that are kept."""
        return self.total, self._buffer[max(self.oldest - self._origin, 0) : self.total - self._origin].copy()

    def restore(self, total: int, samples: NDArray[np.float32]) -> None:
        """Go on from what `save` returned, of a window of the same size and backlog."""
        self._origin, self.total = total - len(samples), total
        self._buffer[: len(samples)] = samples

    def reset(self) -> None:
        """Forget all sound and count samples from 0 again; the memory stays."""
        self._origin = self.total = 0


class Pace:
    """Maps the sample clock to the wall clock.

    origin_ns: None before any sound came, then the time at which sample 0 seems to have begun: the earliest of
    (arrival - samples heard / rate), because a packet can come late but never before its sound. It leaks forward
    by 200 ppm of the time passed, so that a sound card whose crystal runs slow is followed. All frames have the same
    latency: frame i's slot opens when the last frame of a block has heard its sound, counted back to i, and it is due
    `budget` later:

        slot(i) = origin + (i + block + spread) / fps + lookahead / rate
    """

    LEAK = 200e-6

    def __init__(self, rate: int, fps: Fraction, lookahead: int, block: int, budget_ns: int, spread: int = 0) -> None:
        self.rate = rate
        self.budget_ns = budget_ns
        self._period = _NS / fps
        self.period_ns = int(self._period)
        self._latency_ns = int((block + spread) * self._period) + lookahead * _NS // rate
        self.origin_ns: int | None = None
        self._leapt = False
        self._heard_ns = 0

    def hear(self, total: int, now_ns: int) -> None:
        """Note that `total` samples had come by `now_ns`."""
        seen = now_ns - total * _NS // self.rate
        if self.origin_ns is None or self._leapt:
            self.origin_ns, self._leapt = seen, False
        else:
            leaked = self.origin_ns + int(min(now_ns - self._heard_ns, AWAY_NS) * self.LEAK)
            self.origin_ns = min(leaked, seen)
        self._heard_ns = now_ns

    def wait(self) -> None:
        """Move everything by one frame: a slot passed whose sound did not come."""
        if self.origin_ns is not None:
            self.origin_ns += self.period_ns

    def leap(self, frames: int) -> None:
        """Move everything by so many frames in which nobody ran; the next sound to come says by how much exactly."""
        if self.origin_ns is not None:
            self.origin_ns += int(frames * self._period)
            self._leapt = True

    def slot_ns(self, index: int) -> int:
        """Return when frame `index` may be started. Raises ValueError before any sound came."""
        if self.origin_ns is None:
            raise ValueError("no sound has come yet")
        return self.origin_ns + int(index * self._period) + self._latency_ns

    def sound_time(self, when_ns: int) -> float:
        """Return which second of the sound `when_ns` is. Raises ValueError before any sound came."""
        if self.origin_ns is None:
            raise ValueError("no sound has come yet")
        return (when_ns - self.origin_ns) / _NS

    def due_ns(self, index: int) -> int:
        """Return the deadline of frame `index`. Raises ValueError before any sound came."""
        if self.origin_ns is None:
            raise ValueError("no sound has come yet")
        return self.origin_ns + int(index * self._period) + self._latency_ns + self.budget_ns

    def restart(self) -> None:
        """Forget the origin: the sample clock begins anew."""
        self.origin_ns = None


class Durations:
    """The last `size` durations in nanoseconds, kept in a ring that is allocated once."""

    def __init__(self, size: int = 4096) -> None:
        self._ring = np.zeros(size, np.int64)
        self.count = 0

    def add(self, ns: int) -> None:
        """Keep one more."""
        self._ring[self.count % len(self._ring)] = ns
        self.count += 1

    @property
    def values(self) -> NDArray[np.int64]:
        """A copy of what is kept, shape (n,), in no order."""
        return np.array(self._ring[: min(self.count, len(self._ring))])

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile in milliseconds; NaN when nothing is kept."""
        return float(np.percentile(self.values, percent)) * 1e-6 if self.count else float("nan")


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
