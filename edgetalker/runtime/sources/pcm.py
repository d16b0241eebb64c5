"""Raw 16-bit PCM from a pipe, such as `arecord ... | edgetalker animate -`."""

from __future__ import annotations

import io
import os
import sys
import threading
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.sources.packets import PacketQueue, PacketReader

__all__ = ["PcmSource"]

READ_BYTES = 1 << 14
"""A pipe's read returns as soon as anything is there, so this costs no delay."""


class PcmSource:
    """Signed 16-bit little-endian samples, channels interleaved, without a header.

    A thread reads the pipe, so that `read` can time out. When the loop falls behind, the writer has to wait
    (a pipe loses nothing). A half sample at the end is dropped with a warning. A stream that starts with a WAV
    header is refused: its header would be played as sound.
    """

    live = True

    def __init__(
        self,
        rate: int,
        *,
        input_rate: int,
        channels: int = 1,
        stream: IO[bytes] | None = None,
        buffer_seconds: float = 2.0,
    ) -> None:
        """`rate` is the bundle's, `input_rate` the pipe's, both samples a second. `stream`: stdin by default.

        Raises InputError when stdin is a terminal: nobody types PCM.
        """
        self._stream = sys.stdin.buffer if stream is None else stream
        if self._stream.isatty():
            raise InputError(
                "`-` reads sound from a pipe, but standard input is a terminal",
                hint=f"arecord -t raw -f S16_LE -r {input_rate} -c {channels} | edgetalker animate - ...",
            )
        self._rate, self._channels = rate, channels
        self._frame_bytes = 2 * channels
        self._notes: list[str] = []
        self._queue = PacketQueue(max(1, round(buffer_seconds * input_rate)))
        self._reader = PacketReader(self._queue, Converter(input_rate, rate))
        self._thread = threading.Thread(target=self._pump, name="edgetalker-pcm", daemon=True)
        self._thread.start()

    @property
    def rate(self) -> int:
        return self._rate

    @property
    def ended(self) -> bool:
        return self._reader.ended

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that have come, waiting at most `timeout` seconds for the first.

        Raises InputError when the pipe cannot be read or holds a WAV file.
        """
        return self._reader.read(samples, timeout)

    def warnings(self) -> list[str]:
        """Return what was wrong with the sound so far, one sentence each."""
        return [f"standard input: {text}" for text in self._notes + self._reader.converter.warnings()]

    def close(self) -> None:
        """Stop reading. The thread ends at its next packet; a blocked read of stdin dies with the process."""
        self._queue.finish()

    def _pump(self) -> None:
        """Run in the thread: hand on the pipe until its end, then say how it ended."""
        try:
            rest = self._hand_on(self._first_bytes())
        except InputError as error:
            self._queue.finish(error)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed under us
            self._queue.finish(InputError(f"standard input cannot be read: {error}"))
        else:
            if rest:
                self._notes.append(f"{rest} bytes at the end are no whole sample and were dropped")
            self._queue.finish()

    def _hand_on(self, data: bytes) -> int:
        """Queue packets of whole samples until the pipe ends or the queue closes; return the bytes left over."""
        rest = b""
        while data:
            rest += data
            whole = len(rest) - len(rest) % self._frame_bytes
            packet = np.frombuffer(rest[:whole], "<i2").reshape(-1, self._channels)
            rest = rest[whole:]
            if not self._queue.put_waiting(packet):
                return 0
            data = self._read_some()
        return len(rest)

    def _first_bytes(self) -> bytes:
        """Return at least the four bytes that tell a file from raw sound, fewer only if the pipe ends before."""
        start = b""
        while len(start) < 4 and (data := self._read_some()):
            start += data
        _refuse_wav(start)
        return start

    def _read_some(self) -> bytes:
        """Return what is there without waiting for a full buffer; b"" at the end."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, io.UnsupportedOperation):
            return self._stream.read(READ_BYTES)
        return os.read(descriptor, READ_BYTES)


def _refuse_wav(start: bytes) -> None:
    if start[:4] in (b"RIFF", b"RF64", b"fLaC", b"OggS"):
        raise InputError(
            f"standard input starts with `{start[:4].decode()}`: it is a sound file, raw s16le PCM was wanted",
            hint="give the file's name instead of `-`, or let the recorder write raw samples (arecord -t raw)",
        )
