"""PortAudio: which inputs and outputs there are, and opening one of them. All of PyAudio is in this file."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError, nearest
from edgetalker.runtime.sources.convert import CHANNELS, RATES
from edgetalker.runtime.sources.source import stderr_hidden

__all__ = ["Asked", "Heard", "Input", "Kind", "PortAudio", "Stream", "list_anew", "list_inputs", "opening"]

_log = logging.getLogger(__name__)

USUAL_RATES = (48_000, 44_100, 96_000, 32_000, 192_000, 24_000, 22_050, 8_000)
"""What devices record at that take neither the wanted rate nor, as happens, the one they say is their own."""
USUAL_CHANNELS = (1, 2, 4, 6, 8)

Heard = Callable[[int, NDArray[np.int16], bool], None]
"""Takes the rate, a packet (n, channels), and whether PortAudio lost sound before it. Called in its thread."""

Asked = Callable[[int, float], NDArray[np.int16]]
"""Takes a number of samples and in how many seconds the first will sound; returns them. Called as Heard is."""

Callback = Callable[[bytes | None, int, Any, int], tuple[bytes | None, int]]
"""PyAudio's: sound that was recorded, samples of each channel, times, flags; what it is to play, and to go on."""

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


class Stream:
    """An opened device, recording or playing since it was opened."""

    def __init__(self, stream: Any, rate: int, channels: int) -> None:
        self._stream = stream
        self.rate, self.channels = rate, channels

    def active(self) -> bool:
        """False once PortAudio gave the stream up."""
        try:
            return bool(self._stream.is_active())
        except Exception:  # whatever a driver does: it records no more
            return False

    def latency(self) -> float:
        """Seconds from here to the loudspeaker, as the device has it on average."""
        return float(self._stream.get_output_latency())

    def close(self) -> None:
        """Stop it; never raises, because a device that has gone cannot be closed in order."""
        with suppress(Exception), stderr_hidden():
            self._stream.close()


