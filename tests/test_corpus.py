"""`edgetalker animate FOLDER -o OUT`: a motion file for each sound, resumable, the same bytes in whatever way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

import edgetalker
from edgetalker.cli import corpus
from edgetalker.cli.main import main

pytest.importorskip("onnxruntime", reason="the talker runs on ONNX Runtime")

SPEECH = Path(edgetalker.__file__).parent / "data" / "speech.wav"
ONE = ("--schedule", "one", "--quiet")


def sound(path: Path, begin: int, end: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(SPEECH)) as file:
        data = file.readframes(file.getnframes())
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(data[2 * begin : 2 * end])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sounds, one of them in a folder below, a file that is none, and two that are no sound files."""
    sound(tmp_path / "in" / "b.wav", 9000, 20000)
    sound(tmp_path / "in" / "a.wav", 0, 16000)
    sound(tmp_path / "in" / "more" / "a.wav", 30000, 36000)
    (tmp_path / "in" / "bad.wav").write_text("this is no sound")
    (tmp_path / "in" / "notes.md").write_text("these are notes")
    (tmp_path / "in" / "._b.wav").write_text("a file that macOS leaves")
    return tmp_path / "in"


def animate(*args: str | Path) -> int:
    return main(["animate", *map(str, args)])


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_each_sound_becomes_the_motion_that_it_is_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert animate(folder, "-o", out, *ONE) == 65
    assert sorted(files(out)) == ["a.npz", "b.npz", "corpus.json", "faults.txt", "more/a.npz"]
    assert "bad.wav" in (out / "faults.txt").read_text()
    for name in ("b", "more/a", "a"):
        assert animate(folder / f"{name}.wav", "-o", tmp_path / "alone.npz", *ONE) == 0
        with np.load(tmp_path / "alone.npz") as alone, np.load(out / f"{name}.npz") as many:
            assert set(alone) == set(many)
            for key in set(alone) - {"cost_ns"}:
                np.testing.assert_array_equal(alone[key], many[key], err_msg=key)
            assert not many["cost_ns"].any(), "what it cost is another number each time"


