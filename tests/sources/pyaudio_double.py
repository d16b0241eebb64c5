"""A stand-in for the package PyAudio: devices as a test describes them, sound when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNAVAILABLE, INVALID, RATE, CHANNELS, HOST = -9985, -9996, -9997, -9998, -9999


@dataclass
class Device:
    """channels, rate: what it says of itself. rates, opens: what it opens at (None: what it says)."""

    name: str = "Mic"
    channels: int = 1
    rate: float = 16000.0
    rates: Sequence[int] | None = None
    opens: Sequence[int] | None = None
    error: int | Exception | None = None
    """What opening it ends in."""
    asked: Exception | None = None
    """What asking for it ends in."""
    api: Exception | None = None
    plays: int = 0
    """Channels that it plays."""
    host: str = "ALSA"
    """The host API that lists it."""


@dataclass
class Stream:
    device: Device
    rate: int
    channels: int
    callback: Callable[..., Any]
    alive: bool = True
    looks: int = 0
    """Times that somebody asked whether it is."""

    def is_active(self) -> bool:
        self.looks += 1
        return self.alive

    def close(self) -> None:
        self.alive = False

    def record(self, samples: NDArray[np.int16], status: int = 0) -> None:
        """samples: (n, channels)."""
        assert samples.shape[1] == self.channels
        self.callback(samples.tobytes(), len(samples), {}, status)


@dataclass
class Machine:
    """All devices of a machine, as they are now; `module` stands for pyaudio."""

    devices: list[Device]
    default: int = 0
    listing: Exception | None = None
    streams: list[Stream] = field(default_factory=list)
    tries: int = 0

    living: int = 0
    """Initialisations that have not ended."""
    listed: list[Device] = field(default_factory=list)
    """The devices as PortAudio lists them: as they were when the first initialisation that lives was made."""

    def initialise(self) -> None:
        self.tries += 1
        if not self.living:
            self.listed = list(self.devices)
        self.living += 1

    @property
    def module(self) -> Any:
        machine = self

        class PyAudio:
            def __init__(self) -> None:
                machine.initialise()
                self.streams: list[Stream] = []

            def get_device_count(self) -> int:
                if machine.listing is not None:
                    raise machine.listing
                if not machine.living:
                    raise OSError(-10000, "PortAudio not initialized")
                return len(machine.listed)

            def get_default_input_device_info(self) -> dict[str, Any]:
                if not machine.listed:
                    raise OSError("No Default Input Device Available")
                return self.get_device_info_by_index(machine.default)

            def get_default_output_device_info(self) -> dict[str, Any]:
                raise OSError("No Default Output Device Available")

            def get_device_info_by_index(self, index: int) -> dict[str, Any]:
                device = machine.listed[index]
                if device.asked is not None:
                    raise device.asked
                info = {"index": index, "name": device.name, "hostApi": index}
                channels = {"maxInputChannels": device.channels, "maxOutputChannels": device.plays}
                return {**info, **channels, "defaultSampleRate": device.rate}

            def get_host_api_info_by_index(self, index: int) -> dict[str, Any]:
                if (error := machine.listed[index].api) is not None:
                    raise error
                return {"name": machine.listed[index].host}

            def open(self, rate: int, channels: int, stream_callback: Any, **given: Any) -> Stream:
                place = given["input_device_index"] if given.get("input") else given["output_device_index"]
                device = machine.listed[place]
                if isinstance(device.error, Exception):
                    raise device.error
                if device.error is not None:
                    raise OSError(device.error, "the driver's own words")
                most = device.channels if given.get("input") else device.plays
                if channels not in (device.opens or range(1, most + 1)):
                    raise OSError(CHANNELS, "Invalid number of channels")
                if rate not in (device.rates or (int(device.rate),)):
                    raise OSError(RATE, "Invalid sample rate")
                self.streams.append(Stream(device, rate, channels, stream_callback))
                machine.streams.append(self.streams[-1])
                return machine.streams[-1]

            def terminate(self) -> None:
                for stream in self.streams:
                    stream.close()
                machine.living -= 1
                assert machine.living >= 0, "ended twice"

        return SimpleNamespace(PyAudio=PyAudio, paInt16=8, paContinue=0, paInputOverflow=2)
