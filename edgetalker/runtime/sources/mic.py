"""A microphone that is opened again when it went away.

It is recorded in PortAudio's thread, watched in another and read by the loop.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, UserError
from edgetalker.runtime.sources.convert import RATES, Converter, Resampler
from edgetalker.runtime.sources.live import QueuedSource, SoundQueue
from edgetalker.runtime.sources.portaudio import Input, PortAudio, Stream

__all__ = ["MicSource"]

_log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 8.0


class MicSource(QueuedSource):
    """A recording device that is opened again when it goes away.

    Sound waits in a queue of `buffer_seconds`; when the loop falls further behind, the oldest is dropped and counted.
    A device is lost when PortAudio stops its stream or when nothing came for `stall_seconds`; that is logged at
    once, and it is tried again after 0.5, 1, 2, 4, 8, 8, ... seconds for ever, by its name, whatever its number,
    rate and channels are by then. Meanwhile `read` times out.
    """

    def __init__(
        self,
        rate: int,
        device: str | None = None,
        *,
        channel: int | None = None,
        buffer_seconds: float = 2.0,
        stall_seconds: float = 5.0,
        retry_seconds: float = 0.5,
        portaudio: Callable[[], PortAudio] | None = None,
    ) -> None:
        """`rate` is the bundle's; a device that cannot record at it is resampled. device: see PortAudio.find.
        channel: hear this one alone, counted from 1 (default: the average).

        Raises MissingPackageError, DeviceError or OptionError when it cannot be opened the first time.
        """
        self.rate = rate
        self._wanted, self._channel, self._make = device, channel, portaudio or PortAudio
        self._stall, self._retry = stall_seconds, retry_seconds
        self.overflows = self.losses = 0
        self.name: str | None = None
        self._portaudio: PortAudio | None = None
        self._stream: Stream | None = None
        self._converter: Converter | None = None
        self._queue = SoundQueue(max(1, round(buffer_seconds * rate)))
        self._open()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="edgetalker-mic", daemon=True)
        self._watcher.start()

    @property
    def dropped(self) -> int:
        """Samples that the loop was too slow to read."""
        return self._queue.dropped

    def warnings(self) -> list[str]:
        found = []
        if self.overflows:
            found.append(f"the device lost sound {self.overflows} times (overflow)")
        if self.dropped:
            found.append(f"{self.dropped} samples were dropped because they were not read in time")
        if self.losses:
            found.append(f"the device went away {self.losses} times")
        return [f"{self.name}: {text}" for text in found + (self._converter.warnings() if self._converter else [])]

    def close(self) -> None:
        self._closing.set()
        self._queue.finish()
        self._watcher.join(timeout=5.0)
        self._shut()

    def _open(self) -> None:
        self._portaudio = self._make()
        try:
            device = self._portaudio.find(self._wanted) if self.name is None else self._again(self.name)
            if device.rate != self.rate and RATES[0] <= device.rate <= RATES[1]:
                Resampler(device.rate, self.rate)  # made beforehand: the filters take longer than a packet
            self._last_packet = time.monotonic()
            self._stream = self._portaudio.record(device, self.rate, self._hear, channel=self._channel or 1)
            self.name = device.name
        except BaseException:
            self._shut()
            raise

    def _again(self, name: str) -> Input:
        """Find a device that was open before; plugged in again it may have another number, in its name too."""
        assert self._portaudio is not None, "called by _open alone"
        inputs = self._portaudio.inputs()
        for same in (lambda other: other == name, lambda other: _unnumbered(other) == _unnumbered(name)):
            if found := next((device for device in inputs if same(device.name)), None):
                return found
        if self._wanted is None:
            return self._portaudio.find(None)
        raise DeviceError(f"input `{name}` is not there")

    def _shut(self) -> None:
        stream, self._stream = self._stream, None
        portaudio, self._portaudio = self._portaudio, None
        if stream is not None:
            stream.close()
        if portaudio is not None:
            portaudio.close()

    def _hear(self, rate: int, packet: NDArray[np.int16], overflow: bool) -> None:
        """Take a packet in PortAudio's thread."""
        self.overflows += overflow
        self._last_packet = time.monotonic()
        if self._converter is None:
            self._converter = Converter(rate, self.rate, channel=self._channel)
        if rate != self._converter.rate_in:
            self._queue.put(self._converter.restart(rate))
        self._queue.put(self._converter.convert(packet))

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
        """Try until it works or the source is closed. Nothing that a driver does may end this thread."""
        wait = self._retry
        _log.warning("microphone `%s` was lost; trying again in %g s", self.name, wait)
        while not self._closing.wait(wait):
            try:
                self._open()
            except Exception as error:
                wait = min(2 * wait, LONGEST_RETRY_SECONDS)
                text = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                _log.info("%s; trying again in %g s", text, wait)
            else:
                _log.warning("microphone `%s` is back", self.name)
                return


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)
