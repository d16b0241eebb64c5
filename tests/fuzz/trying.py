"""What every target shares: how an example is watched, what is wrong, and how many are tried."""

from __future__ import annotations

import itertools
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import numpy as np

from edgetalker.engines.errors import UserError

MOST_MEMORY = 1 << 30
HANG_SECONDS = 60  # far beyond what any example takes on a busy machine
NUMBERS = (0, 1, -1, 2, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)

Random = np.random.Generator


class Wrong(AssertionError):  # noqa: N818 - a finding, not an error of the code that finds it
    """What came of one example; names the seed that makes it again."""


class watched(suppress):  # noqa: N801 - a context manager, named as its base is
    """Passes over UserError; interrupts what hangs."""

    def __init__(self) -> None:
        super().__init__(UserError)

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, hang)
        signal.alarm(HANG_SECONDS)

    def __exit__(self, *exception: object) -> bool:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)
        return bool(super().__exit__(*exception))  # type: ignore[arg-type]


def hang(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {HANG_SECONDS} s")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tries(
    make: Callable[[Random, int], tuple[str, Path]],
    attempt: Callable[[Path], object],
    examples: int | None,
    seconds: float | None,
    seed: int,
) -> int:
    """Try so many examples, or for so long; return how many were tried. Example n is made by the seed plus n.

    make: from a generator and the example's number to what was done and where it lies. Raises Wrong for anything but
    a UserError, a hang and more than 1 GiB; a file that shows it is kept in the temporary folder.
    """
    before, started = peak_bytes(), time.monotonic()
    for count in itertools.count():
        if count == examples or (seconds is not None and time.monotonic() - started > seconds):
            break
        kind, path = make(np.random.default_rng(seed + count), count)
        where = f"seed {seed + count}, {kind}"
        try:
            with warnings.catch_warnings(), watched():
                warnings.simplefilter("error")  # a second message beside the one that says what is wrong
                attempt(path)
        except Exception as error:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{seed + count}{path.suffix}"
            if path.is_dir():
                shutil.copytree(path, kept, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, kept)
            raise Wrong(f"{where}: {type(error).__name__}: {error}") from error
        if peak_bytes() - before > MOST_MEMORY:
            raise Wrong(f"{where}: took {peak_bytes() - before} bytes more")
    return count


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content)))]


def splice(content: bytes, random: Random) -> bytes:
    first, second = sorted(int(place) for place in random.integers(len(content), size=2))
    piece = content[first : min(second, first + 512)]
    at = int(random.integers(len(content)))
    return content[:at] + piece + content[at:]
