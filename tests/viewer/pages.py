"""What the viewer's tests share: frames, a stream that is served, and a client like the page's."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.face.names import MOTION_NAMES
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.viewer.server import ViewerServer
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.wire import Request

ARKIT = MotionLayout("arkit", (55,), Fraction(25), MOTION_NAMES)


def frame(index: int, outcome: Outcome = Outcome.ON_TIME, motion: NDArray[np.float32] | None = None) -> Frame:
    values = np.full(55, index / 1000, np.float32) if motion is None else motion
    return Frame(index, 640 * (index + 1), Fraction(index, 25), values, outcome, cost_ns=2_000_000)


def ignore(_request: Request) -> None:
    pass


@contextmanager
def served(stream: Stream, answer: Callable[[Request], None] = ignore, **rest: Any) -> Iterator[ViewerServer]:
    server = ViewerServer(stream, answer=answer, **rest)
    server.start()
    try:
        yield server
    finally:
        server.close()


class Page:
    """Speaks to a server as the page does, and reads messages with code of its own."""

    def __init__(self, server: ViewerServer, token: str = "", **rest: Any) -> None:
        from websockets.sync.client import connect

        self._stack = ExitStack()
        address = f"ws://127.0.0.1:{server.port}/ws?token={token or server.token}"
        self.socket = self._stack.enter_context(connect(address, **rest))
        self.frames: dict[int, NDArray[np.float32]] = {}
        self.sounds: list[tuple[int, float, NDArray[np.float32]]] = []
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def send(self, message: object) -> None:
        self.socket.send(json.dumps(message))

    def listen(self, done: Callable[[Page], bool], timeout: float = 20.0) -> None:
        """Take messages until `done`; a TimeoutError says that it never came."""
        while not done(self):
            self.take(self.socket.recv(timeout=timeout))

    def take(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.said.append(json.loads(message))
            return
        magic, _take, a, b = struct.unpack_from("<4sIII", message)
        if magic == b"ETA1":
            (first,) = struct.unpack_from("<d", message, 16)
            self.sounds.append((a, first, np.frombuffer(message, "<f4", b, 24)))
            return
        assert magic == b"ETV1"
        index = np.frombuffer(message, "<u4", a, 16 + 8 * a)
        values = np.frombuffer(message, "<f4", a * b, 16 + 24 * a).reshape(a, b)
        assert len(message) == 16 + 24 * a + 4 * a * b
        for k in range(a):
            self.frames[int(index[k])] = values[k]

    def last(self, kind: str) -> dict[str, Any] | None:
        return next((message for message in reversed(self.said) if message["type"] == kind), None)
