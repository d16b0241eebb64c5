"""Every driver call that a talker's life makes is made to fail once: nothing leaks, hangs or lies."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.cuda.driver import TABLE
from edgetalker.engines.cuda.errors import STICKY, advice
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError
from tests.cuda.double.control import Double, give_spare_streams_back, start_over

LEFT = {
    "cuMemFree": "blocks",
    "cuMemFreeHost": "host_blocks",
    "cuStreamDestroy": "streams",
    "cuEventDestroy": "events",
    "cuGraphExecDestroy": "execs",
    "cuGraphDestroy": "graphs",
}
"""Calls that give something back: when one fails, that thing stays, and all others must still go."""

QUIET = ("cuMemFreeHost", "cuMemcpy2DAsync")
"""A failure that only the log hears: page-locked memory goes with its last array, after close. Or nobody: rows that
are refused are copied one by one."""


def live_a_life(wait: str) -> None:
    """Open, allocate, capture, run three frames, close: every kind of call that a talker makes."""
    with CudaDevice(wait=wait) as device:
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


def calls_of_a_life(double: Double, wait: str) -> list[tuple[str, int]]:
    start_over(double)
    double.clear_log()
    live_a_life(wait)
    entries = double.entries()
    while entries[-1] in ("cuMemFreeHost", "cuCtxGetCurrent"):  # after close
        entries.pop()
    return [(entry, nth) for entry, count in Counter(entries).items() for nth in range(1, count + 1)]


@pytest.mark.parametrize("wait", ["spin", "yield", "block"])
@pytest.mark.parametrize("integrated", [0, 1])
def test_each_call_fails_once(double: Double, wait: str, integrated: int) -> None:
    double.set("integrated", integrated)
    calls = calls_of_a_life(double, wait)
    assert {entry for entry, _ in calls} <= TABLE
    assert len(calls) > 60
    for entry, nth in calls:
        start_over(double)
        double.fail(entry, nth=nth, code=1)
        caught = outcome(wait)
        assert not double.failure_is_pending, f"{entry} number {nth} was never made"
        check(double, entry, nth, caught)
    start_over(double)


def outcome(wait: str) -> DeviceError | None:
    try:
        live_a_life(wait)
    except DeviceError as error:
        error.__context__ = None
        return error.with_traceback(None)  # whose frames would keep the buffers of the life that failed
    return None


def check(double: Double, entry: str, nth: int, caught: DeviceError | None) -> None:
    """The failure was told, and nothing else stayed behind."""
    assert caught is not None or entry in QUIET, f"{entry} number {nth} failed and nobody said so"
    if caught is not None:
        assert isinstance(caught, CudaError), f"{entry} number {nth}: {caught}"
        assert f"{entry} failed: CUDA_ERROR_INVALID_VALUE (1), invalid argument" in str(caught)
        assert caught.hint == advice(1)
    give_spare_streams_back()
    left = {kind: count for kind, count in double.live().items() if count}
    allowed = {LEFT[entry]: 1} if entry in LEFT else {}
    assert left in ({}, allowed), f"{entry} number {nth} left {left}"


@pytest.mark.parametrize("code", [700, 702, 719])
def test_a_lost_gpu_ends_the_session_cleanly(double: Double, code: int) -> None:
    assert code in STICKY
    device = CudaDevice()
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
    start_over(double)


def test_a_lost_gpu_is_told_by_launch_and_by_every_wait(double: Double) -> None:
    for wait in ("spin", "yield", "block"):
        device = CudaDevice(wait=wait)
        graph = device.capture("g", lambda: None)
        double.fail("cuGraphLaunch", code=719, sticky=True)
        with pytest.raises(CudaError, match="cuGraphLaunch failed: CUDA_ERROR_LAUNCH_FAILED"):
            device.launch(graph)
        with pytest.raises(CudaError, match="cuGraphLaunch failed"):
            device.synchronize()
        device.close()
        start_over(double)


def test_codes_that_nobody_knows_are_still_told(double: Double, device: CudaDevice) -> None:
    double.fail("cuGraphLaunch", code=4711)
    with pytest.raises(CudaError, match="4711") as caught:
        device.launch(device.capture("g", lambda: None))
    assert "https://docs.nvidia.com" in str(caught.value)


OLDER = """
from tests.cuda.double.control import Double
from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.errors import DeviceError
double = Double()
double.set("driver_version", 12060)
double.set("by_version", 1)
with CudaDevice() as device:
    first, last = device.mark("first"), device.mark("last")
    device.record(first)
    device.record(last)
    device.synchronize()
    try:
        print("elapsed", device.elapsed(first, last))
    except DeviceError as error:
        print(error)
"""


def test_a_driver_that_lacks_a_newer_form_of_a_call_is_told() -> None:
    """Marks on JetPack 6. A process of its own: cuda-bindings looks entries up once."""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", OLDER], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if int(metadata.version("cuda-bindings").split(".")[0]) < 13:
        assert done.stdout.startswith("elapsed"), done.stdout
    else:
        assert "cuEventElapsedTime: the NVIDIA driver is older than cuda-bindings" in done.stdout
        assert "[cuda12]" in done.stdout
