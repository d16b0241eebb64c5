"""What the tests of plans share: a bundle to build, the library that builds it, machines to judge for."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import UserError
from edgetalker.engines.machine import Gpu, Machine, NoGpu
from edgetalker.engines.tensorrt.api import Api, load, platform_tag
from tests.support.toy import toy_bundle


@pytest.fixture(scope="session")
def rtx() -> Api:
    """TensorRT-RTX, which builds plans without a GPU."""
    try:
        return load("rtx")
    except UserError as error:
        pytest.skip(f"no TensorRT-RTX here: {error.message}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache folder of its own for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgetalker"


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle, made once; tests copy it."""
    return toy_bundle(tmp_path_factory.mktemp("toy") / "toy").path


@pytest.fixture
def bundle(toy_folder: Path, tmp_path: Path) -> Bundle:
    """A copy of the toy bundle that a test may write into."""
    shutil.copytree(toy_folder, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


MachineOf = Callable[..., Machine]


@pytest.fixture
def machine_of(rtx: Api) -> MachineOf:
    """Make the description of a machine with this TensorRT-RTX and a GPU of a compute capability, or none."""

    def make(capability: str | None = "sm86", **versions: str) -> Machine:
        none = NoGpu("there is no NVIDIA driver here")
        gpu = none if capability is None else Gpu(f"Test {capability}", capability, 8 << 30, "13.0")
        return Machine(versions or {"rtx": rtx.version}, platform_tag(), gpu)

    return make


def refuse_folders(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be made below a folder, as on Windows: `os.access` does not tell."""
    make = Path.mkdir

    def mkdir(path: Path, *given: Any, **named: Any) -> None:
        if path.is_relative_to(below):
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        make(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
