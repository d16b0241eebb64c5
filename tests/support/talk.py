"""Sources, sinks and talkers that tests steer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.talker import Talker
from tests.support.clock import FakeClock


class Pieces:
    """A source that gives a sound in the pieces it is told to, as fast as it is read."""

    live = False

    def __init__(self, sound: NDArray[np.float32], sizes: Sequence[int] = (), rate: int = 16000) -> None:
        self.rate, self._sound, self._sizes, self._at = rate, sound, list(sizes), 0
        self.closed = False

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        size = min(self._sizes.pop(0) if self._sizes else samples, samples)
        piece = self._sound[self._at : self._at + size]
        self._at += len(piece)
        return piece

    @property
    def ended(self) -> bool:
        return self._at >= len(self._sound)

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        self.closed = True


class Live:
    """A live source on a fake clock: sound arrives in packets of `packet` samples, except in `gaps` (seconds)."""

    live = True

    def __init__(
        self,
        clock: FakeClock,
        seconds: float,
        *,
        rate: int = 16000,
        packet: int = 160,
        gaps: Sequence[tuple[float, float]] = (),
        lost: bool = False,
    ) -> None:
        self.rate, self._clock, self._packet, self._gaps, self._lost = rate, clock, packet, gaps, lost
        self._total = int(seconds * rate) // packet * packet
        self._given = 0
        self._start: int | None = None

    def _arrived(self, now: int) -> int:
        """Samples that have come by `now`: none arrive in a gap; afterwards they come late, or never when lost."""
        self._start = now if self._start is None else self._start
        seconds = (now - self._start) / 1e9
        for begin, end in self._gaps:
            if self._lost and seconds > begin:
                seconds -= min(seconds, end) - begin
            elif begin < seconds < end:
                seconds = begin
        return min(int(seconds * self.rate) // self._packet * self._packet, self._total)

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        deadline = self._clock.now_ns() + int(timeout * 1e9)
        while self._arrived(self._clock.now_ns()) <= self._given and self._clock.now_ns() < deadline:
            self._clock.advance(1_000_000)
        count = min(samples, self._arrived(self._clock.now_ns()) - self._given)
        self._given += count
        return np.full(count, 0.1, np.float32)

    @property
    def ended(self) -> bool:
        return self._given >= self._total

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class Collect(Sink):
    """A sink that keeps copies of what it gets."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, Outcome, str]] = []
        self.motion: list[NDArray[np.float32]] = []
        self.times: list[Fraction] = []
        self.layout: MotionLayout | None = None
        self.closes = 0

    def open(self, layout: MotionLayout) -> None:
        self.layout = layout

    def send(self, frame: Frame) -> None:
        self.frames.append((frame.index, frame.outcome, frame.schedule))
        self.motion.append(frame.motion.copy())
        self.times.append(frame.time)

    def close(self) -> None:
        self.closes += 1


def slow_talker(bundle: Bundle, clock: FakeClock, cost: Callable[[int, str], float], **options: Any) -> Talker:
    """Return a talker whose frames take cost(frame, schedule) seconds of the fake clock."""
    talker = Talker(bundle, **options)
    make = talker.make

    def slow(schedule: str | None = None, *, window: NDArray[np.float32] | None = None) -> Frame:
        clock.advance(int(cost(talker.index, schedule or talker.schedules[0]) * 1e9))
        return make(schedule, window=window)

    talker.make = slow  # type: ignore[method-assign]
    return talker
