"""The viewer's server: the page over HTTP and the motion over a WebSocket, on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import http
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgetalker.engines.errors import DeviceError, MissingPackageError, UserError
from edgetalker.runtime.sinks.net.admission import Admission, is_loopback
from edgetalker.viewer.files import Asset, content_policy, page_assets
from edgetalker.viewer.stream import Reader, Stream
from edgetalker.viewer.wire import Request, read_request

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response

__all__ = ["HOST", "ViewerServer"]

HOST = "127.0.0.1"
MOST_VIEWERS = 16
MOST_BYTES = 64 * 1024  # a request from a page is a few hundred bytes
_STATUS = 0.5


class ViewerServer:
    """Serves one stream to any number of pages. `url` is the address to open; it carries the session's token.

    Unless `public`, only the machine itself can connect. It answers under its own names at any port (a tunnel, a
    container) and under those in `allow` (a proxy), so that no foreign page can reach it through DNS; only those who
    know the token get sound, motion and controls.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        port: int = 0,
        assets: Mapping[str, Asset] | None = None,
        answer: Callable[[Request], None],
        host: str = HOST,
        public: bool = False,
        allow: Sequence[str] = (),
        token: str = "",
    ) -> None:
        """token: that of the session which this one goes on with (default: a new one). public: listen on `host` or,
        where that means this machine only, on every address. `answer` is called in the server's thread; a UserError it
        raises is told to the page that asked."""
        self.stream, self._answer = stream, answer
        self.assets: dict[str, Asset] = {**page_assets(), **(assets or {})}
        self.token = token or secrets.token_urlsafe(16)
        self.port = port
        self.host = "0.0.0.0" if public and is_loopback(host) else host
        self.viewers = self.refused = 0
        self._admission = Admission(
            "the viewer", token=self.token, hosts=allow, public=public, named=True, note=self._count_refusal
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="edgetalker-viewer", daemon=True)
        self._ready: threading.Event = threading.Event()
        self._fault: BaseException | None = None
        self._changed: set[asyncio.Event] = set()

    @property
    def url(self) -> str:
        """The address of the page. The token stays behind the `#`: browsers send that to nobody."""
        return f"http://{HOST if self.host in ('0.0.0.0', 'localhost') else self.host}:{self.port}/#{self.token}"

    def start(self) -> None:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without `websockets`."""
        try:
            import websockets.asyncio.server  # noqa: F401
        except ImportError:
            raise MissingPackageError("websockets", "the viewer", extra="view") from None
        self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            self._thread.join()
            raise DeviceError(
                f"the viewer cannot listen on {self.host}:{self.port}: {self._fault}",
                hint="another program uses the port; choose another, or 0 for any that is free",
            ) from None
        self.stream.listen(self._notify)

    def close(self) -> None:
        """Disconnect everybody and stop the thread. May be called twice."""
        self.stream.listen(None)
        if self._loop is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # the loop ended by itself
                self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _notify(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closing
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for event in self._changed:
            event.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        try:
            server: Server = await serve(
                self._talk,
                self.host,
                self.port,
                process_request=self._respond,
                compression=None,
                max_size=MOST_BYTES,
                close_timeout=1.0,
                server_header=None,
            )
        except OSError as fault:
            self._fault = fault
            return
        self.port = next(iter(server.sockets)).getsockname()[1]
        self._ready.set()
        async with server:
            await self._stopped.wait()

    def _count_refusal(self) -> None:
        self.refused += 1

    def _respond(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer plain HTTP, let a WebSocket of our own page through (None), refuse all else."""
        if (refused := self._admission.refusal(request.headers)) is not None:
            return _response(*refused)
        path, known = request.path.partition("?")[0], self._admission.knows_token(request.path)
        if path == "/ws":
            return self._admit(known, "websocket" in request.headers.get("Upgrade", "").lower())
        asset = self.assets.get(path)
        if asset is None or (asset.private and not known):
            return _response(http.HTTPStatus.NOT_FOUND, "not found\n")
        return _response(http.HTTPStatus.OK, asset.body, asset.type)

    def _admit(self, known: bool, upgrade: bool) -> Response | None:
        if not known:
            return _response(*self._admission.turn_away(403, "its token is wrong: open the address that was printed"))
        if not upgrade:
            return _response(http.HTTPStatus.UPGRADE_REQUIRED, "a WebSocket is served here\n")
        if self.viewers >= MOST_VIEWERS:
            return _response(*self._admission.turn_away(503, f"{MOST_VIEWERS} pages look on already"))
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        self.viewers += 1
        writer = asyncio.create_task(self._write(connection))
        try:
            with suppress(ConnectionClosed):
                async for text in connection:
                    await self._hear(connection, text)
        finally:
            self.viewers -= 1
            writer.cancel()
            with suppress(asyncio.CancelledError, ConnectionClosed):
                await writer

    async def _hear(self, connection: ServerConnection, text: str | bytes) -> None:
        try:
            self._answer(read_request(text))
        except UserError as error:
            await connection.send(_json("refused", message=error.message))

    async def _write(self, connection: ServerConnection) -> None:
        """Send what is new, as fast as this page takes it; what it is too slow for is dropped and counted."""
        reader, changed = Reader(self.stream), asyncio.Event()
        self._changed.add(changed)
        told, now = -_STATUS, asyncio.get_running_loop().time
        try:
            while True:
                for message in reader.messages():
                    await connection.send(message)
                if reader.behind:
                    continue
                if now() - told >= _STATUS:
                    told = now()
                    status = self.stream.status()
                    await connection.send(_json("status", viewers=self.viewers, dropped=reader.dropped, **status))
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(changed.wait(), _STATUS)
                changed.clear()
        finally:
            self._changed.discard(changed)


def _json(kind: str, **content: Any) -> str:
    return json.dumps({"type": kind, **content}, allow_nan=False)


def _response(status: int, body: bytes | str, kind: str = "text/plain; charset=utf-8") -> Response:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    body = body.encode() if isinstance(body, str) else body
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": content_policy(),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-cache",
            "Connection": "close",
        }
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)
