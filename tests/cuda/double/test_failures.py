"""Every driver call that a session's life makes is made to fail once: nothing leaks, hangs or lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.cuda.errors import STICKY, advice
from edgetalker.engines.cuda.table import TABLE
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError
from tests.cuda.double.control import Double

WITH_PYCUDA = os.environ["EDGETALKER_TEST_DRIVER"] == "pycuda"
ENDS = {
    "cuMemFree",
    "cuMemFreeHost",
    "cuStreamDestroy",
    "cuEventDestroy",
    "cuGraphExecDestroy",
    "cuCtxPopCurrent",
    "cuDevicePrimaryCtxRelease",
}
"""Calls that give something back: when one fails, that thing stays, and all others must still go."""
LEFT = {
    "cuMemFree": "blocks",
    "cuMemFreeHost": "host_blocks",
    "cuStreamDestroy": "streams",
    "cuEventDestroy": "events",
    "cuGraphExecDestroy": "execs",
    "cuGraphDestroy": "graphs",
    "cuCtxPopCurrent": "context_depth",
    "cuDevicePrimaryCtxRelease": "contexts",
}


def live_a_life(driver: type[Driver], wait: str) -> None:
    """Open, allocate, capture, run three frames, close: every kind of call that a session makes."""
    with CudaDevice(driver=driver(), wait=wait) as device:
        window = device.allocate("window", TensorSpec("float32", (2, 5, 4)))
        newest = device.allocate("newest", TensorSpec("float32", (2, 1, 4)), staged=True)
        single = device.allocate("single", TensorSpec("float32", (1, 5, 4)))
        late = device.allocate("late", TensorSpec("float32", (1, 1, 4)))
        device.staging(late)
        first, last = device.mark("first"), device.mark("last")

        def work() -> None:
            device.record(first)
            device.shift(window, newest)
            device.shift(single, late)
            device.record(last)

        graph = device.capture("frame", work)
        for value in range(3):
            device.staging(newest)[:] = value
            device.upload(newest)
            device.launch(graph)
            device.download(newest)
            device.synchronize()
            device.elapsed(first, last)
        assert (device.read(window)[:, -1] == 2).all()
        device.memory()
        device.idle()


def calls_of_a_life(double: Double, driver: type[Driver], wait: str) -> list[tuple[str, int]]:
    double.clear_log()
    live_a_life(driver, wait)
    return [(entry, nth) for entry, count in Counter(double.entries()).items() for nth in range(1, count + 1)]


def restore(double: Double, driver: type[Driver]) -> None:
    """Give back by hand what a failing call had to leave, so that the next life begins clean."""
    double.recover()
    double._library.double_sweep()


@pytest.mark.parametrize("wait", ["spin", "yield", "block"])
@pytest.mark.parametrize("integrated", [0, 1])
def test_each_call_fails_once(double: Double, driver_kind: type[Driver], wait: str, integrated: int) -> None:
    double.set("integrated", integrated)
    calls = calls_of_a_life(double, driver_kind, wait)
    assert {entry for entry, _ in calls} <= set(TABLE)
    assert len(calls) > 60
    for entry, nth in calls:
        double.fail(entry, nth=nth, code=1)
        caught = outcome(driver_kind, wait)
        assert not double.failure_is_pending, f"{entry} number {nth} was never made"
        check(double, entry, nth, caught)
        restore(double, driver_kind)


def outcome(driver: type[Driver], wait: str) -> DeviceError | None:
    try:
        live_a_life(driver, wait)
    except DeviceError as error:
        return error
    return None


def check(double: Double, entry: str, nth: int, caught: DeviceError | None) -> None:
    """The failure was told, or it was one that pycuda tells on stderr; and nothing else stayed behind."""
    quiet = WITH_PYCUDA and (entry in ENDS or (entry == "cuCtxPushCurrent" and nth > 1))
    assert caught is not None or quiet, f"{entry} number {nth} failed and nobody said so"
    if caught is not None and not quiet:
        assert isinstance(caught, CudaError), f"{entry} number {nth}: {caught}"
        assert f"{entry} failed: CUDA_ERROR_INVALID_VALUE (1), invalid argument" in str(caught)
        assert caught.hint == advice(1)
    left = {kind: count for kind, count in double.live().items() if count}
    allowed = {LEFT[entry]: 1} if entry in LEFT else {}
    if entry in ("cuCtxPopCurrent", "cuDevicePrimaryCtxRelease", "cuCtxPushCurrent"):
        assert set(left) <= {"contexts", "context_depth"}, f"{entry} number {nth} left {left}"
    else:
        assert left in ({}, allowed), f"{entry} number {nth} left {left}"


@pytest.mark.parametrize("code", [700, 702, 719])
def test_a_lost_gpu_ends_the_session_cleanly(
    double: Double, driver_kind: type[Driver], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert code in STICKY
    device = CudaDevice(driver=driver_kind())
    buffer = device.allocate("b", TensorSpec("float32", (4,)), staged=True)
    graph = device.capture("g", lambda: device.upload(buffer))
    double.fail("execute", nth=2, code=code)
    device.launch(graph)
    with pytest.raises(CudaError) as caught:
        device.synchronize()
    assert caught.value.sticky
    assert "start it again" in str(caught.value)
    with pytest.raises(CudaError) as again:
        device.upload(buffer)
    assert again.value is caught.value  # the first cause, not its echo
    device.close()
    device.close()
    restore(double, driver_kind)


def test_a_lost_gpu_is_told_by_launch_and_by_every_wait(
    double: Double, driver_kind: type[Driver], open_device: Callable[..., CudaDevice]
) -> None:
    for wait in ("spin", "yield", "block"):
        device = CudaDevice(driver=driver_kind(), wait=wait)
        graph = device.capture("g", lambda: None)
        double.fail("cuGraphLaunch", code=719, sticky=True)
        with pytest.raises(CudaError, match="cuGraphLaunch failed: CUDA_ERROR_LAUNCH_FAILED"):
            device.launch(graph)
        with pytest.raises(CudaError, match="cuGraphLaunch failed"):
            device.synchronize()
        device.close()
        restore(double, driver_kind)


def test_codes_that_nobody_knows_are_still_told(double: Double, device: CudaDevice) -> None:
    double.fail("cuGraphLaunch", code=4711)
    with pytest.raises(CudaError, match="4711") as caught:
        device.launch(device.capture("g", lambda: None))
    assert "https://docs.nvidia.com" in str(caught.value)
