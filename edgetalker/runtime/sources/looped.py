"""A sound over and over, as one endless source."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Source

__all__ = ["LoopedSource"]


class LoopedSource:
    """A file over and over: opens it again at its end."""

    live = False

    def __init__(self, open_again: Callable[[], Source]) -> None:
        self._open, self._inner = open_again, open_again()
        self.rate = self._inner.rate
        self.rounds = 1

    @property
    def ended(self) -> bool:
        return False

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        taken = self._inner.read(samples, timeout)
        if not len(taken) and self._inner.ended:
            self._inner.close()
            self._inner = self._open()
            self.rounds += 1
            taken = self._inner.read(samples, timeout)
        return taken

    def warnings(self) -> list[str]:
        return self._inner.warnings()

    def close(self) -> None:
        self._inner.close()
