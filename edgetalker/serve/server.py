"""Talkers over WebSocket, and what an operator asks over HTTP, on one port.

`/v1/talk` is the WebSocket (protocol.py), `/healthz`, `/readyz` and `/metrics` answer plain GETs, `/` is a page with
our face, and `/edgetalker.js` the client that other pages load, too. The server is that of the viewer and the sink `ws://`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetalker.engines.errors import UserError
from edgetalker.runtime.web.admission import Admission
from edgetalker.runtime.web.server import Answer, Limits, Reply, Route, Server, Socket
from edgetalker.serve.batch import Batch
from edgetalker.serve.metrics import Metrics
from edgetalker.serve.options import Address, Door
from edgetalker.serve.protocol import ProtocolError, dump, encode_frame, fault_message, layout_message, read_message
from edgetalker.serve.session import Session
from edgetalker.viewer.files import content_policy, page_assets, read_assets
from edgetalker.viewer.scene import face_asset

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

__all__ = ["WebServer"]

_log = logging.getLogger("edgetalker.serve.server")
PAGE = Path(__file__).parent / "static"


class WebServer:
    """Serves a batch. Use with `async with`; `port` is where it listens."""

    def __init__(self, batch: Batch, where: Address, door: Door | None = None, metrics: Metrics | None = None) -> None:
        """Raises OptionError for an address that other machines reach and that has no token."""
        self.batch, self.where, self.door = batch, where, door or Door()
        self.door.check(where)
        self.metrics = metrics or Metrics(batch)

    async def __aenter__(self) -> WebServer:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without `websockets`."""
        admission = Admission(
            "the server",
            token=self.door.token,
            origins=self.door.origins,
            hosts=self.door.hosts,
            add="--{} {}",
            named=self.where.loopback,  # the page and what operators ask need no token
            note=lambda reason: self.metrics.refused.labels(reason).inc(),
        )
        page = read_assets(PAGE)
        routes: dict[str, Route] = {
            **page_assets(),  # the viewer's, for its face and for edgetalker.js
            **page,
            "/face.glb": await asyncio.to_thread(face_asset),
            "/healthz": Answer(self._health),
            "/readyz": Answer(self._readiness),
            "/metrics": Answer(lambda: Reply(HTTPStatus.OK, *self.metrics.text()), private=True),
            "/v1/talk": Socket(self._talk, self.door.connections, "there are as many connections as are let in"),
        }
        self._server = Server(
            admission,
            self.where.host,
            self.where.port,
            Limits(message=self.door.message, queue=8, close=2.0),
            routes=routes,
            denied=(HTTPStatus.UNAUTHORIZED, "wrong token"),
            policy=content_policy(page["/"].body),
            tls=self.door.tls(),
            extra="serve",
        )
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    @property
    def open(self) -> int:
        """How many connections talk or may begin to."""
        return self._server.talking

    def _health(self) -> Reply:
        if self.batch.fault is None:
            return Reply(HTTPStatus.OK, "ok\n")
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.batch.fault}\n")

    def _readiness(self) -> Reply:
        free = self.batch.options.talkers - len(self.batch.talking)
        if self.batch.fault is None and free:
            return Reply(HTTPStatus.OK, f"{free} talkers are free\n")
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, "no talker is free\n")

    async def _talk(self, connection: ServerConnection) -> None:
        await connection.send(layout_message(self.batch.layout, self.batch.rate, self.batch.controls))
        await _Conversation(self, connection).run()


class _Conversation:
    """One client and its talker, which takes a seat with the first message."""

    def __init__(self, server: WebServer, connection: ServerConnection) -> None:
        self._server, self._batch, self._door, self._connection = server, server.batch, server.door, connection
        self._rate, self._binary = server.batch.rate, False
        self._allowance, self._looked = server.door.rate, 0.0

    async def run(self) -> None:
        stream = secrets.randbits(32)  # so that talkers beside each other do not blink together
        first = await self._next()
        if first is None:
            return
        try:
            async with self._batch.session(paced=True, rest=True, stream=stream) as session:
                writer = asyncio.create_task(self._write(session))
                try:
                    await self._read(session, writer, first)
                finally:
                    writer.cancel()
                    with suppress(asyncio.CancelledError):
                        await writer
        except UserError as error:
            self._server.metrics.refused.labels("no talker is free").inc()
            await self._connection.send(fault_message(error))
            await self._connection.close(1013, "no talker is free")

    async def _next(self, session: Session | None = None) -> str | bytes | None:
        """Return the next message; None when nothing came for too long and nothing is being played."""
        while True:
            try:
                return await asyncio.wait_for(self._connection.recv(), self._door.idle)
            except (asyncio.TimeoutError, TimeoutError):
                if session is not None and session.seat.waiting:
                    continue
            text = f"nothing came for {self._door.idle:g} s"
            await self._connection.send(dump("error", code="idle", message=text))
            await self._connection.close(1001, "idle")
            return None

    async def _read(self, session: Session, writer: asyncio.Task[None], message: str | bytes | None) -> None:
        while message is not None and not writer.done():
            try:
                if isinstance(message, bytes):
                    await session.push(message, self._rate)
                elif self._may():
                    await self._do(session, *read_message(message))
                else:
                    await self._connection.send(dump("error", code="rate", message="too many messages"))
                    await self._connection.close(1008, "too many messages")
                    return
            except UserError as error:
                self._server.metrics.refused.labels("message").inc()
                await self._connection.send(fault_message(error))
            message = await self._next(session)

    def _may(self) -> bool:
        """Return whether one more control message is within the rate (a token bucket of one second)."""
        now = asyncio.get_running_loop().time()
        self._allowance = min(self._allowance + (now - self._looked) * self._door.rate, self._door.rate) - 1
        self._looked = now
        return self._allowance >= 0

    async def _do(self, session: Session, kind: str, content: dict[str, Any]) -> None:
        if kind == "start":
            self._rate = int(content.get("rate", self._rate))
            self._binary = content.get("format", "binary" if self._binary else "json") == "binary"
            session.start(content.get("utterance", ""))
        elif kind == "flush":
            session.flush()
        elif kind == "reset":
            session.reset()
            await self._connection.send(dump("reset", serial=session.serial))
        elif kind == "position":
            session.playing(content["seconds"])
        else:
            control = content.get("control", kind)
            if control not in self._batch.controls:
                raise ProtocolError("invalid", f"the bundle has no control `{control}`")
            session.set(control, content["values"], time=content.get("time"))

    async def _write(self, session: Session) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            async for event in session.events():
                if event.frame is not None:
                    await self._connection.send(encode_frame(event, self._batch.layout, binary=self._binary))
                    self._server.metrics.latency.labels("websocket").observe(event.latency_ns * 1e-9)
                elif event.error is not None:
                    await self._connection.send(fault_message(event.error))
                else:
                    await self._connection.send(dump("end", utterance=event.utterance, time=float(event.time)))
            await self._connection.close(1011, "the talker ended")
