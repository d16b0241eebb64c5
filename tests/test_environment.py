"""The command line where something that is usually there is not: streams, a home, a terminal's letters, a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgetalker.__main__ import start
from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "edgetalker" / "data" / "speech.wav"
COMMAND = [sys.executable, "-m", "edgetalker.cli.main"]


def words(toy: Bundle, command: str, *more: object) -> list[str]:
    return [*COMMAND, command, str(SPEECH), "--bundle", str(toy.path), *map(str, more)]


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    whole = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(command, capture_output=True, timeout=300, check=False, env=whole, cwd=cwd)


def shell(command: Sequence[str], redirections: str) -> int:
    line = " ".join(f"'{word}'" for word in command)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["sh", "-c", f"{line} {redirections}"], timeout=300, check=False, env=env).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_costs_nothing(toy: Bundle, tmp_path: Path, closed: str) -> None:
    out = tmp_path / "a.jsonl"
    assert shell(words(toy, "animate", "-o", out, "--limit", 4), closed) == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 5
    assert all(line.startswith("{") for line in lines), "what went to a stream went into the file"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")
def test_errors_keep_their_codes_without_streams(toy: Bundle, tmp_path: Path) -> None:
    assert shell([*COMMAND, "animate", str(tmp_path / "none.wav")], "2>&-") == 65
    assert shell([*COMMAND, "animate", "-", "--rate", "16000", "--bundle", str(toy.path)], "<&- 2>&-") == 65
    assert shell(words(toy, "animate", "-o", "-", "--limit", 2), ">&- 2>&-") in (64, 74)
    assert shell([*COMMAND, "inspect", str(toy.path)], ">/dev/full 2>&-") == 74


def test_letters_that_the_terminal_lacks_are_no_error(toy: Bundle) -> None:
    done = run([*COMMAND, "inspect", str(toy.path)], {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert run([*COMMAND, "live", "--help"], {"PYTHONIOENCODING": "ascii"}).returncode == 0
    assert run([*COMMAND, "animate", "ä→.wav"], {"PYTHONIOENCODING": "cp1252"}).returncode == 65


@pytest.mark.parametrize(
    "name",
    [
        "EDGETALKER_SERVICE_HOST",
        "EDGETALKER_SERVICE_PORT_HTTP",
        "EDGETALKER_PORT",
        "EDGETALKER_PORT_8765_TCP_ADDR",
        "EDGETALKER_PORT_9000_UDP",
        "EDGETALKER_WEB_SERVICE_HOST",
        "EDGETALKER_1_PORT_8765_TCP",
        "EDGETALKER_NAME",
        "EDGETALKER_ENV_PATH",
    ],
)
def test_what_an_orchestrator_sets_is_not_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetalker.cli.main import _check_environment

    monkeypatch.setenv(name, "tcp://10.0.0.7:8765")
    _check_environment()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always knows its user")
def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetalker.engines.plan import cache_folder

    def no_home(_cls: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    assert not cache_folder().exists()
    with pytest.raises(OSError):
        cache_folder().mkdir(parents=True)


def test_no_folder_for_temporary_files_is_a_message(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetalker.cli import inspect
    from edgetalker.cli.main import main

    def fails(_args: object) -> int:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(inspect, "run", fails)
    assert main(["inspect", str(toy.path)]) == 74


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_a_barge_in_before_the_run_kills_nothing(toy: Bundle, tmp_path: Path) -> None:
    """The signal is sent again and again from the moment that the command's own code runs."""
    begin = (
        "import sys; from edgetalker.cli import main as m; check = m._check_environment\n"
        "def told(): print('begun', flush=True); check()\n"
        "m._check_environment = told; sys.exit(m.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", begin, *words(toy, "animate", "-o", tmp_path / "a.csv", "--limit", 2)[3:]]
    command[command.index("-o") + 1] = str(tmp_path / "a.jsonl")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        while child.poll() is None:
            child.send_signal(signal.SIGUSR1)
            child.send_signal(signal.SIGUSR2)
            time.sleep(0.01)
    assert child.returncode == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_hangup_ends_a_run_as_sigterm_does(toy: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    command = words(toy, "live", "--loop", "--to", out)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith(b"to ")
        time.sleep(1)
        child.send_signal(signal.SIGHUP)
        child.stderr.read()
    assert child.returncode == 129
    assert out.exists()


def test_the_user_s_files_do_not_stand_in_for_modules_of_the_builder(tmp_path: Path) -> None:
    from edgetalker.engines.tensorrt.children import _child

    for name in ("numpy", "json", "struct", "tensorrt_rtx", "edgetalker"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user file ran')")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with _child() as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write('{"flavour": "nonesuch", "timing_cache": "", "onnx": "x"}\n')
            child.stdin.flush()
            answer = child.stdout.read()
    finally:
        os.chdir(before)
    assert '"error"' in answer
    assert "nonesuch" in answer, "the child did not come as far as its request"


def test_nothing_is_looked_up(toy: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime would ask for its maker's collector; strace sees that no address is asked for, and no file made."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    trace = tmp_path / "calls"
    home = tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    command = [strace, "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    command += words(toy, "animate", "-o", tmp_path / "a.jsonl", "--limit", 3)
    env = {**env, "PYTHONPATH": str(ROOT), "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, env=env)
    if b"Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()
    assert not list(home.rglob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="/dev/full is Linux'")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_could_not_be_written_is_told(unbuffered: str) -> None:
    """argparse itself passes over it, where the stream does not wait for the end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, env=env, check=False)
    assert (done.returncode, done.stderr) == (74, b"error: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends a pipe's writer")
def test_a_reader_that_went_away_is_no_matter(toy: Bundle) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = words(toy, "animate", "-o", "-", "--quiet")
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_name_is_no_order_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(tmp_path / "a\x1b]0;b\x07\x9b31m.wav")]) == 65
    message = capsys.readouterr().err
    assert "a\\x1b]0;b\\x07\\x9b31m.wav" in message
    assert message.replace("\n", "").isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use cannot go there")
def test_a_folder_that_is_gone_is_told_with_the_file(toy: Bundle, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = 'rmdir ../gone && exec "$@"'
    done = run(["sh", "-c", line, "sh", *words(toy, "animate", "-o", "x.csv")], cwd=tmp_path / "gone")
    assert done.returncode == 74
    assert done.stderr.startswith(b"error: x.csv cannot be written: "), done.stderr


def test_an_interrupt_before_the_command_begins_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgetalker.cli.main.main", interrupted)
    assert start() == 128 + signal.SIGINT
    assert capsys.readouterr().err == "interrupted\n"


def test_nothing_is_imported_before_an_interrupt_can_be_answered() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); import edgetalker.__main__"
    code += "; print(*sorted(set(sys.modules) - before))"
    done = run([sys.executable, "-I", "-S", "-c", code])
    assert done.stdout.split() == [b"__future__", b"edgetalker", b"edgetalker.__main__"], done


@pytest.mark.parametrize(
    ("words", "purpose", "extra"),
    [
        ("export streamingtalker x.ckpt -o out", "exporting a model", "export"),
        ("export artalk x.pt -o out", "exporting a model", "export"),
        ("export speaker --clips . -o out", "fitting a talker to a speaker", "train"),
        ("export eye-cameras -o out", "training an encoder of eye cameras", "train"),
        ("compare b x.ckpt a.wav", "comparing with PyTorch", "export"),
        ("offline x.ckpt a.wav -o a.csv", "running PyTorch", "export"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    words: str, purpose: str, extra: str, tmp_path: Path
) -> None:
    code = "import sys; sys.modules['torch'] = None; from edgetalker.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = run([sys.executable, "-c", code, *words.split()], cwd=tmp_path)
    assert done.stderr.decode().startswith(
        f"error: {purpose} needs the package `torch`, which is not installed\nhint: "
    )
    assert f"[{extra}]" in done.stderr.decode()
    assert done.returncode == 69
    assert not any(tmp_path.iterdir())
