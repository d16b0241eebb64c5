"""A microphone that is opened again when it went away.

It is recorded in PortAudio's thread, watched in another and read by the loop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.sources.card import Card
from edgetalker.runtime.sources.convert import RATES, Converter, Resampler, checked_channel
from edgetalker.runtime.sources.live import QueuedSource, SoundQueue
from edgetalker.runtime.sources.portaudio import Input, PortAudio, Stream

__all__ = ["MicSource"]


class MicSource(QueuedSource):
    """A recording device that is opened again when it goes away.

    Sound waits in a queue of `buffer_seconds`; when the loop falls further behind, the oldest is dropped and counted.
    When the device is lost, by its stream's end or by `stall_seconds` without a packet, `read` times out until it is
    back (see Card).
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
        self.rate, self._channel = rate, checked_channel(channel)
        self.overflows = 0
        self._converter: Converter | None = None
        self._queue = SoundQueue(max(1, round(buffer_seconds * rate)))
        self._card = Card(
            "input",
            device,
            self._start,
            portaudio or PortAudio,
            stall_seconds=stall_seconds,
            retry_seconds=retry_seconds,
        )
        self._card.open()
        self._card.watch()

    @property
    def name(self) -> str | None:
        return self._card.name

    @property
    def losses(self) -> int:
        """Times that the device went away."""
        return self._card.losses

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
        self._queue.finish()
        self._card.close()

    def _start(self, portaudio: PortAudio, device: Input) -> Stream:
        if device.rate != self.rate and RATES[0] <= device.rate <= RATES[1]:
            Resampler(device.rate, self.rate)  # made beforehand: the filters take longer than a packet
        return portaudio.record(device, self.rate, self._hear, channel=self._channel or 1)

    def _hear(self, rate: int, packet: NDArray[np.int16], overflow: bool) -> None:
        """Take a packet in PortAudio's thread."""
        self.overflows += overflow
        self._card.seen()
        if self._converter is None:
            self._converter = Converter(rate, self.rate, channel=self._channel)
        if rate != self._converter.rate_in:
            self._queue.put(self._converter.restart(rate))
        self._queue.put(self._converter.convert(packet))
