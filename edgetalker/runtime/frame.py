"""A frame of motion, what its numbers mean, and what became of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "MotionLayout", "Outcome"]


class Outcome(str, enum.Enum):
    """What became of a frame that was due. Every due frame has exactly one outcome."""

    ON_TIME = "on_time"
    """Computed and handed to the sinks before its deadline."""
    LATE = "late"
    """Computed after its deadline, and handed to the sinks unless its slot was shown already (it had starved)."""
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


@dataclass(slots=True, eq=False)
class Frame:
    """One frame of motion. Not to be changed: every sink gets the same one (`dataclasses.replace` makes another).

    index: counts from 0 since the last reset; below 0 where the bundle's motion is some frames behind its sound and
    shows what was before it. sample: `end(index)` on the bundle's sample clock, the number of
    samples after which the model has heard all that this frame sees. time: exact start of the frame in
    seconds of the run, index / fps unless sound starved or the talker began anew: it grows with every frame of a
    run, so that what is recorded has one time line. motion: shape as in the layout, float32, read-only and **valid
    until the next step**: a sink that keeps it copies it. schedule: the schedule that made it ("" when none did).
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
    heard_ns: int = 0
    slot_ns: int = 0
    inputs: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
