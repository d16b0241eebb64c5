"""What became of the frames that a sink was given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["SinkStatistics", "Spread"]


class Spread:
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


@dataclass
class SinkStatistics:
    """Counts of one sink. After `close`, `frames == sent + dropped + failed`.

    frames: given to `send`. sent: handed to the network (with a fixed rate: taken into what was sent). dropped:
    pushed out of the full queue by newer ones, stale after a fault, or left at the end. failed: their packets were
    refused by the system. errors: faults of any kind (name resolution, refused ports, send errors). packets,
    bytes: datagrams or messages that left. ticks_missed: sending times of a fixed rate that passed while the
    machine was busy or the receiver unreachable. late_ns: the most that a fixed-rate packet left after its time.
    delay: from `send` to the packet's leaving; with a fixed rate, of the newest frame in it. notes: what only this
    kind of sink counts, by what it is called in the summary.
    """

    frames: int = 0
    sent: int = 0
    dropped: int = 0
    failed: int = 0
    errors: int = 0
    packets: int = 0
    bytes: int = 0
    ticks_missed: int = 0
    late_ns: int = 0
    last_error: str = ""
    notes: dict[str, int] = field(default_factory=dict)
    delay: Spread = field(default_factory=Spread, repr=False)

    @property
    def accounted(self) -> int:
        """Frames whose end is known."""
        return self.sent + self.dropped + self.failed

    def error(self, fault: BaseException | str) -> None:
        """Count a fault and keep its text for the summary."""
        self.errors += 1
        self.last_error = str(fault) or type(fault).__name__

    def note(self, what: str) -> None:
        """Count something that only this kind of sink has."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def __str__(self) -> str:
        counts = f"{self.frames} frames: {self.sent} sent, {self.dropped} dropped, {self.failed} failed"
        traffic = f"{self.packets} packets, {self.errors} errors"
        if self.ticks_missed:
            traffic += f", {self.ticks_missed} sending times missed"
        traffic += "".join(f", {count} {what}" for what, count in self.notes.items())
        return f"{counts}; {traffic}" + (f" (last: {self.last_error})" if self.last_error else "")
