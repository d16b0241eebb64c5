"""What a wheel carries, and that it needs numpy alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("edgetalker-*.whl")))


def test_the_wheel_carries_what_runs_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for wanted in (
        "edgetalker/py.typed",
        "edgetalker/data/speech.wav",
        "edgetalker/bundles/talker/manifest.json",
        "edgetalker/viewer/static/index.html",
        "edgetalker/cli/main.py",
    ):
        assert wanted in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgetalker"}, "links or tests got in"
    assert sum(item.file_size for item in wheel.infolist()) < 25e6


def test_the_wheel_requires_numpy_alone(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    lines = wheel.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(required) == 1
    assert "numpy" in required[0]
    assert "Requires-Python: <3.14,>=3.10" in lines
