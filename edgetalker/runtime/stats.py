"""Durations: a ring that keeps the last ones, and the figures of a latency table, as trtexec names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Durations", "Summary", "table"]

COLUMNS = ("min", "median", "mean", "p90", "p95", "p99", "max")


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


@dataclass(frozen=True)
class Summary:
    """Figures of one series of times in the unit of the series; cv is the coefficient of variation (std / mean)."""

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    max: float
    cv: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64] | NDArray[np.int64]) -> Summary:
        """Return the figures of at least one value. Percentiles interpolate linearly. Raises ValueError on none."""
        series = np.asarray(values, np.float64)
        if not len(series):
            raise ValueError("no values to summarise")
        p90, p95, p99 = np.percentile(series, (90, 95, 99))
        mean = float(series.mean())
        return cls(
            count=len(series),
            min=float(series.min()),
            median=float(np.median(series)),
            mean=mean,
            p90=float(p90),
            p95=float(p95),
            p99=float(p99),
            max=float(series.max()),
            cv=float(series.std() / mean) if mean else 0.0,
        )

    def as_dict(self) -> dict[str, float]:
        """Return the figures under stable keys."""
        return asdict(self)


def table(rows: Sequence[tuple[str, Summary]], *, unit: str, scale: float) -> str:
    """Return an aligned text table; values are divided by `scale` (1e6 shows ns as ms)."""
    width = max([len(name) for name, _ in rows] + [5])
    head = f"{unit:<{width}}  " + "".join(f"{name:>10}" for name in COLUMNS) + f"{'cv %':>8}{'n':>8}"
    lines = [head, "-" * len(head)]
    for name, summary in rows:
        cells = "".join(f"{getattr(summary, column) / scale:>10.3f}" for column in COLUMNS)
        lines.append(f"{name:<{width}}  {cells}{100 * summary.cv:>8.1f}{summary.count:>8}")
    return "\n".join(lines)
