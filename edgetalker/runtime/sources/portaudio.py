"""PortAudio through PyAudio: which inputs there are, and opening one. Everything PyAudio is in this file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError, nearest

__all__ = ["Heard", "Input", "InputStream", "PortAudio", "list_inputs"]

Heard = Callable[[NDArray[np.int16], bool], None]
"""Takes a packet, shape (n, channels), and whether PortAudio lost sound before it. Called in its thread."""


@dataclass(frozen=True)
class Input:
    """A device that records. channels: the most it gives; rate: its own rate in samples a second."""

    index: int
    name: str
    host_api: str
    channels: int
    rate: int
    default: bool

    def __str__(self) -> str:
        mark = "*" if self.default else " "
        return f"{mark}{self.index:3}  {self.name}  ({self.host_api}, up to {self.channels} channels, {self.rate} Hz)"


class InputStream:
    """An opened input, recording since it was opened."""

    def __init__(self, stream: Any, rate: int, channels: int) -> None:
        self._stream = stream
        self.rate, self.channels = rate, channels

    def active(self) -> bool:
        """False once PortAudio gave the stream up."""
        try:
            return bool(self._stream.is_active())
        except OSError:
            return False

    def close(self) -> None:
        """Stop recording; never raises, because a device that has gone cannot be closed in order."""
        with suppress(OSError), _stderr_hidden():
            self._stream.close()


class PortAudio:
    """One initialisation of PortAudio. It lists devices as they were then: to see new ones, make a new one."""

    def __init__(self) -> None:
        """Raises MissingPackageError without PyAudio, DeviceError when PortAudio cannot start."""
        self._module = _pyaudio()
        with _stderr_hidden() as noise:
            try:
                self._portaudio = self._module.PyAudio()
            except OSError as error:
                raise DeviceError(f"PortAudio cannot start: {error}", hint=noise() or None) from None

    def inputs(self) -> list[Input]:
        """Return all devices that record, in PortAudio's order."""
        portaudio = self._portaudio
        try:
            default = int(portaudio.get_default_input_device_info()["index"])
        except OSError:
            default = -1
        found = [portaudio.get_device_info_by_index(index) for index in range(portaudio.get_device_count())]
        return [self._input(info, default) for info in found if info["maxInputChannels"] > 0]

    def _input(self, info: dict[str, Any], default: int) -> Input:
        api = self._portaudio.get_host_api_info_by_index(info["hostApi"])["name"]
        index, channels = int(info["index"]), int(info["maxInputChannels"])
        return Input(index, str(info["name"]), str(api), channels, int(info["defaultSampleRate"]), index == default)

    def find(self, wanted: str | None) -> Input:
        """Return the input with this index, name or part of a name; the default one for None.

        Raises DeviceError when there is none at all, OptionError when none or several fit.
        """
        inputs = self.inputs()
        if not inputs:
            raise DeviceError(
                "no device records sound", hint="plug in a microphone; `arecord -l` shows what the system sees"
            )
        if wanted is None:
            return next((device for device in inputs if device.default), inputs[0])
        return _matching(inputs, wanted)

    def open(self, device: Input, rates: list[int], heard: Heard) -> InputStream:
        """Start recording 10 ms packets at the first of `rates` that the device takes, mono if it can.

        Raises DeviceError with what the device answered.
        """
        answers = []
        for rate in rates:
            for channels in sorted({1, min(2, device.channels)}):
                with _stderr_hidden() as noise:
                    try:
                        return InputStream(self._start(device, rate, channels, heard), rate, channels)
                    except (OSError, ValueError) as error:
                        answers.append(f"{rate} Hz, {channels} ch: {error} {noise()}".strip())
        raise DeviceError(f"input `{device.name}` cannot be opened: {'; '.join(answers)}", hint=_BUSY)

    def _start(self, device: Input, rate: int, channels: int, heard: Heard) -> Any:
        module = self._module

        def callback(data: bytes, count: int, times: object, status: int) -> tuple[None, int]:
            packet = np.frombuffer(data, np.int16).reshape(-1, channels)
            heard(packet, bool(status & module.paInputOverflow))
            return None, module.paContinue

        return self._portaudio.open(
            rate=rate,
            channels=channels,
            format=module.paInt16,
            input=True,
            input_device_index=device.index,
            frames_per_buffer=max(1, rate // 100),
            stream_callback=callback,
        )

    def close(self) -> None:
        """End PortAudio."""
        with _stderr_hidden():
            self._portaudio.terminate()


_BUSY = "another program may be using it; --list-inputs shows the devices"


def list_inputs() -> list[Input]:
    """Return the devices that record. Raises MissingPackageError or DeviceError."""
    portaudio = PortAudio()
    try:
        return portaudio.inputs()
    finally:
        portaudio.close()


def _matching(inputs: list[Input], wanted: str) -> Input:
    exact = [device for device in inputs if wanted in (str(device.index), device.name)]
    partial = [device for device in inputs if wanted.lower() in device.name.lower()]
    if exact or len(partial) == 1:
        return (exact or partial)[0]
    names = [device.name for device in inputs]
    if partial:
        raise OptionError(f"input `{wanted}` may be any of {', '.join(device.name for device in partial)}")
    raise OptionError(f"no input `{wanted}`{nearest(wanted, names)}", hint=f"inputs: {', '.join(names)}")


def _pyaudio() -> Any:
    try:
        import pyaudio
    except ModuleNotFoundError:
        raise MissingPackageError("pyaudio", "the microphone", extra="mic") from None
    except ImportError as error:
        raise DeviceError(f"PyAudio cannot be loaded: {error}", hint="sudo apt install libportaudio2") from None
    return pyaudio


@contextmanager
def _stderr_hidden() -> Iterator[Callable[[], str]]:
    """Catch what ALSA and JACK print to file descriptor 2; yields a function that returns the last line of it.

    Their libraries write past Python's stderr, and probing a machine's devices makes them print pages of it.
    """
    with tempfile.TemporaryFile() as hidden:
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all
            yield lambda: ""
            return
        os.dup2(hidden.fileno(), 2)
        try:
            yield lambda: _last_line(hidden.fileno())
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _last_line(descriptor: int) -> str:
    text = os.pread(descriptor, 1 << 16, 0).decode(errors="replace").strip()
    return f"({text.splitlines()[-1]})" if text else ""
