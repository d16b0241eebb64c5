"""Sound from a file, as fast as it is read."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.convert import Converter, SampleQueue

__all__ = ["FileSource", "read_whole"]

BLOCK = 4096
"""Frames of sound read at once."""
CHANNELS = 64
"""More than any real recording has; a corrupt header may claim thousands."""
RATES = (1000, 768_000)
UNKNOWN_SIZE = 0x7FFF_0000


class _Reader(Protocol):
    """An opened file: what it says of itself, and its samples in order."""

    rate: int
    channels: int
    frames: int

    def read(self) -> NDArray[Any]:
        """Return the next up to BLOCK samples, shape (n, channels); n = 0 at the end."""
        ...

    def close(self) -> None: ...


class FileSource:
    """A sound file: WAV, and with `edgetalker[audio]` whatever libsndfile reads (FLAC, Ogg, MP3, AIFF, ...).

    Without soundfile, WAV files of 8, 16, 24 and 32-bit integers still play through the standard library.
    A file that breaks off gives the sound up to there, with a warning.
    """

    live = False

    def __init__(self, path: Path | str, rate: int) -> None:
        """`rate` is the bundle's. Raises InputError for a file that is absent, empty or not sound."""
        self.path, self._rate = Path(path), rate
        self._check_there()
        self._reader = _open(self.path)
        self._notes = [f"breaks off {missing} bytes before its end"] if (missing := _missing(self.path)) else []
        try:
            self._check_header()
            self._converter = Converter(self._reader.rate, rate)
            self._queue, self._read_all = SampleQueue(), False
            self._fill(1)
        except BaseException:
            self._reader.close()
            raise
        if self._converter.samples == 0:
            self.close()
            raise InputError(f"{self.path} holds no sound", hint="record at least a fraction of a second")

    @property
    def rate(self) -> int:
        return self._rate

    @property
    def samples(self) -> int:
        """How many samples at `rate` the file's header promises; it may err."""
        return round(self._reader.frames * self._rate / self._reader.rate)

    @property
    def ended(self) -> bool:
        self._fill(1)  # only trying to read on tells the end from a pause between blocks
        return not len(self._queue)

    def read(self, samples: int, timeout: float = 0.0) -> NDArray[np.float32]:
        """Return the next up to `samples` samples; a file never has to be waited for."""
        self._fill(samples)
        return self._queue.take(samples)

    def warnings(self) -> list[str]:
        """Return what was wrong with the sound read so far, one sentence each."""
        return [f"{self.path}: {text}" for text in self._notes + self._converter.warnings()]

    def close(self) -> None:
        self._read_all = True
        self._reader.close()

    def _fill(self, samples: int) -> None:
        while len(self._queue) < samples and not self._read_all:
            block = self._next_block()
            if len(block):
                self._queue.put(self._converter.convert(block))
            else:
                self._read_all = True
                self._queue.put(self._converter.finish())

    def _next_block(self) -> NDArray[Any]:
        """A file that cannot be read on ends there: what came before is still worth its motion."""
        try:
            return self._reader.read()
        except (OSError, RuntimeError, wave.Error, EOFError) as error:
            if self._converter.samples == 0:
                raise InputError(f"{self.path} cannot be read: {error}") from None
            self._notes.append(f"broken off after {self._converter.samples // self._reader.channels} samples: {error}")
            return np.zeros((0, self._reader.channels), np.float32)

    def _check_there(self) -> None:
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; a sound file was wanted")
        if not self.path.exists():
            raise InputError(f"there is no file {self.path}")
        if self.path.is_file() and self.path.stat().st_size == 0:
            raise InputError(f"{self.path} is empty (0 bytes)")

    def _check_header(self) -> None:
        reader = self._reader
        if not RATES[0] <= reader.rate <= RATES[1] or not 1 <= reader.channels <= CHANNELS:
            raise InputError(
                f"{self.path} says it has {reader.channels} channels at {reader.rate} Hz; "
                f"1 to {CHANNELS} channels at {RATES[0]} to {RATES[1]} Hz were wanted",
                hint="its header is most likely corrupt",
            )


def read_whole(path: Path | str, rate: int) -> NDArray[np.float32]:
    """Return all sound of a file at `rate`, mono (n,). Raises InputError as FileSource does."""
    source = FileSource(path, rate)
    pieces = [np.zeros(0, np.float32)]
    try:
        while not source.ended:
            pieces.append(source.read(1 << 16))
    finally:
        source.close()
    return np.concatenate(pieces)


def _open(path: Path) -> _Reader:
    """Open with soundfile where it is installed, else with the standard library."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, the library libsndfile is not
        return _WaveReader(path)
    return _SoundFileReader(path, soundfile)


class _SoundFileReader:
    def __init__(self, path: Path, soundfile: Any) -> None:
        try:
            self._file = soundfile.SoundFile(path)
        except (OSError, RuntimeError) as error:
            raise _not_sound(path, error) from None
        self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.frames = int(self._file.frames)

    def read(self) -> NDArray[Any]:
        block: NDArray[Any] = self._file.read(BLOCK, dtype="float32", always_2d=True)
        return block

    def close(self) -> None:
        self._file.close()


class _WaveReader:
    """Integer PCM in a WAV file, through the standard library's `wave`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = wave.open(str(path), "rb")  # noqa: SIM115 - closed by close()
        except (OSError, EOFError, wave.Error) as error:
            hint = 'formats other than integer WAV need soundfile: pip install "edgetalker[audio]"'
            raise _not_sound(path, error, hint) from None
        self.rate, self.channels = self._file.getframerate(), self._file.getnchannels()
        self.frames, self._width = self._file.getnframes(), self._file.getsampwidth()

    def read(self) -> NDArray[Any]:
        data = self._file.readframes(BLOCK)
        whole = len(data) - len(data) % (self._width * self.channels)
        return _integers(data[:whole], self._width).reshape(-1, self.channels)

    def close(self) -> None:
        self._file.close()


def _integers(data: bytes, width: int) -> NDArray[Any]:
    """Decode little-endian WAV samples of 1 to 4 bytes; 24-bit ones move to the top of 32 bits, same scale."""
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel()
    return np.frombuffer(data, {1: "u1", 2: "<i2", 4: "<i4"}[width])


def _missing(path: Path) -> int:
    """Return how many bytes of sound a WAV file lacks by its own header; 0 for other files and for headers
    written to a pipe, which give the largest size there is."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return max(0, size - (path.stat().st_size - file.tell())) if size < UNKNOWN_SIZE else 0
            file.seek(size + size % 2, 1)
    return 0


def _not_sound(path: Path, error: Exception, hint: str | None = None) -> InputError:
    what = str(error).removeprefix(f"Error opening {str(path)!r}: ")
    return InputError(f"{path} cannot be read as sound: {what}", hint=hint)
