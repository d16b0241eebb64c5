"""One port for pages, answers and WebSockets. What stands on it has tests of its own: viewer, sink `ws://`, serve."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("websockets", reason="the server needs the package websockets (extra `net`)")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from edgetalker.engines.errors import DeviceError
from edgetalker.runtime.web.admission import Admission
from edgetalker.runtime.web.server import Answer, Asset, Limits, Reply, Route, Server, ServerThread, Socket

BEARER = {"Authorization": "Bearer s3cret"}


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


@contextmanager
def served(**admission: Any) -> Iterator[tuple[Server, list[str]]]:
    refused: list[str] = []
    routes: dict[str, Route] = {
        "/": Asset("text/html", b"page"),
        "/sound": Asset("audio/wav", b"sound", private=True),
        "/health": Answer(lambda: Reply(200, "ok")),
        "/figures": Answer(lambda: Reply(200, "7"), private=True),
        "/echo": Socket(echo, 1, "one is enough"),
    }
    admitted = Admission("the server", note=refused.append, **admission)
    server = Server(admitted, "127.0.0.1", 0, Limits(message=100, close=0.5), routes=routes, denied=(401, "no"))
    thread = ServerThread(server, "edgetalker-test")
    thread.start()
    try:
        yield server, refused
    finally:
        thread.close()


def get(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def client(server: Server, path: str = "/echo", **options: Any) -> ClientConnection:
    where = f"ws://127.0.0.1:{server.port}{path}"
    connected: ClientConnection = connect(where, compression=None, proxy=None, close_timeout=1, **options)
    return connected


def test_what_is_private_wants_the_token() -> None:
    with served(token="s3cret") as (server, refused):
        assert get(server, "/") == (200, b"page")
        assert get(server, "/health") == (200, b"ok")
        assert get(server, "/sound")[0] == 404, "it is as if it were not there"
        assert get(server, "/figures") == (401, b"no\n")
        assert get(server, "/figures", Authorization="Bearer s3cre")[0] == 401
        assert get(server, "/figures", **BEARER) == get(server, "/figures?token=s3cret") == (200, b"7")
        assert get(server, "/sound", **BEARER) == (200, b"sound")
        assert get(server, "/echo", **BEARER)[0] == 426
        with pytest.raises(InvalidStatus, match="401"):
            client(server)
        with client(server, additional_headers=BEARER) as ws:
            ws.send("word")
            assert ws.recv(20) == "word"
        assert refused == ["wrong token"] * 3


def test_a_page_of_the_same_name_may_connect_when_the_token_keeps_others_out() -> None:
    """Another name can be a foreign page's own that points here; it does not know the token."""
    for token, welcome in (("s3cret", True), ("", False)):
        with served(token=token) as (server, refused):
            host = {"Host": "kiosk.example:80", "Origin": "http://kiosk.example"}
            assert get(server, "/?token=s3cret", **host)[0] == (200 if welcome else 403)
            assert refused == ([] if welcome else ["wrong origin"])
            with pytest.raises(InvalidStatus, match="403"):
                client(server, "/echo?token=s3cret", origin=Origin("https://evil.example"))


def test_routes_come_and_go_while_it_runs_and_others_lead_nowhere() -> None:
    with served() as (server, _):
        assert get(server, "/more")[0] == 404
        server.routes["/more"] = Asset("text/plain", b"more")
        assert get(server, "/more?x=1") == (200, b"more")
        del server.routes["/more"]
        assert get(server, "/more")[0] == 404


def test_limits_of_conversations_and_messages() -> None:
    with served() as (server, refused):
        with client(server) as ws:
            ws.send("here")
            ws.recv(20)
            assert server.talking == 1
            with pytest.raises(InvalidStatus, match="503"):
                client(server)
            ws.send("x" * 101)
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        assert refused == ["too many connections"]


def test_a_handshake_that_fails_takes_no_place() -> None:
    import gc
    import socket

    asked = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with served() as (server, _):
        gc.disable()
        try:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
                    raw.sendall(asked)  # without a key and a version
                    assert raw.recv(100).startswith(b"HTTP/1.1 4")
            with client(server) as ws:
                ws.send("word")
                assert ws.recv(20) == "word"
        finally:
            gc.enable()


def test_a_conversation_that_fails_is_closed_and_gives_its_place_back() -> None:
    async def fails(connection: Any) -> None:
        raise ValueError("a mistake of ours")

    with served() as (server, _):
        server.routes["/echo"] = Socket(fails, 1, "one is enough")
        for _ in range(3):
            with client(server) as ws, pytest.raises(ConnectionClosed) as closed:
                ws.recv(20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011


def test_a_thread_that_cannot_listen_says_so_and_ends() -> None:
    with served() as (server, _):
        other = Server(Admission("another"), "127.0.0.1", server.port, Limits(message=1), routes={})
        thread = ServerThread(other, "edgetalker-other")
        with pytest.raises(DeviceError, match=f"another cannot listen on 127.0.0.1 port {server.port}"):
            thread.start()
        thread.call(lambda: None)
        thread.close()


def test_a_thread_that_cannot_have_a_loop_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError(24, "Too many open files")

    thread = ServerThread(Server(Admission("it"), "127.0.0.1", 0, Limits(message=1), routes={}), "edgetalker-it")
    monkeypatch.setattr(asyncio, "new_event_loop", none)
    monkeypatch.setattr(asyncio.events, "new_event_loop", none)
    with pytest.raises(DeviceError, match="it cannot begin: Too many open files"):
        thread.start()
    thread.close()


def test_a_page_that_is_let_in_may_read_why_it_cannot_connect() -> None:
    def readable(server: Server, **headers: str) -> tuple[int, str | None]:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/echo", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        with refused.value as error:
            return error.code, error.headers["Access-Control-Allow-Origin"]

    with served(token="s3cret", origins=["https://shop.example"]) as (server, _):
        assert readable(server, Origin="https://shop.example") == (401, "*")
        assert readable(server, Origin="https://shop.example", **BEARER) == (426, "*")
        assert readable(server, Origin="https://evil.example") == (403, None)


def test_a_thread_ends_with_its_main() -> None:
    came: list[str] = []

    async def main() -> None:
        await asyncio.sleep(0)
        came.append("main")

    thread = ServerThread(Server(Admission("it"), "127.0.0.1", 0, Limits(message=1), routes={}), "edgetalker-it", main)
    thread.start()
    thread.close()
    assert came == ["main"]
