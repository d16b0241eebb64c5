"""A file that is written over minutes and still appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgetalker.engines.errors import UserError
from edgetalker.engines.files import write_whole

__all__ = ["OutputError", "PartFile", "checked_target"]


class OutputError(UserError):
    """A result that cannot be written."""

    exit_code = 74


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
