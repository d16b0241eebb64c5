"""The checks of `make gpu-check` fail where something is wrong, and compare like with like."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from benchmarks.gpu import device_checks, figures, frame_checks, tensorrt_check
from benchmarks.gpu import setting as settings
from benchmarks.gpu.child import run_child
from benchmarks.gpu.results import Result, Run, attempt
from benchmarks.gpu.setting import Setting
from edgetalker.engines.cuda.errors import OutOfMemoryError, error_for
from edgetalker.engines.errors import EngineError, UnsupportedGpuError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.machine import Gpu, Machine, probe
from edgetalker.engines.targets import parse_target
from edgetalker.engines.tensorrt.api import installed
from edgetalker.engines.tensorrt.children import PlanBuilder
from tests.benchmarks.on_host import TINY, OnHost
from tests.cuda import driver_rules

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return OnHost({"tiny_voca": TINY, "talker": ROOT / "edgetalker" / "bundles" / "talker"}, tmp_path, scale=0.02)


class Api:
    """TensorRT, as far as it is asked before it is used."""

    version = "1.7"


def child_of(code: str) -> Callable[[Setting, str], list[str]]:
    """Return what stands in for TensorRT's process: this code, which has the file that it is to write as `told`."""
    return lambda setting, flavour: [
        sys.executable,
        "-c",
        f"import json, os, pathlib, sys, time; told = pathlib.Path({str(setting.work / flavour)!r} + '.json')\n{code}",
    ]


def tell(status: str, reason: str = "") -> str:
    """Return the code of a process that tells what became of the check."""
    result = vars(Result("rtx", status, 1.0, {"x": 1.5}, reason))
    return f"told.write_text({json.dumps(result)!r})"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (tell("passed"), "passed", ""),
        (tell("not run", "it does not know sm70"), "not run", "it does not know sm70"),
        (tell("failed", "EngineError: our own bug"), "failed", "EngineError: our own bug"),
        (tell("passed") + "; os._exit(3)", "failed", "ended with code 3"),
        ("sys.exit('no result')", "failed", "ended with code 1; it said last: no result"),
        ("pass", "failed", "ended with code 0; it said last: nothing"),
        ("print('in rtx', flush=True); os.kill(os.getpid(), 11)", "failed", "killed by SIGSEGV; it said last: in rtx"),
        ("time.sleep(60)", "failed", "rtx took longer than 1 s and was ended"),
    ],
)
def test_what_becomes_of_tensorrts_process(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, code: str, status: str, reason: str
) -> None:
    monkeypatch.setattr(tensorrt_check, "installed", lambda: ("rtx",))
    monkeypatch.setattr(tensorrt_check, "SECONDS", 1.0 if "sleep" in code else 60.0)
    monkeypatch.setattr(tensorrt_check, "_command", child_of(code))
    result = attempt(setting, "engines: rtx", partial(tensorrt_check.with_tensorrt, setting, "rtx"))
    assert result.status == status, result.reason
    assert reason in result.reason
    assert Run({"gpu": "x"}, [result]).passed == (status != "failed")
    assert result.figures == ({"x": 1.5} if status == "passed" else {})


def test_a_flavour_that_is_not_installed_is_not_run(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_check, "installed", lambda: ("tensorrt",))
    result = attempt(setting, "rtx", partial(tensorrt_check.with_tensorrt, setting, "rtx"))
    assert (result.status, result.reason) == ("not run", "`tensorrt_rtx` is not installed")


