"""The examples run as they are."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgetalker.runtime.sinks.net import websocket
from tests.live.meter import RATE, tone
from tests.live.test_stream import write_wav
from tests.runtime.sinks_net.test_websocket import free_port
from tests.runtime.sinks_net.tools import LAYOUT, frame, motion, receiver, unused_port

pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", np.concatenate([tone(1.0), np.zeros(RATE // 2, np.float32)]))


def example(name: str, *words: object, stdin: bytes = b"") -> list[str]:
    """Run an example as a user would and return its lines."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = [line for line in done.stderr.decode().splitlines() if "cannot be reached" not in line]
    assert told == []
    return done.stdout.decode().splitlines()


def test_stream_file(meter_path: Path, speech: Path) -> None:
    lines = example("stream_file.py", speech, "--bundle", meter_path)
    assert len(lines) == 45
    assert "######" in lines[20]
    assert lines[-1].split() == ["1.467", "s", "0.000"]


def test_push_microphone(meter_path: Path) -> None:
    sound = (tone(1.0) * 32767).astype("<i2").tobytes()
    frames = [
        json.loads(line) for line in example("push_microphone.py", "--rate", RATE, "--bundle", meter_path, stdin=sound)
    ]
    assert [entry["index"] for entry in frames] == list(range(30))
    assert frames[15]["shapes"]["JawOpen"] > 0.7
    assert frames[15]["shapes"]["EyeBlinkLeft"] == 0.25


def test_drive_avatars(meter_path: Path, speech: Path) -> None:
    with receiver() as bound:
        url = f"livelink://127.0.0.1:{bound.getsockname()[1]}"
        dead = f"vmc://127.0.0.1:{unused_port()}"
        lines = example("drive_avatars.py", speech, "--bundle", meter_path, "--to", url, "--to", dead)
        assert bound.recv(2048)
    assert "frames due" in lines[0]
    assert lines[1].startswith(f"{url}: ")
    assert lines[3].startswith(f"{dead}: ")
    assert "sound to packet" in lines[2]


def test_own_sink(meter_path: Path, speech: Path) -> None:
    lines = example("own_sink.py", speech, "--bundle", meter_path)
    assert lines[0].startswith("0 blinks; the jaw opened to 0.8")
    assert "45 frames due" in lines[1]


@pytest.mark.parametrize("form", ["json", "binary"])
def test_receive_websocket(form: str) -> None:
    sink = websocket.from_url(f"ws://127.0.0.1:{free_port()}?format={form}&rate=60")
    sink.open(LAYOUT)
    done = threading.Event()

    def play() -> None:
        index = 0
        while not done.wait(0.03):
            sink.send(frame(index, motion(JawOpen=0.5)))
            index += 1

    thread = threading.Thread(target=play)
    thread.start()
    try:
        lines = example("receive_websocket.py", f"ws://127.0.0.1:{sink.port}", "--frames", 3)
    finally:
        done.set()
        thread.join()
        sink.close()
    assert lines[0] == "55 values at 30 frames a second"
    assert [line.split()[-1] for line in lines[1:]] == ["0.500"] * 3
