"""A clip that is animated anew when a slider moves, and the command that shows it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError
from edgetalker.face.names import MOTION_NAMES
from edgetalker.runtime.talker import Talker
from edgetalker.viewer.player import ClipPlayer
from edgetalker.viewer.stream import Reader, Stream
from edgetalker.viewer.wire import Request
from tests.support.talk import Pieces

SOUND = np.sin(np.arange(16000) / 20).astype(np.float32) * 0.1


def wait_until(true: Any, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def motion_of(stream: Stream) -> np.ndarray[Any, Any]:
    frames, _, missed = stream._take.frames.since(0, 10**6)
    assert missed == 0
    return np.stack([f.values for f in frames])


@pytest.fixture
def player(toy: Bundle) -> Any:
    session = Talker(toy.path)
    stream = Stream("clip", "toy")
    stream.describe(session.layout)
    made = ClipPlayer(session, lambda: Pieces(SOUND), stream)
    yield made, stream
    made.close()
    session.close()


def test_a_moved_slider_animates_the_whole_clip_anew(player: Any) -> None:
    made, stream = player
    made.start()
    wait_until(lambda: stream.status()["done"])
    first = motion_of(stream)
    assert len(first) == 30
    made.answer(Request("set", "setting", {"north": 1.0}))
    wait_until(lambda: stream.status()["take"] == 2 and stream.status()["done"])
    second = motion_of(stream)
    assert len(second) == 30
    assert not np.array_equal(first[:, 0], second[:, 0])
    assert np.array_equal(first[:, 1:3], second[:, 1:3])  # what the slider does not touch is the same again
    reader = Reader(stream)
    assert any(isinstance(m, bytes) for m in reader.messages())


def test_many_moves_in_a_row_end_with_the_last_ones_motion(player: Any) -> None:
    made, stream = player
    made.start()
    for value in np.linspace(0, 1, 11):
        made.answer(Request("set", "setting", {"north": float(value)}))
    wait_until(lambda: stream.status()["done"] and not made._changed.is_set())
    time.sleep(0.5)
    wait_until(lambda: stream.status()["done"] and not made._changed.is_set())
    after = motion_of(stream)
    made.answer(Request("reset"))
    take = stream.status()["take"]
    wait_until(lambda: stream.status()["take"] > take and stream.status()["done"])
    assert np.array_equal(motion_of(stream), after)


def test_a_wrong_value_is_refused_and_nothing_is_animated_anew(player: Any) -> None:
    made, stream = player
    made.start()
    wait_until(lambda: stream.status()["done"])
    with pytest.raises(OptionError):
        made.answer(Request("set", "setting", {"north": 9.0}))
    time.sleep(0.3)
    assert stream.status()["take"] == 1


def test_closing_at_once_ends_the_thread(player: Any) -> None:
    made, _ = player
    made.start()
    made.close()
    assert not made._thread.is_alive()


def write_wav(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((SOUND * 32767).astype("<i2").tobytes())
    return path


def view(*words: object) -> subprocess.Popen[str]:
    """Start the command line's `view`."""
    code = (
        "import argparse, sys; from edgetalker.cli import view; p = argparse.ArgumentParser();"
        "view.add_parser(p.add_subparsers()); sys.exit(view.run(p.parse_args(['view', *sys.argv[1:]])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_view_prints_the_address_serves_the_clip_and_leaves_on_an_interrupt(tmp_path: Path) -> None:
    pytest.importorskip("websockets", reason="the viewer needs the package websockets (extra `view`)")
    import urllib.request

    np.savez(
        tmp_path / "m.npz", motion=np.zeros((25, 55), np.float32), fps=np.array([25, 1]), names=np.array(MOTION_NAMES)
    )
    process = view(tmp_path / "m.npz", "--audio", write_wav(tmp_path / "s.wav"), "--no-browser")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/)#(\S+)\n", line)
        assert found, line
        address, token = found.groups()
        with urllib.request.urlopen(f"{address}face.glb", timeout=60) as reply:
            assert reply.read(4) == b"glTF"
        with urllib.request.urlopen(f"{address}audio.wav?token={token}", timeout=60) as reply:
            assert reply.read(4) == b"RIFF"
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
