"""One port for pages, answers and WebSockets: what the sink `ws://`, the viewer and `edgetalker serve` stand on.

A server has an Admission (who may talk to it) and a table of routes: an `Asset` is bytes, an `Answer` is asked each
time, a `Socket` is a conversation. All else is refused here, and every refusal is counted and told. The library is
`websockets`, which has limits on messages, keep-alive and back-pressure of its own.
"""

from __future__ import annotations

import asyncio
import errno
import http
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from edgetalker.engines.errors import DeviceError
from edgetalker.engines.lazy import required
from edgetalker.runtime.web.admission import Admission

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

__all__ = ["Answer", "Asset", "Limits", "Reply", "Route", "Server", "ServerThread", "Socket"]

PLAIN = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """What a request is answered with."""

    status: int
    body: bytes | str
    type: str = PLAIN


@dataclass(frozen=True)
class Asset:
    """Bytes to serve. private: without the token it is as if it were not there. foreign: pages of other origins may
    load it, if they are let in at all."""

    type: str
    body: bytes
    private: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class Answer:
    """Something that is asked for at each request. private: only with the token."""

    reply: Callable[[], Reply]
    private: bool = False


@dataclass(frozen=True)
class Socket:
    """A WebSocket, for those who know the token. `talk` ends when the conversation does; a client that goes ends it
    with `ConnectionClosed`, which need not be caught. most: how many at a time; full: what further ones are told."""

    talk: Callable[[ServerConnection], Awaitable[None]]
    most: int
    full: str


Route = Asset | Answer | Socket


@dataclass(frozen=True)
class Limits:
    """What a client may take. message: bytes of one of its messages. queue: messages that wait to be read before the
    socket is not read any more. write: bytes that wait to be written before `send` waits. close: seconds for a
    farewell. Handshakes have 10 s, and a client that answers no ping for 20 s is gone."""

    message: int
    queue: int = 16
    write: int = 1 << 15
    close: float = 1.0


