"""The server: what it serves, whom it refuses, many pages, slow pages, pages that come back."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.runtime.web.server import Asset
from edgetalker.viewer.files import content_policy, page_assets, wav_bytes
from edgetalker.viewer.server import MOST_BYTES, MOST_VIEWERS, ViewerServer
from edgetalker.viewer.stream import LIVE_FRAMES, Stream
from edgetalker.viewer.wire import Request, shown
from tests.viewer.pages import ARKIT, Page, frame, ignore, served

pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")


def stream_of(mode: Any = "clip", count: int = 0) -> Stream:
    stream = Stream(mode, "title")
    stream.describe(ARKIT)
    for index in range(count):
        stream.frame(shown(frame(index)))
    return stream


def get(server: ViewerServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), body


def test_everything_the_page_names_ships_with_the_package() -> None:
    """No file refers to another host; every import and link resolves to a shipped file."""
    import re
    from posixpath import dirname, join, normpath

    assets = page_assets()
    for path, asset in assets.items():
        text = asset.body.decode()
        if path.startswith("/three/"):
            found = re.findall(r"^import [^;]*?from ['\"](\.[^'\"]+)['\"]", text, re.MULTILINE)
        else:
            assert "https://" not in text, path
            assert not re.search(r"http://(?!www\.w3\.org/2000/svg)", text.replace("http://${", "")), path
            found = re.findall(r"from '(\.[^']+)'", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
        for name in found:
            assert normpath(join(dirname(path), name)) in assets, (path, name)
    assert {"/", "/main.js", "/three/three.module.min.js", "/three/three.core.min.js"} <= set(assets)


def test_vendored_files_are_those_of_the_package_and_have_their_licence() -> None:
    import hashlib

    from edgetalker.viewer.files import STATIC

    sums = (STATIC / "three" / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    assert len(sums) == 7
    for line in sums:
        digest, name = line.split()
        assert hashlib.sha256((STATIC / "three" / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (STATIC / "three" / "LICENSE").read_text(encoding="utf-8")


def test_the_page_comes_with_a_policy_that_lets_nothing_in_from_elsewhere() -> None:
    with served(stream_of()) as server:
        status, headers, body = get(server, "/")
    assert status == 200
    assert b"<title>edgetalker</title>" in body
    assert headers["Content-Security-Policy"] == content_policy()
    assert "default-src 'none'" in content_policy()
    assert "unsafe" not in content_policy()
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_files_have_their_types() -> None:
    with served(stream_of()) as server:
        assert get(server, "/main.js")[1]["Content-Type"].startswith("text/javascript")
        assert get(server, "/viewer.css")[1]["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/..%2fserver.py", "/static/../../server.py", "//etc/passwd", "/etc/passwd", "/main.js/",
        "/three/", "/three/SHA256SUMS", "/%00", "//[::1",
    ],
)  # fmt: skip
def test_no_other_path_leads_anywhere(path: str) -> None:
    with served(stream_of()) as server:
        assert get(server, path)[0] in (400, 404)


def test_a_foreign_name_or_origin_is_refused() -> None:
    with served(stream_of()) as server:
        own = f"127.0.0.1:{server.port}"
        assert get(server, "/", Host=f"evil.example:{server.port}")[0] == 403
        assert get(server, "/", Origin="http://evil.example")[0] == 403
        assert get(server, "/", Origin="null")[0] == 403
        assert get(server, "/", Host=own, Origin=f"http://{own}")[0] == 200
        assert get(server, "/", Host=f"localhost:{server.port}")[0] == 200
        assert server.refused == 3


def test_a_tunnel_or_a_containers_port_may_have_another_number() -> None:
    """`ssh -L 9000:127.0.0.1:PORT`: the browser names the port that it used; the names are this machine's anyway."""
    with served(stream_of()) as server:
        for host in ("localhost:9000", "127.0.0.1:9000", "[::1]:9000", "localhost", "127.0.0.1"):
            assert get(server, "/", Host=host, Origin=f"http://{host}")[0] == 200


