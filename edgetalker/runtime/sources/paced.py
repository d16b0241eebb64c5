"""Any source, released as if it were being recorded now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.clock import Clock
from edgetalker.runtime.frame import Source

__all__ = ["PacedSource"]

SECOND = 1_000_000_000


class PacedSource:
    """Hands out sample k of another source no earlier than k / rate seconds after the first read, in packets.

    This is how a file is played on the clock: the reader sees what a microphone would have given it.
    """

    live = True

    def __init__(self, inner: Source, clock: Clock, packet: int | None = None) -> None:
        """`packet`: samples that come at once, 10 ms by default."""
        self._inner, self._clock = inner, clock
        self._packet = packet or max(1, inner.rate // 100)
        self._start_ns: int | None = None
        self._given = 0

    @property
    def rate(self) -> int:
        return self._inner.rate

    @property
    def samples(self) -> int | None:
        """How many samples there will be, if the inner source knows."""
        return getattr(self._inner, "samples", None)

    @property
    def ended(self) -> bool:
        return self._inner.ended

    @property
    def start_ns(self) -> int | None:
        """Clock time of sample 0: that of the first read; None before it."""
        return self._start_ns

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that are due, waiting at most `timeout` seconds for the next packet."""
        if self._start_ns is None:
            self._start_ns = self._clock.now_ns()
        if self._due() == 0:
            packet_ns = self._start_ns - (-self._next_packet() * SECOND // self.rate)
            wait_ns = packet_ns if timeout == float("inf") else self._clock.now_ns() + round(timeout * SECOND)
            self._clock.sleep_until_ns(min(packet_ns, wait_ns))
        taken = self._inner.read(min(samples, self._due()), 0.0)
        self._given += len(taken)
        return taken

    def _due(self) -> int:
        """Return how many samples are due and not yet given: whole packets only."""
        assert self._start_ns is not None
        passed = (self._clock.now_ns() - self._start_ns) * self.rate // SECOND
        return passed - passed % self._packet - self._given

    def _next_packet(self) -> int:
        """Return the number of samples after which the packet after those given is complete."""
        return (self._given // self._packet + 1) * self._packet

    def warnings(self) -> list[str]:
        """Return the inner source's warnings."""
        return self._inner.warnings()

    def close(self) -> None:
        self._inner.close()
