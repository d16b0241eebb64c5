"""The command line as Windows has it: what only POSIX knows is taken away, and the platform says win32.

This is no Windows. It finds calls that would fail there before anything else does: signals that are none, modules that
are not there, an event loop without signal handlers, file descriptors that cannot be read in place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "edgetalker" / "data" / "speech.wav"
WINDOWS = """
# What Python and others load is loaded as it is here; ours comes after the change.
import asyncio, ctypes, multiprocessing, os, signal, socket, subprocess, sys, tempfile
for name in '''ctypes.util importlib.metadata logging.handlers platform queue selectors shutil ssl threading uuid wave
    webbrowser argparse http.client urllib.request zipfile hashlib numpy numpy.random numpy.fft numpy.linalg onnxruntime
    soundfile websockets.asyncio.server websockets.sync.client pythonosc matplotlib.figure grpc.aio onnx
    prometheus_client pyaudio google.protobuf tensorrt_rtx tensorrt'''.split():
    try:
        __import__(name)
    except ImportError:
        pass
import asyncio.unix_events
def no_handlers(*_):
    raise NotImplementedError
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = no_handlers
gone = {
    os: '''pread pwrite sched_getaffinity getuid geteuid getgid mkfifo killpg setsid getpgid sysconf getloadavg chown
        posix_spawn nice sync statvfs uname O_NOFOLLOW O_CLOEXEC O_NONBLOCK sendfile pipe2 setpriority get_blocking
        set_blocking openpty''',
    signal: "SIGUSR1 SIGUSR2 SIGHUP SIGQUIT SIGALRM SIGCHLD SIGTTIN pthread_sigmask sigwait setitimer",
}
for module, names in gone.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
signal.CTRL_BREAK_EVENT = 1
unix, pair = socket.AF_UNIX, socket.socketpair
socket.socketpair = lambda *_: pair(unix)  # Windows has a pair of its own making
del socket.AF_UNIX
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "readline"):
    sys.modules[name] = None
os.environ["LOCALAPPDATA"] = os.environ["APPDATA"] = tempfile.gettempdir()
load = ctypes.CDLL
def library(name, *rest, **more):
    if name and not str(name).endswith((".dll", ".so")) and ".so" in str(name):
        raise AssertionError(f"a library of Linux was asked for: {name}")
    return load(name, *rest, **more)
ctypes.CDLL = library
opened = open
import builtins, io, pathlib
def proc(file, *rest, **more):
    assert not str(file).startswith(("/proc", "/sys", "/etc")), f"{file} was opened"
    return opened(file, *rest, **more)
builtins.open = io.open = proc
import queue, threading
# A wait without an end does not hear Ctrl-C. Threads that were told to end are joined all the same.
def bounded(kind, name, place):
    whole = getattr(kind, name)
    def wait(self, *rest, **more):
        timeout = more.get("timeout", rest[place] if len(rest) > place else None)
        ours = "/edgetalker/" in sys._getframe(1).f_code.co_filename.replace(os.sep, "/")
        if ours and timeout is None and threading.current_thread() is threading.main_thread():
            raise AssertionError(f"{kind.__name__}.{name} of the main thread has no end")
        return whole(self, *rest, **more)
    setattr(kind, name, wait)
bounded(threading.Event, "wait", 0)
bounded(threading.Condition, "wait", 0)
bounded(threading.Condition, "wait_for", 1)
bounded(queue.Queue, "get", 1)
sys.platform = "win32"
from edgetalker.__main__ import start
sys.argv[0] = "edgetalker"
sys.exit(start())
"""


def windows(*words: object, until: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command; until: what it says before Ctrl-C comes."""
    command = [sys.executable, "-c", WINDOWS, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=env) as process,
    ):
        while until and process.poll() is None:
            time.sleep(0.05)
            told.seek(0)
            if until in told.read():
                process.send_signal(signal.SIGINT)
                break
        out, _ = process.communicate(timeout=120)
        told.seek(0)
        said = told.read()
    assert "Traceback" not in said, said
    assert "AssertionError" not in said, said
    return subprocess.CompletedProcess(command, process.returncode, out, said)


@pytest.mark.slow
def test_files_are_animated_looked_at_and_measured(toy: Bundle, tmp_path: Path) -> None:
    done = windows("animate", SPEECH, "-o", tmp_path / "a.csv", "-o", tmp_path / "a.glb", "--limit", 10)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 11
    for words in (["doctor"], ["inspect", toy.path], ["bench", toy.path, "--frames", 20], ["live", "--list-inputs"]):
        done = windows(*words)
        assert done.returncode == 0 or words[0] == "live", (words, done.stderr)
    assert "libcuda" not in windows("doctor").stdout


@pytest.mark.slow
def test_a_live_run_sends_plays_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    done = windows(
        "live", SPEECH, "--loop", "--schedule", "one", "--to", out, "--to", "vmc://127.0.0.1:39540",
        "--play", tmp_path / "heard.wav", until="cannot be reached",
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert out.exists()


@pytest.mark.slow
def test_the_page_and_the_server_begin_and_end(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", motion=np.zeros((9, 6, 3), np.float32), fps=np.array([25, 1]), triangles=[[0, 1, 2]])
    done = windows("view", tmp_path / "m.npz", "--no-browser", until="http://127.0.0.1:")
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stderr
    done = windows("serve", "--talkers", 1, "--http", "127.0.0.1:0", until="schedules")
    assert "port" in done.stderr
    assert done.returncode == 130, done.stderr
