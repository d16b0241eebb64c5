"""Files that appear whole, and targets that are tried before the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgetalker.cli.main import main
from edgetalker.engines.errors import OutputError
from edgetalker.engines.files import checked_target, takes_files, try_folder, write_whole

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
on_linux = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux'")


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on the size of files: every write fails with EFBIG, as it would with ENOSPC.

    For as short as can be and no fixture: pytest writes into a file of its own between a test and its fixtures' ends.
    """
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@on_linux
def test_a_full_device_is_seen_before_the_work(tmp_path: Path) -> None:
    link = tmp_path / "a.json"
    link.symlink_to(FULL)
    for target in (FULL, link):
        with pytest.raises(OutputError, match=f"^{target} cannot be written: No space left"):
            checked_target(target)
    assert checked_target("/dev/null") == Path("/dev/null")


def test_a_full_disk_is_seen_before_the_work_and_the_older_file_stays(tmp_path: Path) -> None:
    (tmp_path / "old.json").touch()
    for name in ("old.json", "new.json"):
        with pytest.raises(OutputError, match=f"{name} cannot be written: File too large"), full_disk():
            checked_target(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_a_folder_on_a_full_disk_is_seen_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path} cannot be written: File too large"), full_disk():
        try_folder(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_tried_not_asked(tmp_path: Path) -> None:
    assert takes_files(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    if sys.platform == "linux":
        assert not takes_files(Path("/proc"))  # where root may write, as its flags say, and nothing can be made


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("older figures")
    checked_target(old)
    checked_target(tmp_path / "new.json")
    try_folder(tmp_path / "not" / "yet")
    assert old.read_text() == "older figures"
    assert list(tmp_path.iterdir()) == [old]


def test_a_pipe_is_not_opened_before_there_is_something_to_say(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    checked_target(tmp_path / "pipe.json")  # opened, it would wait for a reader for ever, or fail for want of one


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "socket"))
        with pytest.raises(OutputError, match="cannot be written"):
            checked_target(tmp_path / "socket")


@on_linux
def test_a_pipe_of_the_shell_is_written_into() -> None:
    """`--json >(jq .)`: what /dev/fd/63 is a link to has no name of its own."""
    reading, writing = os.pipe()
    with write_whole(checked_target(f"/dev/fd/{writing}")) as file:
        file.write(b"figures")
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        assert reader.read() == b"figures"


WORDS = (
    "bench --bundle none --json",
    "budget --bundle none --json",
    "profile --bundle none --json",
    "profile --bundle none --csv",
    "profile --bundle none --trace",
    "animate none.wav --bundle none --trace",
    "animate none.wav --bundle none -o",
    "compare talker none none.wav --json",
    "score none.csv none.wav --json",
)


@on_linux
@pytest.mark.parametrize("words", WORDS)
def test_every_command_tries_its_target_first(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if words.startswith(("compare", "score")):
        pytest.importorskip("torch", reason="`compare` and `score` need the package torch")
    target = tmp_path / ("a.jsonl" if words.endswith("-o") else "a.json")
    target.symlink_to(FULL)
    assert main([*words.split(), str(target)]) == 74
    assert "No space left on device" in capsys.readouterr().err


@on_linux
def test_a_full_stdout_is_seen_before_the_work() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "edgetalker", "budget", "--bundle", "none", "--json", "-"]
    with FULL.open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=env, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (74, b"error: stdout cannot be written: No space left on device\n")
