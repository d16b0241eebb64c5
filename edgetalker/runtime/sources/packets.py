"""Packets handed from a thread that records to the loop that reads, with a limit on what may wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.sources.convert import Converter, SampleQueue

__all__ = ["PacketQueue", "PacketReader"]


class PacketQueue:
    """A bounded queue between two threads. A packet is an array of shape (n, channels); sizes may differ.

    A recorder that cannot wait calls `put`, which drops the oldest packets when `limit` samples are exceeded
    (the newest sound is what a live face needs) and counts them in `dropped`. One that can wait calls
    `put_waiting`.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: samples (per channel) that may wait, at least one packet."""
        self.limit = limit
        self.dropped = 0
        self._packets: deque[NDArray[Any]] = deque()
        self._waiting = 0
        self._finished = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    def put(self, packet: NDArray[Any]) -> None:
        """Add a packet at once; drops the oldest ones if too much waits."""
        with self._changed:
            self._add(packet)
            while self._waiting > self.limit and len(self._packets) > 1:
                oldest = len(self._packets.popleft())
                self._waiting -= oldest
                self.dropped += oldest

    def put_waiting(self, packet: NDArray[Any]) -> bool:
        """Add a packet once there is room for it. Returns False when the queue was finished meanwhile."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._finished or self._waiting + len(packet) <= max(self.limit, len(packet))
            )
            if not self._finished:
                self._add(packet)
            return not self._finished

    def _add(self, packet: NDArray[Any]) -> None:
        if len(packet):
            self._packets.append(packet)
            self._waiting += len(packet)
            self._changed.notify_all()

    def get(self, timeout: float) -> NDArray[Any] | None:
        """Return the oldest packet, waiting for one at most `timeout` seconds; None when none came.

        Raises what `finish` was given, once all packets are out.
        """
        with self._changed:
            limit = None if timeout == float("inf") else max(timeout, 0.0)
            self._changed.wait_for(lambda: self._packets or self._finished, limit)
            if self._packets:
                packet = self._packets.popleft()
                self._waiting -= len(packet)
                self._changed.notify_all()
                return packet
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            return None

    @property
    def drained(self) -> bool:
        """True when it is finished and everything was read, the failure at its end too."""
        with self._changed:
            return self._finished and not self._packets and self._failure is None

    def finish(self, failure: Exception | None = None) -> None:
        """No more packets come. `failure` is raised to the reader after the last packet."""
        with self._changed:
            self._finished = True
            self._failure = self._failure or failure
            self._changed.notify_all()


class PacketReader:
    """The reading side of a live source: packets from a queue, converted in the reader's thread."""

    def __init__(self, queue: PacketQueue, converter: Converter) -> None:
        self.converter = converter
        self._queue = queue
        self._ready = SampleQueue()
        self._flushed = False

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that are there; when there are none, the first to come within `timeout` s."""
        deadline = time.monotonic() + timeout
        while len(self._ready) < samples:
            packet = self._queue.get(0.0 if len(self._ready) else deadline - time.monotonic())
            if packet is None:
                self._flush_at_end()
                break
            self._ready.put(self.converter.convert(packet))
        return self._ready.take(samples)

    def _flush_at_end(self) -> None:
        if self._queue.drained and not self._flushed:
            self._flushed = True
            self._ready.put(self.converter.finish())

    @property
    def ended(self) -> bool:
        """True when the queue is drained and its last converted sample was read."""
        if not len(self._ready):
            self._flush_at_end()
        return self._flushed and not len(self._ready)
