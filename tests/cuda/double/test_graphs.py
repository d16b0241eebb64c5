from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.cuda.driver import TABLE
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError
from tests.cuda.double.control import Double

ROW = TensorSpec("float32", (1, 4))


def test_capture_runs_nothing_and_replay_runs_it_each_time(device: CudaDevice) -> None:
    source = device.allocate("source", ROW, staged=True)
    target = device.allocate("target", ROW, staged=True)
    device.write(target, np.zeros((1, 4), np.float32))

    def work() -> None:
        device.upload(source)
        device.copy(target, source)
        device.download(target)

    graph = device.capture("three copies", work)
    assert graph.nodes == 3
    assert not device.read(target).any()
    for value in (1, 2):
        device.staging(source)[:] = value
        device.launch(graph)
        device.synchronize()
        assert (device.staging(target) == value).all()


def test_a_graph_is_uploaded_before_its_first_launch_and_captured_once(device: CudaDevice, double: Double) -> None:
    buffer = device.allocate("b", ROW, staged=True)
    double.clear_log()
    graph = device.capture("g", lambda: device.upload(buffer))
    for _ in range(3):
        device.launch(graph)
    device.synchronize()
    entries = double.entries()
    assert [entries.count(name) for name in ("cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphUpload")] == [1] * 3
    assert entries.index("cuGraphUpload") < entries.index("cuGraphLaunch")
    assert entries.count("cuGraphLaunch") == 3


def test_marks_inside_a_graph_are_recorded_by_every_replay(device: CudaDevice, double: Double) -> None:
    buffer = device.allocate("b", ROW, staged=True)
    first, last = device.mark("first"), device.mark("last")

    def work() -> None:
        device.record(first)
        device.upload(buffer)
        device.record(last)

    graph = device.capture("g", work)
    assert graph.nodes == 3
    for cost in (1_000, 50_000):
        double.set("op_cost_ns", cost)
        device.launch(graph)
        device.synchronize()
        assert device.elapsed(first, last) == pytest.approx(2 * cost, rel=0.01)  # the upload and the second record


def test_marks_outside_graphs(device: CudaDevice) -> None:
    first, last = device.mark("first"), device.mark("last")
    device.record(first)
    device.synchronize()
    with pytest.raises(DeviceError, match="never reached"):
        device.elapsed(first, last)
    device.record(last)
    with pytest.raises(DeviceError, match="not been reached yet") as caught:
        device.elapsed(first, last)
    assert "synchronize()" in str(caught.value)
    device.synchronize()
    assert device.elapsed(first, last) > 0


def test_what_may_not_happen_under_capture_is_refused_by_name(device: CudaDevice) -> None:
    buffer = device.allocate("b", ROW)
    graph = device.capture("inner", lambda: None)
    forbidden: dict[str, Callable[[], object]] = {
        "graph `g` cannot be captured": lambda: device.capture("g", lambda: None),
        "graph `inner` cannot be launched": lambda: device.launch(graph),
        "buffer `late` cannot be made": lambda: device.allocate("late", ROW),
        "host memory of `b` cannot be made": lambda: device.staging(buffer),
        "mark `late` cannot be made": lambda: device.mark("late"),
        "the queue cannot be waited for": device.synchronize,
    }
    for message, call in forbidden.items():
        with pytest.raises(EngineError, match=message):
            device.capture("outer", lambda call=call: call() and None)  # type: ignore[misc]
    assert device.capture("after all that", lambda: None).nodes == 0


def test_failing_work_leaves_a_stream_that_captures_again(device: CudaDevice, double: Double) -> None:
    def missing() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        device.capture("g", missing)
    assert double.live()["captures"] == double.live()["graphs"] == 0
    assert device.capture("g", lambda: None).name == "g"


def test_an_engine_that_allocates_under_capture_is_told(device: CudaDevice) -> None:
    with pytest.raises(CudaError) as caught:
        device.capture("bad engine", lambda: device._driver.free(device._driver.allocate(16)))
    assert "graph `bad engine`: cuMemAlloc failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)" in str(caught.value)
    assert "--graphs eager" in str(caught.value)
    assert device.capture("good", lambda: None).nodes == 0


def test_an_engine_that_swallows_a_broken_capture_is_told_at_its_end(device: CudaDevice) -> None:
    def work() -> None:
        with pytest.raises(CudaError):
            device._driver.synchronize(device.stream)

    with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        device.capture("bad engine", work)


def test_scratch_for_shifts_is_made_under_capture_and_only_once(device: CudaDevice, double: Double) -> None:
    window = device.allocate("window", TensorSpec("float32", (1, 60, 4)))
    newest = device.allocate("newest", ROW)
    double.clear_log()
    graphs = [device.capture(f"g{i}", lambda: device.shift(window, newest)) for i in range(3)]
    assert double.entries().count("cuMemAlloc") == 1
    for graph in graphs:
        device.launch(graph)
    device.synchronize()


@pytest.mark.parametrize("wait", ["spin", "yield", "block"])
def test_every_wait_policy_waits(open_device: Callable[..., CudaDevice], double: Double, wait: str) -> None:
    double.set("ops_per_query", 1)
    device = open_device(wait=wait)
    buffer = device.allocate("b", ROW, staged=True)
    for _ in range(5):
        device.upload(buffer)
    device.synchronize()
    assert device.idle()


def test_frame_calls_make_only_frame_calls(device: CudaDevice, double: Double) -> None:
    window = device.allocate("window", TensorSpec("float32", (1, 60, 4)))
    newest = device.allocate("newest", ROW, staged=True)
    marks = device.mark("a"), device.mark("b")

    def work() -> None:
        device.record(marks[0])
        device.shift(window, newest)
        device.record(marks[1])

    work()
    graph = device.capture("g", work)
    free = device.memory()
    double.clear_log()
    for _ in range(100):
        device.upload(newest)
        device.launch(graph)
        device.download(newest)
        device.synchronize()
        device.elapsed(*marks)
    assert set(double.entries()) == {
        "cuCtxGetCurrent",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuGraphLaunch",
        "cuStreamSynchronize",
        "cuEventElapsedTime",
    }
    assert device.memory() == free


def test_nothing_outside_the_table_is_called(open_device: Callable[..., CudaDevice], double: Double) -> None:
    device = open_device(wait="block", poison=True)
    window = device.allocate("window", TensorSpec("float32", (2, 3, 4)), staged=True)
    newest = device.allocate("newest", TensorSpec("float32", (2, 4)))
    device.launch(device.capture("g", lambda: device.shift(window, newest)))
    device.idle()
    device.memory()
    device.close()
    called = set(double.entries())
    assert called
    assert called <= TABLE
