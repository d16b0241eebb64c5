"""What lies in deploy/ is what the command line takes, what systemd takes, and what a service manager is told."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edgetalker.cli.main import COMMANDS, whole_parser
from edgetalker.cli.service import ServiceManager
from edgetalker.engines.bundle import Bundle
from edgetalker.runtime.frame import Frame

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
EXPOSURE = 2.0
"""The most that `systemd-analyze security` may say of the unit, of 10; deploy/README.md states what it says."""


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "edgetalker.service")
    return parser


def parsed(words: list[str]) -> None:
    """Raise when the command line does not take these words."""
    assert words[0] in COMMANDS
    whole_parser().parse_args(words)


def test_the_unit_runs_a_command_that_exists() -> None:
    service = unit()["Service"]
    parsed(shlex.split(service["ExecStart"])[1:])
    assert service["SuccessExitStatus"] == "143"
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0


def analyze(tmp_path: Path, *words: str, drop_ins: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    copy = tmp_path / "edgetalker.service"
    text = (DEPLOY / "edgetalker.service").read_text()
    copy.write_text(text.replace("/opt/edgetalker/bin/edgetalker", "/bin/true"))  # which need not be here
    for name in drop_ins:
        (tmp_path / "edgetalker.service.d").mkdir()
        text = (DEPLOY / name).read_text().replace("/opt/edgetalker/bin/edgetalker", "/bin/true")
        (tmp_path / "edgetalker.service.d" / name).write_text(text)
    return subprocess.run([tool, *words, str(copy)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("drop_ins", [(), ("jetson.conf",)], ids=["alone", "on a Jetson"])
def test_systemd_takes_the_unit(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    done = analyze(tmp_path, "verify", "--man=no", drop_ins=drop_ins)
    assert done.returncode == 0, done.stderr
    assert "edgetalker.service" not in done.stderr, done.stderr
    assert not any(name in done.stderr for name in drop_ins), done.stderr


def test_the_jetson_s_drop_in_runs_a_command_that_exists() -> None:
    command = re.findall(r"^ExecStart=(.+)", (DEPLOY / "jetson.conf").read_text(), re.MULTILINE)
    assert len(command) == 1
    parsed(shlex.split(command[0])[1:])


def test_the_unit_is_exposed_as_little_as_is_stated(tmp_path: Path) -> None:
    done = analyze(tmp_path, "security", "--offline=true", "--no-pager")
    found = re.search(r"Overall exposure level for edgetalker.service: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd cannot judge a file: {done.stderr}")
    assert float(found[1]) <= EXPOSURE
    assert f"{EXPOSURE:g}" in (DEPLOY / "README.md").read_text()


def test_the_configuration_names_options_of_live() -> None:
    pytest.importorskip("tomllib", reason="tomllib is part of Python from 3.11")
    args = whole_parser().parse_args(["live", "--config", str(DEPLOY / "live.toml")])
    assert args.settings.merge(args, args.config).mic is True


def test_the_container_s_command_is_taken_and_its_files_are_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    command = next(line for line in text.splitlines() if line.startswith("CMD ["))
    parsed(json.loads(command.removeprefix("CMD ")))
    for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    user = re.search(r"^USER (\d+)", text, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"edgetalker", "pyproject.toml", "README.md", "deploy"} & set(ignored)


@pytest.mark.slow
def test_the_container_s_steps_run_without_docker(tmp_path: Path) -> None:
    """What the Dockerfile does, here: installed from the copied files alone, then run as its user, with its command and
    its health check, on a root that cannot be written to, with /tmp alone in memory, and no capability."""
    tools = [shutil.which(name) for name in ("unshare", "setpriv", "mount")]
    if os.geteuid() != 0 or None in tools:
        pytest.skip("a container's surroundings are made by root, with unshare, setpriv and mount")
    if subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    text = (DEPLOY / "Dockerfile").read_text()
    source, venv = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.*)", text[: text.index("FROM", text.index("RUN"))], re.MULTILINE):
        for name in line.split()[:-1]:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source)
    assert 'pip install --no-cache-dir ".[$EXTRAS]"' in text
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    # The microphone is compiled, which the wheelhouse's test does.
    extras = ",".join(extra for extra in image_extras() if extra != "mic")
    done = subprocess.run(
        [str(venv / "bin" / "pip"), "install", "-q", f".[{extras}]"], cwd=source, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    command, health = (json.loads(found) for found in re.findall(r"CMD (\[.*\])", text)[::-1])
    user = re.search(r"^USER (\d+):(\d+)", text, re.MULTILINE)
    assert user is not None
    words = [str(venv / "bin" / "edgetalker"), *command]
    words[words.index("--config") : words.index("--config") + 2] = [
        str(next(venv.glob("lib/*/site-packages/edgetalker/data/speech.wav")))
    ]
    words += ["--loop", "--to", "vmc://127.0.0.1:39540"]  # there is no microphone here
    python = [str(venv / "bin" / "python"), *health[1:]]
    shown = shlex.join([*python[:-1], python[-1].replace("> 10", "> 2")])
    inner = f"""
        (touch /etc/x || touch {venv}/x) 2>/dev/null && exit 9
        {shlex.join(words)} & run=$!
        for _ in $(seq 60); do sleep 1; {shown} 2>/dev/null && break; done
        {shown} || exit 7
        kill -STOP $run; sleep 4
        {shown} && exit 8
        kill -CONT $run; kill -TERM $run; wait $run
    """
    drop = f"setpriv --reuid {user[1]} --regid {user[2]} --clear-groups --no-new-privs --bounding-set=-all"
    script = f"""
        set -e
        mount --make-rprivate /
        mkdir {tmp_path}/root && mount --bind / {tmp_path}/root
        mount -o remount,ro,bind {tmp_path}/root
        mount --bind /dev {tmp_path}/root/dev && mount --bind /proc {tmp_path}/root/proc
        mount -t tmpfs tmpfs {tmp_path}/root/tmp
        case {sys.base_prefix} in /root/*)  # a Python of root's own, which the container's user could not reach
            mount -t tmpfs -o mode=755 tmpfs {tmp_path}/root/root && mkdir -p {tmp_path}/root{sys.base_prefix}
            mount --bind {sys.base_prefix} {tmp_path}/root{sys.base_prefix};;
        esac
        mkdir -p {tmp_path}/root{venv} && mount --bind {venv} {tmp_path}/root{venv}
        mount -o remount,ro,bind {tmp_path}/root{venv}
        exec chroot {tmp_path}/root {drop} env -i PATH=/usr/bin:/bin HOME=/nonexistent XDG_CACHE_HOME=/tmp/cache \\
            sh -c {shlex.quote(inner)}
    """
    whole = ["unshare", "-m", "sh", "-c", script]
    ran = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 143, (ran.returncode, ran.stdout, ran.stderr)
    tally = next(line for line in map(json.loads, ran.stderr.splitlines()) if "due" in line)
    assert tally["due"] > 0


def image_extras() -> list[str]:
    """What the image is made with where nothing else is asked for."""
    found = re.search(r"^ARG EXTRAS=(\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split(",")


def test_compose_s_command_is_taken_and_its_image_has_what_that_needs() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    command, extras = re.search(r"command: (\[.*\])", text), re.search(r"EXTRAS: (\S+)", text)
    assert command is not None and extras is not None
    parsed(json.loads(command[1]))
    assert "cuda" in json.loads(command[1])
    has = extras[1].split(",")
    assert {*image_extras(), "cuda", "rtx"} <= set(has), "a GPU's device and an engine for it"
    known = set(re.findall(r"^([a-z0-9-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(has) <= known


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no sockets by name")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(tmp_path / "notify"))
    bound.settimeout(60)
    yield bound
    bound.close()


def a_frame() -> Frame:
    return Frame(0, 0, Fraction(0), np.zeros(1, np.float32))


def test_frames_feed_the_watchdog(manager: socket.socket, tmp_path: Path) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    service = ServiceManager(lambda: "30 frames\na second", environment=told)
    service.ready()
    service.frame(a_frame(), 0)
    service.frame(a_frame(), 0)  # at once again: too soon for another
    time.sleep(0.15)
    service.frame(a_frame(), 0)
    service.close()
    said = [manager.recv(999) for _ in range(5)]
    assert said == [b"READY=1", b"WATCHDOG=1", b"STATUS=30 frames a second", b"WATCHDOG=1", b"STOPPING=1"]


def test_nothing_is_told_where_nobody_listens(tmp_path: Path) -> None:
    for told in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "x"}):
        service = ServiceManager(environment=told)
        service.ready()
        service.frame(a_frame(), 0)
        service.close()


def test_a_heartbeat_is_a_file_that_frames_touch(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    service = ServiceManager(heartbeat=path, environment={})
    os.utime(path, (0, 0))
    service.frame(a_frame(), 0)
    assert path.stat().st_mtime > 0


def test_a_service_is_ready_lives_and_drains(toy: Bundle, manager: socket.socket, tmp_path: Path) -> None:
    """`live` under a manager: READY, WATCHDOG and STATUS come, SIGTERM ends it in order, the log is JSON."""
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "edgetalker", "live", str(ROOT / "edgetalker" / "data" / "speech.wav"), "--loop"]
    command += ["--bundle", str(toy.path), "--to", str(out), "--log", "json"]
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env={**os.environ, **told}, stderr=subprocess.PIPE) as child:
        said: list[bytes] = []
        while not {b"READY=1", b"WATCHDOG=1"} <= set(said) or not any(word.startswith(b"STATUS=") for word in said):
            said.append(manager.recv(999))
        child.send_signal(signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(manager.recv(999))
        assert child.stderr is not None
        lines = [json.loads(line) for line in child.stderr.read().splitlines()]
    assert child.returncode == 143
    assert said[0] == b"READY=1"
    tally = next(line for line in lines if "due" in line)
    assert tally["due"] == sum(tally["outcomes"].values()) > 0
    assert len(out.read_text().splitlines()) == tally["due"] + 1
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
