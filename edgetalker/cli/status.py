"""How a live run goes: a line on a terminal that is drawn over, a log line a minute elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from edgetalker.cli.logs import say
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.live import Live
from edgetalker.runtime.loop import Observer
from edgetalker.runtime.sinks.net.sender import NetworkSink

__all__ = ["Status", "delivered"]

_DRAW_SECONDS = 0.25
_LOG_SECONDS = 60.0
_METER_SECONDS = 0.1  # of sound whose level is shown


class Status(Observer):
    """Counts frames, and shows them: on `terminal` several times a second, else to the log once a minute."""

    def __init__(self, terminal: TextIO | None = None) -> None:
        self._terminal = terminal
        self._live: Live | None = None
        self._begun = self._shown = time.monotonic()
        self._frames = self._late = self._frames_then = self._late_then = 0
        self._drawn = False
        self._before: dict[str, tuple[int, int]] = {}

    def watch(self, live: Live) -> None:
        """Take the run to be shown."""
        self._live = live
        self._shown = time.monotonic()

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Count one due frame, and show the counts when it is time."""
        self._frames += 1
        self._late += frame.outcome is not Outcome.ON_TIME
        now = time.monotonic()
        every = _DRAW_SECONDS if self._terminal is not None else _LOG_SECONDS
        if self._live is not None and now - self._shown >= every:
            self._show(now)

    def _show(self, now: float) -> None:
        rate = (self._frames - self._frames_then) / max(now - self._shown, 1e-9)
        late = self._late - self._late_then
        self._shown, self._frames_then, self._late_then = now, self._frames, self._late
        receivers = self._receivers()
        level, voice = self._level(), self._voice()
        if self._terminal is None:
            fields = {"frames": self._frames, "fps": round(rate, 1), "not_on_time": late, "receivers": receivers}
            say(f"{self._words(rate, late, receivers)}", level_db=level, voice=voice, **fields)
            return
        filled = 0 if level is None else min(max(int((level + 60) / 6), 0), 10)
        meter = f"[{'=' * filled}{' ' * (10 - filled)}]{' voice' if voice else '      '}"
        self._draw(f"{meter} {self._words(rate, self._late, receivers)}")

    def _words(self, rate: float, late: int, receivers: dict[str, str]) -> str:
        parts = [f"{rate:.1f} frames a second", f"{late} not on time"]
        return ", ".join([*parts, *(f"{name}: {state}" for name, state in receivers.items())])

    def text(self) -> str:
        """Return one line for a service manager."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        return self._words(self._frames / seconds, self._late, self._receivers(look=False))

    def _draw(self, text: str) -> None:
        assert self._terminal is not None
        try:
            import os

            width = os.get_terminal_size(self._terminal.fileno()).columns
        except (OSError, ValueError):
            width = 80
        self._terminal.write(f"\r\x1b[K{text[: width - 1]}")
        self._terminal.flush()
        self._drawn = True

    def close(self) -> None:
        """End the line."""
        if self._drawn and self._terminal is not None:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()
            self._drawn = False

    def _level(self) -> float | None:
        """Return the level of the last tenth of a second in dB of full scale; None when nothing was heard."""
        assert self._live is not None
        talker = self._live.loop.talker
        window = np.zeros(talker.window.size, np.float32)
        heard = talker.window.read(talker.window.total, window)
        newest = window[-min(int(_METER_SECONDS * self._live.source.rate), max(heard, 1)) :]
        power = float(np.mean(np.square(newest, dtype=np.float64)))
        return round(10 * math.log10(power), 1) if power > 1e-12 else None

    def _voice(self) -> bool | None:
        assert self._live is not None
        talker = self._live.loop.talker
        return None if talker.rest is None else talker.rest.activity.speaking(talker.window.total, 0.1)

    def _receivers(self, *, look: bool = True) -> dict[str, str]:
        """Return what each receiver does: sending, or what the system says of it, since the last look."""
        states = {}
        for sink in self._live.sinks if self._live is not None else ():
            if not isinstance(sink, NetworkSink):
                continue
            statistics = sink.statistics
            sent, errors = self._before.get(sink.name, (0, 0))
            if statistics.errors > errors:
                states[sink.name] = statistics.last_error
            else:
                states[sink.name] = "sending" if statistics.sent > sent else "waiting"
            if look:
                self._before[sink.name] = (statistics.sent, statistics.errors)
        return states


def delivered(sinks: Sequence[object]) -> dict[str, bool]:
    """Return for each receiver whether anything can have reached it.

    A closed port on this machine refuses every packet one packet later, so that each error stands for one that was
    counted as sent.
    """
    counts = {sink.name: sink.statistics for sink in sinks if isinstance(sink, NetworkSink)}
    return {name: count.sent > count.errors + 1 for name, count in counts.items()}
