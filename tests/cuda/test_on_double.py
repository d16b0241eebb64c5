"""Runs `tests/cuda/double` in a child whose libcuda.so.1 is the driver double."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def double_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("the driver double is built for Linux")
    if not (shutil.which("cc") or os.environ.get("CC")):
        pytest.skip("no C compiler to build the driver double with")
    folder = tmp_path_factory.mktemp("driver_double")
    subprocess.run(["sh", str(HERE / "driver_double" / "compile.sh"), str(folder)], check=True)
    return folder


def test_on_the_double(double_folder: Path) -> None:
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-bindings is not installed: pip install cuda-bindings")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{double_folder}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}",
        "EDGETALKER_ON_DOUBLE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/cuda/double"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 70
    print(*(line for line in done.stdout.splitlines() if line.startswith("SKIPPED")), sep="\n")


@pytest.mark.slow
def test_the_double_answers_as_its_specification_says(tmp_path: Path, double_folder: Path) -> None:
    """`driver_rules_double.json` is what a GPU's answers are compared with.

    The compiler's sanitizer watches: a double that wrote into freed memory answered rightly most of the time.
    """
    pytest.importorskip("cuda.bindings", exc_type=ImportError)
    compiler = os.environ.get("CC", "cc")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    sanitizer = Path(found.stdout.strip())
    environment = {**os.environ, "LD_LIBRARY_PATH": str(double_folder)}
    if sanitizer.is_absolute():
        flags = {**os.environ, "CFLAGS": "-fsanitize=address -fno-omit-frame-pointer"}
        subprocess.run(["sh", str(HERE / "driver_double" / "compile.sh"), str(tmp_path)], env=flags, check=True)
        # Python and its libraries leave memory at their end; only what the double touches is asked for here.
        watched = {"LD_PRELOAD": str(sanitizer), "ASAN_OPTIONS": "detect_leaks=0"}
        environment |= {"LD_LIBRARY_PATH": str(tmp_path), **watched}
    command = [sys.executable, str(HERE / "driver_rules.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout) == json.loads((HERE / "driver_rules_double.json").read_text()), done.stderr