def test_the_mouth_rests_in_a_folder_as_it_rests_alone(tmp_path: Path) -> None:
    """A tone is no voice; without a detector the talker moves on it, or the test says nothing."""
    (tmp_path / "in").mkdir()
    buzz = sound(tmp_path / "in" / "buzz.wav", 0, 32000)
    with wave.open(str(buzz), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        at = np.arange(32000) / 16000
        wave_ = np.sign(np.sin(2 * np.pi * 140 * at)) * (0.2 + 0.1 * np.sin(2 * np.pi * 3 * at))
        file.writeframes((wave_ * 20000).astype("<i2").tobytes())
    found = {}
    for name, voice in (("without", ()), ("with", ("--voice", "energy"))):
        assert animate(tmp_path / "in", "-o", tmp_path / name, *ONE, *voice) == 0
        assert animate(buzz, "-o", tmp_path / "alone.npz", *ONE, *voice) == 0
        with np.load(tmp_path / "alone.npz") as alone, np.load(tmp_path / name / "buzz.npz") as many:
            np.testing.assert_array_equal(alone["motion"], many["motion"])
            found[name] = alone["motion"].copy()
    assert not np.array_equal(found["without"], found["with"])
    assert animate(tmp_path / "in", "-o", tmp_path / "with", *ONE) == 64, "made in another way"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_forms_and_lists_and_other_order_give_the_same_bytes(folder: Path, tmp_path: Path, form: str) -> None:
    (folder / "bad.wav").unlink()
    listed = tmp_path / "list.txt"
    listed.write_text("# a list\nin/more/a.wav\n\nin/b.wav\nin/a.wav\nin/a.wav\n")
    assert animate(folder, "-o", tmp_path / "one", "--form", form, *ONE) == 0
    assert animate(listed, "-o", tmp_path / "two", "--form", form, *ONE) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert animate(folder / "b.wav", "-o", tmp_path / f"b.{form}", *ONE) == 0
    assert (tmp_path / f"b.{form}").read_bytes() == files(tmp_path / "one")[f"b.{form}"]


def test_what_is_there_is_kept_and_what_changed_is_made_again(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    animate(folder, "-o", out, *ONE)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    (out / "b.npz").unlink()
    sound(folder / "bad.wav", 0, 3000)
    os.utime(folder / "a.wav", (time.time() + 60, time.time() + 60))
    capfd.readouterr()
    assert animate(folder, "-o", out, "--schedule", "one") == 0
    assert "3 files made" in (told := capfd.readouterr().err)
    assert "1 there already, 0 with faults" in told
    assert not (out / "faults.txt").exists()
    same = [path for path in before if path.stat().st_mtime_ns == before[path]]
    assert same == [out / "more" / "a.npz"]


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (folder / "a.flac").write_bytes(b"")
    wrong: dict[str, list[str | Path]] = {
        "would both become": [folder, "-o", out],
        "has no sound files": [tmp_path / "empty", "-o", out],
        "empty.txt has no sound files": [tmp_path / "empty.txt", "-o", out],
        "--realtime goes with one sound": [folder, "-o", out, "--realtime"],
        "2 outputs; one folder": [folder, "-o", out, "-o", out],
        "--ray is for many sounds": [SPEECH, "-o", tmp_path / "x.npz", "--ray"],
    }
    for text, args in wrong.items():
        assert animate(*args) in (64, 65)
        assert text in capfd.readouterr().err
    (folder / "a.flac").unlink()
    assert not out.exists()
    animate(folder, "-o", out, *ONE)
    before = files(out)
    assert animate(folder, "-o", out, "--schedule", "fast", "--quiet") == 64
    assert "schedule was one and is fast" in capfd.readouterr().err
    assert files(out) == before
    assert json.loads(before["corpus.json"])["schedule"] == "one"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX only")
def test_what_cannot_be_read_is_told_and_not_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Permissions do not bind the administrator, whom tests may run as: the system's refusal is made."""
    (folder / "bad.wav").unlink()
    os.mkfifo(folder / "pipe.wav")
    (folder / "more" / "gone.flac").symlink_to("nothing")
    (folder / "shut").mkdir()
    (folder / "take.wav").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert animate(folder, "-o", tmp_path / "out", *ONE) == 65
    monkeypatch.undo()
    wanted = [
        f"{folder / 'more' / 'gone.flac'}: it cannot be read: No such file or directory",
        f"{folder / 'pipe.wav'}: it is a pipe, a socket or a device; a file was wanted",
        f"{folder / 'shut'}: it cannot be read: Permission denied",
    ]
    assert (tmp_path / "out" / "faults.txt").read_text().splitlines() == wanted
    assert capfd.readouterr().err.splitlines() == [f"fault: {line}" for line in wanted]
    assert sorted(path.stem for path in (tmp_path / "out").rglob("*.npz")) == ["a", "a", "b"]
    only = tmp_path / "only"
    only.mkdir()
    os.mkfifo(only / "pipe.wav")
    assert animate(only, "-o", tmp_path / "out", *ONE) == 65
    assert f"no sound files that can be read:\n  {only / 'pipe.wav'}: it is a pipe" in capfd.readouterr().err


def test_motion_goes_into_a_folder(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["animate", str(folder), "-o", str(tmp_path / "file")]) == 74
    assert "a folder was wanted" in capfd.readouterr().err


def test_a_full_disk_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    (folder / "bad.wav").unlink()
    monkeypatch.setattr(Path, "replace", full)
    assert animate(folder, "-o", out, *ONE) == 74
    monkeypatch.undo()
    assert sorted(files(out)) == ["corpus.json"]
    assert animate(folder, "-o", out, *ONE) == 0


def test_a_signal_leaves_whole_files_and_the_next_run_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "bad.wav").unlink()
    for number in range(3):
        with wave.open(str(folder / f"c{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(bytes(2 * 16000 * 600))
    code = "import sys; from edgetalker.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "animate", str(folder), "-o", str(out), *ONE]
    with subprocess.Popen(command) as run:
        while not (out / "b.npz").exists():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 143
    assert sorted(files(out)) == ["a.npz", "b.npz", "corpus.json"]
    for number in range(3):
        (folder / f"c{number}.wav").unlink()
    assert animate(folder, "-o", out, *ONE) == 0
    assert "more/a.npz" in files(out)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_with_ray_the_bytes_are_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="many machines need Ray (extra `ray`)")
    pytest.importorskip("ray.data", reason="many machines need ray[data] (extra `ray`)")
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    here, there = tmp_path / "here", tmp_path / "there"
    assert animate(folder, "-o", here, *ONE) == 65
    assert animate(folder, "-o", there, *ONE, "--ray") == 65
    assert files(here) == files(there)
    (there / "b.npz").unlink()
    (folder / "bad.wav").unlink()
    assert animate(folder, "-o", there, *ONE, "--ray") == 0
    assert files(there)["b.npz"] == files(here)["b.npz"]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert corpus.SETTINGS in files(there)
