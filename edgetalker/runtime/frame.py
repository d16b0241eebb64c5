"""A frame of motion, what became of it, and the protocols of those who bring sound and take motion."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "MotionLayout", "Outcome", "Sink", "Source"]


class Outcome(str, enum.Enum):
    """What became of a frame that was due. Every due frame has exactly one outcome."""

    ON_TIME = "on_time"
    """Computed and handed to the sinks before its deadline."""
    LATE = "late"
    """Computed and handed to the sinks after its deadline."""
    HELD = "held"
    """Not computed in time: the motion before it was sent again."""
    SKIPPED = "skipped"
    """Not computed and nothing sent."""
    STARVED = "starved"
    """Its sound did not arrive: the motion before it was sent again."""


@dataclass(frozen=True)
class MotionLayout:
    """What the numbers of a motion frame mean.

    kind: `arkit` (names are set: 52 shapes in [0, 1], then head angles in radians), `vertices` (shape (V, 3),
    the model's own units) or `other`. fps is exact.
    """

    kind: str
    shape: tuple[int, ...]
    fps: Fraction
    names: tuple[str, ...] = ()
    units: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """One frame of motion.

    index: counts from 0 since the last reset. sample: `end(index)` on the bundle's sample clock, the number of
    samples after which the model has heard all that this frame sees. time: exact start of the frame in
    seconds of sound (index / fps). motion: shape as in the layout, float32, read-only and **valid until the
    next step**: a sink that keeps it copies it. schedule: the schedule that made it ("" when none did).
    cost_ns: wall time of the step on the host; due/done_ns: clock times, 0 when the run was not on a clock.
    """

    index: int
    sample: int
    time: Fraction
    motion: NDArray[np.float32]
    outcome: Outcome = Outcome.ON_TIME
    schedule: str = ""
    cost_ns: int = 0
    due_ns: int = 0
    done_ns: int = 0


class Source(Protocol):
    """Where sound comes from. `read` is called from the loop's thread only.

    A source converts to mono float32 in [-1, 1] at `rate` (see runtime/sources/convert.py for the mixing and
    the resampling that all of them share). It must never return NaN or Inf.
    """

    @property
    def rate(self) -> int:
        """Samples a second of what `read` returns."""
        ...

    @property
    def live(self) -> bool:
        """True when sound arrives by the clock (microphone, pipe) rather than as fast as it is read."""
        ...

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return 1 to `samples` new samples, or none (length 0) when none came within `timeout` seconds.

        Check `ended` to tell a pause from the end.
        """
        ...

    @property
    def ended(self) -> bool:
        """True when no sound will ever come again and all of it was read."""
        ...

    def warnings(self) -> list[str]:
        """What was wrong with the sound so far, a sentence each (NaN, overflow, device lost); shown at the end."""
        ...

    def close(self) -> None: ...


from edgetalker.runtime.sinks.sink import Sink  # noqa: E402 - its own types come from here
