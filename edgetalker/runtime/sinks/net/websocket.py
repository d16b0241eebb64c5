"""A WebSocket server that hands out frames as JSON or binary messages, to browsers and programs on this machine.

Every client first gets one JSON text `{"type": "layout", ...}` that says what the numbers mean, then the newest frame,
then every frame. JSON frame: `{"type": "frame", "index", "time", "outcome", "shapes": {name: value}}`, or
`"values": [...]` for motion without names. Binary frame, little-endian: `ETF1` | uint32 index | float64 time | uint32
outcome (its place in the layout message's `outcomes`) | uint32 count | count float32; the floats start at byte 24.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.runtime.sinks.net.pump import Encoder, Pump, Stamp
from edgetalker.runtime.sinks.net.sender import NetworkSink
from edgetalker.runtime.sinks.options import (
    CASE,
    Endpoint,
    Option,
    cased,
    choice,
    number,
    read_endpoint,
    switch,
    text,
    whole,
)
from edgetalker.runtime.web.admission import Admission, is_loopback, origins
from edgetalker.runtime.web.server import Limits, Server, ServerThread, Socket

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

__all__ = ["WebSocketEncoder", "WebSocketSink", "from_url"]

DEFAULT = ("127.0.0.1", 8765)
MAGIC = b"ETF1"
OUTCOMES = tuple(outcome.value for outcome in Outcome)
BACKLOG = 64 * 1024
"""Bytes that may wait for one client (beyond the system's own buffer) before its frames are left out."""
SKIPPED, CUT_OFF, REFUSED = "frames left out for slow clients", "clients cut off", "clients turned away"


OPTIONS = {
    "case": CASE,
    "format": Option(choice("json", "binary"), "json", "form of the frame messages"),
    "origin": Option(origins, (), "further pages that may connect: https://…, tauri://localhost, null"),
    "public": Option(switch, False, "yes: listen on an address that other machines can reach"),
    "clients": Option(whole(1, 256), 16, "how many may be connected; further ones are turned away"),
    "stall": Option(number(0.1, 60), 5.0, "seconds without taking anything after which a client is cut off"),
    "token": Option(text, "", "clients must ask for /?token=... with this word"),
}


class WebSocketEncoder:
    """Encodes any motion as one message a frame."""

    def __init__(self, layout: MotionLayout, options: Mapping[str, Any]) -> None:
        named = layout.shape == (len(layout.names),)
        if options["map"].entries and not named:
            raise OptionError(f"ws: `map` wants motion with names, and this model gives `{layout.kind}`")
        names = cased(layout, options["case"]).names
        self._chosen = options["map"].select(names, "ws") if named else None
        self._binary = options["format"] == "binary"
        rate = options["rate"]
        self.layout = json.dumps(
            {
                "type": "layout",
                "protocol": 1,
                "format": options["format"],
                "kind": layout.kind,
                "names": list(self._chosen.names) if self._chosen else [],
                "shape": [len(self._chosen.names)] if self._chosen else list(layout.shape),
                "units": layout.units,
                "fps": str(layout.fps),
                "rate": str(rate) if rate else None,
                "outcomes": list(OUTCOMES),
            }
        )

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytes | str]:
        """Return one message."""
        if self._chosen:
            values = values[self._chosen.places] * self._chosen.gains
        return (self._pack(values, stamp) if self._binary else self._dump(values, stamp),)

    def _pack(self, values: NDArray[np.float32], stamp: Stamp) -> bytes:
        outcome = OUTCOMES.index(stamp.outcome)
        head = struct.pack("<4sIdII", MAGIC, stamp.index & 0xFFFFFFFF, stamp.time, outcome, values.size)
        return head + values.astype("<f4").tobytes()

    def _dump(self, values: NDArray[np.float32], stamp: Stamp) -> str:
        numbers = [round(value, 5) for value in values.ravel().tolist()]
        named = dict(zip(self._chosen.names, numbers, strict=True)) if self._chosen else None
        content = {"values": numbers} if named is None else {"shapes": named}
        head = {"type": "frame", "index": stamp.index, "time": round(stamp.time, 6), "outcome": stamp.outcome}
        return json.dumps({**head, **content}, separators=(",", ":"))


