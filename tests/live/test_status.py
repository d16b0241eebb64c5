"""What a run tells while it goes and when it ends, and what `edgetalker check` finds out."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.cli.check import face_at
from edgetalker.cli.logs import log_as, say
from edgetalker.cli.main import main
from edgetalker.cli.status import Status
from edgetalker.engines.bundle import Bundle
from edgetalker.face.names import MOTION_NAMES
from edgetalker.runtime.live import Live
from edgetalker.runtime.loop import Options
from edgetalker.runtime.sinks.net import livelink
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.talker import Talker
from tests.live.meter import tone
from tests.live.test_stream import write_wav
from tests.runtime.sinks_net.tools import receiver, unused_port
from tests.support.clock import FakeClock
from tests.support.talk import Pieces

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), logging.getLogger("edgetalker.run").level
    yield
    root.handlers[:] = handlers
    logging.getLogger("edgetalker.run").setLevel(level)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", tone(1.0))


def test_a_run_that_reaches_nobody_is_no_success(
    meter_path: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"vmc://127.0.0.1:{unused_port()}"
    assert main(["live", str(speech), "--bundle", str(meter_path), "--to", url]) == 69
    said = capsys.readouterr().err
    assert "nothing was delivered" in said
    assert "efused" in said
    assert "sound to packet" not in said, "no latency was measured"


def test_a_run_of_which_one_receiver_is_there_is_one(meter_path: Path, speech: Path) -> None:
    with receiver() as bound:
        urls = [f"livelink://127.0.0.1:{bound.getsockname()[1]}", f"vmc://127.0.0.1:{unused_port()}"]
        words = ["live", str(speech), "--bundle", str(meter_path), "--to", urls[0], "--to", urls[1]]
        assert main(words) == 0


def test_json_logs_hold_the_error_too(meter_path: Path, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"vmc://127.0.0.1:{unused_port()}"
    assert main(["live", str(speech), "--bundle", str(meter_path), "--to", url, "--log", "json"]) == 69
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[-1]["level"] == "error"
    assert lines[-1]["exit_code"] == 69


def watched(toy: Bundle, terminal: io.StringIO | None, sinks: list[livelink.LiveLinkSink]) -> None:
    status = Status(terminal)
    status._shown = -1e9
    clock = FakeClock()
    with Talker(toy) as talker:
        live = Live(
            talker, PacedSource(Pieces(tone(1.0)), clock), sinks, options=Options(), clock=clock, observers=[status]
        )
        status.watch(live)
        status._shown = -1e9
        live.run()
    status.close()


def test_a_terminal_has_a_line_that_is_drawn_over(meter_path: Path) -> None:
    terminal = io.StringIO()
    with receiver() as bound:
        watched(
            Bundle.open(meter_path), terminal, [livelink.from_url(f"livelink://127.0.0.1:{bound.getsockname()[1]}")]
        )
    drawn = terminal.getvalue()
    assert "\n" not in drawn
    assert "frames a second" in drawn
    assert "livelink://" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_elsewhere_a_line_a_minute_is_logged(meter_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    with receiver() as bound:
        watched(Bundle.open(meter_path), None, [livelink.from_url(f"livelink://127.0.0.1:{bound.getsockname()[1]}")])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 1, "the second would come a minute later"
    assert lines[0]["frames"] >= 1
    assert set(lines[0]["receivers"].values()) <= {"sending", "waiting"}


def test_messages_are_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    say("to vmc://", n=1)
    logging.getLogger("edgetalker.outputs").warning("away")
    assert capsys.readouterr().err == "to vmc://\nwarning: away\n"
    log_as("json", quiet=True)
    say("not heard")
    assert capsys.readouterr().err == ""


def test_check_finds_a_program_that_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with receiver() as bound:
        assert main(["check", f"livelink://127.0.0.1:{bound.getsockname()[1]}", "--seconds", "0.5"]) == 0
        assert bound.recv(2048)
    assert "took the packets" in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["vmc", "livelink", "vrchat"])
def test_check_says_that_nobody_listens(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{scheme}://127.0.0.1:{unused_port()}", "--seconds", "0.5"]) == 69
    assert "no program listens on that port" in capsys.readouterr().err


class WindowsSocket(socket.socket):
    """A refused packet is told to who receives, in Windows' words; who sends never hears of it."""

    def send(self, data: Any, flags: int = 0) -> int:
        with suppress(ConnectionRefusedError):
            return super().send(data, flags)
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        try:
            return super().recv(size, flags)
        except ConnectionRefusedError:
            raise ConnectionResetError(10054, "Eine vorhandene Verbindung wurde geschlossen") from None


def test_check_says_on_windows_that_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "socket", WindowsSocket)
    assert main(["check", f"vmc://127.0.0.1:{unused_port()}", "--seconds", "0.5"]) == 69
    assert "no program listens on that port" in capsys.readouterr().err


def test_check_says_that_no_client_came(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("websockets")
    assert main(["check", f"ws://127.0.0.1:{unused_port()}", "--seconds", "0.2"]) == 69
    assert "no client was connected" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a child is sent POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_check_ended_by_a_signal_says_so_and_what_it_knows(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edgetalker", "check", f"vmc://127.0.0.1:{unused_port()}", "--seconds", "600"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as child:
        assert child.stdout is not None
        while not child.stdout.readline().startswith("600 s: the mouth"):
            assert child.poll() is None
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (128 + number, "")
    assert "nothing arrived at" in out


def test_check_says_what_cannot_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "face.csv"]) == 64
    assert main(["check", "vmc://name.invalid", "--seconds", "0.3"]) == 69
    assert "name" in capsys.readouterr().err
    assert main(["check", "foo://here"]) == 64
    assert "files" not in capsys.readouterr().err


def test_the_test_face_moves_within_bounds() -> None:
    motions = np.array([face_at(step / 30) for step in range(300)])
    assert motions.shape == (300, len(MOTION_NAMES))
    assert motions[:, :52].min() >= 0
    assert motions[:, :52].max() <= 1
    assert np.ptp(motions[:, MOTION_NAMES.index("JawOpen")]) > 0.5
