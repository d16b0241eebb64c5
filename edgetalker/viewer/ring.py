"""The newest things of a stream, for many readers that never hold up the writer."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Ring"]

T = TypeVar("T")


class Ring(Generic[T]):
    """Things in order, numbered from 0; with a `limit`, the oldest are dropped. Safe between threads.

    A reader keeps a cursor of its own: how slow it is costs the writer nothing, and what it missed is counted.
    """

    def __init__(self, limit: int | None) -> None:
        self._things: deque[T] = deque(maxlen=limit)
        self._end = 0
        self._lock = threading.Lock()

    def append(self, thing: T) -> None:
        """Add the newest."""
        with self._lock:
            self._things.append(thing)
            self._end += 1

    def since(self, cursor: int, most: int) -> tuple[list[T], int, int]:
        """Return up to `most` things from `cursor` on, the new cursor, and how many were dropped before they
        could be read."""
        with self._lock:
            start = self._end - len(self._things)
            first = max(cursor, start)
            skip = first - start
            things = [self._things[k] for k in range(skip, min(skip + most, len(self._things)))]
        return things, first + len(things), first - cursor

    @property
    def end(self) -> int:
        """The number that the next thing will have."""
        return self._end
