"""TensorRT's words become errors that say what mends them."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgetalker.cli import doctor
from edgetalker.engines.errors import DeviceError, EngineError, UnsupportedGpuError, UserError
from edgetalker.engines.machine import Gpu
from edgetalker.engines.tensorrt.api import Api, from_jetpack, load, wheel_cuda
from edgetalker.engines.tensorrt.log import explain, log_of

CASES = [
    (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
        "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
        "version))",
        DeviceError,
        "no usable NVIDIA driver",
        "nvidia-smi",
    ),
    ("CUDA initialization failure with error: 35", DeviceError, "no usable NVIDIA driver", "nvidia-smi"),
    (
        "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3",
        EngineError,
        "number format",
        "sm89",
    ),
    (
        "Target GPU SM 87 is not supported by this TensorRT release.",
        UnsupportedGpuError,
        "does not support the GPU",
        "JetPack",
    ),
    (
        "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.",
        EngineError,
        "no plan, or a damaged one",
        "--force",
    ),
    (
        "Version tag does not match. Note: Current Version: 236, Serialized Engine Version: 240",
        EngineError,
        "another version",
        "--target auto",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 8.6",
        UnsupportedGpuError,
        "another GPU",
        "--target auto",
    ),
    ("Requested amount of GPU memory (1073741824 bytes) could not be allocated.", EngineError, "memory", "--workspace"),
    ("Could not find any implementation for node {ForeignNode[a...b]}.", EngineError, "no kernel fits", "--workspace"),
    ("Unable to open library: libnvinfer_lean.so.1", EngineError, "lean runtime", "--version-compatible"),
    ("OLD_CUDA_DRIVER", DeviceError, "driver is older", "newer driver"),
    ("INSUFFICIENT_GPU_MEMORY", EngineError, "memory ran out", "--workspace"),
    ("UNSUPPORTED_CC", UnsupportedGpuError, "another GPU", "--target auto"),
    ("VERSION_MISMATCH", EngineError, "another version", "--target auto"),
    ("No importer registered for op: Det", EngineError, "cannot import", "opset 20"),
]


@pytest.mark.parametrize(("line", "kind", "meaning", "cure"), CASES)
def test_known_lines_say_what_mends_them(line: str, kind: type[UserError], meaning: str, cure: str) -> None:
    error = explain("stage `x`", [line])
    assert type(error) is kind
    assert error.message.startswith("stage `x`: ")
    assert meaning in error.message
    assert cure in str(error.hint)


def test_a_driver_that_is_older_than_the_wheels_is_no_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetalker.engines.tensorrt.log.probe", lambda: Gpu("Test GPU", "sm86", 8 << 30, "12.2"))
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 13)
    error = explain("stage `x`", [CASES[0][0]], "rtx")
    assert "for CUDA 12.2; the installed tensorrt_rtx wheels want CUDA 13" in error.message
    assert "cudaError 35" in error.message
    assert "rtx-cu12" in str(error.hint)
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 12)
    assert "no usable NVIDIA driver" in explain("stage `x`", [CASES[0][0]], "rtx").message


def test_doctor_compares_driver_and_wheels(rtx: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda: Gpu("Test GPU", "sm86", 8 << 30, "12.2"))
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 13)
    told = next(line for line in doctor._flavours() if line.startswith(f"{rtx.flavour}: {rtx.version}"))
    assert "is for CUDA 12.2; the installed tensorrt_rtx wheels want CUDA 13" in told
    assert "; hint: update the driver to 580 or newer" in told
    monkeypatch.setattr("edgetalker.engines.machine.wheel_cuda", lambda flavour: 12)
    assert not [line for line in doctor._flavours() if line.startswith(rtx.flavour) and "want CUDA" in line]


@pytest.mark.parametrize(("driver", "bindings", "fits"), [("12.6", "13.5.0", False), ("12.6", "12.9.5", True)])
def test_doctor_compares_driver_and_bindings(
    driver: str, bindings: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda: Gpu("Orin", "sm87", 8 << 30, driver))
    monkeypatch.setattr(metadata, "version", lambda name: bindings)
    ability = doctor._cuda()
    assert ability.works == fits
    assert ("for newer drivers than that of Orin, for CUDA 12.6" in ability.detail) != fits
    assert ("[cuda12]" in ability.hint) != fits


@pytest.mark.parametrize(("driver", "extra"), [("12.6", "[cuda12]"), ("13.2", "[cuda]")])
def test_doctor_names_the_bindings_that_the_driver_takes(
    driver: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda: Gpu("Orin", "sm87", 8 << 30, driver))
    monkeypatch.setattr(doctor, "_version", lambda distribution: None)
    assert extra in doctor._cuda().hint


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `tensorrt` whose library is not there, and no other flavour."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("edgetalker.engines.tensorrt.api.installed", lambda: ("tensorrt",))


def test_doctor_asks_whether_tensorrt_loads_before_it_promises_plans(broken: None) -> None:
    ability = doctor._plans()
    assert not ability.works
    assert ability.detail.endswith("it does not load: libnvinfer.so.10: cannot open")


def test_doctor_asks_for_a_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetalker.engines.tensorrt.api.installed", lambda: ("lean",))
    monkeypatch.setattr("edgetalker.engines.tensorrt.api.load", lambda flavour: Api(flavour, SimpleNamespace()))
    assert (doctor._plans().works, doctor._plans().detail) == (False, "the lean runtime builds none")


@pytest.mark.parametrize(("machine", "brings"), [("aarch64", "apt install python3-libnvinfer`"), ("x86_64", "pip")])
def test_a_jetson_s_broken_tensorrt_comes_from_apt_alone(
    broken: None, machine: str, brings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(EngineError, match="it does not load") as caught:
        load("tensorrt")
    assert brings in str(caught.value.hint)
    assert ("pip" in str(caught.value.hint)) != (machine == "aarch64")


def test_a_jetson_s_lean_runtime_has_a_package_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "apt install python3-libnvinfer-lean`" in str(from_jetpack("lean"))


def test_the_wheels_that_are_installed_say_their_cuda(rtx: Api) -> None:
    assert wheel_cuda(rtx.flavour) in (12, 13)
    assert wheel_cuda("lean") is None or wheel_cuda("lean") in (11, 12, 13)


def test_the_library_s_own_words_are_kept_without_its_source_places() -> None:
    error = explain("stage `x`", [CASES[0][0]])
    assert "cudaError 35: CUDA driver version is insufficient" in error.message
    assert "checkMacros.cpp" not in error.message


def test_unknown_words_are_quoted_once_and_silence_is_said() -> None:
    assert explain("it fails", ["odd words", "odd words"]).message == "it fails: TensorRT says: odd words"
    assert explain("it fails", []).message == "it fails: TensorRT says: it gave no reason"


def test_errors_go_before_warnings_and_clear_forgets(rtx: Api) -> None:
    log = log_of(rtx)
    severity = rtx.module.ILogger
    log.clear()
    log.logger.log(severity.WARNING, "a warning")
    log.logger.log(severity.INFO, "chatter")
    assert log.errors() == ["a warning"]
    log.logger.log(severity.ERROR, "an error")
    assert log.errors() == ["an error"]
    log.clear()
    assert log.errors() == []
    assert log_of(rtx) is log
