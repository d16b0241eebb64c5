"""A bounded queue of preallocated slots between the loop's thread and a sender's: the oldest frame gives way."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame

__all__ = ["FrameQueue", "Slot"]


@dataclass
class Slot:
    """A copy of one frame: its motion (float32, the layout's shape) and the numbers a receiver may want."""

    motion: NDArray[np.float32]
    index: int = 0
    time: float = 0.0
    outcome: str = ""
    schedule: str = ""
    arrived_ns: int = 0
    done_ns: int = 0

    def take(self, frame: Frame, arrived_ns: int) -> None:
        """Copy `frame` in; allocates nothing that lasts."""
        np.copyto(self.motion, frame.motion)
        self.index = frame.index
        self.time = float(frame.time)
        self.outcome = frame.outcome.value
        self.schedule = frame.schedule
        self.arrived_ns = arrived_ns
        self.done_ns = frame.done_ns

    def copy_from(self, other: Slot) -> None:
        """Copy another slot in."""
        np.copyto(self.motion, other.motion)
        self.index, self.time, self.outcome = other.index, other.time, other.outcome
        self.schedule, self.arrived_ns, self.done_ns = other.schedule, other.arrived_ns, other.done_ns


class FrameQueue:
    """At most `capacity` frames, oldest first. `put` never waits: it copies and, when full, drops the oldest.

    One thread puts, one thread gets.
    """

    def __init__(self, shape: tuple[int, ...], capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} frames cannot hold one")
        self._slots = [Slot(np.zeros(shape, np.float32)) for _ in range(capacity)]
        self._first = 0
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def put(self, frame: Frame, arrived_ns: int) -> int:
        """Copy `frame` in and return how many older frames gave way (0 or 1)."""
        with self._lock:
            dropped = int(self._count == len(self._slots))
            self._first = (self._first + dropped) % len(self._slots)
            self._count += 1 - dropped
            self._slots[(self._first + self._count - 1) % len(self._slots)].take(frame, arrived_ns)
        return dropped

    def get(self, into: Slot) -> bool:
        """Move the oldest frame into `into`; False when there is none."""
        with self._lock:
            if not self._count:
                return False
            into.copy_from(self._slots[self._first])
            self._first = (self._first + 1) % len(self._slots)
            self._count -= 1
        return True

    def clear(self, keep: int = 0) -> int:
        """Forget all but the newest `keep` frames and return how many were forgotten."""
        with self._lock:
            gone = max(self._count - keep, 0)
            self._first = (self._first + gone) % len(self._slots)
            self._count -= gone
        return gone
