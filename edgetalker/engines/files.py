"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgetalker.engines.errors import OutputError

__all__ = [
    "PartFile",
    "checked_target",
    "open_regular",
    "read_regular",
    "read_text",
    "reported",
    "sha256_of",
    "takes_files",
    "text_of",
    "try_folder",
    "write_whole",
]

_log = logging.getLogger("edgetalker.files")


class PartFile:
    """A file that is written over minutes and still appears whole or not at all.

    It is written beside its target and takes its name when it is kept; readers see the old file, the new one or none.
    A link is followed, the mode of the file before is kept, and a name may be as long as the system lets it. What is
    no regular file (a pipe, a device, `-` for stdout) cannot be exchanged: it is written into as the data come.
    Where the folder cannot be written, or the file is a mount of its own, its content is exchanged at the end.

    A run that was killed leaves its part behind; the next one that writes the same target removes it.
    """

    def __init__(self, path: Path | str, *, seekable: bool = False) -> None:
        """seekable: `file` will be sought in, so for a pipe the data are held back until they are kept.

        Raises OutputError when nothing can be written there.
        """
        self.path = Path(path)
        self.size = 0
        self._part: Path | None = None
        self._target: Path | None = None
        self._held = False
        with reported(self.path):
            self.file: io.FileIO = self._open(seekable)

    def write(self, data: bytes | bytearray) -> None:
        """Append all of it or nothing. Raises OutputError, for example when the disk is full."""
        try:
            done = self.file.write(data)
            while done < len(data):  # a disk that is nearly full, or a pipe, takes a piece at a time
                done += self.file.write(memoryview(data)[done:])
        except OSError as error:
            with suppress(OSError):  # the piece of a record that was written before the disk was full is taken off
                self.file.truncate(self.size)
                self.file.seek(self.size)
            raise _refused(self.path, error) from None
        self.size += len(data)

    def keep(self) -> None:
        """Give the file its name. Raises OutputError; the part is then removed."""
        try:
            with reported(self.path):
                self._keep()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was not kept; a file that was there before stays as it was. May be called twice."""
        with suppress(OSError):
            self.file.close()
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink()
            self._part = None

    def _open(self, seekable: bool) -> io.FileIO:
        if str(self.path) == "-":
            return self._held_back() if seekable else io.FileIO(os.dup(1), "wb")
        target = self._target = Path(os.path.realpath(self.path))
        before = _status(self.path)  # by its own name: a shell's pipe (/dev/fd/63) has no other
        if before is None and not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
        if before is not None and stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder; a file was wanted")
        if before is not None and not stat.S_ISREG(before.st_mode):
            return self._held_back() if seekable else io.FileIO(self.path, "wb")
        try:
            file = self._beside(target)
        except OSError:
            if before is None or not os.access(target, os.W_OK):
                raise
            return self._held_back()
        if before is not None:
            with suppress(OSError, AttributeError):  # only root may give a file away
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            Path(file.name).chmod(stat.S_IMODE(before.st_mode))
        return file

    def _beside(self, target: Path) -> io.FileIO:
        """Open a part beside the target, locked for as long as this process lives, and remove dead ones."""
        # A digest stands for the name: the name itself may have no room for more letters.
        stem = f".edgetalker-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}-"
        _remove_dead(target, stem)
        while True:
            part = target.with_name(f"{stem}{secrets.token_hex(4)}.part")
            file = io.FileIO(part, "x+b")
            if _locked(file) and part.exists():  # else another run took it for a dead one in between
                self._part = part
                return file
            file.close()

    def _keep(self) -> None:
        if self._part is not None and self._target is not None:
            os.fsync(self.file.fileno())
            try:
                if os.name == "nt":
                    self.file.close()  # which must not be open there while it is renamed
                os.replace(self._part, self._target)  # noqa: PTH105 - the atomic rename is the point
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EXDEV):  # a file that is a mount of its own
                    raise
                self._pour()
            else:
                self._part = None
        elif self._held:
            self._pour()

    def _pour(self) -> None:
        """Write the content into what has the target's name."""
        self.file.seek(0)
        with open(os.dup(1) if self._target is None else self.path, "wb") as into:  # noqa: PTH123 - or a descriptor
            shutil.copyfileobj(self.file, into, 1 << 20)

    def _held_back(self) -> io.FileIO:
        """Open a file without a name, gone when it is closed."""
        self._held = True
        return tempfile.TemporaryFile(buffering=0)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _locked(file: io.FileIO) -> bool:
    """Take the file's lock; False when a living process has it. Windows refuses to remove an open file anyway."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _remove_dead(target: Path, stem: str) -> None:
    for old in target.parent.glob(f"{stem}*.part"):
        with suppress(OSError), io.FileIO(old, "rb") as file:
            if _locked(file):
                old.unlink()
                _log.warning("removed %s, left by a run that was killed while it wrote %s", old, target.name)


@contextmanager
def write_whole(path: Path | str | PartFile) -> Iterator[IO[bytes]]:
    """Open a binary file that takes its name when the block ends without an error; see PartFile.

    A PartFile that is open already is written and kept in the same way. Raises OutputError when it cannot be written.
    """
    part = path if isinstance(path, PartFile) else PartFile(path, seekable=True)
    file: IO[bytes] = io.BufferedRandom(part.file)
    try:
        with reported(part.path):
            yield file
            file.flush()
        part.keep()
    except BaseException:
        part.discard()
        raise


def _refused(path: Path, error: OSError) -> OutputError | OSError:
    if isinstance(error, BrokenPipeError) and str(path) == "-":
        return error  # `| head`: the convention is silence
    name = "stdout" if str(path) == "-" else str(path)
    reason: object = error.strerror or error
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        reason = error.args[0][0][-1]  # of a folder that was copied: the first file's, not a list of all
    return OutputError(f"{name} cannot be written: {reason}")


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from None


def checked_target(path: Path | str) -> Path:
    """Return the path of a result; errors that can be seen now come before the work, not after it.

    A part with a byte in it is made beside a regular file, and removed: that shows a full disk as well. A device is
    opened and given no bytes, which a full one refuses as well. A pipe is left alone: opening it may wait for its
    reader, and closing it would be the end of what the reader gets. Raises OutputError when nothing can be written
    there.
    """
    target = Path(path)
    with reported(target):
        if str(target) == "-":
            if stat.S_ISCHR(os.fstat(1).st_mode):
                os.write(1, b"")
            return target
        status = _status(target)
        mode = stat.S_IFREG if status is None else status.st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            part = PartFile(target)
            try:
                part.write(b"\0")
            finally:
                part.discard()
        elif not stat.S_ISFIFO(mode):
            opened = os.open(target, os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                os.write(opened, b"")
            finally:
                os.close(opened)
        elif not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def try_folder(folder: Path, hint: str = "name another folder") -> None:
    """Say before the minutes that making a bundle takes what would go wrong after them.

    Makes a folder with a byte in it in `folder`, or in the nearest one above that is there, and removes it. Raises
    OutputError where that cannot be.
    """
    place = folder.absolute()
    place = next(above for above in (place, *place.parents) if above.exists())
    # Not through tempfile: where Windows refuses a folder it takes the refusal for a name in use, and tries 2^31 more.
    tried = place / f".edgetalker-{secrets.token_hex(8)}"
    try:
        tried.mkdir()
        try:
            (tried / "byte").write_bytes(b"\0")
        finally:
            shutil.rmtree(tried, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}", hint=hint) from None


def takes_files(folder: Path) -> bool:
    """Return whether files can be made in a folder. It is tried: of a Windows folder `os.access` knows a flag alone."""
    try:
        try_folder(folder)
    except OutputError:
        return False
    return True


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to be read whole. Raises OSError for a folder, a device and a pipe too, whose end may never come."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return os.fdopen(opened, "rb")
    os.close(opened)
    raise OSError(errno.EINVAL, "it is a folder, a device or a pipe", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a file. Raises OSError as `open_regular` does, and for more than `most` bytes."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
        return file.read()


def read_text(path: Path, most: int = 1 << 20) -> str:
    """Return a text of at most `most` bytes as `text_of` reads it; a pipe (`<(…)` of a shell) is read to its end.

    Raises OSError as opening does, and for more than `most` bytes, which a device that never ends has too; ValueError
    for what is no text.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return text_of(content)


def text_of(content: bytes) -> str:
    """Decode what editors write: UTF-8, with or without a mark, or UTF-16 with one, as Windows' shells redirect it.

    Raises ValueError for any other.
    """
    try:
        return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8 (byte {error.start})") from None


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(Path(path)) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
