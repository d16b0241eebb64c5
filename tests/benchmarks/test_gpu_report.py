"""The report of `make gpu-check`: no check, no GPU and no crash costs what was found before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks import gpu_check
from benchmarks.gpu import setting as settings
from benchmarks.gpu import tensorrt_check
from benchmarks.gpu.results import Result, Run, attempt, environment
from benchmarks.gpu.setting import Setting
from edgetalker.engines.cuda.errors import error_for
from edgetalker.engines.errors import OptionError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.machine import Gpu
from tests.benchmarks.on_host import TINY, OnHost

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return OnHost({"tiny_voca": TINY}, tmp_path)


CUT_OFF = """
import os, sys
from functools import partial
import benchmarks.gpu_check as check
from benchmarks.gpu.setting import NotRunError

def fine():
    return {"x": 1.5}
def lacking():
    raise NotRunError("no such thing here")

check._missing = lambda dry: ""
check._find_bundles = lambda setting: {}
check._checks = lambda setting: iter(
    [check.Check("one", fine, 0), check.Check("two", lacking, 0), check.Check("three", LAST, 0)]
)
sys.argv = ["gpu_check.py", "--out", OUT]
sys.exit(check.main())
"""


def cut_off(last: str, out: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any], str]:
    """Make three checks in a process of its own; return what it said and what it left."""
    code = CUT_OFF.replace("LAST", last).replace("OUT", repr(str(out)))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    files = sorted(out.iterdir()) if out.is_dir() else []
    assert [file.suffix for file in files] == [".json", ".md"], done.stderr
    return done, json.loads(files[0].read_text()), files[1].read_text()


def test_a_check_that_ends_the_process_loses_nothing(tmp_path: Path) -> None:
    """Neither GPU nor driver is here: that must not cost the report either."""
    done, report, text = cut_off("lambda: os._exit(139)", tmp_path / "results")
    assert done.returncode == 139
    assert (report["complete"], report["running"]) == (False, "three")
    assert [(check["name"], check["status"]) for check in report["checks"]] == [
        ("bundles", "passed"),
        ("one", "passed"),
        ("two", "not run"),
    ]
    assert report["checks"][1]["figures"] == {"x": 1.5}
    assert "This run did not end. It was at `three`." in text
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith(("one", "two"))] == [
        ["one", "passed"],
        ["two", "not"],
    ]
    assert any(line.strip() == "x: 1.50" for line in lines)


def test_a_run_that_ended_says_so(tmp_path: Path) -> None:
    done, report, text = cut_off("fine", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert (report["complete"], report["running"]) == (True, None)
    assert len(report["checks"]) == 4
    assert "health at the end" in report["environment"]
    assert "health before, at rest" in report["environment"]
    assert "health at the end" in done.stdout
    assert "did not end" not in text


def test_a_gpu_that_cannot_be_opened_costs_no_report(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in exclusive mode, while another process has it."""

    def refuse(self: Setting) -> None:
        raise error_for("cuDevicePrimaryCtxRetain", 46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "busy")

    def broken(bus: str | None) -> None:
        raise RuntimeError("no NVML")

    monkeypatch.setattr(OnHost, "device", refuse)
    monkeypatch.setattr("benchmarks.gpu.results.probe", lambda: Gpu("NVIDIA H200", "sm90", 1 << 30, "13.0"))
    monkeypatch.setattr(settings, "read_health", broken)
    where = environment(setting)
    assert where["gpu"] == "NVIDIA H200"
    assert "CUDA_ERROR_DEVICE_UNAVAILABLE" in where["device"]
    assert where["health before, at rest"] == {"not read": "no NVML"}
    assert Run(where, [Result("a", "failed", 0.0)]).write(setting.work).name == "nvidia-h200.json"


@pytest.mark.parametrize("code", [700, 1])
def test_after_the_gpu_was_lost_only_what_works_apart_is_run(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def faulty() -> Mapping[str, Any]:
        monkeypatch.setattr(HostDevice, "synchronize", lost)
        raise RuntimeError("CUDA error: something of PyTorch's own words")

    def lost(self: HostDevice) -> None:
        raise error_for("cuStreamSynchronize", code, "CUDA_ERROR_X", "gone")

    assert error_for("", code, "", "").sticky == (code == 700)
    results = [
        attempt(setting, "first", dict),
        attempt(setting, "second", faulty),
        attempt(setting, "third", dict),
        attempt(setting, "fourth", dict, apart=True),
    ]
    third = ("not run", "the GPU was lost in `second`") if code == 700 else ("passed", "")
    assert [(result.status, result.reason) for result in (results[0], *results[2:])] == [
        ("passed", ""),
        third,
        ("passed", ""),
    ]
    assert results[1].status == "failed"


def test_the_checks_that_work_apart_are_those_in_processes_of_their_own(setting: Setting) -> None:
    checks = list(gpu_check._checks(setting))
    assert [check.name for check in checks if check.apart] == [
        "device: the driver answers as its stand-in",
        "engines: tensorrt",
        "engines: rtx",
    ]
    assert [check.least for check in checks[-2:]] == [tensorrt_check.SECONDS] * 2
    assert Setting({}, setting.work).seconds + 10 < 600  # what is begun last has `least` seconds, and no more


def test_a_name_that_no_check_has_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "benchmarks/gpu_check.py", "--dry-run", "--only", "reopenning"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == OptionError.exit_code == 64
    assert "error: no check `reopenning`; nearest first, there are frames: reopening loses no memory," in done.stderr
    assert "engines: rtx" in done.stderr
    assert "passed" not in done.stdout
