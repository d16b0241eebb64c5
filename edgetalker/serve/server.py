"""Talkers over WebSocket, and what an operator asks over HTTP, on one port.

`/v1/talk` is the WebSocket (protocol.py), `/healthz`, `/readyz` and `/metrics` answer plain GETs, `/` is a page that
sends the browser's microphone. The library is `websockets`, as in the viewer and the sink `ws://`: one dependency, with
limits, keep-alive and back-pressure of its own.
"""

from __future__ import annotations

import asyncio
import http
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from edgetalker.engines.errors import DeviceError, MissingPackageError, UserError
from edgetalker.serve.batch import Batch
from edgetalker.serve.metrics import Metrics
from edgetalker.serve.options import Address, Door
from edgetalker.serve.protocol import ProtocolError, dump, encode_frame, fault_message, layout_message, read_message
from edgetalker.serve.session import Session

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

__all__ = ["WebServer"]

_log = logging.getLogger("edgetalker.serve.server")
PAGE = Path(__file__).parent / "static"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
POLICY = "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
OPENING, PING = 10.0, 20.0
"""Seconds for a handshake, and between looks whether a silent client is still there (half-open sockets)."""


class WebServer:
    """Serves a batch. Use with `async with`; `port` is where it listens."""

    def __init__(self, batch: Batch, where: Address, door: Door | None = None, metrics: Metrics | None = None) -> None:
        """Raises OptionError for an address that other machines reach and that has no token."""
        self.batch, self.where, self.door = batch, where, door or Door()
        self.door.check(where)
        self.metrics = metrics or Metrics(batch)
        self.port = where.port
        self.connections = 0

    async def __aenter__(self) -> WebServer:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without `websockets`."""
        try:
            from websockets.asyncio.server import serve
        except ImportError:
            raise MissingPackageError("websockets", "serving", extra="serve") from None
        try:
            self._server: Server = await serve(
                self._talk,
                self.where.host,
                self.where.port,
                process_request=self._respond,
                compression=None,
                max_size=self.door.message,
                max_queue=8,
                open_timeout=OPENING,
                ping_interval=PING,
                ping_timeout=PING,
                close_timeout=2.0,
                server_header=None,
                ssl=self.door.tls(),
            )
        except OSError as error:
            raise DeviceError(
                f"cannot listen on {self.where}: {error.strerror or error}", hint="another program may use the port"
            ) from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close(code=1001, reason="the server ends")
        await self._server.wait_closed()

    # HTTP

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, let a WebSocket of a client that may talk through (None), refuse all else."""
        path, query = _split(request.path)
        refusal = self._refusal(request, path, query)
        if refusal is not None:
            self.metrics.refused.labels(refusal[1]).inc()
            return _response(connection, refusal[0], refusal[1] + "\n")
        if path == "/v1/talk":
            if "websocket" in request.headers.get("Upgrade", "").lower():
                return None
            return _response(connection, http.HTTPStatus.UPGRADE_REQUIRED, "a WebSocket is served here\n")
        if path == "/healthz":
            fine = self.batch.fault is None
            status = http.HTTPStatus.OK if fine else http.HTTPStatus.SERVICE_UNAVAILABLE
            return _response(connection, status, "ok\n" if fine else f"{self.batch.fault}\n")
        if path == "/readyz":
            return self._readiness(connection)
        if path == "/metrics":
            return _response(connection, http.HTTPStatus.OK, *self.metrics.text())
        file = PAGE / ("index.html" if path == "/" else path[1:])
        if path.count("/") == 1 and file.suffix in _TYPES and file.is_file():
            return _response(connection, http.HTTPStatus.OK, file.read_bytes(), _TYPES[file.suffix])
        return _response(connection, http.HTTPStatus.NOT_FOUND, "not found\n")

    def _readiness(self, connection: ServerConnection) -> Response:
        free = self.batch.options.talkers - len(self.batch.talking)
        if self.batch.fault is None and free:
            return _response(connection, http.HTTPStatus.OK, f"{free} talkers are free\n")
        return _response(connection, http.HTTPStatus.SERVICE_UNAVAILABLE, "no talker is free\n")

    def _refusal(
        self, request: Request, path: str, query: Mapping[str, list[str]]
    ) -> tuple[http.HTTPStatus, str] | None:
        host = request.headers.get("Host", "")
        if self.where.loopback and _name(host) not in ("127.0.0.1", "localhost", "::1"):
            return http.HTTPStatus.FORBIDDEN, "wrong host"  # a foreign page that reaches us through its own DNS name
        origin = request.headers.get("Origin")
        own = {f"http://{host}", f"https://{host}"}
        if origin is not None and origin not in own and origin not in self.door.origins:
            return http.HTTPStatus.FORBIDDEN, "wrong origin"
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ") or query.get("token", [""])[0]
        open_to_all = path in ("/", "/healthz", "/readyz") or Path(path).suffix in _TYPES
        if not open_to_all and not self.door.admits(shown):
            return http.HTTPStatus.UNAUTHORIZED, "wrong token"
        if self.connections >= self.door.connections:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"
        return None

    # WebSocket

    async def _talk(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        self.connections += 1
        try:
            with suppress(ConnectionClosed):
                await connection.send(layout_message(self.batch.layout, self.batch.rate, self.batch.controls))
                await _Conversation(self, connection).run()
        finally:
            self.connections -= 1


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


def _split(target: str) -> tuple[str, dict[str, list[str]]]:
    try:
        parts = urlsplit(target)
        return parts.path, parse_qs(parts.query, max_num_fields=16)
    except ValueError:
        return "", {}


def _name(host: str) -> str:
    """Return the host of a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _response(
    connection: ServerConnection, status: http.HTTPStatus, body: bytes | str, kind: str = "text/plain; charset=utf-8"
) -> Response:
    response = connection.respond(status, "")
    response.body = body.encode() if isinstance(body, str) else body
    for name in ("Content-Type", "Content-Length"):
        del response.headers[name]
    response.headers.update(
        {
            "Content-Type": kind,
            "Content-Length": str(len(response.body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
    )
    return response
