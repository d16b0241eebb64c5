"""One primary context a process: any number of devices, in any thread, closed in any order, beside any guest."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.engine import Graph, TensorSpec
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.engines.machine import Gpu, probe
from tests.cuda.double.control import Double

ROW = TensorSpec("float32", (1, 4))


class Worker:
    """Four numbers that go to the GPU and back through a graph."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.buffer = device.allocate("b", ROW, staged=True)
        self.graph: Graph = device.capture("g", self._round)

    def _round(self) -> None:
        self.device.upload(self.buffer)
        self.device.download(self.buffer)

    def works(self, value: float) -> bool:
        """Send numbers round and say whether they came back."""
        self.device.staging(self.buffer)[:] = value
        self.device.launch(self.graph)
        self.device.synchronize()
        return bool(
            (self.device.staging(self.buffer) == value).all() and (self.device.read(self.buffer) == value).all()
        )


def in_a_thread(call: Callable[[], object]) -> object:
    """Call in a thread of its own, which has no context yet."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def test_the_primary_context_is_retained_once_and_never_released(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    for _ in range(3):
        open_device().close()
    assert double.entries().count("cuDevicePrimaryCtxRetain") == 1
    assert not {"cuDevicePrimaryCtxRelease", "cuCtxCreate", "cuCtxPushCurrent"} & set(double.entries())
    assert double.count("contexts") == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_devices_are_closed_in_any_order(open_device: Callable[..., CudaDevice], order: tuple[int, ...]) -> None:
    workers = {number: Worker(open_device()) for number in range(3)}
    for number in order:
        workers.pop(number).device.close()
        assert all(worker.works(number) for worker in workers.values())


def test_any_thread_may_use_and_close_a_device(open_device: Callable[..., CudaDevice]) -> None:
    here, there = Worker(open_device()), in_a_thread(lambda: Worker(open_device()))
    assert isinstance(there, Worker)
    assert in_a_thread(lambda: here.works(1))
    assert there.works(2)
    assert here.works(3)
    in_a_thread(here.device.close)
    assert there.works(4)
    there.device.close()


def test_two_gpus_in_one_thread_and_in_two(open_device: Callable[..., CudaDevice], double: Double) -> None:
    double.set("devices", 2)
    first, second = Worker(open_device(ordinal=0)), Worker(open_device(ordinal=1))
    assert [first.device.facts()["bus"], second.device.facts()["bus"]] == ["0000:01:00.0", "0000:02:00.0"]
    assert first.works(1)
    assert second.works(2)
    assert in_a_thread(lambda: second.works(3) and first.works(4))
    first.device.allocate("more", ROW)  # lands on its own GPU although the other one was used last
    first.device.close()
    assert second.works(5)


def test_closing_leaves_the_programs_own_context_current(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    double.set("devices", 2)
    raw = Driver()
    device = open_device(ordinal=0)
    raw.enter(1)
    before = int(raw._call("cuCtxGetCurrent"))
    device.close()
    assert int(raw._call("cuCtxGetCurrent")) == before


def test_a_primary_context_that_a_guest_made_current_is_shared(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    double.set("devices", 2)
    raw = Driver()
    theirs = raw._call("cuDevicePrimaryCtxRetain", 1)
    raw._call("cuCtxSetCurrent", theirs)
    first, second = Worker(open_device(ordinal=1)), Worker(open_device(ordinal=0))
    assert first.works(1)
    assert second.works(2)
    raw._call("cuDevicePrimaryCtxRelease", 1)
    assert first.works(3)  # the guest's release is its own


def test_a_context_that_is_not_the_primary_one_is_refused(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    raw = Driver()
    foreign = double.create_context()
    with pytest.raises(DeviceError, match="not the GPU's primary one") as caught:
        open_device()
    assert "pycuda.autoprimaryctx" in str(caught.value)
    worker = in_a_thread(lambda: Worker(open_device()))
    assert isinstance(worker, Worker)
    with pytest.raises(DeviceError, match="not the GPU's primary one"):
        worker.works(1)  # here, where the foreign one is current
    assert in_a_thread(lambda: worker.works(2))
    raw._call("cuCtxDestroy", foreign)
    assert worker.works(3)


@pytest.mark.parametrize("form", ["integer", "handle", "cuda_stream", "ptr", "protocol"])
def test_streams_of_any_library(open_device: Callable[..., CudaDevice], double: Double, form: str) -> None:
    owner = open_device()
    number = owner.stream
    stream: object = {
        "integer": number,
        "handle": SimpleNamespace(handle=number),
        "cuda_stream": SimpleNamespace(cuda_stream=number),
        "ptr": SimpleNamespace(ptr=number),
        "protocol": SimpleNamespace(__cuda_stream__=lambda: (0, number)),
    }[form]
    guest = open_device(stream=stream)
    buffer = guest.allocate("b", ROW, staged=True)
    guest.staging(buffer)[:] = 6
    guest.launch(guest.capture("g", lambda: guest.upload(buffer)))
    assert (guest.read(buffer) == 6).all()
    guest.close()
    assert double.live()["streams"] == 1


def test_somebody_elses_stream_lives_as_long_as_the_device(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    raw = Driver()
    raw.enter(0)

    class Stream:
        """As pycuda's, CuPy's and cuda.core's: destroyed with its last reference."""

        def __init__(self) -> None:
            self.handle = int(raw._call("cuStreamCreate", 1))

        def __del__(self) -> None:
            raw._call("cuStreamDestroy", self.handle)

    device = open_device(stream=Stream())
    device.allocate("b", ROW)
    assert double.live()["streams"] == 1
    device.close()
    assert double.live()["streams"] == 0


