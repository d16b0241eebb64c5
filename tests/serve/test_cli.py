"""`edgetalker serve` from the outside."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgetalker.cli.main import main
from edgetalker.runtime import voice

for package in ("onnx", "onnxruntime", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

from websockets.asyncio.client import connect  # noqa: E402


def test_a_server_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('talkers = 2\nschedule = "one"\nhttp = "127.0.0.1:0"\n')
    command = [sys.executable, "-m", "edgetalker", "serve", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().rsplit(" ", 1)[1])

        async def talk() -> list[str]:
            async with connect(f"ws://127.0.0.1:{port}/v1/talk") as ws:
                await ws.recv()
                await ws.send(bytes(3200))
                await ws.send('{"type": "flush"}')
                return [json.loads(await ws.recv())["type"] for _ in range(4)]

        assert asyncio.run(talk()) == ["frame", "frame", "frame", "end"]
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert "1 talkers, 3 frames due" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--http", "0.0.0.0:1"], "everybody on the network"),
        (["--http", "here"], "host:port was wanted"),
        (["--http", "127.0.0.1:81", "--grpc", "127.0.0.1:81"], "--http and --grpc both name 127.0.0.1:81"),
        (["--origin", "nonsense"], "--origin wants origins such as https://example.org"),
        (["--origin", "https://a.example", "--origin", ""], "and got `https://a.example,`"),
        (["--allow", "https://kiosk.example"], "--allow wants host names such as kiosk.local"),
        (["--tls-cert", "c.pem"], "certificate and its key"),
        (["--graphs", "frame"], "--graphs is for one talker"),
        (["--seed", "3"], "--seed is for one talker"),
        (["--schedule", "ful"], "no schedule `ful`; the bundle has full, fast, one (did you mean `full`?)"),
        (["--voice", "siler"], "invalid choice: 'siler' (choose from"),
    ],
)
def test_what_cannot_be_served(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--talkers", "1", *words]) == 64
    assert said in capsys.readouterr().err


def test_the_detector_may_be_named_in_the_file_and_is_tried_before_a_client_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('talkers = 1\nschedule = "one"\nhttp = "127.0.0.1:0"\nvoice = "silero"\n')
    (tmp_path / "other.onnx").write_bytes(b"another network")
    monkeypatch.setattr(voice, "MODEL", tmp_path / "other.onnx")
    voice._network.cache_clear()
    assert main(["serve", "--config", str(config)]) == 65
    assert "is not the file that ships" in capsys.readouterr().err
    config.write_text('voice = "loud"\n')
    assert main(["serve", "--config", str(config)]) == 64
    assert "voice" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_message_without_a_library_s_noise() -> None:
    pytest.importorskip("grpc")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "edgetalker", "serve", "--talkers", "1", "--schedule", "one", "--grpc", where]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 69
    assert done.stderr.startswith(f"error: gRPC cannot listen on {where}\nhint: "), done.stderr


def test_bench_times_many_talkers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    words = ["bench", "--talkers", "3", "--frames", "3", "--schedule", "one", "--json", str(file)]
    assert main(words) == 0
    rows = json.loads(file.read_text())
    assert [(row["talkers"], row["width"]) for row in rows] == [(1, 1), (2, 2), (3, 3)]
    assert all(0 < row["p50"] <= row["p99"] for row in rows)
    assert capsys.readouterr().out.count("one") >= 3
    assert main([*words, "--against", "torch"]) == 64
