"""What this machine has that decides what runs on it: its GPU, and which TensorRT flavours load.

The NVIDIA driver is asked through ctypes alone, before anything else may touch it: TensorRT 11 hands out a dead
Runtime object when no driver is there, and the process dies when that object is touched. So nothing may make a Runtime
before `probe` has said that CUDA works.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import DeviceError, UserError, install
from edgetalker.engines.tensorrt.api import FLAVOURS, installed, load, platform_tag, wheel_cuda

__all__ = [
    "Gpu",
    "Machine",
    "NoGpu",
    "bindings_fault",
    "driver_fault",
    "peak_memory",
    "probe",
    "require_gpu",
    "this_machine",
    "usable_cores",
]

# CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, _COMPUTE_CAPABILITY_MAJOR and _MINOR
_PROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_REASONS = {
    34: "the driver library is a stub (CUDA_ERROR_STUB_LIBRARY)",
    35: "the driver is older than the CUDA library that asked (CUDA_ERROR_INSUFFICIENT_DRIVER)",
    100: "the driver sees no GPU (CUDA_ERROR_NO_DEVICE)",
    803: "driver and kernel module have different versions (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)",
    999: "the driver failed (CUDA_ERROR_UNKNOWN)",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, compute capability such as `sm86`, memory in bytes, the CUDA version of the driver.

    processors: number of its multiprocessors, 0 where that is not known. Jetson boards of several sizes share a name.
    """

    name: str
    capability: str
    memory: int
    driver: str
    processors: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.capability}, {self.memory / 2**30:.1f} GiB, driver for CUDA {self.driver})"


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU can be used."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def probe(index: int = 0) -> Gpu | NoGpu:
    """Return the GPU with this index, or why there is none. Never raises, makes no CUDA context."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return NoGpu(f"there is no NVIDIA driver: {name} cannot be loaded")
    try:
        return _ask(cuda, index)
    except AttributeError as error:
        return NoGpu(f"{name} is no NVIDIA driver library: {error}")
    except _DriverError as error:
        return NoGpu(str(error))


def require_gpu(purpose: str, index: int = 0) -> Gpu:
    """Return the GPU. Raises DeviceError that says why there is none and what `purpose` wanted it for."""
    found = probe(index)
    if isinstance(found, Gpu):
        return found
    raise DeviceError(
        f"{purpose} needs an NVIDIA GPU; {found.reason}",
        hint="check `nvidia-smi` (on a Jetson `tegrastats`), or run with `--device host`",
    )


_DRIVERS = {12: 525, 13: 580}
"""Major version of CUDA -> the first NVIDIA driver that runs its programs (CUDA release notes, minor compatibility)."""


def driver_fault(flavour: str, gpu: Gpu) -> DeviceError | None:
    """Return the error of a driver that is too old for a flavour's wheels, None when it is not."""
    wanted = wheel_cuda(flavour)
    if wanted is None or int(gpu.driver.split(".")[0]) >= wanted:
        return None
    package = FLAVOURS[flavour]
    other = f"{package.replace('_', '-')}-cu12"
    swap = install("rtx-cu12") if flavour == "rtx" else f"pip install {other}"
    parts = " ".join(f"{package}_cu{wanted}{part}" for part in ("", "_bindings", "_libs"))
    return DeviceError(
        f"the NVIDIA driver of {gpu.name} is for CUDA {gpu.driver}; the installed {package} wheels want CUDA {wanted}",
        hint=f"update the driver to {_DRIVERS[wanted]} or newer; or, for it, `pip uninstall {parts}` and `{swap}`",
    )


def bindings_fault(gpu: Gpu) -> DeviceError | None:
    """Return the error of cuda-bindings for a newer CUDA than the driver's, None when they fit or are not there."""
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("cuda-bindings")
        if int(version.split(".")[0]) > int(gpu.driver.split(".")[0]):
            return DeviceError(
                f"cuda-bindings {version} is for newer drivers than that of {gpu.name}, for CUDA {gpu.driver}",
                hint=f"{install('cuda12')}, for a driver of CUDA 12; or update the driver",
            )
    return None


class _DriverError(Exception):
    pass


def _ask(cuda: Any, index: int) -> Gpu:
    _call(cuda, "cuInit", 0)
    version, count, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise _DriverError(f"there is no GPU {index}: the driver sees {count.value}")
    _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGetName", name, 256, device)
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    processors, major, minor = (_attribute(cuda, device, key) for key in (_PROCESSORS, _MAJOR, _MINOR))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"sm{major}{minor}", memory.value, driver, processors)


def _attribute(cuda: Any, device: ctypes.c_int, key: int) -> int:
    value = ctypes.c_int()
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), key, device)
    return value.value


def _call(cuda: Any, name: str, *arguments: Any) -> None:
    code = getattr(cuda, name)(*arguments)
    if code:
        raise _DriverError(_REASONS.get(code, f"{name} answers with CUDA error {code}"))


@dataclass(frozen=True)
class Machine:
    """Where plans shall run: library version of each flavour that loads, platform, GPU or why there is none."""

    versions: Mapping[str, str]
    platform: str
    gpu: Gpu | NoGpu


def this_machine(index: int = 0) -> Machine:
    """Return platform, GPU `index` and the version of every flavour that loads. Imports them; makes no Runtime."""
    versions = {}
    for flavour in installed():
        try:
            versions[flavour] = load(flavour).version
        except UserError:
            continue  # `edgetalker doctor` says why
    return Machine(versions, platform_tag(), probe(index))


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1: by its affinity, and by what its control group is given.

    root: where sysfs is mounted. A container has its host's cores in `os.cpu_count`, however few it was given.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = _given_cores(root) if sys.platform == "linux" else None
    return allowed if given is None else max(min(allowed, int(given)), 1)


def _given_cores(root: Path) -> float | None:
    """Return the processor time a second that the control group (version 2) may use; None when it is not limited."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # `max` is no number
        return None


def peak_memory() -> int:
    """Return this process's peak of resident memory in bytes; 0 where the system does not tell.

    Linux hands getrusage's peak on from the process that started this one; /proc counts this program alone.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
