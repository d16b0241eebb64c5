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
        "edgetalker/viewer/static/edgetalker.js",
        "edgetalker/serve/static/talk.css",
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


def test_a_wheel_needs_neither_portaudio_nor_pytorch() -> None:
    done = subprocess.run(["make", "-n", "wheel"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip" in done.stdout
    assert "torch" not in done.stdout
    assert "portaudio" not in done.stdout.lower()


def test_a_kiosk_is_installed_without_an_index(tmp_path: Path) -> None:
    """What docs/kiosk.md says: wheels where there is a network, then an install that may ask nobody, microphone too."""
    if not Path("/usr/include/portaudio.h").exists():
        pytest.skip("PortAudio's headers are not installed (apt-get install portaudio19-dev)")
    extras = "cpu,audio,net,mic"
    house, venv = tmp_path / "wheelhouse", tmp_path / "venv"
    pip = [sys.executable, "-m", "pip"]
    done = subprocess.run(
        [*pip, "wheel", "--quiet", "-w", str(house), f"{ROOT}[{extras}]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = [str(venv / "bin" / "pip"), "install", "--quiet", "--no-index", "--find-links", str(house)]
    alone = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run([*install, f"edgetalker[{extras}]"], capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "face.csv"
    speech = ROOT / "edgetalker" / "data" / "speech.wav"
    command = [str(venv / "bin" / "edgetalker"), "animate", str(speech), "-o", str(out), "--limit", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 6
    mic = subprocess.run([str(venv / "bin" / "python"), "-c", "import pyaudio"], check=False, env=alone, cwd=tmp_path)
    assert mic.returncode == 0, "the microphone is not in the wheelhouse"
