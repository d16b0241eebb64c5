"""The stand-in itself: what a GPU would punish, or not tell, it tells. driver_rules.py has what it answers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.engine import TensorSpec
from tests.cuda.double.control import Double, start_over

ROW = TensorSpec("float32", (1, 4))


def told(double: Double) -> str:
    """Return what was violated, once, and begin anew."""
    count, text = double.violations()
    assert count == 1, (count, text)
    start_over(double)
    return text


def test_an_event_that_a_live_graph_records_may_not_go(double: Double) -> None:
    device = CudaDevice()
    mark = device.mark("m")
    graph = device.capture("g", lambda: device.record(mark))
    Driver().drop_event(mark.event)
    assert graph.nodes == 1
    assert "an event was destroyed that a live graph records" in told(double)


def test_a_primary_context_that_goes_with_what_lives_in_it_is_told(double: Double) -> None:
    device = CudaDevice()
    buffer = device.allocate("b", ROW)
    Driver()._call("cuDevicePrimaryCtxRelease", 0)
    assert buffer.address
    assert "the primary context of GPU 0 was destroyed with 2 things alive in it" in told(double)


def test_memory_of_another_gpu_is_told(double: Double) -> None:
    double.set("devices", 2)
    first, second = CudaDevice(0), CudaDevice(1)
    buffer = first.allocate("b", ROW)
    raw = Driver()
    raw.enter(1)
    raw._call("cuMemsetD8Async", buffer.address, 0, 16, second.stream)
    assert "memory of GPU 0 is used from GPU 1" in told(double)


def test_a_host_function_may_call_nothing_of_cuda(double: Double, open_device: Callable[..., CudaDevice]) -> None:
    device = open_device()
    answers: list[int] = []
    library = ctypes.CDLL("libcuda.so.1")
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call = kind(lambda _: answers.append(library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))))
    library.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, kind, ctypes.c_void_p]
    assert library.cuLaunchHostFunc(device.stream, call, None) == 0
    device.synchronize()
    assert answers == [800]


@pytest.mark.parametrize(
    ("waits", "after", "seen"),
    [("nobody", False, 0), ("the other stream", False, 7), ("the other stream", True, 7), ("the host", False, 7)],
)
def test_what_one_stream_does_another_sees_where_it_waited_alone(
    double: Double, open_device: Callable[..., CudaDevice], waits: str, after: bool, seen: int
) -> None:
    """Work runs as late as its order allows: a wait that is missing, or for an event before the work, is stale data."""
    first, second = open_device(), open_device()
    buffer, raw = first.allocate("b", ROW), Driver()
    host, _ = raw.pin(16, mapped=False)
    written, read = (raw.make_event(timed=False) for _ in range(2))
    raw._call("cuMemsetD8Async", buffer.address, 0, 16, first.stream)
    raw.synchronize(first.stream)
    raw._call("cuMemsetD8Async", buffer.address, 7, 16, first.stream)
    raw.record(written, first.stream, capturing=False)
    if after:
        raw._call("cuMemsetD8Async", buffer.address, 9, 16, first.stream)
    if waits == "the other stream":
        raw._call("cuStreamWaitEvent", second.stream, written, 0)
    elif waits == "the host":
        raw.wait(written)
    raw.to_host(host, buffer.address, 16, second.stream)
    raw.record(read, second.stream, capturing=False)
    raw.wait(read)
    assert ctypes.string_at(host, 16) == bytes([seen] * 16)
    for event in (written, read):
        raw.drop_event(event)
    raw.synchronize(first.stream)
    raw.unpin(host)
