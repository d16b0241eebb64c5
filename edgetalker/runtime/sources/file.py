"""Sound from a file or a named pipe, as fast as it is read. WAV is read here; other formats in formats.py."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, whole
from edgetalker.runtime.sources.convert import CHANNELS, ENCODINGS, RATES, Converter, Encoding
from edgetalker.runtime.sources.source import Source

__all__ = ["BLOCK", "FileSource", "LoopedSource", "Reader", "UnsupportedError", "WavReader", "read_whole"]

BLOCK = 8192
"""Samples (of every channel) read at once."""
UNKNOWN_SIZE = 0x7FFF_0000
"""Writers into pipes give sizes from here on, because they cannot know the true one."""


class Reader(Protocol):
    """One stream of sound in a file: what it says of itself, and its samples in order."""

    rate: int
    channels: int
    frames: int | None
    """Samples (of every channel) that the header promises; None when it does not know."""
    notes: list[str]
    """What was wrong, a sentence each."""

    def read(self) -> NDArray[Any]:
        """Return the next some samples, shape (n, channels); n = 0 at the end."""
        ...

    def close(self) -> None: ...


class UnsupportedError(Exception):
    """This reader does not know the format; another may."""


class FileSource:
    """A sound file: WAV by numpy alone, with `edgetalker[audio]` whatever libsndfile reads (FLAC, Ogg, MP3, AIFF, ...).

    Where ffmpeg is installed, it reads the formats that libsndfile does not know. Files that were joined (chained
    Ogg, WAV after WAV) play one after the other. A file that breaks off gives the sound up to there; that and
    what is left over at the end are told by `warnings`.
    """

    live = False

    def __init__(self, path: Path | str, rate: int, *, channel: int | None = None) -> None:
        """`rate` is the bundle's; channel: see Converter. Raises InputError for a file that is absent or not sound."""
        if not isinstance(path, (str, Path)):
            raise InputError(f"{repr(path)[:60]} is no name of a sound file")
        self.path, self.rate, self.pipe = Path(path), whole("the rate to play at", rate, least=1), False
        self._file = self._opened()
        self._notes: list[str] = []
        self._reader: Reader | None = None
        self._ready, self._at = np.zeros(0, np.float32), 0
        self._heard = 0  # samples that the stream in hand gave
        self._streams = self._parts()
        try:
            self._reader = next(self._streams)
            _check_header(self._reader)
            frames, own = self._reader.frames, self._reader.rate
            self.samples = None if frames is None else -(-frames * self.rate // own)
            """How many samples at `rate` the first stream's header promises, None if it does not; it may err."""
            self._converter = Converter(own, rate, channel=channel)
            self._refill(1)
        except BaseException as error:
            self.close()
            if isinstance(error, InputError):
                raise InputError(f"{self.path} {error.message}", hint=error.hint) from None
            raise
        if not len(self._ready):
            self.close()
            why = f": it {self._notes[0]}" if self._notes else ""
            raise InputError(f"{self.path} holds no sound{why}", hint="record at least a fraction of a second")

    @property
    def ended(self) -> bool:
        # Only trying to read on tells the end from a pause between blocks.
        return self._at >= len(self._ready) and not self._refill(1)

    def read(self, samples: int, timeout: float = 0.0) -> NDArray[np.float32]:
        """Return the next up to `samples` samples; a file never has to be waited for."""
        if self._at + samples > len(self._ready):
            self._refill(samples)
        taken = self._ready[self._at : self._at + samples]
        self._at += len(taken)
        return taken

    def warnings(self) -> list[str]:
        notes = self._notes + (self._reader.notes if self._reader else [])
        return [f"{self.path}: {text}" for text in notes + self._converter.warnings()]

    def close(self) -> None:
        if self._reader is not None:
            self._notes += self._reader.notes
            self._reader.close()
            self._reader = None
        self._streams = iter(())
        self._file.close()

    def _refill(self, samples: int) -> bool:
        """Have at least `samples` samples ready, if the file still holds them. Returns whether there are any."""
        pieces = [self._ready[self._at :]]
        count = len(pieces[0])
        while count < samples and self._reader is not None:
            block = self._block(self._reader)
            if len(block):
                self._heard += len(block)
                piece = self._converter.convert(block)
            else:
                self._go_on(self._reader)
                piece = self._converter.restart(self._reader.rate if self._reader else self._converter.rate_in)
            pieces.append(piece)
            count += len(piece)
        self._ready, self._at = np.concatenate(pieces), 0
        return count > 0

    def _block(self, reader: Reader) -> NDArray[Any]:
        """A stream that cannot be read on ends there: what came before is still worth its motion."""
        try:
            return reader.read()
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            if not self._converter.samples:
                raise InputError(f"cannot be read: {error}") from None
            reader.notes.append(f"broken off after {self._heard} samples: {error}")
            return np.zeros((0, reader.channels), np.float32)

    def _go_on(self, before: Reader) -> None:
        """Go to the next stream of the file, if there is one that can be played."""
        self._heard, self._reader = 0, None
        try:
            if (reader := next(self._streams, None)) is not None:
                _check_header(reader)
                self._reader = reader
        except InputError as error:
            self._notes.append(f"what follows its first part {error.message}")
        self._notes += before.notes
        before.close()
        if self._reader is None:
            self.close()

    def _parts(self) -> Iterator[Reader]:
        """Yield the streams of the file in order. Raises InputError whose message goes on from the file's name."""
        start = self._file.read(12)
        try:
            while start[:4] in WavReader.KINDS and start[8:] == b"WAVE":
                reader = WavReader(self._file, start, pipe=self.pipe)
                yield reader
                start = reader.follow()
                if not start:
                    return
        except UnsupportedError as error:
            if self.pipe:
                raise InputError(f"cannot be read as sound: {error}, from a pipe") from None
        from edgetalker.runtime.sources.formats import readers

        yield from readers(self._file, start, pipe=self.pipe)

    def _opened(self) -> IO[bytes]:
        """Open once, by a name of any bytes: a pipe gives its bytes one time only."""
        try:
            found = self.path.stat()
            kind = found.st_mode
            if stat.S_ISDIR(kind):
                raise InputError(f"{self.path} is a folder; a sound file was wanted")
            if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
                raise InputError(f"{self.path} is a device; a sound file or a pipe was wanted")
            if stat.S_ISREG(kind) and found.st_size == 0:
                raise InputError(f"{self.path} is empty (0 bytes)")
            self.pipe = stat.S_ISFIFO(kind)
            return self.path.open("rb")
        except FileNotFoundError:
            raise InputError(f"there is no file {self.path}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise InputError(f"{self.path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None


def _check_header(reader: Reader) -> None:
    if not RATES[0] <= reader.rate <= RATES[1] or not 1 <= reader.channels <= CHANNELS:
        raise InputError(
            f"says it has {reader.channels} channels at {reader.rate} Hz; "
            f"1 to {CHANNELS} channels at {RATES[0]} to {RATES[1]} Hz were wanted",
            hint="its header is most likely corrupt",
        )


class WavReader:
    """The sound of a RIFF, RIFX, RF64 or BW64 WAVE file: integers, floats, A-law and mu-law. It never seeks back."""

    KINDS = (b"RIFF", b"RIFX", b"RF64", b"BW64")

    def __init__(self, file: IO[bytes], start: bytes, *, pipe: bool) -> None:
        """start: the first 12 bytes, read already. Raises UnsupportedError for compressed sound, InputError for a
        header that is wrong."""
        self._file, self._pipe = file, pipe
        self.notes: list[str] = []
        self._order: Any = "big" if start[:4] == b"RIFX" else "little"
        form, long = b"", None
        while (chunk := self._chunk(file.read(8)))[0] != b"data":
            name, size = chunk
            if not name:
                raise InputError("cannot be read as sound: its header breaks off")
            body = file.read(min(size, 64)) if name in (b"fmt ", b"ds64") else b""
            if name == b"fmt ":
                form = body
            elif name == b"ds64":
                long = int.from_bytes(body[8:16], "little")
            self._skip(size + size % 2 - len(body))
        self.channels, self.rate, self._encoding = self._format(form)
        self._frame = self.channels * self._encoding.width
        self._left = self._size(chunk[1], long)
        self.frames = None if self._left is None else self._left // self._frame
        self._rest = b""

    def read(self) -> NDArray[Any]:
        """Return up to BLOCK samples, from a pipe those that are there."""
        while True:
            data = self._rest + self._some(BLOCK * self._frame - len(self._rest))
            whole = len(data) - len(data) % self._frame
            if whole or len(data) == len(self._rest):  # something, or nothing more
                break
            self._rest = data
        self._rest = data[whole:]
        if not whole:
            self._note_the_end(len(data))
        return self._encoding.decode(data[:whole]).reshape(-1, self.channels)

    def follow(self) -> bytes:
        """Look at what comes after the sound; returns the first 12 bytes of another file, b"" when there is none."""
        if self._left is None or self._left > 0:
            return b""
        while len(start := self._file.read(12)) == 12 and _is_chunk(start):
            if start[:4] in self.KINDS and start[8:] == b"WAVE":
                return start
            size = self._chunk(start)[1]
            self._skip(size + size % 2 - 4)
        left, zeros = len(start), start.count(0)
        while rest := self._file.read(1 << 20):
            left, zeros = left + len(rest), zeros + rest.count(0)
        if left > max(zeros, 1):  # zeros only pad
            self.notes.append(f"{left} bytes after its sound are neither sound nor a chunk, and were left")
        return b""

    def close(self) -> None:
        """The file stays open: another stream may follow in it."""

    def _some(self, count: int) -> bytes:
        count = count if self._left is None else min(count, self._left)
        data: bytes = self._file.read1(count) if self._pipe else self._file.read(count)  # type: ignore[attr-defined]
        if self._left is not None:
            self._left -= len(data)
        return data

    def _note_the_end(self, rest: int) -> None:
        if self._left:
            self.notes.append(f"breaks off {self._left} bytes before its end")
        if rest:
            self.notes.append(f"{rest} bytes at the end are no whole sample and were dropped")
        self._rest = b""

    def _chunk(self, head: bytes) -> tuple[bytes, int]:
        return (head[:4], int.from_bytes(head[4:8], self._order)) if len(head) >= 8 else (b"", 0)

    def _skip(self, count: int) -> None:
        if not self._pipe:
            self._file.seek(count, 1)
            return
        while count > 0 and (passed := len(self._file.read(min(count, 1 << 16)))):
            count -= passed

    def _format(self, form: bytes) -> tuple[int, int, Encoding]:
        """Return channels, rate and encoding of a `fmt ` chunk."""
        if len(form) < 16:
            raise InputError("cannot be read as sound: its `fmt ` chunk is missing or too short")
        tag, channels, rate, _, align, bits = (
            int.from_bytes(form[at:end], self._order)
            for at, end in ((0, 2), (2, 4), (4, 8), (8, 12), (12, 14), (14, 16))
        )
        if tag == 0xFFFE and len(form) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the true tag begins its GUID
            tag = int.from_bytes(form[24:26], self._order)
        if channels == 0:
            raise InputError("cannot be read as sound: it says it has no channels")
        width = align // channels if align % channels == 0 and align // channels * 8 >= bits else -(-bits // 8)
        end = "le" if self._order == "little" else "be"
        names = {
            1: {1: "u8", 2: f"s16{end}", 3: f"s24{end}", 4: f"s32{end}"},
            3: {4: f"f32{end}", 8: f"f64{end}"},
            6: {1: "alaw"},
            7: {1: "mulaw"},
        }
        name = names.get(tag, {}).get(width)
        if name is None:
            raise UnsupportedError(f"WAV of format 0x{tag:04x} with {bits} bits")
        return channels, rate, ENCODINGS[name]

    def _size(self, size: int, long: int | None) -> int | None:
        """Return the bytes of sound that the header promises; None when its writer did not know."""
        if size == 0xFFFF_FFFF and long is not None:
            size = long
        elif size >= UNKNOWN_SIZE:
            return None
        if size == 0:  # a writer that was cut off before it came back to fill in the size
            start = b"" if self._pipe else self._file.read(12)
            if not self._pipe:
                self._file.seek(-len(start), 1)
            if self._pipe or (start and not _is_chunk(start)):
                self.notes.append("its header says 0 bytes of sound; what followed was played")
                return None
        return size


def _is_chunk(start: bytes) -> bool:
    return re.fullmatch(rb"[A-Za-z0-9_ ]{4}", start[:4]) is not None


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


def read_whole(path: Path | str, rate: int, *, channel: int | None = None) -> NDArray[np.float32]:
    """Return all sound of a file at `rate`, mono (n,). Raises InputError as FileSource does."""
    source = FileSource(path, rate, channel=channel)
    pieces = [np.zeros(0, np.float32)]
    try:
        while not source.ended:
            pieces.append(source.read(1 << 16))
    finally:
        source.close()
    return np.concatenate(pieces)