class Server:
    """Serves a table of routes. Use with `async with`; `port` is where it listens.

    routes: path -> what is there; may change while it runs. otherwise: what is at any other path. denied: status and
    text for a client that does not know the token. policy: the Content-Security-Policy of every reply. extra: the extra
    of this project that brings `websockets`.
    """

    def __init__(
        self,
        admission: Admission,
        host: str,
        port: int,
        limits: Limits,
        *,
        routes: MutableMapping[str, Route],
        otherwise: Route | None = None,
        denied: tuple[int, str] = (403, "its token is wrong or absent"),
        policy: str = "default-src 'none'; frame-ancestors 'none'",
        tls: ssl.SSLContext | None = None,
        extra: str = "net",
    ) -> None:
        self.admission, self.host, self.port, self.routes = admission, host, port, routes
        self._limits, self._otherwise, self._denied, self._policy = limits, otherwise, denied, policy
        self._tls, self._extra = tls, extra
        self._conversations: WeakKeyDictionary[ServerConnection, Socket] = WeakKeyDictionary()
        self._count: Counter[Socket] = Counter()

    async def __aenter__(self) -> Server:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without `websockets`."""
        serve = self.package().serve
        try:
            self._server = await serve(
                self._talk,
                self.host,
                self.port,
                process_request=self._respond,
                process_response=self._responded,
                compression=None,
                max_size=self._limits.message,
                max_queue=self._limits.queue,
                write_limit=self._limits.write,
                close_timeout=self._limits.close,
                server_header=None,
                ssl=self._tls,
            )
        except OSError as error:
            raise DeviceError(
                f"{self.admission.name} cannot listen on {self.host} port {self.port}: {error.strerror or error}",
                hint="this machine has no such address; `ip addr` lists its own"
                if error.errno == errno.EADDRNOTAVAIL
                else "another program may use the port; choose another one",
            ) from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def package(self) -> Any:
        """Return the library. Raises MissingPackageError."""
        return required("websockets.asyncio.server", self.admission.name, extra=self._extra)

    @property
    def talking(self) -> int:
        """How many conversations there are now."""
        return self._count.total()

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, let a WebSocket of those who may talk through (None), refuse all else."""
        refused = self.admission.refusal(request.headers)
        if refused is not None:
            return self._response(Reply(*refused))
        shown, upgrade = (", ".join(request.headers.get_all(name)) for name in ("Authorization", "Upgrade"))
        known = self.admission.knows_token(request.path, shown)
        route = self.routes.get(request.path.partition("?")[0], self._otherwise)
        if route is None or (isinstance(route, Asset) and route.private and not known):
            return self._response(Reply(http.HTTPStatus.NOT_FOUND, "not found\n"))
        if isinstance(route, Asset):
            return self._response(Reply(http.HTTPStatus.OK, route.body, route.type), foreign=route.foreign)
        # Browsers tell a page nothing of a handshake that fails: it asks again by plain HTTP, and may read why.
        if not known and (isinstance(route, Socket) or route.private):
            denied = self.admission.turn_away(*self._denied, reason="wrong token")
            return self._response(Reply(*denied), foreign=isinstance(route, Socket))
        if isinstance(route, Answer):
            return self._response(route.reply())
        if "websocket" not in upgrade.lower():
            return self._response(Reply(http.HTTPStatus.UPGRADE_REQUIRED, "a WebSocket is served here\n"), foreign=True)
        if self._count[route] + self._opening(route) >= route.most:
            full = self.admission.turn_away(503, route.full, reason="too many connections")
            return self._response(Reply(*full), foreign=True)
        self._conversations[connection] = route
        return None

    def _responded(self, connection: ServerConnection, _: Request, response: Response) -> None:
        """Give the place back of a handshake that was refused by the library, such as one without a key."""
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._conversations.pop(connection, None)

    def _opening(self, route: Socket) -> int:
        """Return how many are let in whose conversation has not begun; whoever has vanished since does not count."""
        from websockets.protocol import State

        items = self._conversations.items()
        return sum(other is route for connection, other in items if connection.state is not State.CLOSED)

    async def _talk(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        route = self._conversations.pop(connection)
        self._count[route] += 1
        try:
            with suppress(ConnectionClosed):
                await route.talk(connection)
        finally:
            self._count[route] -= 1

    def _response(self, reply: Reply, *, foreign: bool = False) -> Response:
        from websockets.datastructures import Headers
        from websockets.http11 import Response

        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        headers = Headers(
            {
                "Content-Type": reply.type,
                "Content-Length": str(len(body)),
                "Content-Security-Policy": self._policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Cache-Control": "no-store",
                "Connection": "close",
            }
        )
        if foreign:
            del headers["Cross-Origin-Resource-Policy"]
            headers["Access-Control-Allow-Origin"] = "*"
        return Response(reply.status, http.HTTPStatus(reply.status).phrase, headers, body)


class ServerThread:
    """A server in a thread and an event loop of its own, for programs that have none.

    main: what runs in the loop while the server listens; the server ends with it. Without it, it ends with `close`.
    """

    def __init__(self, server: Server, name: str, main: Callable[[], Awaitable[object]] | None = None) -> None:
        self.server = server
        self._main = main or (lambda: self.stopping.wait())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._listening: Future[None] = Future()

    def start(self) -> None:
        """Listen. Raises DeviceError when the port is taken or the system has nothing left to begin with,
        MissingPackageError without `websockets`."""
        self.server.package()
        self._thread.start()
        try:
            self._listening.result()
        except BaseException as fault:
            self.call(lambda: self.stopping.set())  # a Ctrl-C came here; the thread may listen by now
            self._thread.join(1.0)
            if isinstance(fault, OSError):
                raise DeviceError(f"{self.server.admission.name} cannot begin: {fault.strerror or fault}") from None
            raise

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop soon; nothing happens when the thread has ended or never began."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closing
                self._loop.call_soon_threadsafe(function)

    def close(self, timeout: float | None = None) -> None:
        """End what runs in the loop and wait for the thread, `timeout` seconds at most. May be called twice."""
        self.call(lambda: self.stopping.set())
        if self._loop is not None:
            self._thread.join(timeout)

    def _work(self) -> None:
        running = self._run()
        try:
            asyncio.run(running)
        except BaseException as fault:
            running.close()  # where no loop could be made, nobody has awaited it
            if self._listening.done():
                raise
            self._listening.set_exception(fault)

    async def _run(self) -> None:
        self.stopping = asyncio.Event()
        async with self.server:
            self._loop = asyncio.get_running_loop()
            self._listening.set_result(None)
            await self._main()