def test_a_proxys_name_must_be_allowed_and_may_have_tls() -> None:
    with served(stream_of(), allow=("kiosk.example",)) as server:
        assert get(server, "/", Host="kiosk.example", Origin="https://kiosk.example")[0] == 200
        assert get(server, "/", Host=f"127.0.0.1:{server.port}", Origin="https://kiosk.example")[0] == 200
        assert get(server, "/", Host="kiosk.example.evil")[0] == 403
        assert get(server, "/", Host="kiosk.example", Origin="https://evil.example")[0] == 403


def test_public_answers_under_any_address_but_not_under_any_name() -> None:
    with served(stream_of(), public=True) as server:
        assert server.host == "0.0.0.0"
        assert server.url.startswith(f"http://127.0.0.1:{server.port}/#")
        assert get(server, "/", Host="192.168.1.20:8080")[0] == 200
        assert get(server, "/", Host="evil.example")[0] == 403
    with served(stream_of()) as server:
        assert get(server, "/", Host="192.168.1.20:8080")[0] == 403


def test_refusals_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    with served(stream_of()) as server:
        for _ in range(3):
            get(server, "/", Host="kiosk.example:9000")
        assert server.refused == 3
    assert caplog.text.count("turned a client away") == 1
    assert "add allow=kiosk.example" in caplog.text


@pytest.mark.parametrize("again", ["Host: 127.0.0.1", "Origin: http://127.0.0.1"])
def test_a_header_that_must_be_one_and_comes_twice_is_a_bad_request(again: str) -> None:
    import socket

    with served(stream_of()) as server, socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n{again}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def test_it_listens_on_loopback_only() -> None:
    import socket

    with served(stream_of()) as server:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for address in addresses - {"127.0.0.1"}:
            if not address.startswith("127."):
                with pytest.raises(OSError):
                    socket.create_connection((address, server.port), 2).close()
        assert server.url.startswith(f"http://127.0.0.1:{server.port}/#")


def test_sound_and_motion_need_the_token() -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    private = {"/audio.wav": Asset("audio/wav", wav_bytes(np.zeros(8, np.float32), 8000), private=True)}
    with served(stream_of(), assets=private) as server:
        assert get(server, "/audio.wav")[0] == 404
        assert get(server, "/audio.wav?token=wrong")[0] == 404
        status, _, body = get(server, f"/audio.wav?token={server.token}")
        assert (status, body[:4]) == (200, b"RIFF")
        assert get(server, f"/ws?token={server.token}")[0] == 426
        for query in ("", "?token=", "?token=wrong", "?token=%ff"):
            with pytest.raises(InvalidStatus, match="403"), connect(f"ws://127.0.0.1:{server.port}/ws{query}"):
                pass


def test_a_foreign_page_cannot_open_the_socket_even_with_the_token() -> None:
    from websockets.exceptions import InvalidStatus

    with served(stream_of()) as server, pytest.raises(InvalidStatus, match="403"):
        Page(server, origin="http://evil.example")


def test_two_sessions_have_two_tokens() -> None:
    assert ViewerServer(stream_of(), answer=ignore).token != ViewerServer(stream_of(), answer=ignore).token


def test_a_taken_port_is_said_with_what_mends_it() -> None:
    with served(stream_of()) as server:
        with pytest.raises(DeviceError, match=f"{server.port}") as caught:
            ViewerServer(stream_of(), port=server.port, answer=ignore).start()
        assert "another" in (caught.value.hint or "")


def test_frames_arrive_as_they_are_written() -> None:
    stream = stream_of("live")
    with served(stream) as server, Page(server) as page:
        page.listen(lambda p: p.last("hello") is not None)
        for index in range(200):
            stream.frame(shown(frame(index)))
            if index % 40 == 39:
                page.listen(lambda p, want=index: want in p.frames)  # type: ignore[misc]
    assert sorted(page.frames) == list(range(200))
    assert page.frames[150][0] == np.float32(0.15)


def test_many_pages_all_see_the_whole_clip() -> None:
    stream = stream_of(count=300)
    with served(stream) as server:
        pages = [Page(server) for _ in range(4)]
        for page in pages:
            page.listen(lambda p: len(p.frames) == 300)
        pages[0].listen(lambda p: (p.last("status") or {}).get("viewers") == 4)
        for page in pages:
            page.close()


