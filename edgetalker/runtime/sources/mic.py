"""A microphone: recorded in PortAudio's thread, watched in another, read by the loop."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import UserError
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.sources.packets import PacketQueue, PacketReader
from edgetalker.runtime.sources.portaudio import InputStream, PortAudio

__all__ = ["MicSource"]

_log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
UNLIMITED = sys.maxsize
LONGEST_RETRY_SECONDS = 8.0


class MicSource:
    """A recording device that is opened again when it goes away.

    Sound waits in a queue of `buffer_seconds`; when the loop falls further behind, the oldest is dropped and counted.
    A device is lost when PortAudio stops its stream or when nothing came for `stall_seconds`; that is logged at
    once, and it is tried again after 0.5, 1, 2, 4, 8, 8, ... seconds for ever. Meanwhile `read` times out.
    """

    live = True

    def __init__(
        self,
        rate: int,
        device: str | None = None,
        *,
        buffer_seconds: float = 2.0,
        stall_seconds: float = 5.0,
        retry_seconds: float = 0.5,
        portaudio: Callable[[], PortAudio] = PortAudio,
    ) -> None:
        """`rate` is the bundle's; a device that cannot record at it is resampled. `device`: see PortAudio.find.

        Raises MissingPackageError, DeviceError or OptionError when it cannot be opened the first time.
        """
        self._rate = rate
        self._wanted, self._make = device, portaudio
        self._stall, self._retry = stall_seconds, retry_seconds
        self.overflows = self.losses = 0
        self._portaudio: PortAudio | None = None
        self._stream: InputStream | None = None
        self._queue = PacketQueue(UNLIMITED)  # until the device's own rate is known
        self._open([])
        self._queue.limit = max(1, round(buffer_seconds * self._input_rate))
        self._reader = PacketReader(self._queue, self._converter())
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="edgetalker-mic", daemon=True)
        self._watcher.start()

    @property
    def rate(self) -> int:
        return self._rate

    @property
    def ended(self) -> bool:
        return self._reader.ended

    @property
    def dropped(self) -> int:
        """Samples (per channel) that the loop was too slow to read."""
        return self._queue.dropped

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that have come, waiting at most `timeout` seconds for the first."""
        return self._reader.read(samples, timeout)

    def warnings(self) -> list[str]:
        """Return what went wrong so far, one sentence each."""
        found = []
        if self.overflows:
            found.append(f"the device lost sound {self.overflows} times (overflow)")
        if self.dropped:
            found.append(f"{self.dropped} samples were dropped because they were not read in time")
        if self.losses:
            found.append(f"the device went away {self.losses} times")
        return [f"{self.name}: {text}" for text in found + self._reader.converter.warnings()]

    def close(self) -> None:
        self._closing.set()
        self._queue.finish()
        self._watcher.join(timeout=5.0)
        self._shut()

    def _open(self, rates: list[int]) -> None:
        """Open the device; `rates` restricts the rates, as a resampler cannot change its own on the way."""
        self._portaudio = self._make()
        try:
            device = self._portaudio.find(self._wanted)
            self.name = device.name
            rates = rates or list(dict.fromkeys([self._rate, device.rate]))
            self._last_packet = time.monotonic()
            self._stream = self._portaudio.open(device, rates, self._hear)
        except BaseException:
            self._shut()
            raise
        self._input_rate = self._stream.rate

    def _converter(self) -> Converter:
        try:
            return Converter(self._input_rate, self._rate)
        except BaseException:
            self._shut()
            raise

    def _shut(self) -> None:
        stream, self._stream = self._stream, None
        portaudio, self._portaudio = self._portaudio, None
        if stream is not None:
            stream.close()
        if portaudio is not None:
            portaudio.close()

    def _hear(self, packet: NDArray[np.int16], overflow: bool) -> None:
        """Take a packet in PortAudio's thread."""
        self.overflows += overflow
        self._last_packet = time.monotonic()
        self._queue.put(packet)

    def _watch(self) -> None:
        while not self._closing.wait(min(CHECK_SECONDS, self._stall / 4)):
            if not self._alive():
                self.losses += 1
                self._shut()
                self._reopen()

    def _alive(self) -> bool:
        silent = time.monotonic() - self._last_packet
        return self._stream is not None and self._stream.active() and silent < self._stall

    def _reopen(self) -> None:
        """Try until it works or the source is closed."""
        wait = self._retry
        _log.warning("microphone `%s` was lost; trying again in %g s", self.name, wait)
        while not self._closing.wait(wait):
            try:
                self._open([self._input_rate])
            except UserError as error:
                wait = min(2 * wait, LONGEST_RETRY_SECONDS)
                _log.info("%s; trying again in %g s", error.message, wait)
            else:
                _log.warning("microphone `%s` is back", self.name)
                return
