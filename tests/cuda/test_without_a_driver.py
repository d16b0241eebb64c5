"""What a user hears on a machine without the NVIDIA driver, and that importing costs nothing there."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys

import pytest

from edgetalker.engines.cuda.errors import CudaError, OutOfMemoryError, advice, error_for
from edgetalker.engines.errors import MissingPackageError


def there_is_a_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


needs_no_driver = pytest.mark.skipif(there_is_a_driver(), reason="this machine has an NVIDIA driver")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_device_loads_no_cuda_package() -> None:
    code = (
        "import sys, edgetalker.engines.cuda\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('cuda', 'pycuda', 'torch', 'onnx', 'tensorrt')])"
    )
    assert run(code).strip() == "[]"


@needs_no_driver
@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_no_driver_is_told_with_what_to_do() -> None:
    code = (
        "from edgetalker.engines.cuda import CudaDevice\n"
        "from edgetalker.engines.errors import DeviceError\n"
        "try:\n    CudaDevice()\nexcept DeviceError as error:\n    print(error)"
    )
    said = run(code)
    assert "the NVIDIA driver's library cannot be loaded" in said
    assert "--device host" in said


def test_without_cuda_bindings_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['cuda'] = None\n"
        "from edgetalker.engines.cuda import CudaDevice\n"
        "from edgetalker.engines.errors import MissingPackageError\n"
        "try:\n    CudaDevice()\nexcept MissingPackageError as error:\n    print(error)"
    )
    said = run(code)
    assert "cuda-bindings" in said
    assert "edgetalker[cuda]" in said
    assert MissingPackageError("x", "y", extra="cuda").exit_code == 69


def test_every_code_has_advice_and_its_own_kind() -> None:
    assert isinstance(error_for("cuMemAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"), OutOfMemoryError)
    other = error_for("cuGraphLaunch", 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure")
    assert type(other) is CudaError
    assert other.sticky
    assert "start it again" in advice(719)
    assert "docs.nvidia.com" in advice(12345)
    assert str(other.during("graph `g`")).startswith("graph `g`: cuGraphLaunch failed: CUDA_ERROR_LAUNCH_FAILED (719)")
