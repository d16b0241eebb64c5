"""The WebSocket sink, seen through the websockets package's own client."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError
from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.runtime.sinks.net import websocket
from edgetalker.runtime.sinks.net.websocket import WebSocketSink, from_url
from tests.runtime.sinks_net.tools import LAYOUT, NAMES, frame, motion, sender_threads, until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def opened(query: str = "", layout: MotionLayout = LAYOUT) -> Iterator[WebSocketSink]:
    sink = from_url(f"ws://127.0.0.1:{free_port()}?{query}")
    sink.open(layout)
    try:
        yield sink
    finally:
        sink.close()


def client(sink: WebSocketSink, path: str = "/", origin: str | None = None) -> ClientConnection:
    chosen = Origin(origin) if origin else None
    return connect(f"ws://127.0.0.1:{sink.port}{path}", origin=chosen, compression=None, proxy=None, close_timeout=1)


def test_json_says_what_the_numbers_mean_then_sends_frames() -> None:
    with opened() as sink, client(sink) as receiver:
        layout = json.loads(receiver.recv(10))
        assert (layout["type"], layout["fps"], layout["names"]) == ("layout", "30", list(NAMES))
        until(lambda: sink.clients == 1)
        sink.send(frame(7, motion(JawOpen=0.25), Outcome.HELD))
        sent = json.loads(receiver.recv(10))
    assert (sent["type"], sent["index"], sent["outcome"]) == ("frame", 7, "held")
    assert sent["time"] == pytest.approx(7 / 30, abs=1e-6)
    assert sent["shapes"]["JawOpen"] == 0.25
    assert list(sent["shapes"]) == list(NAMES)


def test_binary_frames_hold_the_floats_exactly() -> None:
    values = np.random.default_rng(1).random(55, np.float32)
    with opened("format=binary&map=JawOpen:Jaw,TongueOut:") as sink, client(sink) as receiver:
        layout = json.loads(receiver.recv(10))
        until(lambda: sink.clients == 1)
        sink.send(frame(3, values))
        data = receiver.recv(10)
    assert isinstance(data, bytes)
    assert struct.unpack_from("<4sIdII", data) == (b"ETF1", 3, 0.1, layout["outcomes"].index("on_time"), 54)
    sent = dict(zip(layout["names"], struct.unpack_from("<54f", data, 24), strict=True))
    expected = dict(zip(NAMES, values.tolist(), strict=True))
    expected["Jaw"] = expected.pop("JawOpen")
    del expected["TongueOut"]
    assert sent == expected


def test_vertices_pass_whole() -> None:
    layout = MotionLayout("vertices", (4, 3), Fraction(30))
    with opened("format=binary", layout) as sink, client(sink) as receiver:
        assert json.loads(receiver.recv(10))["shape"] == [4, 3]
        until(lambda: sink.clients == 1)
        sink.send(frame(0, np.arange(12, dtype=np.float32).reshape(4, 3)))
        data = receiver.recv(10)
    assert isinstance(data, bytes)
    assert struct.unpack_from("<12f", data, 24) == tuple(range(12))


def test_several_clients_and_a_late_one_get_the_newest_frame() -> None:
    with opened() as sink, client(sink) as one, client(sink) as two:
        until(lambda: sink.clients == 2)
        sink.send(frame(1))
        for receiver in (one, two):
            receiver.recv(10)
            assert json.loads(receiver.recv(10))["index"] == 1
        with client(sink) as late:
            assert json.loads(late.recv(10))["type"] == "layout"
            assert json.loads(late.recv(10))["index"] == 1


def test_a_client_that_leaves_is_forgotten_and_may_come_back() -> None:
    with opened() as sink:
        for _ in range(3):
            with client(sink) as receiver:
                receiver.recv(10)
                until(lambda: sink.clients == 1)
            until(lambda: sink.clients == 0)
            sink.send(frame(0))
        assert sink.statistics.frames == 3


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://app.example", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("null", False),
        ("tauri://localhost", True),
        ("capacitor://localhost", False),
        ("http://kiosk.local", True),
        ("http://kiosk.local:81", False),
        ("https://localhost:3000", True),
        ("http://[::1]:5173", True),
    ],
)
def test_web_pages_from_elsewhere_are_turned_away(origin: str | None, welcome: bool) -> None:
    with opened("origin=https://app.example:443,tauri://localhost,http://kiosk.local/") as sink:
        if welcome:
            with client(sink, origin=origin) as receiver:
                assert json.loads(receiver.recv(10))["type"] == "layout"
        else:
            with pytest.raises(InvalidStatus, match="403"), client(sink, origin=origin):
                pass
    assert sink.statistics.notes.get(websocket.REFUSED, 0) == (not welcome)


@pytest.mark.parametrize(
    "origin",
    ["tauri://localhost", "capacitor://localhost", "app://kiosk", "chrome-extension://abcdefghijklmnop", "null",
     "vscode-webview://0a1b", "http://tauri.localhost", "ionic://localhost"],
)  # fmt: skip
def test_any_origin_that_a_browser_can_send_may_be_listed(origin: str) -> None:
    assert from_url(f"ws://?origin={origin}").endpoint.options["origin"] == (origin,)
    assert from_url("ws://", {"origin": [origin, "https://a.example"]}).endpoint.options["origin"][0] == origin


@pytest.mark.parametrize("wrong", ["localhost", "https://", "https://a.example/path", "https://user@a.example", ""])
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(OptionError, match="wants origins"):
        from_url("ws://", {"origin": wrong})


@pytest.mark.parametrize("token", ["word", "pass word", "a+b", "a%b&c=d", "schlüssel", "#?/"])
def test_a_token_may_hold_anything(token: str) -> None:
    sink = from_url("ws://", {"token": token})
    escaped = quote(token, safe="")
    assert from_url(f"ws://?token={escaped}").endpoint.options["token"] == token
    assert sink._admission.knows_token(f"/?token={escaped}")
    assert sink._admission.knows_token(f"/?a=1&token={quote_plus(token)}")
    assert not sink._admission.knows_token(f"/?token={escaped}x")
    assert not sink._admission.knows_token("/?token=")
    assert not sink._admission.knows_token("/")


def test_who_was_turned_away_and_why_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with opened() as sink:
        for _ in range(3):
            with pytest.raises(InvalidStatus, match="403"), client(sink, origin="https://evil.example"):
                pass
    assert sink.statistics.notes[websocket.REFUSED] == 3
    assert caplog.text.count("a page of `https://evil.example` asked; add origin=https://evil.example") == 1


def test_two_host_headers_are_a_bad_request() -> None:
    with opened() as sink, socket.create_connection(("127.0.0.1", sink.port), 10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def test_names_as_web_avatars_have_them() -> None:
    with opened("case=camel&map=jawOpen:mouthOpen") as sink, client(sink) as receiver:
        names = json.loads(receiver.recv(10))["names"]
    assert names[:2] == ["eyeBlinkLeft", "eyeLookDownLeft"]
    assert "mouthOpen" in names
    assert "jawOpen" not in names


def test_token_and_number_of_clients() -> None:
    with opened("token=secret&clients=1") as sink:
        for path in ("/", "/?token=secre", "/?token=secret2"):
            with pytest.raises(InvalidStatus, match="403"), client(sink, path):
                pass
        with client(sink, "/?token=secret") as receiver:
            receiver.recv(10)
            until(lambda: sink.clients == 1)
            with pytest.raises(InvalidStatus, match="503"), client(sink, "/?token=secret"):
                pass
    assert sink.statistics.notes[websocket.REFUSED] == 4


def test_a_client_that_takes_nothing_loses_frames_then_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client reads, one never does: the reader gets every frame, the other is cut off, the talker never waits."""
    monkeypatch.setattr(websocket, "BACKLOG", 2048)
    layout = MotionLayout("vertices", (5000, 3), Fraction(30))
    big = np.zeros((5000, 3), np.float32)
    with opened("format=binary&stall=0.2&queue=1024", layout) as sink, client(sink) as reader:
        idle = socket.create_connection(("127.0.0.1", sink.port))
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        idle.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n".encode())
        until(lambda: sink.clients == 2)
        reader.recv(10)
        count = 0
        while websocket.CUT_OFF not in sink.statistics.notes:
            sink.send(frame(count, big))
            assert isinstance(reader.recv(10), bytes)
            count += 1
            assert count < 20000, "the idle client was never cut off"
        idle.close()
        assert sink.clients == 1
    assert sink.statistics.notes[websocket.SKIPPED] > 0
    assert "1 clients cut off" in str(sink.statistics)
    assert sink.statistics.sent == count
    assert sink.statistics.dropped == 0


