"""Chooses the fullest schedule that still fits into the time that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["ExponentialQuantile", "Ladder"]


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

    The cost of a schedule is its own usual cost times the load of the moment. The load is learned from whichever
    schedule runs, so that the fuller ones come back when the machine is free again without a frame spent on
    trying, and one that never fits is never tried. Costs are quantiles, not means: a deadline is missed by the
    tail.
    """

    def __init__(self, schedules: Sequence[str], *, tail: float = 0.95) -> None:
        """schedules: from the fullest to the cheapest."""
        self.schedules = tuple(schedules)
        self._usual = {name: ExponentialQuantile(0.5, 0.05) for name in self.schedules}
        self._load = ExponentialQuantile(tail, 0.3)

    def learn(self, schedule: str, cost_ns: int) -> None:
        """Take the measured cost of one frame."""
        usual = self._usual[schedule]
        if usual.value is not None:
            self._load.add(max(cost_ns, 1) / usual.value)
        usual.add(float(max(cost_ns, 1)))

    def predict(self, schedule: str) -> float:
        """Return the expected tail cost in ns; 0 when the schedule never ran."""
        usual, load = self._usual[schedule].value, self._load.value
        return 0.0 if usual is None else usual * max(load or 1.0, 1.0)

    def choose(self, left_ns: int) -> str:
        """Return the fullest schedule whose tail cost fits into `left_ns`, or the cheapest."""
        for name in self.schedules:
            if self.predict(name) <= left_ns:
                return name
        return self.cheapest

    @property
    def cheapest(self) -> str:
        """The last rung."""
        return self.schedules[-1]

    def costs(self) -> Mapping[str, float]:
        """Return the expected tail cost in ns of every schedule that ran."""
        return {name: self.predict(name) for name in self.schedules if self._usual[name].value is not None}
