"""A clip that is animated while it is looked at: each change of a slider animates it anew, from the start."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgetalker.engines.errors import OptionError, UserError
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.source import Source
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.wire import Request, shown

if TYPE_CHECKING:
    from edgetalker.runtime.loop import Loop
    from edgetalker.runtime.talker import Talker

__all__ = ["ClipPlayer"]

SETTLE = 0.15
"""Seconds of rest after a slider moved before the clip is animated anew."""


class _Screen(Sink):
    """The sink of one take."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def open(self, layout: MotionLayout) -> None:
        self._stream.begin()

    def send(self, frame: Frame) -> None:
        self._stream.frame(shown(frame))


class ClipPlayer:
    """Runs a session over a sound again whenever a control changed. `answer` may come from any thread."""

    def __init__(self, session: Talker, source: Callable[[], Source], stream: Stream) -> None:
        """`source` opens the sound; every take opens it anew."""
        self.session, self._source, self._stream = session, source, stream
        self._changed, self._closed = threading.Event(), threading.Event()
        self._loop: Loop | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="edgetalker-player", daemon=True)

    def start(self) -> None:
        """Animate the first take, and more when asked to, in a thread."""
        self._thread.start()

    def answer(self, request: Request) -> None:
        """Set a control, or begin anew. Raises OptionError for a control or a value that the bundle does not have."""
        if request.type == "set":
            self.session.set(request.name, request.values or {})
        elif request.type != "reset":
            raise OptionError("a clip says what it holds", hint="`edgetalker view` without a file hears what is said")
        with self._lock:
            self._changed.set()
            if self._loop is not None:
                self._loop.stop()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        with self._lock:
            self._changed.set()
            if self._loop is not None:
                self._loop.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._play_once()
            except UserError as error:
                sys.stderr.write(f"error: {error}\n")
                self._stream.finish()
            self._changed.wait()
            while not self._closed.wait(SETTLE) and self._rest():
                pass

    def _rest(self) -> bool:
        """Return whether a slider moved since the last look."""
        moved = self._changed.is_set()
        self._changed.clear()
        return moved

    def _play_once(self) -> None:
        from edgetalker.runtime.loop import Loop

        source = self._source()
        try:
            self.session.reset(repeat=True)  # a moved slider changes what it moves and nothing else
            loop = Loop(self.session, source, [_Screen(self._stream)])
            with self._lock:
                self._loop = loop
                if self._changed.is_set() or self._closed.is_set():
                    loop.stop()
            tally = loop.run()
        finally:
            with self._lock:
                self._loop = None
            source.close()
        if not tally.interrupted:
            self._stream.finish()
