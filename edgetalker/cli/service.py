"""What a service manager is told (systemd's sd_notify): ready, alive, how it goes, ending.

The watchdog is fed by the loop that makes frames and by nothing else, so that a frame that hangs restarts the unit.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from edgetalker.engines.files import reported
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.loop import Observer

__all__ = ["ServiceManager"]

_STATUS_SECONDS = 5.0


class ServiceManager(Observer):
    """Speaks to the socket that $NOTIFY_SOCKET names, where there is one.

    The protocol is one datagram of `NAME=value` lines (sd_notify(3)); WATCHDOG_USEC says how long the manager waits.
    """

    def __init__(
        self,
        status: Callable[[], str] = lambda: "",
        *,
        heartbeat: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """status: what `systemctl status` shows, asked for every five seconds. heartbeat: a file whose time is set
        to now once a second by frames, for those who look instead of being told (a container's health check).

        Raises OutputError when the file cannot be made.
        """
        self._heartbeat, self._beaten = heartbeat, -1e9
        if heartbeat is not None:
            with reported(heartbeat):
                heartbeat.touch()
        environment = os.environ if environment is None else environment
        self._status = status
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        # Fed twice in each period, as sd_watchdog_enabled(3) advises; a frame comes far more often.
        self._feed_every = int(usec) / 2e6 if usec.isdecimal() else 0.0
        self._fed = self._told = -1e9
        self._socket: socket.socket | None = None
        if self._address and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @property
    def present(self) -> bool:
        """Whether there is a manager to be told."""
        return self._socket is not None

    def ready(self) -> None:
        """The bundle is loaded, the sound is open: what follows is frames."""
        self._send("READY=1")

    def frame(self, frame: Frame, start_ns: int) -> None:
        """A frame was made: that is what alive means here."""
        now = time.monotonic()
        if self._heartbeat is not None and now - self._beaten >= 1.0:
            self._beaten = now
            with suppress(OSError):
                os.utime(self._heartbeat)
        if self._socket is None:
            return
        if self._feed_every and now - self._fed >= self._feed_every:
            self._fed = now
            self._send("WATCHDOG=1")
        if now - self._told >= _STATUS_SECONDS:
            self._told = now
            if text := self._status():
                self._send(f"STATUS={' '.join(text.split())}")

    def close(self) -> None:
        """The run ends, in order."""
        self._send("STOPPING=1")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, words: str) -> None:
        if self._socket is None:
            return
        # A name that begins with @ is Linux' abstract one, whose first byte is 0.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError):  # a manager that went away is no reason to stop playing
            self._socket.sendto(words.encode(), address)