@pytest.mark.parametrize(
    ("capability", "building", "opening", "status"),
    [
        ("sm86", EngineError("our own bug"), None, "failed"),
        ("sm86", None, EngineError("our own bug"), "failed"),
        ("sm86", UnsupportedGpuError("it does not know sm86"), None, "not run"),
        ("sm90", None, UnsupportedGpuError("UNSUPPORTED_CC"), "not run"),  # a portable plan, which names no GPU
        ("sm86", None, UnsupportedGpuError("UNSUPPORTED_CC"), "failed"),  # the plan was built for this very GPU
    ],
)
def test_only_a_gpu_that_tensorrt_does_not_know_is_no_failure(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    building: Exception | None,
    opening: Exception | None,
    status: str,
) -> None:
    def raising(error: Exception | None) -> Callable[..., None]:
        def work(*_: object, **__: object) -> None:
            if error is not None:
                raise error

        return work

    machine = Machine({"rtx": "1.7"}, "linux-x86_64", Gpu("a GPU", capability, 1 << 30, "13.0"))
    assert ("portable" in parse_target("rtx", machine.gpu, ("rtx",)).capabilities) == (capability == "sm90")
    monkeypatch.setattr(tensorrt_check, "load", lambda _: Api)
    monkeypatch.setattr(tensorrt_check, "this_machine", lambda: machine)
    monkeypatch.setattr(PlanBuilder, "stage", raising(building))
    monkeypatch.setattr(tensorrt_check, "cuda_engines", raising(opening))
    result = attempt(setting, "rtx", partial(tensorrt_check.one_flavour, setting, "rtx"))
    assert result.status == status, result.reason
    assert str(building or opening) in result.reason


@pytest.mark.parametrize(("code", "status"), [(46, "not run"), (999, "failed")])
def test_a_process_of_tensorrts_that_gets_no_context_is_not_run(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, code: int, status: str
) -> None:
    def refuse(self: Setting) -> None:
        raise error_for("cuDevicePrimaryCtxRetain", code, "CUDA_ERROR_X", "busy")

    monkeypatch.setattr(tensorrt_check, "load", lambda _: Api)
    monkeypatch.setattr(OnHost, "device", refuse)
    result = attempt(setting, "rtx", partial(tensorrt_check.one_flavour, setting, "rtx"))
    assert (result.status, "CUDA_ERROR_X" in result.reason) == (status, True)