@pytest.mark.parametrize("stream", [0, 1, 2, SimpleNamespace(cuda_stream=0)])
def test_the_default_stream_is_refused(open_device: Callable[..., CudaDevice], stream: object) -> None:
    with pytest.raises(OptionError, match="default stream cannot be captured"):
        open_device(stream=stream)


def test_unknown_options_name_the_nearest(open_device: Callable[..., CudaDevice]) -> None:
    with pytest.raises(OptionError, match=r"no wait policy `blok`.*`block`"):
        open_device(wait="blok")
    with pytest.raises(OptionError, match="is no CUDA stream"):
        open_device(stream="stream")
    with pytest.raises(DeviceError, match="there is no GPU 3: 1 visible"):
        open_device(ordinal=3)


def test_no_gpu_says_what_to_check(open_device: Callable[..., CudaDevice], double: Double) -> None:
    double.set("devices", 0)
    with pytest.raises(DeviceError) as caught:
        open_device()
    assert "CUDA_ERROR_NO_DEVICE" in str(caught.value)
    assert "nvidia-smi" in str(caught.value)


def test_a_stream_of_another_gpu_is_refused(open_device: Callable[..., CudaDevice], double: Double) -> None:
    double.set("devices", 2)
    other = open_device(ordinal=1)
    with pytest.raises(OptionError, match="belongs to another GPU"):
        open_device(ordinal=0, stream=other.stream)


