"""A device of PortAudio that is opened again when it went away: what a microphone and a sound card have in common."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from edgetalker.engines.errors import DeviceError, UserError
from edgetalker.runtime.sources.portaudio import Input, Kind, PortAudio, Stream, list_anew, opening

__all__ = ["Card"]

_log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 8.0
_NAMES: dict[Kind, str] = {"input": "microphone", "output": "sound card"}


class Card:
    """A device that is watched while it is open.

    It is lost when PortAudio stops its stream or when nothing was `seen` for `stall_seconds`; that is logged at once,
    and it is tried again after 0.5, 1, 2, 4, 8, 8, ... seconds for ever, by its name, whatever its number, rate and
    channels are by then.
    """

    def __init__(
        self,
        kind: Kind,
        wanted: str | None,
        start: Callable[[PortAudio, Input], Stream],
        make: Callable[[], PortAudio],
        *,
        stall_seconds: float,
        retry_seconds: float,
    ) -> None:
        """wanted: see PortAudio.find. start: starts a stream on a device; its callback calls `seen`."""
        self._kind, self._wanted, self._start, self._make = kind, wanted, start, make
        self._stall, self._retry = stall_seconds, retry_seconds
        self.losses = 0
        self.name: str | None = None
        self.stream: Stream | None = None
        self._api = ""
        self._portaudio: PortAudio | None = None
        self._seen = 0.0
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    def find(self) -> Input:
        """Look for it: what is left for `open` to do then takes less time. Raises what `open` raises."""
        with opening:
            if self._portaudio is None or self._portaudio.ended:
                self._portaudio = self._make()
            try:
                return self._found(self._portaudio)
            except BaseException:
                self._shut()
                raise

    def open(self) -> None:
        """Find it and start its stream. Raises MissingPackageError, DeviceError or OptionError."""
        with opening:
            device = self.find()
            assert self._portaudio is not None, "made by find"
            try:
                self.stream = self._start(self._portaudio, device)
            except BaseException:
                self._shut()
                raise
            self.seen()
            self.name, self._api = device.name, device.host_api

    def watch(self) -> None:
        """Open it again from now on, until `close`."""
        self._watcher = threading.Thread(target=self._watch, name=f"edgetalker-{self._kind}", daemon=True)
        self._watcher.start()

    def seen(self) -> None:
        """Note that the device is alive."""
        self._seen = time.monotonic()

    def close(self) -> None:
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join(timeout=5.0)
        self._shut()

    def _found(self, portaudio: PortAudio) -> Input:
        """Plugged in again it may have another number, in its name too."""
        if (name := self.name) is None:
            return portaudio.find(self._wanted, self._kind)
        inputs = sorted(portaudio.inputs(self._kind), key=lambda device: device.host_api != self._api)
        for same in (lambda other: other == name, lambda other: _unnumbered(other) == _unnumbered(name)):
            if found := next((device for device in inputs if same(device.name)), None):
                return found
        if self._wanted is None:
            return portaudio.find(None, self._kind)
        raise DeviceError(f"{self._kind} `{name}` is not there")

    def _shut(self) -> None:
        stream, self.stream = self.stream, None
        portaudio, self._portaudio = self._portaudio, None
        if stream is not None:
            stream.close()
        if portaudio is not None:
            portaudio.close()

    def _watch(self) -> None:
        while not self._closing.wait(min(CHECK_SECONDS, self._stall / 4)):
            if self._alive():
                continue
            let_go = self._portaudio is not None and self._portaudio.ended
            self._shut()
            if not let_go or self._fails():
                self.losses += 1
                self._reopen()

    def _alive(self) -> bool:
        silent = time.monotonic() - self._seen
        return self.stream is not None and self.stream.active() and silent < self._stall

    def _fails(self) -> str:
        """Open it and return why that failed, or nothing. Nothing that a driver does may end this thread."""
        try:
            self.open()
        except UserError as error:
            return error.message
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _reopen(self) -> None:
        """Try until it works or the card is closed."""
        what, wait = f"{_NAMES[self._kind]} `{self.name}`", self._retry
        _log.warning("%s was lost; trying again in %g s", what, wait)
        told = ""
        while not self._closing.wait(wait):
            holders = list_anew(self._kind)
            if holders not in ("", told):
                told = holders
                _log.warning("what is plugged in is not seen as long as PortAudio is open for %s", holders)
            if not (text := self._fails()):
                _log.warning("%s is back", what)
                return
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)
            _log.info("%s; trying again in %g s", text, wait)


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)