def test_listening_beyond_this_machine_must_be_asked_for() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "[::]", "kiosk.example"):
        with pytest.raises(OptionError, match="other machines") as caught:
            from_url(f"ws://{host}:8765")
        assert "public=yes" in str(caught.value)
    assert from_url("ws://0.0.0.0:8765?public=yes").endpoint.host == "0.0.0.0"


def test_a_port_in_use_is_an_error_at_open_and_leaves_no_thread() -> None:
    with opened() as sink:
        second = from_url(f"ws://127.0.0.1:{sink.port}")
        with pytest.raises(DeviceError, match="cannot listen"):
            second.open(LAYOUT)
    until(lambda: not sender_threads())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    with pytest.raises(MissingPackageError, match="websockets") as caught:
        from_url("ws://").open(LAYOUT)
    assert "edgetalker[net]" in str(caught.value)


def test_frames_at_a_fixed_rate_arrive_with_values_between() -> None:
    with opened("rate=90") as sink, client(sink) as receiver:
        receiver.recv(10)
        until(lambda: sink.clients == 1)
        sink.send(frame(0))
        sink.send(frame(1))
        values = [json.loads(receiver.recv(10))["shapes"]["JawOpen"] for _ in range(12)]
    assert values == sorted(values)
    assert values[-1] == 1.0
