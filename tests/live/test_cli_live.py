"""The live command and its configuration file."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgetalker.cli import live
from edgetalker.cli.config import read_toml, targets
from edgetalker.engines.errors import InputError, OptionError
from tests.live.meter import RATE, tone
from tests.live.test_stream import write_wav
from tests.runtime.sinks_net.tools import NAMES, read_live_link, sender_threads

pytest.importorskip("onnxruntime")
JAW = NAMES.index("JawOpen")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    live.add_parser(parser.add_subparsers())
    return parser.parse_args(["live", *words])


def merged(*words: str) -> argparse.Namespace:
    args = parsed(*words)
    merged: argparse.Namespace = args.settings.merge(args, args.config)
    return merged


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", tone(0.5))


@pytest.fixture
def listener() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    bound.settimeout(5)
    return bound


def received(bound: socket.socket) -> list[float]:
    """JawOpen of every packet that came."""
    jaws = []
    bound.setblocking(False)
    try:
        while True:
            jaws.append(read_live_link(bound.recv(2048)).values[17])
    except BlockingIOError:
        bound.close()
        return jaws


def test_a_file_is_played_into_two_sinks(
    meter_path: Path, speech: Path, tmp_path: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"livelink://127.0.0.1:{listener.getsockname()[1]}?queue=64"
    out = tmp_path / "out.jsonl"
    code = live.run(parsed(str(speech), "--bundle", str(meter_path), "--to", url, "--to", str(out), "--budget", "2000"))
    jaws = received(listener)
    assert code == 0
    assert len(jaws) == 15
    assert max(jaws) > 0.5
    assert out.exists()
    text = capsys.readouterr().err
    assert "15 frames due" in text
    assert f"{url}: 15 frames: 15 sent, 0 dropped, 0 failed" in text
    assert "sound to packet" in text
    assert "look-ahead 0.0" in text
    assert "first frame" in text
    assert not sender_threads()


def test_a_looped_file_stops_after_the_duration(
    meter_path: Path, tmp_path: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_wav(tmp_path / "short.wav", tone(0.1))
    url = f"livelink://127.0.0.1:{listener.getsockname()[1]}?queue=64"
    words = ["--loop", "--duration", "0.7", "--bundle", str(meter_path), "--to", url, "--late", "send", "--quiet"]
    assert live.run(parsed(str(short), *words)) == 0
    assert len(received(listener)) == 21
    assert capsys.readouterr().err == ""


def test_signals_begin_anew_and_end(
    meter_path: Path, speech: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"livelink://127.0.0.1:{listener.getsockname()[1]}"

    def talk() -> None:
        listener.recv(2048)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.3)
        listener.recv(2048)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=talk)
    thread.start()
    code = live.run(parsed(str(speech), "--loop", "--bundle", str(meter_path), "--to", url, "--duration", "60"))
    thread.join()
    listener.close()
    assert code == 128 + signal.SIGTERM
    assert "1 times begun anew" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is made as POSIX has them")
def test_enter_begins_anew_and_a_program_in_the_background_is_not_stopped(meter_path: Path, speech: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgetalker", "live", str(speech), "--loop", "--bundle", str(meter_path), "--to"]
    try:
        with subprocess.Popen(
            [*command, "livelink://127.0.0.1:9", "--duration", "1.5"], stdin=theirs, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            lines: list[str] = []
            while "Enter begins anew" not in (line := process.stderr.readline()):
                assert line, lines
                lines.append(line)
            time.sleep(0.5)
            os.write(ours, b"\n")
            rest = process.stderr.read()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "1 times begun anew" in rest
    assert "Fatal" not in rest


def test_a_file_gives_all_options(meter_path: Path, speech: Path, tmp_path: Path, listener: socket.socket) -> None:
    config = tmp_path / "kiosk.toml"
    config.write_text(
        f"""
        speech = "{speech}"
        bundle = "{meter_path}"
        quiet = true
        rest = false
        budget = 2000
        [[to]]
        url = "livelink://127.0.0.1:{listener.getsockname()[1]}"
        queue = 64
        map = {{ JawOpen = "JawOpen*0.5" }}
        """
    )
    assert live.run(parsed("--config", str(config))) == 0
    jaws = received(listener)
    assert len(jaws) == 15
    assert 0.3 < jaws[10] < 0.45


def test_the_command_line_goes_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        'speech = "a.wav"\nlate = "skip"\nduration = 5\nto = ["ws://"]\nemotion = {joy = 0.5, anger = 0.1}\n'
    )
    plain = merged("--config", str(config))
    assert (plain.speech, plain.late, plain.duration, plain.rest, plain.threads) == ("a.wav", "skip", 5.0, True, 1)
    assert plain.emotion == "joy:0.5,anger:0.1"
    assert targets(plain.to) == [("ws://", None)]
    over = merged("b.wav", "--late", "hold", "--to", "vmc://", "--no-rest", "--config", str(config))
    assert (over.speech, over.late, over.duration, over.rest) == ("b.wav", "hold", 5.0, False)
    assert targets(over.to) == [("vmc://", None)]
    assert merged("--mic", "--config", str(config)).speech is None


def test_without_a_file_the_defaults_hold() -> None:
    args = merged("--mic", "--to", "view")
    assert (args.mic, args.speech, args.loop, args.late, args.device, args.set) == (
        True,
        None,
        False,
        "hold",
        "host",
        [],
    )


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        'spech = "a"\nlate = "never"\nloop = "yes"\nduration = -1\nthreads = 0\nto = [3]\nrate = {a = 1}\nquiet = 1\n'
    )
    with pytest.raises(OptionError) as caught:
        merged("--config", str(config))
    text = str(caught.value)
    assert text.count("\n  - ") == 8
    assert "did you mean `speech`" in text


def test_options_of_a_sink_are_strict_in_the_file_too(tmp_path: Path, speech: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('to = [{url = "vmc://127.0.0.1", rat = 60}]\n')
    with pytest.raises(OptionError, match="did you mean `rate`"):
        live.run(parsed(str(speech), "--config", str(config)))


@pytest.mark.parametrize("content", ["a = ", "= 3", "a = 1\na = 2"])
def test_what_is_not_toml_is_said_to_be(tmp_path: Path, content: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(content)
    with pytest.raises(InputError, match="not TOML"):
        read_toml(config)
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "ws://"], "nothing to hear"),
        (["a.wav", "--mic", "--to", "ws://"], "both"),
        (["a.wav"], "no output"),
        (["-", "--to", "ws://"], "sample rate"),
        (["a.wav", "--rate", "16000", "--to", "ws://"], "stdin"),
        (["--mic", "--loop", "--to", "ws://"], "--loop"),
        (["a.wav", "--paced", "--to", "ws://"], "--paced"),
        (["a.wav", "--input", "1", "--to", "ws://"], "--mic"),
        (["a.wav", "--to", "wss://"], "no output `wss:`"),
    ],
)
def test_contradictions_are_refused_before_anything_opens(words: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        live.run(parsed(*words))


def test_all_contradictions_are_said_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        live.run(parsed("a.wav", "--mic", "--rate", "16000", "--loop", "--paced"))
    lines = caught.value.message.splitlines()
    assert len(lines) == 5
    assert all(any(word in line for line in lines) for word in ("both", "--rate", "no output", "--paced", "--loop"))
    assert "edgetalker live" in (caught.value.hint or "")


def test_pcm_from_a_pipe(meter_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, (tone(0.5) * 32767).astype("<i2").tobytes())
    os.close(writing)
    url = f"livelink://127.0.0.1:{listener.getsockname()[1]}?queue=64"
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=pipe))
        words = ["-", "--rate", str(RATE), "--paced", "--bundle", str(meter_path), "--to", url, "--budget", "2000"]
        assert live.run(parsed(*words, "--quiet")) == 0
    jaws = received(listener)
    assert len(jaws) == 15
    assert np.mean(jaws[4:12]) > 0.7
