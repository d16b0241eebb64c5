"""The command line as a stranger meets it: results, messages, exit codes, interrupts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgetalker.cli.main import COMMANDS, main
from edgetalker.engines.bundle import Bundle

pytest.importorskip("onnxruntime")


def write_wav(path: Path, seconds: float, rate: int = 16000) -> Path:
    samples = (8000 * np.random.default_rng(0).standard_normal(int(seconds * rate))).clip(-32768, 32767)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", 1.0)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "edgetalker", *map(str, words)]


@pytest.mark.parametrize("suffix", [".npz", ".jsonl"])
def test_animate_writes_every_frame(
    toy: Bundle, speech: Path, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"motion{suffix}"
    assert main(["animate", str(speech), "--bundle", str(toy.path), "-o", str(out)]) == 0
    text = capfd.readouterr()
    assert text.out == "", "only data belongs on stdout"
    assert "30 frames" in text.err
    assert str(out) in text.err
    if suffix == ".npz":
        assert np.load(out)["motion"].shape == (30, 4)
    else:
        assert len(out.read_text().splitlines()) == 31


def test_the_same_seed_gives_the_same_file(toy: Bundle, speech: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main(
            [
                "animate",
                str(speech),
                "--bundle",
                str(toy.path),
                "-o",
                str(tmp_path / f"{name}.npz"),
                "--seed",
                str(seed),
                "--quiet",
            ]
        )
        made.append(np.load(tmp_path / f"{name}.npz")["motion"])
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_realtime_counts_its_deadlines(toy: Bundle, speech: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(speech), "--bundle", str(toy.path), "--realtime"]) == 0
    assert "30 frames due:" in capfd.readouterr().err


def test_pcm_on_stdin_is_a_wav_file_without_its_header(toy: Bundle, speech: Path, tmp_path: Path) -> None:
    with wave.open(str(speech)) as file:
        pcm = file.readframes(file.getnframes())
    words = command("animate", "-", "--rate", 16000, "--bundle", toy.path, "-o", tmp_path / "pipe.npz", "--quiet")
    done = subprocess.run(words, input=pcm, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    main(["animate", str(speech), "--bundle", str(toy.path), "-o", str(tmp_path / "file.npz"), "--quiet"])
    assert np.array_equal(np.load(tmp_path / "pipe.npz")["motion"], np.load(tmp_path / "file.npz")["motion"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_keeps_the_frames_made_so_far(toy: Bundle, tmp_path: Path, number: signal.Signals) -> None:
    speech, out = write_wav(tmp_path / "long.wav", 60.0), tmp_path / "out.jsonl"
    words = command("animate", speech, "--bundle", toy.path, "--realtime", "-o", out)
    child = subprocess.Popen(words, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    deadline, parts = time.monotonic() + 60, list[Path]()
    while not parts and time.monotonic() < deadline:  # with frames in it: whether it can be written is tried before
        time.sleep(0.05)
        with suppress(FileNotFoundError):
            parts = [path for path in tmp_path.glob(".edgetalker-*.part") if path.read_bytes().count(b"\n") > 2]
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err.decode()
    assert b"interrupted" in err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["index"] for line in lines[1:]] == list(range(len(lines) - 1))
    assert list(tmp_path.glob(".*")) == [], "a part file was left behind"


def test_an_output_that_is_the_input_or_is_named_twice_is_refused_before_the_work(
    toy: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = write_wav(tmp_path / "speech.jsonl", 0.5)
    link = tmp_path / "link.jsonl"
    link.symlink_to(speech)
    before = speech.read_bytes()
    tags = tmp_path / "tags.csv"
    tags.write_text("time,tag\n0,north\n")
    motion, told = ["-o", tmp_path / "a.csv"], ["--input", f"setting={tags}"]
    read, again = "is a file that is read", "is written twice"
    for outputs, words in (
        (["-o", speech], read),
        (["-o", link], read),
        ([*motion, "-o", f"{tmp_path}/./a.csv"], again),
        ([*motion, "--trace", tmp_path / "a.csv"], again),
        (["-o", tags, *told], read),
        ([*motion, *told, "--trace", tags], read),
    ):
        assert main(list(map(str, ["animate", speech, "--bundle", toy.path, *outputs]))) == 64
        assert words in capsys.readouterr().err
    heard = write_wav(tmp_path / "heard.wav", 0.5)
    content = heard.read_bytes()
    assert main(list(map(str, ["live", heard, "--play", heard, *motion[1:], "--bundle", toy.path, "--to", "-"]))) == 64
    assert (speech.read_bytes(), heard.read_bytes()) == (before, content)
    assert tags.read_text() == "time,tag\n0,north\n"


def test_quiet_still_tells_what_goes_wrong(toy: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech = write_wav(tmp_path / "a.wav", 1.0)
    speech.write_bytes(speech.read_bytes()[:-5000])
    assert main(["animate", str(speech), "--bundle", str(toy.path), "-o", str(tmp_path / "a.npz"), "--quiet"]) == 0
    assert capsys.readouterr().err.startswith("warning: ")
    assert main(["live", str(speech), "--bundle", str(toy.path), "--to", str(tmp_path / "b.npz"), "--quiet"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_lines_on_stdout(toy: Bundle, tmp_path: Path) -> None:
    speech = write_wav(tmp_path / "a.wav", 0.5)
    words = command("animate", speech, "--bundle", toy.path, "-o", "-")
    done = subprocess.run(words, capture_output=True, check=True)
    header, *lines = map(json.loads, done.stdout.splitlines())
    assert header["format"] == "edgetalker-motion"
    assert len(lines) > 3
    speech = write_wav(tmp_path / "a.wav", 60)  # more than fits into a pipe, so that it is seen to break
    head = f"{' '.join(map(shlex.quote, words))} | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", head], capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (141, False), done.stderr


MISTAKES = [
    (["animte"], 64, "did you mean `animate`"),
    (["animate"], 64, "nothing to hear"),
    (["animate", "x.wav", "--mic"], 64, "both a file and --mic"),
    (["animate", "-"], 64, "--rate 16000"),
    (["animate", ""], 64, "an empty name"),
    (["animate", "SPEECH", "--bundle", ""], 64, "an empty name"),
    (["animate", "SPEECH", "--bundle", "TOY", "--input", "setting="], 64, "--input setting=values.csv"),
    (["animate", "SPEECH", "--bundle", "TOY", "--input", "setting=a", "--input", "setting=b"], 64, "came twice"),
    (["animate", "nowhere.wav", "--bundle", "TOY"], 65, "nowhere.wav"),
    (["animate", "SPEECH", "--bundle", "nowhere"], 65, "no such folder"),
    (["animate", "SPEECH", "--bundle", "TOY", "-o", "x.mp4"], 64, ".mp4"),
    (["animate", "SPEECH", "--bundle", "TOY", "-o", "nowhere/x.npz"], 74, "nowhere"),
    (["animate", "SPEECH", "--bundle", "TOY", "--schedule", "fulll"], 64, "full"),
    (["animate", "SPEECH", "--bundle", "TOY", "--emotion", "joy:1"], 64, "setting"),
    (["animate", "SPEECH", "--bundle", "TOY", "--set", "setting=nroth:1"], 64, "did you mean `north`"),
    (["animate", "SPEECH", "--bundle", "TOY", "--set", "setting"], 64, "CONTROL=VALUES"),
    (["animate", "SPEECH", "--bundle", "TOY", "--precision", "fp16"], 64, "edgetalker convert"),
    (["animate", "SPEECH", "--bundle", "TOY", "--trace", "x.txt"], 64, ".json"),
    (["animate", "SPEECH", "--bundle", "TOY", "--threads", "0"], 64, "at least 1"),
    (["animate", "SPEECH", "--bundle", "TOY", "--budget", "-3"], 64, "more than 0"),
    (["animate", "SPEECH", "--bundle", "TOY", "--device", "cuda"], 69, "hint"),
    (["animate", "SPEECH", "--bundle", "TOY", "--gpu", "3"], 64, "cuda"),
    (["animate", "SPEECH", "--bundle", "TOY", "--wait", "block"], 64, "cuda"),
    (["animate", "SPEECH", "--bundle", "TOY", "--engine", "rtx"], 64, "--device cuda"),
    (["profile", "TOY", "--csv", "x", "--json", "x"], 64, "is written twice"),
    (["budget", "TOY", "--device", ","], 64, "names no device"),
    (["inspect", "nowhere"], 65, "no such folder"),
    (["bench", "nowhere"], 65, "no such folder"),
]


@pytest.mark.parametrize(("words", "code", "text"), MISTAKES)
def test_a_mistake_is_a_message_with_a_hint_and_never_a_traceback(
    toy: Bundle,
    speech: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    text: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgetalker.engines.machine import Gpu, probe

    if "cuda" in words and isinstance(probe(), Gpu):
        pytest.skip("this machine has a GPU, so --device cuda is no mistake")
    monkeypatch.chdir(tmp_path)
    places = {"TOY": str(toy.path), "SPEECH": str(speech)}
    try:
        found = main([places.get(word, word) for word in words])
    except SystemExit as stop:
        found = int(stop.code or 0)
    said = capfd.readouterr()
    assert found == code, said.err
    assert said.err.startswith("error: ")
    assert text in said.err
    assert "Traceback" not in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"], "a mistake must leave nothing behind"


def test_inspect_shows_the_contract_and_speaks_json(toy: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(toy.path)]) == 0
    text = capsys.readouterr().out
    for part in (
        "look-ahead 10 ms, block of 2 frames",
        "denoise.onnx",
        "full: 5 rows",
        "shift x -> history",
        "north=0 (0 to 1)",
    ):
        assert part in text
    main(["inspect", str(toy.path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["sizes"]["audio.onnx"] == (toy.path / "audio.onnx").stat().st_size


def test_bench_reports_what_the_issue_of_latency_needs(
    toy: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "bench.json"
    assert main(["bench", str(toy.path), "--frames", "20", "--json", str(report), "--against", "eager"]) == 0
    text = capsys.readouterr().out
    for part in ("p99", "cv %", "runtime overhead", "one row", "bytes kept a frame", "first frame", "times faster"):
        assert part in text
    figures = json.loads(report.read_text())["schedules"]["full"]
    assert figures["frame"]["count"] == 20
    assert figures["rows"] == 5
    assert figures["frame"]["min"] <= figures["frame"]["median"] <= figures["frame"]["p99"] <= figures["frame"]["max"]
    assert set(figures["stages"]) == {"audio", "blend", "denoise", "decode"}


def test_doctor_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "animate a WAV file" in capsys.readouterr().out
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {ability["name"] for ability in found["abilities"]} >= {"animate a WAV file", "build TensorRT plans"}


def test_a_trace_opens_in_perfetto(toy: Bundle, speech: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert main(["animate", str(speech), "--bundle", str(toy.path), "--trace", str(trace), "--quiet"]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {"denoise[0]", "denoise[4]", "decode"} <= {event["name"] for event in spans}
    assert all(event["dur"] >= 0 and "ts" in event for event in spans)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: edgetalker" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error(toy: Bundle) -> None:
    words = command("inspect", toy.path, "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert b"Traceback" not in child.stderr.read()


def test_a_misspelt_environment_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGETALKER_TEST_CACH", "x")
    assert main(["doctor"]) == 64
    assert "did you mean `EDGETALKER_TEST_CACHE`" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX only")
def test_view_refuses_a_pipe_which_it_could_not_play_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert main(["view", str(tmp_path / "pipe.wav"), "--no-browser"]) == 65
    assert "is a pipe; the page plays a sound over and over" in capsys.readouterr().err
