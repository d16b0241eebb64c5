"""Checks in a process of their own: their crash is told, and their end is sure."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["how_it_ended", "last_line", "run_child"]

_ROOT = Path(__file__).resolve().parents[2]


def run_child(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command in this checkout and return what it said.

    Raises subprocess.TimeoutExpired when it takes longer; it is then killed, and so is all that it started: a child
    that was left behind would go on using the GPU.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, errors="replace", cwd=_ROOT, start_new_session=True
    ) as child:
        try:
            out, told = child.communicate(timeout=seconds)
        except BaseException:  # Ctrl-C too, which does not reach a session of its own
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, told)


def how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """Return how a child ended and the last that it said, in words."""
    code = done.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"{how}; it said last: {last_line(done.stderr) or last_line(done.stdout) or 'nothing'}"


def last_line(text: str) -> str:
    """Return the last line with something in it, or nothing."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
