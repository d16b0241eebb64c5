"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgetalker.engines.errors import OutputError

__all__ = ["PartFile", "checked_target", "reported", "sha256_of", "write_whole"]


@contextmanager
def write_whole(path: Path | str) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` that takes its name when the block ends without an error.

    The temporary file is removed on any exception, so that readers see the old file, the new file or none.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp makes 0600, a plain open would not
        os.replace(name, target)  # noqa: PTH105 - the atomic rename is the point
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class PartFile:
    """A binary file beside `path` that takes its name when it is kept."""

    def __init__(self, path: Path) -> None:
        """Raises OutputError when the folder cannot be written."""
        self.path = path
        self._context = write_whole(path)
        with reported(path):
            self.file: IO[bytes] = self._context.__enter__()

    def write(self, data: bytes) -> None:
        """Append. Raises OutputError, for example when the disk is full."""
        with reported(self.path):
            self.file.write(data)

    def keep(self) -> None:
        """Give the file its name. Raises OutputError."""
        with reported(self.path):
            self._context.__exit__(None, None, None)

    def discard(self) -> None:
        """Remove the file; one that was at `path` before stays as it was."""
        self._context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None


def checked_target(path: Path | str) -> Path:
    """Return the path of a result; errors that can be seen now come before the work, not after it.

    Raises OutputError when it is a folder or lies in none.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; a file was wanted")
    if not target.parent.is_dir():
        raise OutputError(f"{target} cannot be written: there is no folder {target.parent}")
    return target


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