def test_one_page_too_many_is_turned_away_and_a_place_becomes_free_again() -> None:
    from websockets.exceptions import InvalidStatus

    with served(stream_of()) as server:
        pages = [Page(server) for _ in range(MOST_VIEWERS)]
        for page in pages:
            page.listen(lambda p: p.last("hello") is not None)
        with pytest.raises(InvalidStatus, match="503"):
            Page(server)
        pages.pop().close()
        wait_until(lambda: server.viewers == MOST_VIEWERS - 1)
        Page(server).close()
        for page in pages:
            page.close()


def wait_until(true: Any, timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_a_page_that_takes_nothing_never_holds_up_the_talker_or_other_pages() -> None:
    """A client that stops reading: its frames are dropped and counted, the writer goes on at full speed."""
    import socket

    stream = stream_of("live")
    with served(stream) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            f"GET /ws?token={server.token} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n".encode()
            + b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        with Page(server) as page:
            wait_until(lambda: server.viewers == 2)
            count = 40_000  # 9 MB: more than all the buffers on the way hold
            for index in range(count):
                stream.frame(shown(frame(index)))
            page.listen(lambda p: count - 1 in p.frames)
            assert stream.status()["outcomes"]["on_time"] == count
            assert len(stream._take.frames.since(0, 10**9)[0]) == LIVE_FRAMES  # memory is bounded
        slow.close()
        wait_until(lambda: server.viewers == 0)


def test_a_page_that_comes_back_is_told_everything_again() -> None:
    stream = stream_of(count=50)
    with served(stream) as server:
        for _ in range(3):
            with Page(server) as page:
                page.listen(lambda p: len(p.frames) == 50)
                assert page.last("hello") is not None


def test_the_status_adds_up() -> None:
    stream = stream_of(count=10)
    stream.finish()
    with served(stream) as server, Page(server) as page:
        page.listen(lambda p: p.last("status") is not None)
    status = page.last("status")
    assert status is not None
    assert status["outcomes"]["on_time"] == 10
    assert status["done"] is True
    assert status["dropped"] == 0


def test_requests_reach_the_talker_and_mistakes_are_told_to_the_page() -> None:
    came: list[Request] = []

    def answer(request: Request) -> None:
        came.append(request)
        if request.name == "mood":
            raise OptionError("no control `mood`")

    with served(stream_of(), answer) as server, Page(server) as page:
        page.send({"type": "set", "control": "emotion", "values": {"joy": 0.5}})
        page.send({"type": "set", "control": "mood", "values": {"joy": 0.5}})
        page.send({"type": "nonsense"})
        page.listen(lambda p: sum(m["type"] == "error" for m in p.said) == 2)
        page.send({"type": "reset"})
        wait_until(lambda: len(came) == 3)
    assert [r.type for r in came] == ["set", "set", "reset"]
    assert next(m["message"] for m in page.said if m["type"] == "error") == "no control `mood`"


def test_a_page_that_sends_too_much_is_cut_off() -> None:
    from websockets.exceptions import ConnectionClosed

    with served(stream_of("live")) as server, Page(server) as page:
        page.socket.send("x" * (MOST_BYTES + 1))
        with pytest.raises(ConnectionClosed):
            page.listen(lambda _: False)
        wait_until(lambda: server.viewers == 0)


def test_closing_ends_the_thread_and_may_be_done_twice() -> None:
    before = set(threading.enumerate())
    server = ViewerServer(stream_of(count=3), answer=ignore)
    server.start()
    page = Page(server)
    page.listen(lambda p: len(p.frames) == 3)
    server.close()
    server.close()
    page.close()
    wait_until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("edgetalker")])


def test_a_server_that_never_started_closes() -> None:
    ViewerServer(stream_of(), answer=ignore).close()


def test_wav_reads_back() -> None:
    import io
    import wave

    sound = np.linspace(-1, 1, 101).astype(np.float32)
    with wave.open(io.BytesIO(wav_bytes(sound, 24000))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 24000, 101)
        again = np.frombuffer(file.readframes(101), "<i2") / 32767
    assert np.abs(again - sound).max() < 1e-4