def test_the_real_process_fails_without_a_gpu_and_says_why(setting: Setting) -> None:
    """The command as it is: the module's own `main`, which finds no driver here."""
    if "rtx" not in installed() or isinstance(probe(), Gpu):
        pytest.skip("needs tensorrt_rtx and no GPU")
    result = attempt(setting, "rtx", partial(tensorrt_check.with_tensorrt, setting, "rtx"))
    assert result.status == "failed"
    assert "driver" in result.reason


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfMemoryError("cuMemAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY", "full"), "passed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "passed"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "failed"),
        (EngineError("our own bug"), "failed"),
    ],
)
def test_lockstep_stops_at_memory_and_fails_at_all_else(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    whole = figures._lockstep_frame

    def some(setting: Setting, bundle: Any, talkers: int) -> Any:
        if talkers > 1:
            raise error
        return whole(setting, bundle, talkers)

    monkeypatch.setattr(OnHost, "talker", Setting.talker)
    monkeypatch.setattr(figures, "_lockstep_frame", some)
    setting.dry = True  # 1 and 8 talkers
    result = attempt(setting, "lock-step", partial(figures.lockstep_talkers, setting))
    assert result.status == status, result.reason
    assert ("8 talkers" in result.figures) == (status == "passed")


def test_a_child_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        run_child([sys.executable, "-c", code], 3.0)
    stat = Path(f"/proc/{told.read_text()}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.01)


# What is measured


@pytest.mark.parametrize("grows", [0, 1 << 20, 3 << 20])
def test_reopening_fails_when_pytorch_holds_more_each_time(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, grows: int
) -> None:
    held = iter(range(64 << 20, 640 << 20, grows)) if grows else None
    monkeypatch.setattr(HostDevice, "facts", lambda self: {"total": 100, "free": 50})
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(held) if held else 64 << 20)
    result = attempt(setting, "reopening", partial(frame_checks.reopening_loses_no_memory, setting))
    assert result.status == ("failed" if grows else "passed"), result.reason
    assert "reserved by PyTorch after each opening, MB" in (result.reason if grows else result.figures)


def test_replayed_steps_are_timed_with_their_launches_and_the_wait(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Queue:
        waits = 0

        def synchronize(self) -> None:
            Queue.waits += 1
            time.sleep(0.004)

    class Steps:
        device = Queue()

        def __enter__(self) -> Steps:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(OnHost, "talker", lambda self, bundle, graphs: Steps())
    monkeypatch.setattr(figures, "_denoise_launches", lambda talker: [partial(time.sleep, 0.002)] * 3)
    assert 10e3 <= figures._replayed_steps(setting, setting.bundle("tiny_voca")) < 20e3  # us: 3 launches and a wait
    assert Queue.waits == 8  # before each, too, so that nothing is left from the one before


def test_replay_launches_the_rows_of_the_first_schedule(setting: Setting) -> None:
    bundle = setting.bundle("talker")
    with setting.talker(bundle, graphs="step") as talker:
        launches = figures._denoise_launches(talker)
        assert len(launches) == len(bundle.table(talker.schedules[0]))
        for launch in launches:
            launch()


def test_pytorchs_own_steps_are_compared_by_the_same_clock(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device times between marks (1 ns here) are compared with each other alone."""
    setting.bundles["published"] = TINY
    del setting.bundles["talker"]
    monkeypatch.setattr(figures, "_denoise_spans", lambda talker, frames: (1.0, 1.0))
    monkeypatch.setattr(figures, "_replayed_steps", lambda *_: 40.0)
    monkeypatch.setattr(figures, "_same_stage", lambda *_: 200.0)
    monkeypatch.setattr(figures, "_own_head", lambda *_: 600.0)
    found = figures.replay_against_eager(setting)
    assert found[figures.FASTER] == 15.0
    assert found["published, by the host's clock: replay of steps is faster than PyTorch's calls by"] == 5.0
    assert found["published, on the device: replay of steps is faster than eager by"] == 1.0


def test_health_is_read_while_the_clocks_are_those_of_the_frames(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def health(bus: str | None) -> dict[str, str]:
        asked.append(bus)
        return {"throttling": "software power cap"}

    monkeypatch.setattr(settings, "read_health", health)
    monkeypatch.setattr(figures, "_add_profile", lambda *_: None)
    monkeypatch.setattr(figures, "Profiler", lambda *_, **__: None)
    del setting.bundles["talker"]
    setting.bus = "0000:01:00.0"
    found = figures.per_step(setting)
    assert found["tiny_voca: health right after its frames"] == {"throttling": "software power cap"}
    assert asked == ["0000:01:00.0"]


# The driver's questions


class NoContext:
    """cuda-bindings' driver module on a GPU that another process has for itself."""

    class Code(int):
        name = "CUDA_ERROR_DEVICE_UNAVAILABLE"

    def cuInit(self, flags: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cuDevicePrimaryCtxRetain(self, gpu: int) -> tuple[int, None]:  # noqa: N802
        return self.Code(46), None


def test_a_question_without_a_context_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        driver_rules.context_of(NoContext())
    assert ended.value.code == driver_rules.NO_CONTEXT
    assert capsys.readouterr().err == "GPU 0 gives no context: DEVICE_UNAVAILABLE\n"


def test_questions_end_where_there_is_no_context(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = iter([0, driver_rules.NO_CONTEXT])
    done = subprocess.CompletedProcess
    monkeypatch.setattr(subprocess, "run", lambda command, **_: done(command, next(codes), '"fine"', "no context\n"))
    with pytest.raises(SystemExit) as ended:
        driver_rules.answers()
    assert ended.value.code == driver_rules.NO_CONTEXT
    assert capsys.readouterr().err == "no context\n"


def test_a_question_that_hangs_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert set(driver_rules.answers().values()) == {"took longer than 20 s"}


@pytest.mark.parametrize(
    ("code", "told", "status", "reason"),
    [
        (0, "", "passed", ""),
        (driver_rules.NO_CONTEXT, "GPU 0 gives no context: X\n", "not run", "cannot ask: GPU 0 gives no context: X"),
        (1, "Traceback:\nValueError: wrong\n\n", "failed", "ended with code 1; it said last: ValueError: wrong"),
        (None, "", "not run", "took longer than 90 s"),
    ],
)
def test_what_becomes_of_the_questions(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, code: int | None, told: str, status: str, reason: str
) -> None:
    double = (ROOT / "tests" / "cuda" / "driver_rules_double.json").read_text()

    def asked(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        if code is None:
            raise subprocess.TimeoutExpired(command, seconds)
        return subprocess.CompletedProcess(command, code, double, told)

    monkeypatch.setattr(device_checks, "run_child", asked)
    result = attempt(setting, "rules", partial(device_checks.driver_rules, setting))
    assert result.status == status, result.reason
    assert reason in result.reason
    assert result.figures.get("answered otherwise") == (0 if status == "passed" else None)
