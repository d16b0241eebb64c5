"""What a `Player` (sinks/play.py) plays on: a sound card, a file, or nothing at the pace of the clock."""

from __future__ import annotations

import logging
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import PartFile, checked_target, reported
from edgetalker.runtime.clock import LEAP_NS
from edgetalker.runtime.sources.card import Card
from edgetalker.runtime.sources.portaudio import Input, PortAudio, Stream

__all__ = ["Fill", "NullSpeaker", "PortAudioSpeaker", "Speaker", "WavSpeaker"]

_log = logging.getLogger(__name__)

FILL_MS = 10

Fill = Callable[[NDArray[np.float32], int], None]
"""Fills an array with the next samples; the number is when the first will sound, in ns of `time.perf_counter_ns`."""


class Speaker(Protocol):
    """What plays. `start` returns the rate at which it will ask; it asks from a thread of its own until `close`."""

    def start(self, rate: int, fill: Fill) -> int: ...

    def close(self) -> None: ...


class NullSpeaker:
    """Plays to nobody, on the machine's clock, as a card would whose crystal is `ppm` too fast: for tests and
    measurements, and for machines without a card."""

    def __init__(self, ppm: float = 0.0, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._ppm = ppm
        self._clock_ns = clock_ns
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, rate: int, fill: Fill) -> int:
        self._thread = threading.Thread(target=self._run, args=(rate, fill), name="edgetalker-play", daemon=True)
        self._thread.start()
        return rate

    def _run(self, rate: int, fill: Fill) -> None:
        block = np.zeros(rate * FILL_MS // 1000, np.float32)
        period = FILL_MS * 1e6 / (1 + self._ppm * 1e-6)
        begun, count = self._clock_ns(), 0
        while not self._end.wait(max((begun + count * period - self._clock_ns()) * 1e-9, 0.0)):
            if self._clock_ns() - (begun + count * period) > LEAP_NS:  # no card plays while the machine sleeps
                begun, count = self._clock_ns(), 0
            fill(block, int(begun + (count + 1) * period))  # one packet is always on its way
            count += 1
            self.take(block, rate)

    def take(self, block: NDArray[np.float32], rate: int) -> None:
        """See what would be heard."""

    def close(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()


class WavSpeaker(NullSpeaker):
    """Writes a WAV of what would have been heard, silence included. A full disk ends it and keeps what it has."""

    def __init__(self, path: Path) -> None:
        """Raises OutputError when nothing can be written there."""
        super().__init__()
        self._path = checked_target(path)
        self._part: PartFile | None = None
        self._file: wave.Wave_write | None = None
        self._full = False

    def start(self, rate: int, fill: Fill) -> int:
        self._part = PartFile(self._path, seekable=True)
        self._file = wave.open(self._part.file, "wb")  # noqa: SIM115 - closed by `close`
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(rate)
        return super().start(rate, fill)

    def take(self, block: NDArray[np.float32], rate: int) -> None:
        if self._file is None or self._full:
            return
        try:
            self._file.writeframesraw((np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
        except OSError as error:
            self._full = True
            _log.warning("%s cannot be written further: %s; what it has is kept", self._path, error.strerror)

    def close(self) -> None:
        super().close()
        if self._file is None or self._part is None:
            return
        with reported(self._path):
            self._file.close()
        self._part.keep()


class PortAudioSpeaker:
    """A sound card, by number or a part of its name; None: the default one. It is opened again when it goes away, or
    asks for no sound for `stall_seconds` (see Card)."""

    def __init__(self, device: str | None = None, *, stall_seconds: float = 5.0, retry_seconds: float = 0.5) -> None:
        """Raises MissingPackageError without PyAudio, DeviceError without a device, OptionError for an unknown one."""
        self._card = Card(
            "output", device, self._start, _portaudio, stall_seconds=stall_seconds, retry_seconds=retry_seconds
        )
        self._fill: Fill | None = None
        self._rates: tuple[int, ...] = ()
        self._card.find()

    def start(self, rate: int, fill: Fill) -> int:
        self._fill, self._rates = fill, (rate,)
        self._card.open()
        self._card.watch()
        return self._rates[0]

    def _start(self, portaudio: PortAudio, device: Input) -> Stream:
        """At another rate than the first time no device is opened: the player counts its samples."""
        first = self._card.name is None
        rates = dict.fromkeys((*self._rates, device.rate, 48_000, 44_100)) if first else self._rates
        stream = portaudio.play(device, rates, self._asked)
        self._rates = (stream.rate,)
        return stream

    def _asked(self, count: int, ahead: float) -> NDArray[np.int16]:
        """Return the next samples, in PortAudio's thread."""
        assert self._fill is not None, "set by start"
        self._card.seen()
        block = np.zeros(count, np.float32)
        self._fill(block, time.perf_counter_ns() + int(ahead * 1e9))
        return (np.clip(block, -1, 1) * 32767).astype("<i2")

    def close(self) -> None:
        self._card.close()


def _portaudio() -> PortAudio:
    return PortAudio("playing sound", yields=True)
