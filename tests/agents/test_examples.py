"""The agents of examples/ as a reader runs them: short, spoken by espeak-ng, their motion on standard output."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name", ["pipecat", "livekit"])
def test_an_agent_of_forty_lines_speaks_and_moves(name: str) -> None:
    file = EXAMPLES / f"{name}_agent.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40
    if importlib.util.find_spec(name) is None or shutil.which("espeak-ng") is None:
        pytest.skip(f"{name} or espeak-ng is not installed here: make test-agents, apt-get install espeak-ng")
    done = subprocess.run(
        [sys.executable, str(file), "Papa moves."], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    layout, *frames = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert layout["type"] == "layout"
    jaw = layout["names"].index("JawOpen")
    assert len(frames) > 20
    assert max(frame["values"][jaw] for frame in frames) > 0.1
    times = [frame["time"] for frame in frames]
    assert times == sorted(times)
