"""The server over WebSocket and HTTP: what clients get, and what others cannot do to them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import urllib.error
import urllib.request
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.engines.errors import DeviceError, InputError, OptionError
from edgetalker.runtime.frame import Outcome
from edgetalker.runtime.web.admission import read_token
from edgetalker.serve import Batch, BatchOptions
from edgetalker.serve.options import Address, Door, address

for package in ("onnx", "onnxruntime", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from edgetalker.serve.protocol import HEAD, MAGIC, ProtocolError, read_message  # noqa: E402
from edgetalker.serve.server import WebServer  # noqa: E402
from tests.support.negatives import negative  # noqa: E402

HERE = Address("127.0.0.1", 0)
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    with Batch(options=BatchOptions(talkers=4, schedule="one")) as batch:
        yield batch


@asynccontextmanager
async def served(batch: Batch, **door: Any) -> AsyncIterator[WebServer]:
    async with WebServer(batch, HERE, Door(**door)) as server:
        yield server


def run(batch: Batch, talk: Callable[[WebServer], Awaitable[None]], **door: Any) -> None:
    """Serve, let the test's client talk, and see that everybody's seat is given back."""

    async def both() -> None:
        async with served(batch, **door) as server:
            await asyncio.wait_for(talk(server), 60)
        while batch.talking:
            await asyncio.sleep(0.01)

    asyncio.run(both())


def client(server: WebServer, **options: Any) -> Any:
    return connect(f"ws://127.0.0.1:{server.port}/v1/talk", **options)


def pcm(seconds: float) -> bytes:
    with wave.open(str(Path(edgetalker.__file__).parent / "data" / "speech.wav")) as file:
        return bytes(file.readframes(int(seconds * 16000)))


async def until(ws: ClientConnection, kind: str) -> list[Any]:
    """Return the messages up to one of a type."""
    found: list[Any] = []
    while True:
        message = await ws.recv()
        found.append(json.loads(message) if isinstance(message, str) else message)
        if isinstance(message, str) and found[-1]["type"] == kind:
            return found


def fetch(server: WebServer, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_an_utterance_comes_back_on_its_own_clock(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws:
            layout = (await until(ws, "layout"))[0]
            assert layout["names"][17] == "JawOpen"
            assert layout["controls"]["emotion"][0] == "joy"
            for name, rate in (("a", 16000), ("b", 8000)):
                await ws.send(json.dumps({"type": "start", "utterance": name, "rate": rate}))
                await ws.send(json.dumps({"type": "emotion", "values": {"joy": 1.0}, "time": 0.1}))
                for start in range(0, len(data := pcm(0.5 * rate / 16000)), 320):
                    await ws.send(data[start : start + 320])
                await ws.send(json.dumps({"type": "flush"}))
                *frames, end = await until(ws, "end")
                assert end["utterance"] == name
                assert {frame["type"] for frame in frames} == {"frame"}
                assert 15 <= len(frames) <= 17
                times = [frame["time"] for frame in frames]
                assert times[0] == pytest.approx(0.0, abs=0.07)
                np.testing.assert_allclose(np.diff(times), 1 / 30, atol=1e-5)
                assert set(frames[0]["shapes"]) == set(layout["names"])

    run(batch, talk)


def test_music_leaves_the_mouth_shut_where_silero_listens() -> None:
    music = (negative("chords", 1.5) * 32767).astype("<i2").tobytes()

    def jaw(voice: str | None) -> float:
        found: list[float] = []

        async def talk(server: WebServer) -> None:
            async with client(server) as ws:
                await ws.recv()
                await ws.send(music)
                await ws.send('{"type": "flush"}')
                *frames, _ = await until(ws, "end")
                found.extend(frame["shapes"]["JawOpen"] for frame in frames)

        with Batch(options=BatchOptions(talkers=1, schedule="one", voice=voice)) as batch:
            run(batch, talk)
        return max(found)

    assert jaw("silero") < 0.02
    assert jaw(None) > 0.05, "by its level it is a voice"


def test_binary_frames_and_barge_in(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws:
            await ws.recv()
            await ws.send('{"type": "start", "format": "binary"}')
            await ws.send(pcm(3.0))
            first = await ws.recv()
            assert isinstance(first, bytes)
            magic, index, time, outcome, serial, count = HEAD.unpack_from(first)
            assert (magic, index, time, serial, count) == (MAGIC, 0, 0.0, 0, 55)
            assert outcome < len(Outcome)
            assert len(first) == HEAD.size + 4 * count == struct.calcsize("<4sIdIII") + 220
            await ws.send('{"type": "reset"}')
            await until(ws, "reset")
            await ws.send(pcm(0.2))
            await ws.send('{"type": "flush"}')
            *frames, _ = await until(ws, "end")
            assert [HEAD.unpack_from(frame)[1] for frame in frames] == list(range(6))
            assert {HEAD.unpack_from(frame)[4] for frame in frames} == {1}

    run(batch, talk)


def test_what_is_no_message_is_answered_and_talking_goes_on(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws:
            await ws.recv()
            wrong = {
                "{": "malformed",
                "[1]": "malformed",
                '{"type": "begin"}': "unknown_type",
                '{"type": "start", "rate": "fast", "colour": 1}': "invalid",
                '{"type": "set", "control": "mood", "values": [1]}': "invalid",
                '{"type": "position", "seconds": NaN}': "malformed",
                '{"type": "emotion", "values": {"joy": 7}}': "option",
            }
            for text, code in wrong.items():
                await ws.send(text)
                answer = (await until(ws, "error"))[-1]
                assert answer["code"] == code, answer
            await ws.send(b"odd")
            assert "16-bit" in (await until(ws, "error"))[-1]["message"]
            await ws.send(pcm(0.2))
            await ws.send('{"type": "flush"}')
            assert len(await until(ws, "end")) == 7

    run(batch, talk)


def test_an_empty_text_has_its_end(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws:
            await ws.recv()
            for name in ("a", "b"):
                await ws.send(json.dumps({"type": "start", "utterance": name}))
                await ws.send('{"type": "flush"}')
                (end,) = await until(ws, "end")
                assert (end["utterance"], end["time"]) == (name, 0.0)

    run(batch, talk)


def test_too_big_too_many_too_long_silent(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws:
            await ws.recv()
            await ws.send(bytes(1 << 12))
            with pytest.raises(ConnectionClosed) as big:
                await until(ws, "end")
            assert big.value.rcvd is not None
            assert big.value.rcvd.code == 1009
        async with client(server) as ws:
            await ws.recv()
            for _ in range(40):
                await ws.send('{"type": "flush"}')
            assert (await until(ws, "error"))[-1]["code"] == "rate"
        async with client(server) as ws:
            await ws.recv()
            assert (await until(ws, "error"))[-1]["code"] == "idle"

    run(batch, talk, message=2048, rate=20.0, idle=0.3)


def test_when_all_talkers_are_taken_it_is_said(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        clients = [await client(server) for _ in range(4)]
        for ws in clients:
            await ws.recv()
            await ws.send('{"type": "position", "seconds": 0}')
        while len(batch.talking) < 4:
            await asyncio.sleep(0.01)
        assert (await asyncio.to_thread(fetch, server, "/readyz"))[0] == 503
        async with client(server) as ws:
            await ws.send('{"type": "flush"}')
            assert "all 4 talkers are taken" in (await until(ws, "error"))[-1]["message"]
        refused = 'edgetalker_refused_total{reason="no talker is free"} 1.0'
        assert refused in (await asyncio.to_thread(fetch, server, "/metrics"))[1]
        for ws in clients:
            await ws.close()

    run(batch, talk)


def test_http(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        assert (await asyncio.to_thread(fetch, server, "/healthz")) == (200, "ok\n")
        assert (await asyncio.to_thread(fetch, server, "/readyz"))[0] == 200
        status, page = await asyncio.to_thread(fetch, server, "/")
        assert status == 200
        assert "talk.js" in page
        for path in ("/edgetalker.js", "/stage.js", "/three/three.module.min.js", "/three/loaders/GLTFLoader.js"):
            assert (await asyncio.to_thread(fetch, server, path))[0] == 200, path
        for path in ("/server.py", "/../server.py", "/static/talk.js", "/%2e%2e/server.py", "/nothing"):
            assert (await asyncio.to_thread(fetch, server, path))[0] == 404, path
        assert (await asyncio.to_thread(fetch, server, "/v1/talk"))[0] == 426
        text = (await asyncio.to_thread(fetch, server, "/metrics"))[1]
        for name in ("edgetalker_frames_total", "edgetalker_latency_seconds_bucket", "edgetalker_talkers 0.0"):
            assert name in text

    run(batch, talk)


def test_only_those_who_may(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        assert (await asyncio.to_thread(fetch, server, "/metrics"))[0] == 401
        assert (await asyncio.to_thread(fetch, server, "/metrics?token=wrong"))[0] == 401
        assert (await asyncio.to_thread(fetch, server, f"/metrics?token={TOKEN}"))[0] == 200
        assert (await asyncio.to_thread(fetch, server, "/metrics", Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await asyncio.to_thread(fetch, server, "/healthz"))[0] == 200
        assert (await asyncio.to_thread(fetch, server, "/healthz", Host="evil.example"))[0] == 403
        known = {"Authorization": f"Bearer {TOKEN}"}
        evil: dict[str, Any] = {"origin": "https://evil.example", "additional_headers": known}
        for options in ({}, evil):
            with pytest.raises(InvalidStatus):
                await client(server, **options)
        own: dict[str, Any] = {"origin": "https://our.example", "additional_headers": known}
        async with client(server, **own) as ws:
            await ws.recv()
        module = "/edgetalker.js"  # for pages that were let in, and for no others
        assert (await asyncio.to_thread(fetch, server, module, Origin="https://our.example"))[0] == 200
        assert (await asyncio.to_thread(fetch, server, module, Origin="https://evil.example"))[0] == 403

    run(batch, talk, token=TOKEN, origins=("https://our.example",))


def test_through_a_tunnel_and_behind_a_proxy(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        for host in ("localhost:9000", "[::1]:9000", "kiosk.example"):
            headers = {"Host": host, "Origin": f"https://{host}"}
            assert (await asyncio.to_thread(fetch, server, "/", **headers))[0] == 200
        assert (await asyncio.to_thread(fetch, server, "/", Host="other.example"))[0] == 403
        assert (await asyncio.to_thread(fetch, server, "/", Origin="https://other.example"))[0] == 403
        text = server.metrics.text()[0].decode()
        for reason in ("wrong host", "wrong origin"):
            assert f'edgetalker_refused_total{{reason="{reason}"}} 1.0' in text

    run(batch, talk, hosts=("kiosk.example",))


def test_who_is_refused_is_told_with_the_options_of_serve(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(server: WebServer) -> None:
        assert "add --allow evil.example if" in (await asyncio.to_thread(fetch, server, "/", Host="evil.example"))[1]
        assert (await asyncio.to_thread(fetch, server, "/", Origin="https://evil.example"))[0] == 403

    run(batch, talk)
    assert "asked for as `evil.example`; add --allow evil.example if" in caplog.text
    assert "page of `https://evil.example` asked; add --origin https://evil.example if" in caplog.text


def test_half_open_sockets_and_noise_make_nobody_late(batch: Batch) -> None:
    """Twenty sockets that say nothing, half a request or rubbish; the talker beside them gets every frame."""

    async def talk(server: WebServer) -> None:
        sockets = []
        for number in range(20):
            other = socket.create_connection(("127.0.0.1", server.port))
            other.sendall((b"", b"GET /v1/talk HTT", b"\x00\xff" * 500)[number % 3])
            sockets.append(other)
        async with client(server) as ws:
            await ws.recv()
            await ws.send(pcm(0.5))
            await ws.send('{"type": "flush"}')
            assert len(await until(ws, "end")) == 16
        for other in sockets:
            other.close()

    run(batch, talk)


@pytest.mark.slow
def test_five_hundred_at_once_are_answered_and_nobody_who_talks_misses_a_frame(batch: Batch) -> None:
    """Half of them say nothing or rubbish; of those that ask rightly as many are let in as may be, the others are told.
    Whether a frame is late is the machine's business, too: benchmarks/soak_serve.py counts that."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < 2048:
        pytest.skip("this machine allows too few file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    asked = (
        b"GET /v1/talk HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    answers: list[bytes] = []

    async def one(server: WebServer, first: bytes, done: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(first)
        answers.append(await reader.readline() if first else b"half open")
        await done.wait()
        writer.transport.abort()

    async def talk(server: WebServer) -> None:
        done = asyncio.Event()
        async with client(server) as ws:
            await ws.recv()
            await ws.send(pcm(1.0))
            firsts = (asked, b"", asked, b"rubbish\r\n\r\n")
            crowd = [asyncio.create_task(one(server, firsts[number % 4], done)) for number in range(500)]
            await ws.send('{"type": "flush"}')
            frames = [frame for frame in (await until(ws, "end"))[:-1] if frame["outcome"] != "starved"]
            assert len(frames) == 30
            np.testing.assert_allclose([frame["time"] for frame in frames], np.arange(30) / 30, atol=1e-5)
            while len(answers) < 500:
                await asyncio.sleep(0.01)
            done.set()
            await asyncio.gather(*crowd)
        assert answers.count(b"HTTP/1.1 101 Switching Protocols\r\n") == 9
        assert answers.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 241
        assert answers.count(b"") == 125, "rubbish is no request: the connection is closed"
        while server.open:
            await asyncio.sleep(0.01)

    run(batch, talk, connections=10)


def test_more_connections_than_allowed_are_turned_away(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        async with client(server) as ws, client(server) as other:
            await ws.recv()
            await other.recv()
            with pytest.raises(InvalidStatus) as refused:
                await client(server)
            assert refused.value.response.status_code == 503

    run(batch, talk, connections=2)


def test_a_client_that_vanishes_gives_its_talker_back(batch: Batch) -> None:
    async def talk(server: WebServer) -> None:
        ws = await client(server)
        await ws.recv()
        await ws.send(pcm(3.0))
        await ws.recv()
        ws.transport.abort()

    run(batch, talk)


def test_a_taken_port_and_open_doors(batch: Batch, tmp_path: Path) -> None:
    async def twice() -> None:
        async with served(batch) as server:
            with pytest.raises(DeviceError, match="cannot listen"):
                async with WebServer(batch, Address("127.0.0.1", server.port)):
                    pass

    asyncio.run(twice())
    with pytest.raises(OptionError, match="everybody on the network"):
        WebServer(batch, Address("0.0.0.0", 0))
    with pytest.raises(OptionError, match="certificate and its key"):
        WebServer(batch, HERE, Door(cert=tmp_path))
    with pytest.raises(InputError, match="PEM"):
        Door(cert=tmp_path / "c", key=tmp_path / "k").tls()
    (tmp_path / "token").write_text("short")
    with pytest.raises(InputError, match="16 characters"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token(tmp_path / "token") == TOKEN
    if Path("/dev/zero").exists():
        with pytest.raises(InputError, match="more than 4096 bytes"):
            read_token(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "host", "port"), [("1", "127.0.0.1", 1), ("0.0.0.0:80", "0.0.0.0", 80), ("[::1]:9", "::1", 9)]
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert address(text) == Address(host, port)


NO_ADDRESSES = ["", "host", "host:", "host:70000", "host:-1", "[::1", "::1:80", "host:²", "a b:80", "a:" + "1" * 5000]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(OptionError, match="host:port"):
        address(text)


def test_a_messages_faults_are_all_told() -> None:
    with pytest.raises(ProtocolError, match=r"no key `colour`.*`rate`.*wanted"):
        read_message('{"type": "start", "rate": true, "colour": 1}')
    with pytest.raises(ProtocolError, match="not JSON"):
        read_message("[" * 100_000)
    assert read_message('{"type": "flush"}') == ("flush", {})


@pytest.mark.parametrize("rate", [16000.5, 1, 1e9, True, "16000"])
def test_rates_that_are_none(rate: Any) -> None:
    with pytest.raises(ProtocolError, match="`rate`: whole samples a second"):
        read_message(json.dumps({"type": "start", "rate": rate}))
    assert read_message('{"type": "start", "rate": 16000.0}')[1] == {"rate": 16000}


@pytest.mark.parametrize("kind", ["emotion", "style", "set"])
def test_a_time_before_the_utterance_is_none(kind: str) -> None:
    message = {"type": kind, "values": [1.0], **({"control": "emotion"} if kind == "set" else {})}
    with pytest.raises(ProtocolError, match=f"`{kind}`: `time`: seconds of the utterance's sound, 0 or more"):
        read_message(json.dumps({**message, "time": -1}))
    assert read_message(json.dumps({**message, "time": 0}))[1]["time"] == 0