def test_a_stream_that_waits_for_the_default_one_is_told_of(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    raw = Driver()
    raw.enter(0)
    blocking = int(raw._call("cuStreamCreate", 0))
    device = open_device(stream=blocking)
    buffer = device.allocate("b", ROW)

    def work() -> None:
        raw._call("cuMemsetD8Async", buffer.address, 0, 4, 0)

    with pytest.raises(CudaError, match="CAPTURE_IMPLICIT") as caught:
        device.capture("g", work)
    assert "non-blocking streams" in str(caught.value)
    device.close()
    raw.drop_stream(blocking)


def test_streams_are_used_again(open_device: Callable[..., CudaDevice], double: Double) -> None:
    """PyTorch keeps a workspace for each stream that it ever saw."""
    seen = set()
    for _ in range(5):
        device = open_device()
        seen.add(device.stream)
        device.close()
    assert len(seen) == 1
    assert double.count("streams") == 1
    both = open_device(), open_device()
    assert len({device.stream for device in both}) == 2


@pytest.mark.parametrize("where", ["here", "in another thread"])
def test_a_forgotten_device_gives_everything_back(double: Double, where: str) -> None:
    def drop() -> None:
        device = CudaDevice()
        made = device.allocate("b", ROW, staged=True), device.mark("m"), device.capture("g", lambda: None)
        assert double.count("host_blocks") == double.count("execs") == 1
        del device
        assert double.count("blocks") == double.count("execs") == 0
        assert len(made) == 3

    if where == "here":
        drop()
    else:
        in_a_thread(drop)
    gc.collect()
    assert not any(count for kind, count in double.live().items() if kind != "streams")


class Cycle:
    """What only garbage collection can free."""

    def __init__(self, held: object) -> None:
        self.held, self.me = held, self


@pytest.mark.parametrize("collected", [True, False])
def test_what_is_forgotten_breaks_no_capture(device: CudaDevice, double: Double, collected: bool) -> None:
    forgotten = CudaDevice()
    kept = [
        forgotten,
        forgotten.allocate("x", ROW, staged=True),
        forgotten.mark("m"),
        forgotten.capture("g", lambda: None),
    ]
    del forgotten
    buffer = device.allocate("b", ROW, staged=True)
    if collected:
        Cycle(kept.copy())
        kept.clear()

    def work() -> None:
        device.upload(buffer)
        kept.clear()
        gc.collect()  # as Python may at any allocation of the work
        device.upload(buffer)

    assert device.capture("g", work).nodes == 2
    gc.collect()
    assert double.count("host_blocks") == double.count("blocks") == 1


def test_a_device_that_is_closed_under_the_capture_of_another_waits_for_its_end(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    device, other = open_device(), Worker(open_device())
    buffer = device.allocate("b", ROW, staged=True)

    def work() -> None:
        device.upload(buffer)
        other.device.close()
        device.upload(buffer)

    blocks = double.count("blocks")
    assert device.capture("g", work).nodes == 2
    assert double.count("blocks") == blocks - 1


def test_two_threads_capture_and_replay_at_once(open_device: Callable[..., CudaDevice]) -> None:
    def work() -> bool:
        worker = Worker(open_device())
        return all(worker.works(value) and Worker(worker.device).works(value) for value in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert all([future.result() for future in [pool.submit(work), pool.submit(work)]])  # noqa: C419 - both end
    assert gc.isenabled()


def test_garbage_is_not_collected_under_capture(device: CudaDevice) -> None:
    found: list[bool] = []
    assert gc.isenabled()
    device.capture("g", lambda: found.append(gc.isenabled()))
    assert found == [False]
    assert gc.isenabled()


def test_buffers_graphs_and_marks_go_with_their_last_reference(device: CudaDevice, double: Double) -> None:
    before = double.live()
    buffer, marks = device.allocate("b", ROW, staged=True), [device.mark("m")]
    graph = device.capture("g", lambda: device.record(marks[0]))
    marks.clear()  # the graph records it and keeps it
    device.launch(graph)
    device.synchronize()
    view = buffer.view("v", 0, ROW)
    del buffer
    assert double.count("blocks") == before["blocks"] + 1
    del view, graph
    assert double.live() == before


def test_what_was_read_from_a_frame_outlives_its_device(open_device: Callable[..., CudaDevice], double: Double) -> None:
    device = open_device()
    worker = Worker(device)
    assert worker.works(7)
    motion = device.staging(worker.buffer)[0, 1:].view()
    device.close()
    del worker, device
    gc.collect()
    assert double.count("host_blocks") == 1
    assert motion.tolist() == [7, 7, 7]
    del motion
    assert double.count("host_blocks") == 0


def test_close_ends_an_unfinished_capture(open_device: Callable[..., CudaDevice], double: Double) -> None:
    device = open_device()
    buffer = device.allocate("b", ROW, staged=True)

    def work() -> None:
        device.upload(buffer)
        device.close()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.capture("g", work)
    assert not any(count for kind, count in double.live().items() if kind not in ("streams", "host_blocks"))


def test_other_libraries_look_in_without_a_copy(device: CudaDevice, double: Double) -> None:
    motion = device.allocate("motion", TensorSpec("float32", (2, 52)))
    face = motion.__cuda_array_interface__
    assert face["data"] == (motion.address, False)
    assert face["shape"] == (2, 52)
    assert face["typestr"] == "<f4"
    assert face["stream"] == device.stream
    assert motion.__dlpack_device__() == (2, 0)
    double.clear_log()
    capsule = motion.__dlpack__(stream=device.stream)
    assert not double.entries()
    assert 'capsule object "dltensor"' in repr(capsule)
    motion.__dlpack__(stream=7)
    assert double.entries() == ["cuCtxGetCurrent", "cuStreamSynchronize"]
    with pytest.raises(BufferError, match="no copy"):
        motion.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="no other device"):
        motion.__dlpack__(dl_device=(1, 0))


def test_the_probe_counts_multiprocessors(double: Double) -> None:
    found = probe()
    assert isinstance(found, Gpu)
    assert (found.processors, found.capability) == (4, "sm90")
