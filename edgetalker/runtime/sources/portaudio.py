"""PortAudio: which inputs and outputs there are, and opening one of them. All of PyAudio is in this file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError, nearest
from edgetalker.runtime.sources.convert import CHANNELS, RATES
from edgetalker.runtime.sources.source import stderr_hidden

__all__ = ["Heard", "Input", "InputStream", "PortAudio", "list_inputs"]

_log = logging.getLogger(__name__)

USUAL_RATES = (48_000, 44_100, 96_000, 32_000, 192_000, 24_000, 22_050, 8_000)
"""What devices record at that take neither the wanted rate nor, as happens, the one they say is their own."""
USUAL_CHANNELS = (1, 2, 4, 6, 8)

Heard = Callable[[int, NDArray[np.int16], bool], None]
"""Takes the rate, a packet (n, channels), and whether PortAudio lost sound before it. Called in its thread."""

Kind = Literal["input", "output"]


@dataclass(frozen=True)
class Input:
    """A device that records (or plays). channels: the most it has; rate: its own rate in samples a second."""

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
        except Exception:  # whatever a driver does: it records no more
            return False

    def close(self) -> None:
        """Stop recording; never raises, because a device that has gone cannot be closed in order."""
        with suppress(Exception), stderr_hidden():
            self._stream.close()


class PortAudio:
    """One initialisation of PortAudio. It lists devices as they were then: to see new ones, make a new one."""

    def __init__(self, purpose: str = "the microphone") -> None:
        """Raises MissingPackageError without PyAudio, DeviceError when PortAudio cannot start."""
        self.module = _pyaudio(purpose)
        with stderr_hidden() as noise:
            try:
                self._portaudio = self.module.PyAudio()
            except OSError as error:
                raise DeviceError(f"PortAudio cannot start: {error}", hint=noise() or None) from None

    def inputs(self, kind: Kind = "input") -> list[Input]:
        """Return all devices that record (or play), in PortAudio's order; those that cannot be asked are left out."""
        portaudio = self._portaudio
        try:
            default = int(getattr(portaudio, f"get_default_{kind}_device_info")()["index"])
        except (OSError, ValueError, LookupError):
            default = -1
        try:
            count = int(portaudio.get_device_count())
        except OSError as error:
            raise DeviceError(f"PortAudio cannot list its devices: {error}") from None
        found = []
        for index in range(count):
            try:
                info = portaudio.get_device_info_by_index(index)
                channels, rate = int(info[f"max{kind.title()}Channels"]), int(info["defaultSampleRate"])
            except (OSError, ValueError, KeyError, OverflowError) as error:
                _log.info("%s %d is left out: %s", kind, index, error)
                continue
            if channels > 0:
                found.append(Input(index, str(info["name"]), self._host_api(info), channels, rate, index == default))
        return found

    def _host_api(self, info: dict[str, Any]) -> str:
        try:
            return str(self._portaudio.get_host_api_info_by_index(info["hostApi"])["name"])
        except (OSError, ValueError, KeyError):
            return "?"

    def find(self, wanted: str | None, kind: Kind = "input") -> Input:
        """Return the input (or output) with this index, name or part of a name; the default one for None.

        Raises DeviceError when there is none at all, OptionError when none or several fit.
        """
        devices = self.inputs(kind)
        if not devices:
            what, hint = _NONE[kind]
            raise DeviceError(f"no device {what} sound", hint=f"{hint} shows what the system sees")
        if wanted is None:
            return next((device for device in devices if device.default), devices[0])
        return _matching(devices, wanted, kind)

    def open(self, device: Input, rate: int, heard: Heard, *, channel: int = 1) -> InputStream:
        """Start recording 10 ms packets at `rate` if the device takes it, else at another, with the fewest channels
        that it takes of those that hold `channel`.

        Raises DeviceError with what the device answered.
        """
        rates = [good for good in dict.fromkeys([rate, device.rate, *USUAL_RATES]) if RATES[0] <= good <= RATES[1]]
        most = min(device.channels, CHANNELS)
        channels = [c for c in sorted({*USUAL_CHANNELS, channel, most}) if channel <= c <= most]
        if not channels:
            raise OptionError(f"channel {channel} was wanted; input `{device.name}` has {device.channels}")
        answers: dict[str, str] = {}
        code: int | None = None
        for good in rates:
            for count in channels:
                with stderr_hidden() as noise:
                    try:
                        return InputStream(self._record(device, good, count, heard), good, count)
                    except (OSError, ValueError) as error:
                        code = _code(error) if code in (None, *_FORMAT_CODES) else code
                        answers.setdefault(f"{error} {noise()}".strip(), f"{good} Hz, {count} ch")
            if code not in (None, *_FORMAT_CODES):  # not a matter of rate or channels
                break
        tried = "; ".join(f"{form}: {answer}" for answer, form in answers.items())
        raise DeviceError(f"input `{device.name}` cannot be opened: {tried}", hint=_HINTS.get(code or 0, _BUSY))

    def _record(self, device: Input, rate: int, channels: int, heard: Heard) -> Any:
        module = self.module

        def callback(data: bytes, count: int, times: object, status: int) -> tuple[None, int]:
            packet = np.frombuffer(data, np.int16).reshape(-1, channels)
            heard(rate, packet, bool(status & module.paInputOverflow))
            return None, module.paContinue

        return self.start(device, "input", rate, channels, callback)

    def start(self, device: Input, kind: Kind, rate: int, channels: int, callback: Callable[..., Any]) -> Any:
        """Start a stream of 16-bit packets of 10 ms. Raises OSError or ValueError when the device does not take it."""
        return self._portaudio.open(
            rate=rate,
            channels=channels,
            format=self.module.paInt16,
            frames_per_buffer=max(1, rate // 100),
            stream_callback=callback,
            **{kind: True, f"{kind}_device_index": device.index},
        )

    def close(self) -> None:
        """End PortAudio; never raises."""
        with suppress(Exception), stderr_hidden():
            self._portaudio.terminate()


def _code(error: Exception) -> int | None:
    """Return PortAudio's number of what went wrong."""
    return next((int(part) for part in error.args if isinstance(part, int)), None)


_FORMAT_CODES = (-9997, -9998)  # paInvalidSampleRate, paInvalidChannelCount
_BUSY = "another program may be using it; --list-inputs shows the devices"
_HINTS = {
    -9985: _BUSY,  # paDeviceUnavailable
    -9996: "it may have been unplugged; --list-inputs shows the devices",  # paInvalidDevice
    -9997: "it takes none of the usual rates; `arecord --dump-hw-params` shows what it takes",
    -9998: "it takes none of the usual numbers of channels; `arecord --dump-hw-params` shows what it takes",
    -9999: "the system refuses it: is this user in the group `audio`, and is the sound server running?",  # host error
}


def list_inputs() -> list[Input]:
    """Return the devices that record. Raises MissingPackageError or DeviceError."""
    portaudio = PortAudio()
    try:
        return portaudio.inputs()
    finally:
        portaudio.close()


_NONE = {"input": ("records", "plug in a microphone; `arecord -l`"), "output": ("plays", "`aplay -l`")}


def _matching(inputs: list[Input], wanted: str, kind: Kind = "input") -> Input:
    exact = [device for device in inputs if wanted in (str(device.index), device.name)]
    partial = [device for device in inputs if wanted.lower() in device.name.lower()]
    if exact or len(partial) == 1:
        return (exact or partial)[0]
    names = [device.name for device in inputs]
    if partial:
        raise OptionError(f"{kind} `{wanted}` may be any of {', '.join(device.name for device in partial)}")
    raise OptionError(f"no {kind} `{wanted}`{nearest(wanted, names)}", hint=f"{kind}s: {', '.join(names)}")


def _pyaudio(purpose: str) -> Any:
    try:
        import pyaudio
    except ModuleNotFoundError:
        raise MissingPackageError("pyaudio", purpose, extra="mic") from None
    except ImportError as error:
        raise DeviceError(f"PyAudio cannot be loaded: {error}", hint="sudo apt install libportaudio2") from None
    return pyaudio
