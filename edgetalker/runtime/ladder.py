"""What each schedule costs, and the fullest one that still fits into the time that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgetalker.runtime.clock import Clock, SystemClock
from edgetalker.runtime.spread import Plan

if TYPE_CHECKING:
    from edgetalker.runtime.talker import Talker

__all__ = ["ExponentialQuantile", "Ladder", "rehearse"]


class ExponentialQuantile:
    """A running quantile that forgets exponentially: stochastic approximation in the logarithm of the value.

    After each value x the estimate is multiplied by exp(rate * (p - [x <= estimate])), so that in a steady state a
    share p of the values lies below it (Robbins and Monro 1951).
    """

    def __init__(self, p: float, rate: float) -> None:
        """Raises ValueError unless 0 < p < 1 and rate > 0."""
        if not 0.0 < p < 1.0 or rate <= 0.0:
            raise ValueError(f"no quantile of p {p} and rate {rate}")
        self._up = math.exp(rate * p)
        self._down = math.exp(rate * (p - 1.0))
        self.value: float | None = None

    def add(self, x: float) -> None:
        """Take one positive value."""
        if self.value is None:
            self.value = x
        else:
            self.value *= self._down if x <= self.value else self._up


class Ladder:
    """Knows what each schedule costs and picks one before a frame is launched.

    A schedule's frames are of several kinds where groups are due in some only; each kind has its own usual cost. The
    expected cost is the usual one times the load of the moment. The load is learned from whichever
    schedule runs, so that the fuller ones come back when the machine is free again. Costs are quantiles, not
    means: a deadline is missed by the tail. A schedule that was late all the same is barred for a while, twice as
    long each time, so that one that does not fit is not tried again and again.
    """

    PATIENCE = (15, 1800)
    """Frames that a late schedule is barred for: the first time and at most."""
    FORGIVEN = 300
    """Frames on time after which a schedule's lateness is forgotten."""

    def __init__(self, schedules: Sequence[str], *, tail: float = 0.95) -> None:
        """schedules: from the fullest to the cheapest."""
        self.schedules = tuple(schedules)
        self._usual: dict[tuple[str, int], ExponentialQuantile] = {}
        self._load = ExponentialQuantile(tail, 0.3)
        self._patience = dict.fromkeys(self.schedules, self.PATIENCE[0])
        self._barred = dict.fromkeys(self.schedules, 0)
        self._good = dict.fromkeys(self.schedules, 0)
        self._frames = 0

    def learn(self, schedule: str, cost_ns: int, *, late: bool = False, kind: int = 0) -> None:
        """Take the cost of one frame and whether it was late. kind: which groups were due, as in Talker.due."""
        cost = float(max(cost_ns, 1))
        usual = self._usual.get((schedule, kind))
        if usual is None:
            usual = self._usual[schedule, kind] = ExponentialQuantile(0.5, 0.05)
        if usual.value is not None:
            self._load.add(cost / usual.value)
            usual.add(cost)
        else:
            usual.add(cost / (self._load.value or 1.0))
        self._frames += 1
        self._judge(schedule, late=late)

    def _judge(self, schedule: str, *, late: bool) -> None:
        if late:
            self._barred[schedule] = self._frames + self._patience[schedule]
            self._patience[schedule] = min(2 * self._patience[schedule], self.PATIENCE[1])
            self._good[schedule] = 0
            return
        self._good[schedule] += 1
        if self._good[schedule] >= self.FORGIVEN:
            self._patience[schedule] = self.PATIENCE[0]

    def predict(self, schedule: str, kind: int = 0) -> float:
        """Return the expected tail cost in ns; of a kind that never ran, the dearest one's; 0 when none ran."""
        usual, load = self._usual.get((schedule, kind)), self._load.value
        known = [usual] if usual is not None else [it for (name, _), it in self._usual.items() if name == schedule]
        return max((it.value or 0.0 for it in known), default=0.0) * max(load or 1.0, 1.0)

    def choose(self, left_ns: int, kind: int = 0) -> str:
        """Return the fullest schedule whose tail cost fits into `left_ns` and that is not barred, or the cheapest."""
        for name in self.schedules:
            if self._barred[name] <= self._frames and self.predict(name, kind) <= left_ns:
                return name
        return self.cheapest

    @property
    def cheapest(self) -> str:
        """The last rung."""
        return self.schedules[-1]

    def costs(self) -> Mapping[tuple[str, int], float]:
        """Return the expected tail cost in ns of every (schedule, kind) that ran."""
        return {key: self.predict(*key) for key in self._usual}


def rehearse(talker: Talker, schedules: Sequence[str] = (), clock: Clock | None = None, times: int = 3) -> Ladder:
    """Return a ladder that knows what each schedule costs (default: all), before the first frame is due, and fix
    which piece of a spread group runs in which slot.

    Each schedule is made `times` times on silence; the talker is then as new.
    """
    now = (clock or SystemClock()).now_ns
    ladder = Ladder(schedules or talker.schedules)
    period = int(1e9 / talker.manifest.motion.fps)
    plans = {}
    spread = talker.spread
    for schedule in ladder.schedules:
        labels, costs = spread.measure(schedule, talker.device.synchronize, now, times) if spread else ([], [])
        for _ in range(times):
            for kind, cost in talker.rehearse(schedule, clock=now):
                ladder.learn(schedule, cost, kind=kind)
        if spread is not None:
            slack = period - ladder.predict(schedule) - period / 10  # a tenth for the sinks and the clock
            plans[schedule] = Plan.of(labels, costs, spread.slots, max(slack, 0.0), period)
    if spread is not None:
        spread.plan = plans
    return ladder