class PortAudio:
    """One initialisation of PortAudio. PortAudio lists the devices for the first of those that live: to see new ones,
    all must have ended (`list_anew`)."""

    def __init__(self, purpose: str = "the microphone", *, yields: bool = False) -> None:
        """yields: a lost microphone may end it, to see whether it is plugged in again; its owner sees that in `ended`.

        Raises MissingPackageError without PyAudio, DeviceError when PortAudio cannot start.
        """
        self.module = _pyaudio(purpose)
        self.purpose, self.yields = purpose, yields
        with stderr_hidden() as noise:
            try:
                self._portaudio = self.module.PyAudio()
            except OSError as error:
                raise DeviceError(f"PortAudio cannot start: {error}", hint=noise() or None) from None
            _living.append(self)

    @property
    def ended(self) -> bool:
        return self not in _living

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
            what, plug = _NONE[kind]
            shows = _on_linux(f"; `{_TOOLS[kind]} -l` shows what the system sees")
            raise DeviceError(f"no device {what} sound", hint=f"plug in {plug}{shows}")
        if wanted is None:
            return next((device for device in devices if device.default), devices[0])
        return _matching(devices, wanted, kind)

    def record(self, device: Input, rate: int, heard: Heard, *, channel: int = 1) -> Stream:
        """Start recording 10 ms packets at `rate` if the device takes it, else at another, with the fewest channels
        that it takes of those that hold `channel`.

        Raises DeviceError with what the device answered.
        """
        rates = [good for good in dict.fromkeys([rate, device.rate, *USUAL_RATES]) if RATES[0] <= good <= RATES[1]]
        most = min(device.channels, CHANNELS)
        channels = [c for c in sorted({*USUAL_CHANNELS, channel, most}) if channel <= c <= most]
        if not channels:
            raise OptionError(f"channel {channel} was wanted; input `{device.name}` has {device.channels}")

        def callback_for(rate: int, channels: int) -> Callback:
            def callback(data: bytes | None, _count: int, _times: Any, status: int) -> tuple[None, int]:
                packet = np.frombuffer(data or b"", np.int16).reshape(-1, channels)
                heard(rate, packet, bool(status & self.module.paInputOverflow))
                return None, self.module.paContinue

            return callback

        return self.start(device, "input", rates, channels, callback_for)

    def play(self, device: Input, rates: Iterable[int], asked: Asked) -> Stream:
        """Start playing 10 ms packets at the first of the rates that the device takes, on one channel or, where it
        takes none alone (raw USB and HDMI cards), on two.

        Raises DeviceError with what the device answered.
        """
        stream: Stream | None = None

        def callback_for(rate: int, channels: int) -> Callback:
            def callback(_data: bytes | None, count: int, times: Any, _status: int) -> tuple[bytes, int]:
                ahead = times["output_buffer_dac_time"] - times["current_time"]
                if not 0.0 < ahead < 2.0:  # hosts that do not tell it
                    ahead = stream.latency() if stream is not None else 0.02
                return np.repeat(asked(count, ahead), channels).tobytes(), self.module.paContinue

            return callback

        stream = self.start(device, "output", rates, [c for c in (1, 2) if c <= device.channels], callback_for)
        return stream

    def start(
        self,
        device: Input,
        kind: Kind,
        rates: Iterable[int],
        channels: Sequence[int],
        callback_for: Callable[[int, int], Callback],
    ) -> Stream:
        """Start a stream of 16-bit packets of 10 ms in the first form that the device takes: all numbers of channels
        are tried at the first rate, then at the next. callback_for: given rate and channels.

        Raises DeviceError with what was tried and what the device answered.
        """
        answers: dict[str, list[tuple[int, int]]] = {}
        code: int | None = None
        for rate in rates:
            for count in channels:
                with stderr_hidden() as noise:
                    try:
                        return Stream(self._start(device, kind, rate, count, callback_for(rate, count)), rate, count)
                    except (OSError, ValueError) as error:
                        code = _code(error) if code in (None, *_FORMAT_CODES) else code
                        answers.setdefault(f"{error} {noise()}".strip(), []).append((rate, count))
            if code not in (None, *_FORMAT_CODES):  # not a matter of rate or channels
                break
        tried = "; ".join(f"{_forms(forms)}: {answer}" for answer, forms in answers.items())
        raise DeviceError(f"{kind} `{device.name}` cannot be opened: {tried}", hint=_hint(code, kind))

    def _start(self, device: Input, kind: Kind, rate: int, channels: int, callback: Callback) -> Any:
        return self._portaudio.open(
            rate=rate,
            channels=channels,
            format=self.module.paInt16,
            frames_per_buffer=max(1, rate // 100),
            stream_callback=callback,
            **{kind: True, f"{kind}_device_index": device.index},
        )

    def close(self) -> None:
        """End PortAudio with all its streams; never raises."""
        with suppress(Exception), stderr_hidden():
            if not self.ended:  # PortAudio counts: ended twice, another's would end
                _living.remove(self)
                self._portaudio.terminate()


_living: list[PortAudio] = []
"""Changed where stderr is hidden, which one thread does at a time."""

opening = threading.RLock()
"""Held from an initialisation to its stream, so that it is not ended in between."""


def list_anew(kind: Kind) -> str:
    """Let PortAudio list the devices anew, which it does when none of its initialisations lives, and return what those
    are for that still live. For an input those end that yield; a microphone that records is not stopped for anything.
    """
    with opening, stderr_hidden():
        for portaudio in [living for living in _living if kind == "input" and living.yields]:
            portaudio.close()
        return " and ".join(living.purpose for living in _living)


def _code(error: Exception) -> int | None:
    """Return PortAudio's number of what went wrong."""
    return next((int(part) for part in error.args if isinstance(part, int)), None)


def _forms(forms: list[tuple[int, int]]) -> str:
    """Return rates and channels that had the same answer, such as `16000/44100 Hz, 1/2 ch`."""
    rates, channels = (dict.fromkeys(values) for values in zip(*forms, strict=True))
    return f"{'/'.join(map(str, rates))} Hz, {'/'.join(map(str, channels))} ch"


_FORMAT_CODES = (-9997, -9998)  # paInvalidSampleRate, paInvalidChannelCount


def _hint(code: int | None, kind: Kind) -> str:
    listed = "; --list-inputs shows the devices" if kind == "input" else ""
    shows = _on_linux(f"; `{_TOOLS[kind]} --dump-hw-params` shows what it takes")
    refused = _on_linux("is this user in the group `audio`, and is the sound server running?")
    hints = {
        -9996: f"it may have been unplugged{listed}",  # paInvalidDevice
        -9997: f"it takes none of the usual rates{shows}",
        -9998: f"it takes none of the usual numbers of channels{shows}",
        # a host's own error
        -9999: f"the system refuses it: {refused or 'do its privacy settings let programs use the microphone?'}",
    }
    return hints.get(code or 0, f"another program may be using it{listed}")


def _on_linux(text: str) -> str:
    return text if sys.platform == "linux" else ""


_TOOLS = {"input": "arecord", "output": "aplay"}


def list_inputs() -> list[Input]:
    """Return the devices that record. Raises MissingPackageError or DeviceError."""
    portaudio = PortAudio()
    try:
        return portaudio.inputs()
    finally:
        portaudio.close()


_NONE = {"input": ("records", "a microphone"), "output": ("plays", "a loudspeaker")}

_HOST_APIS = ("Windows WASAPI", "Windows DirectSound", "MME", "Windows WDM-KS")
"""Windows lists each device under all of these; the best first. MME cuts names, WDM-KS takes a device for itself."""


def _matching(devices: list[Input], wanted: str, kind: Kind = "input") -> Input:
    if numbered := [device for device in devices if wanted == str(device.index)]:
        return numbered[0]
    partial = _best_of_equals([device for device in devices if wanted.lower() in device.name.lower()])
    if len(partial) == 1:
        return partial[0]
    if exact := _best_of_equals([device for device in devices if wanted == device.name]):
        return exact[0]
    if partial:
        raise OptionError(f"{kind} `{wanted}` may be any of {_listed(partial)}")
    close = nearest(wanted, [device.name for device in devices])
    raise OptionError(f"no {kind} `{wanted}`{close}", hint=f"{kind}s: {_listed(devices)}")


def _best_of_equals(devices: list[Input]) -> list[Input]:
    """Leave, of devices that are all the same one under several host APIs, those under the best."""
    name = max((device.name for device in devices), key=len, default="")
    if not all(
        device.name == name or (device.host_api == "MME" and name.startswith(device.name)) for device in devices
    ):
        return devices
    best = min(map(_rank, devices), default=0)
    return [device for device in devices if _rank(device) == best]


def _rank(device: Input) -> int:
    return _HOST_APIS.index(device.host_api) if device.host_api in _HOST_APIS else len(_HOST_APIS)


def _listed(devices: list[Input]) -> str:
    return ", ".join(f"{device.index} {device.name} ({device.host_api})" for device in devices)


def _pyaudio(purpose: str) -> Any:
    try:
        import pyaudio
    except ModuleNotFoundError:
        raise MissingPackageError("pyaudio", purpose, extra="mic") from None
    except ImportError as error:
        raise DeviceError(
            f"PyAudio cannot be loaded: {error}", hint=_on_linux("sudo apt install libportaudio2") or None
        ) from None
    return pyaudio
