"""What a source of sound is, and how the native libraries under some are kept from writing to the terminal."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Source", "stderr_hidden"]

_one_at_a_time = threading.RLock()


class Source(Protocol):
    """Where sound comes from. `read` is called from the loop's thread only.

    A source converts to mono float32 in [-1, 1] at `rate` (see runtime/sources/convert.py for the mixing and
    the resampling that all of them share). It must never return NaN or Inf.
    """

    @property
    def rate(self) -> int:
        """Samples a second of what `read` returns."""
        ...

    @property
    def live(self) -> bool:
        """True when sound arrives by the clock (microphone, pipe) rather than as fast as it is read."""
        ...

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return 1 to `samples` new samples, or none (length 0) when none came within `timeout` seconds.

        Check `ended` to tell a pause from the end.
        """
        ...

    @property
    def ended(self) -> bool:
        """True when no sound will ever come again and all of it was read."""
        ...

    def warnings(self) -> list[str]:
        """What was wrong with the sound so far, a sentence each (NaN, overflow, device lost); shown at the end."""
        ...

    def close(self) -> None: ...


@contextmanager
def stderr_hidden() -> Iterator[Callable[[], str]]:
    """Catch what native libraries print to file descriptor 2; yields a function that returns the last line of it.

    ALSA, JACK and libmpg123 write past Python's stderr: pages of it when a machine's devices are probed.
    """
    with _one_at_a_time, tempfile.TemporaryFile() as hidden:
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all
            yield lambda: ""
            return
        os.dup2(hidden.fileno(), 2)
        try:
            yield lambda: _last_line(hidden.fileno())
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _last_line(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)  # Windows has no pread
    text = os.read(descriptor, 1 << 16).decode(errors="replace").strip()
    return f"({text.splitlines()[-1]})" if text else ""
