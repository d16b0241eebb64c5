"""The viewer's server: the page over HTTP and the motion over a WebSocket, on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgetalker.engines.errors import UserError
from edgetalker.runtime.web.admission import Admission, is_loopback
from edgetalker.runtime.web.server import Asset, Limits, Route, Server, ServerThread, Socket
from edgetalker.viewer.files import content_policy, page_assets
from edgetalker.viewer.stream import Reader, Stream
from edgetalker.viewer.wire import Request, answer_message, parse_request, read_request

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

__all__ = ["HOST", "ViewerServer"]

HOST = "127.0.0.1"
MOST_VIEWERS = 16
MOST_BYTES = 1 << 20  # of a request: half a minute of speech at 12 kHz; longer speech is said in pieces
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
        query: str = "",
    ) -> None:
        """token: that of the session which this one goes on with (default: a new one). public: listen on `host` or,
        where that means this machine only, on every address. `answer` is called in the server's thread; a UserError it
        raises is told to the page that asked. query: how the page looks, for its address (`face&framing=bust`)."""
        self.stream, self._answer = stream, answer
        self.token = token or secrets.token_urlsafe(16)
        self._query = f"?{query}" if query else ""
        self.refused = 0
        self._changed: set[asyncio.Event] = set()
        self._socket = Socket(self._talk, MOST_VIEWERS, f"{MOST_VIEWERS} pages look on already")
        routes: dict[str, Route] = {**page_assets(), **(assets or {}), "/ws": self._socket}
        self._server = Server(
            Admission("the viewer", token=self.token, hosts=allow, public=public, named=True, note=self._count_refusal),
            "0.0.0.0" if public and is_loopback(host) else host,
            port,
            Limits(message=MOST_BYTES),
            routes=routes,
            denied=(403, "its token is wrong: open the address that was printed"),
            policy=content_policy(),
            extra="view",
        )
        self._thread = ServerThread(self._server, "edgetalker-viewer")

    @property
    def url(self) -> str:
        """The address of the page. The token stays behind the `#`: browsers send that to nobody."""
        host = HOST if self.host in ("0.0.0.0", "localhost") else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{self._query}#{quote(self.token, safe='')}"

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._server.host

    @property
    def port(self) -> int:
        """The port that it listens on, once it does."""
        return self._server.port

    @property
    def routes(self) -> MutableMapping[str, Route]:
        """Path -> what is there: a page, an answer or a WebSocket; may be added to at any time."""
        return self._server.routes

    @property
    def viewers(self) -> int:
        """How many pages look on now."""
        return self._server.talking

    def start(self) -> None:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without `websockets`."""
        self._thread.start()
        self.stream.listen(lambda: self._thread.call(self._wake))

    def close(self) -> None:
        """Disconnect everybody and stop the thread. May be called twice."""
        self.stream.listen(None)
        self._thread.close()

    def _wake(self) -> None:
        for event in self._changed:
            event.set()

    def _count_refusal(self, _reason: str) -> None:
        self.refused += 1

    async def _talk(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        writer = asyncio.create_task(self._write(connection))
        try:
            async for text in connection:
                await self._hear(connection, text)
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError, ConnectionClosed):
                await writer

    async def _hear(self, connection: ServerConnection, text: str | bytes) -> None:
        message, fault = None, None
        try:
            message = parse_request(text)
            self._answer(read_request(message))
        except UserError as error:
            fault = error
        await connection.send(answer_message(message, fault))

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
