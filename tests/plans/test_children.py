"""A missing driver, a missing library and a foreign plan end in a clear error, never in a crash of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.machine import Gpu, probe
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.children import PlanBuilder
from tests.plans.bindings import VERSIONS, bindings, child, empty_libraries
from tests.plans.conftest import MachineOf

ROOT = Path(__file__).parents[2]

SAID = """
import sys
from edgetalker.engines.errors import UserError
from tests.plans.runtime_double import CudaLike, GPU
def main():
    BODY
try:
    main()
except UserError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
"""

PRETEND = "import edgetalker.engines.machine as driver; driver.probe = lambda index=0: GPU"


def said(body: str, *, path: tuple[Path, ...] = (), libraries: Path | None = None) -> tuple[int, str]:
    """Return the exit code and the words of a child that runs `body`. A crash is a negative code."""
    code = SAID.replace("BODY", "\n    ".join(body.strip().splitlines()))
    done = child(code, path=[*path, ROOT], libraries=libraries)
    return done.returncode, done.stdout + done.stderr


def open_plan(flavour: str, plan: str) -> str:
    return f"""
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.engine import TensorRTEngine
TensorRTEngine("decode", load("{flavour}"), {plan}, CudaLike(), {{}}, {{}})
"""


REEXPORT = "from {module} import *\nfrom {module} import __version__\n"

BUILD = """
from pathlib import Path
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.build import build
build(load("tensorrt"), Path("absent.onnx"), Target("tensorrt", ("sm86",)))
"""


@pytest.fixture
def no_gpu() -> None:
    found = probe()
    if isinstance(found, Gpu):
        pytest.skip(f"this machine has a GPU: {found}")


@pytest.fixture(scope="module")
def dead_tensorrt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """TensorRT 11.4's real bindings under the name `tensorrt`, over libraries that give no objects."""
    folder = bindings(VERSIONS["11.4"], tmp_path_factory.mktemp("tensorrt"))
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(REEXPORT.format(module="tensorrt_bindings"))
    return folder, empty_libraries(tmp_path_factory.mktemp("libraries"))


@pytest.mark.usefixtures("no_gpu")
def test_tensorrt_11_without_a_driver_is_an_error(dead_tensorrt: tuple[Path, Path]) -> None:
    folder, libraries = dead_tensorrt
    code, words = said(open_plan("tensorrt", "b'vtrt'"), path=(folder,), libraries=libraries)
    assert code == 69, words
    assert "DeviceError: stage `decode` needs an NVIDIA GPU; there is no NVIDIA driver" in words


@pytest.mark.usefixtures("no_gpu")
def test_building_with_tensorrt_11_without_a_driver_is_an_error(dead_tensorrt: tuple[Path, Path]) -> None:
    folder, libraries = dead_tensorrt
    code, words = said(BUILD, path=(folder,), libraries=libraries)
    assert code == 69, words
    assert "DeviceError: building with tensorrt 11.4.0.106 needs an NVIDIA GPU" in words


@pytest.mark.parametrize("body", [open_plan("tensorrt", "b'vtrt'"), BUILD], ids=["run", "build"])
def test_a_library_that_gives_no_objects_is_an_error(dead_tensorrt: tuple[Path, Path], body: str) -> None:
    folder, libraries = dead_tensorrt
    code, words = said(PRETEND + body, path=(folder,), libraries=libraries)
    assert code == 70, words
    assert "TensorRT says: it gave no reason" in words


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_rtx_without_a_driver_is_an_error() -> None:
    code, words = said(open_plan("rtx", "b'vtrt'"))
    assert code == 69, words
    assert "there is no NVIDIA driver" in words


@pytest.fixture(scope="module")
def real_lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lean runtime 11.4 as it is, library included (46 MB)."""
    folder = bindings(VERSIONS["11.4"], tmp_path_factory.mktemp("lean"), "tensorrt-lean-cu12-bindings")
    bindings(VERSIONS["11.4"], folder, "tensorrt-lean-cu12-libs")
    (folder / "tensorrt_lean").mkdir()
    (folder / "tensorrt_lean" / "__init__.py").write_text(REEXPORT.format(module="tensorrt_lean_bindings"))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_the_real_lean_runtime_without_a_driver_is_an_error(real_lean: Path) -> None:
    code, words = said(open_plan("lean", "b'vtrt'"), path=(real_lean,))
    assert code == 69, words
    assert "DeviceError: stage `decode` needs an NVIDIA GPU" in words


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_the_crash_that_the_probe_prevents_is_real(real_lean: Path) -> None:
    """With the probe deceived the same call kills the process: the probe must stay before the Runtime."""
    code, words = said(PRETEND + open_plan("lean", "b'vtrt'"), path=(real_lean,))
    assert code < 0, words


def test_a_missing_library_is_an_error(dead_tensorrt: tuple[Path, Path], tmp_path: Path) -> None:
    code, words = said(open_plan("tensorrt", "b''"), path=(dead_tensorrt[0],), libraries=tmp_path)
    assert code == 70, words
    assert "the package `tensorrt` is installed, but it does not load: libnv" in words
    assert "install both from one source" in words


def test_a_missing_package_names_the_extra() -> None:
    code, words = said(open_plan("lean", "b''"))
    if "needs an NVIDIA GPU" in words:
        pytest.skip("tensorrt_lean is installed here")
    assert code == 69, words
    assert "`tensorrt_lean`, which is not installed" in words


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("plan", "part"),
    [
        ("b'garbage' * 100", "this is no plan, or a damaged one"),
        ("b'vtrt'", "this is no plan, or a damaged one"),
        ("b''", "this is no plan, or a damaged one"),
        ("open('PLAN', 'rb').read()[:1000]", "stage `decode`"),
        ("open('PLAN', 'rb').read()", "no usable NVIDIA driver or GPU"),
    ],
    ids=["garbage", "magic alone", "empty", "truncated", "intact, no GPU"],
)
@pytest.mark.usefixtures("no_gpu")
def test_bytes_that_reach_the_real_library_anyhow_are_errors(
    bundle: Bundle, machine_of: MachineOf, plan: str, part: str
) -> None:
    """The digest was right and the driver seemed to be there: the library's own refusal is explained as well."""
    path = PlanBuilder(bundle, Target("rtx", ("sm86",)), machine_of(None)).stage("decode").path
    code, words = said(PRETEND + open_plan("rtx", plan.replace("PLAN", str(path))))
    assert code in (69, 70), words
    assert part in words


@pytest.mark.usefixtures("rtx")
def test_a_foreign_plan_is_refused_before_it_is_read(bundle: Bundle, machine_of: MachineOf) -> None:
    PlanBuilder(bundle, Target("rtx", ("sm89",)), machine_of(None)).stage("decode")
    code, words = said(
        f"""
import edgetalker.engines.machine as machine
machine.probe = lambda index: GPU
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.plan import choose
choose(Bundle.open({str(bundle.path)!r}), "decode", "fp32", "rtx", machine.this_machine())
"""
    )
    assert code == 70, words
    assert "made for sm89, this GPU is sm86" in words
    assert "hint: edgetalker build" in words
