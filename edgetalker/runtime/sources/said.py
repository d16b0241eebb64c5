"""Sound that a program says, whenever it has something to say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.sources.live import SoundQueue

__all__ = ["SaidSource"]


class SaidSource:
    """A source that never ends: what was said, in its order, as fast as it is read, and nothing in between.

    `Live(paced=True, patience=0.02)` plays it as it sounds, with silence where nothing is said. rate: samples a second
    of what it gives. most: seconds that may wait to be heard.
    """

    live = True
    ended = False

    def __init__(self, rate: int, *, most: float = 120.0) -> None:
        self.rate, self._most = rate, most
        self._queue = SoundQueue(int(most * rate))

    def say(self, samples: NDArray[Any], rate: int) -> None:
        """Add sound, (n,) or (n, channels) at `rate`; from any thread. Raises InputError when too much waits."""
        converter = Converter(rate, self.rate)
        sound = np.concatenate([converter.convert(samples), converter.finish()])
        if not self._queue.put_if_room(sound):
            raise InputError(f"more than {self._most:g} s of sound would wait", hint="say it later")

    def forget(self) -> int:
        """Throw away what was said and not read yet, from any thread; return how many samples that were."""
        return self._queue.clear()

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that were said, waiting at most `timeout` seconds for the first."""
        return self._queue.read(samples, timeout)

    def warnings(self) -> list[str]:
        """Return nothing: what was said was checked then."""
        return []

    def close(self) -> None:
        """Nothing is open."""
