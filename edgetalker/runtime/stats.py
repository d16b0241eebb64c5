"""A ring that keeps the last durations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Durations"]


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
        kept: NDArray[np.int64] = self._ring[: min(self.count, len(self._ring))].copy()
        return kept

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile in milliseconds; NaN when nothing is kept."""
        return float(np.percentile(self.values, percent)) * 1e-6 if self.count else float("nan")
