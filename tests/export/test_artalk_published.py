"""An ARTalk of published size with random weights exports, loads and plays one chunk, in time and memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle

pytestmark = pytest.mark.slow

MEMORY = 12e9
SECONDS = 15 * 60.0
MAKE = "import sys, torch; from tests.support.artalk import *; torch.save(checkpoint(PUBLISHED), sys.argv[1])"


class Meter:
    """Runs commands of Python in processes of their own. memory: bytes that the largest of them had at its peak.
    seconds: of the processor, for all of them: a busy machine makes them longer, not dearer."""

    def __init__(self) -> None:
        self.memory, self.seconds = 0, 0.0

    def run(self, *words: str | Path) -> str:
        """Return what it wrote to stderr."""
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.stderr.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
        memory, seconds = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
        self.memory, self.seconds = max(self.memory, memory), self.seconds + seconds
        print(f"{words[-1]}: {time.monotonic() - begun:.0f} s, {seconds:.0f} s of CPU, {memory / 1e9:.1f} GB")
        return said


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Path]:
    """Made from the published keys alone; gone when the test is, for it has 2 GB and its bundle 3.4 GB."""
    Meter().run("-c", MAKE, tmp_path / "random.pt")
    yield tmp_path / "random.pt"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.unlink()


def test_a_published_checkpoint_exports_loads_and_plays_a_chunk(checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint.stat().st_size == pytest.approx(1_959_150_898, rel=1e-3)  # the published file's size
    bundle, motion, meter = tmp_path / "bundle", tmp_path / "out.npz", Meter()
    said = meter.run("-m", "edgetalker", "export", "artalk", checkpoint, "-o", bundle)
    passed = re.findall(r"^(\w+) .*: ok$", said, re.MULTILINE)
    scales = [f"scale_{scale}" for scale in range(1, 6)]
    audio = [f"audio_{part}" for part in range(1, 5)]
    assert passed == [*audio, "style", "condition", *scales, "decode", "encode", "finish"]
    _speak(tmp_path / "speech.wav", 64000)
    meter.run("-m", "edgetalker", "animate", tmp_path / "speech.wav", "--bundle", bundle, "-o", motion)
    with np.load(motion) as arrays:
        assert arrays["motion"].shape == (100, 106)
        assert np.isfinite(arrays["motion"]).all()
        assert arrays["motion"].std(axis=0)[:100].min() > 0
    assert Bundle.open(bundle).manifest.notes["token_evaluations"] == 181
    assert meter.memory < MEMORY
    assert meter.seconds < SECONDS


def _speak(path: Path, samples: int) -> None:
    values = 3000 * np.random.default_rng(1).standard_normal(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(values.astype("<i2").tobytes())
