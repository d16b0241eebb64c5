"""`edgetalker view` without a file: a fixed address, the face alone, and what programs say and ask over the socket."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.engines.errors import InputError
from edgetalker.runtime.live import Live
from edgetalker.runtime.sources.live import SaidSource
from edgetalker.runtime.talker import Talker
from edgetalker.viewer.sink import ViewerSink
from edgetalker.viewer.wire import answer_message
from tests.viewer.chromium import Tab, browser
from tests.viewer.pages import Page

pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
pytest.importorskip("onnxruntime")
TOKEN = "a-token+that%is-long"
STATIC = Path(edgetalker.__file__).parent / "viewer" / "static"
SPEECH = Path(edgetalker.__file__).parent / "data" / "speech.wav"


def speech(seconds: float) -> str:
    with wave.open(str(SPEECH)) as file:
        return base64.b64encode(file.readframes(int(seconds * 16000))).decode()


def test_what_waits_has_a_limit_and_comes_in_order() -> None:
    source = SaidSource(16000, most=1.0)
    source.say(np.arange(8000, dtype=np.int16), 16000)
    source.say(np.zeros(4000, np.int16), 8000)
    with pytest.raises(InputError, match="1 s"):
        source.say(np.zeros(8000, np.int16), 16000)
    first = source.read(8000, 0.0)
    np.testing.assert_allclose(first, np.arange(8000) / 32768, atol=1e-6)
    assert len(source.read(16000, 0.0)) == 8000
    assert not len(source.read(16000, 0.0))
    assert not source.ended


@pytest.mark.parametrize("number", [7, "seven"])
def test_an_answer_has_the_id_of_its_request(number: Any) -> None:
    assert json.loads(answer_message({"type": "reset", "id": number}, None)) == {"type": "ok", "id": number}
    odds: list[object] = [None, [1], "x", {"id": [1]}, {"id": "x" * 200}]
    for odd in odds:
        assert json.loads(answer_message(odd, None)) == {"type": "ok"}


def test_what_is_said_moves_the_face_and_every_request_is_answered() -> None:
    talker = Talker()
    source = SaidSource(talker.manifest.audio.rate)
    sink = ViewerSink(browser=False, say=source.say, token=TOKEN, query="face")
    live = Live(talker, source, [sink], paced=True, patience=0.02)
    thread = threading.Thread(target=live.run)
    thread.start()
    try:
        while not sink._server.port:
            time.sleep(0.01)
        time.sleep(0.2)
        assert sink.url.endswith("/?face#a-token%2Bthat%25is-long")
        with Page(sink._server, token="a-token%2Bthat%25is-long") as page:
            page.listen(lambda p: len(p.frames) > 5)
            rest = max(values[17] for values in page.frames.values())
            page.send({"type": "say", "id": 1, "rate": 16000, "audio": speech(1.5)})
            page.send({"type": "set", "id": 2, "control": "emotion", "values": {"joy": 0.5}})
            page.send({"type": "set", "id": 3, "control": "mood", "values": {"joy": 0.5}})
            page.send({"type": "say", "id": 4, "rate": 16000, "audio": "no base64"})
            page.send({"type": "sing", "id": 5})
            page.listen(lambda p: max(values[17] for values in p.frames.values()) > rest + 0.1)
            page.send({"type": "reset", "id": 6})
            page.listen(lambda p: any(m.get("id") == 6 for m in p.said))
            answers = {m["id"]: (m["type"], m.get("code")) for m in page.said if "id" in m}
            heard = sum(len(samples) for _, _, samples in page.sounds)
            page.listen(lambda p: p.last("take") is not None)  # begun anew
        assert answers == {
            1: ("ok", None), 2: ("ok", None), 3: ("error", "option"), 4: ("error", "input"), 5: ("error", "option"),
            6: ("ok", None),
        }  # fmt: skip
        assert heard > 3000  # the page hears what the talker hears
    finally:
        live.stop()
        thread.join(20)
        talker.close()


@contextmanager
def kiosk(port: int, *words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edgetalker", "view", "--port", str(port), "--no-browser", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_kiosks_page_has_one_address_and_shows_the_face_alone(tmp_path: Path) -> None:
    word = tmp_path / "token"
    word.write_text(TOKEN + "\n")
    port = free_port()
    address = f"http://127.0.0.1:{port}/?face&background=transparent#{TOKEN.replace('%', '%25').replace('+', '%2B')}"
    options = ("--face-only", "--token-file", word, "--background", "transparent")
    with browser(500, 400, "--autoplay-policy=no-user-gesture-required") as tab:
        for _ in range(2):  # the address stays the same when the program is started again
            with kiosk(port, *options) as process:
                assert process.stderr is not None
                said = process.stderr.readline()
                assert said.strip().endswith(address.replace("?face&", "?face=&")), said
                tab.open("about:blank")
                tab.open(address)
                tab.until("window.edgetalker.probe().ready")
                assert not tab.js("[...document.querySelectorAll('aside, footer')].some((part) => part.offsetWidth)")
                tab.call("Emulation.setDefaultBackgroundColorOverride", color={"r": 0, "g": 255, "b": 0, "a": 1})
                picture = tab.picture()
                assert (picture[:60, :60] == [0, 255, 0]).all()  # what lies behind the page is seen: transparent
                assert ((picture[:, :, 0] > picture[:, :, 2] + 30).mean()) > 0.05  # and the face
                shown(tab, "document.querySelector('#notice').hidden")
        with kiosk(port, *options):
            tab.open("about:blank")
            tab.open(f"http://127.0.0.1:{port}/?face#wrong")
            tab.until("document.querySelector('#notice').textContent.includes('token is wrong')")
            tab.open("about:blank")
            tab.open(f"http://127.0.0.1:{port}/?face")
            tab.until("document.querySelector('#notice').textContent.includes('has no token')")
        tab.open((STATIC / "index.html").as_uri())
        shown(tab, "document.querySelector('#notice')?.textContent.includes('opened from a file')")


@pytest.mark.slow
def test_the_pages_own_program_says_something(tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("no espeak-ng: apt-get install espeak-ng")
    page = (Path(edgetalker.__file__).parents[1] / "docs" / "viewer.md").read_text(encoding="utf-8")
    code = next(part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "espeak-ng" in part)
    port = free_port()
    (tmp_path / "token").write_text("a-word-that-is-long-enough")
    with kiosk(port, "--token-file", tmp_path / "token") as process:
        assert process.stderr is not None
        process.stderr.readline()
        code = code.replace("8765", str(port)).replace("WORD", "a-word-that-is-long-enough")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == '{"type": "ok", "id": 1}\n', done.stderr


def shown(tab: Tab, expression: str) -> None:
    end = time.monotonic() + 60
    while not tab.js(f"Boolean({expression})"):
        assert time.monotonic() < end, expression
        time.sleep(0.1)