class WebSocketSink(NetworkSink):
    """Serves any number of clients from one thread. A slow client loses frames, then its connection; nobody waits.

    The statistics' notes count frames left out for slow clients (over all of them), clients cut off because they took
    nothing for `stall` seconds, and clients turned away. Without a client frames count as sent.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.port = endpoint.port
        self._clients: dict[ServerConnection, float] = {}
        self._newest: bytes | str | None = None
        self._encoding: WebSocketEncoder | None = None
        self._admission = Admission(
            endpoint.url.partition("?")[0],
            token=endpoint.options["token"],
            origins=endpoint.options["origin"],
            note=lambda _reason: self.statistics.note(REFUSED),
        )

    @property
    def clients(self) -> int:
        """How many are connected now."""
        return len(self._clients)

    def _encoder(self, layout: MotionLayout) -> Encoder:
        self._encoding = WebSocketEncoder(layout, self.endpoint.options)
        return self._encoding

    def _start(self, pump: Pump) -> None:
        limits = Limits(message=1024, write=BACKLOG, close=0.5)
        socket = Socket(
            self._client, self.endpoint.options["clients"], "there are as many clients as `clients` lets in"
        )
        server = Server(
            self._admission,
            self.endpoint.host,
            self.endpoint.port,
            limits,
            routes={},
            otherwise=socket,
            denied=(403, "its token is wrong or absent; ask for /?token=..."),
        )
        self._wake = asyncio.Event()
        self._stopping = False
        self._server = ServerThread(server, "edgetalker-ws", lambda: self._run(pump))
        self._server.start()
        self.port = server.port

    def _notify(self) -> None:
        self._server.call(self._wake.set)

    def _stop(self) -> None:
        def stop() -> None:
            self._stopping = True
            self._wake.set()

        self._server.call(stop)
        self._server.close(3.0)

    async def _run(self, pump: Pump) -> None:
        try:
            while not self._stopping:
                if not self._send_due(pump):
                    await self._idle(pump.wake_ns())
                await asyncio.sleep(0)  # sockets and new clients get their turn even when frames never pause
            while self._send_due(pump):
                pass
        except Exception as fault:  # the talker goes on without this sink, and the summary says so
            pump.settle(False, time.perf_counter_ns())
            self.statistics.error(f"{type(fault).__name__}: {fault}")

    async def _client(self, connection: ServerConnection) -> None:
        assert self._encoding is not None
        await connection.send(self._encoding.layout)
        self._clients[connection] = time.monotonic()
        if self._newest is not None:
            self._hand_out([connection], self._newest)
        try:
            async for _ in connection:  # what clients say is read, so that pings are answered, and ignored
                pass
        finally:
            self._clients.pop(connection, None)

    def _send_due(self, pump: Pump) -> bool:
        messages = pump.step(time.perf_counter_ns())
        for message in messages or ():
            assert not isinstance(message, bytearray)
            self._newest = message
            self._broadcast(message)
        if messages:
            pump.settle(True, time.perf_counter_ns())
        return messages is not None

    async def _idle(self, until_ns: int | None) -> None:
        try:
            timeout = None if until_ns is None else max(until_ns - time.perf_counter_ns(), 0) * 1e-9
            await asyncio.wait_for(self._wake.wait(), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return
        self._wake.clear()

    def _broadcast(self, message: bytes | str) -> None:
        now = time.monotonic()
        ready = [client for client in self._clients if client.transport.get_write_buffer_size() < BACKLOG]
        for client in ready:
            self._clients[client] = now
        self._leave_behind(now)
        self._hand_out(ready, message)

    def _hand_out(self, clients: Sequence[ServerConnection], message: bytes | str) -> None:
        from websockets.asyncio.server import broadcast

        broadcast(clients, message)
        self.statistics.packets += len(clients)
        self.statistics.bytes += len(clients) * len(message)

    def _leave_behind(self, now: float) -> None:
        late = [client for client, since in self._clients.items() if since < now]
        for client in late:
            self.statistics.note(SKIPPED)
            if now - self._clients[client] > self.endpoint.options["stall"]:
                self.statistics.note(CUT_OFF)
                del self._clients[client]
                client.transport.abort()


def from_url(url: str, options: Mapping[str, object] | None = None) -> WebSocketSink:
    """Return the sink of `ws://127.0.0.1:8765?format=json`.

    Raises OptionError, also for an address beyond loopback unless `public=yes` is given.
    """
    endpoint = read_endpoint(url, "ws", DEFAULT, OPTIONS, options)
    if not endpoint.options["public"] and not is_loopback(endpoint.host):
        raise OptionError(
            f"{url}: listening on {endpoint.host} would let other machines connect",
            hint="use ws://127.0.0.1, or add public=yes (and better a token=... too)",
        )
    return WebSocketSink(endpoint)
