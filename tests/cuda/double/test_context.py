from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from edgetalker.engines.cuda import CudaDevice, CudaError
from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError, OptionError
from tests.cuda.double.control import Double

ROW = TensorSpec("float32", (1, 4))
WITH_PYCUDA = os.environ["EDGETALKER_TEST_DRIVER"] == "pycuda"
needs_pycuda = pytest.mark.skipif(not WITH_PYCUDA, reason="this run tests cuda-bindings alone")


def test_the_primary_context_and_no_other(open_device: Callable[..., CudaDevice], double: Double) -> None:
    open_device().close()
    assert double.entries().count("cuDevicePrimaryCtxRetain") == 1
    assert double.entries().count("cuDevicePrimaryCtxRelease") == 1
    assert not [entry for entry in double.entries() if entry.startswith("cuCtxCreate")]
    assert double.live()["context_depth"] == 0


def test_a_context_that_is_current_is_shared(open_device: Callable[..., CudaDevice], double: Double) -> None:
    if WITH_PYCUDA:
        import pycuda.driver as pycuda

        pycuda.init()
        theirs = pycuda.Device(0).retain_primary_context()
        theirs.push()
    else:
        raw = Driver()
        raw.enter(raw.find(0))
    double.clear_log()
    device = open_device()
    device.allocate("b", ROW)
    device.close()
    assert not {"cuCtxPushCurrent", "cuCtxPopCurrent"} & set(double.entries()) or WITH_PYCUDA
    assert "cuDevicePrimaryCtxRelease" not in double.entries()
    assert double.live()["context_depth"] == 1
    if WITH_PYCUDA:
        theirs.pop()
        theirs.detach()
        raw = Driver()
        raw._call("cuCtxPopCurrent")  # pycuda leaves the context that it pushed to release it
    else:
        raw.leave()


def test_a_context_of_another_gpu_is_not_shared(open_device: Callable[..., CudaDevice], double: Double) -> None:
    double.set("devices", 2)
    first = open_device(ordinal=0)
    double.clear_log()
    second = open_device(ordinal=1)
    assert "cuDevicePrimaryCtxRetain device=1" in double.log()
    second.close()
    assert "cuDevicePrimaryCtxRelease device=1" in double.log()
    assert first.read(first.allocate("b", ROW)).shape == (1, 4)


@needs_pycuda
def test_a_pycuda_stream_is_used_and_not_destroyed(open_device: Callable[..., CudaDevice], double: Double) -> None:
    import pycuda.driver as pycuda

    first = open_device()
    stream = pycuda.Stream(1)
    second = open_device(stream=stream)
    assert second.stream == stream.handle
    buffer = second.allocate("b", ROW, staged=True)
    second.staging(buffer)[:] = 4
    second.upload(buffer)
    ours = np.zeros((1, 4), np.float32)
    pycuda.memcpy_dtoh_async(ours, buffer.address, stream)  # the program's own work on the same stream
    stream.synchronize()
    assert (ours == 4).all()
    second.close()
    assert double.live()["streams"] == 2
    del stream
    gc.collect()
    first.close()


@pytest.mark.parametrize("form", ["integer", "handle", "cuda_stream", "protocol"])
def test_streams_of_any_library(open_device: Callable[..., CudaDevice], double: Double, form: str) -> None:
    owner = open_device()
    number = owner.stream
    stream: object = {
        "integer": number,
        "handle": SimpleNamespace(handle=number),
        "cuda_stream": SimpleNamespace(cuda_stream=number),
        "protocol": SimpleNamespace(__cuda_stream__=lambda: (0, number)),
    }[form]
    guest = open_device(stream=stream)
    buffer = guest.allocate("b", ROW, staged=True)
    guest.staging(buffer)[:] = 6
    guest.launch(guest.capture("g", lambda: guest.upload(buffer)))
    assert (guest.read(buffer) == 6).all()
    guest.close()
    assert double.live()["streams"] == 1


@pytest.mark.parametrize("stream", [0, 1, 2, SimpleNamespace(cuda_stream=0)])
def test_the_default_stream_is_refused(open_device: Callable[..., CudaDevice], stream: object) -> None:
    with pytest.raises(OptionError, match="default stream cannot be captured"):
        open_device(stream=stream)


def test_unknown_options_name_the_nearest(open_device: Callable[..., CudaDevice]) -> None:
    with pytest.raises(OptionError, match=r"`blok` is unknown.*`block`"):
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


def test_a_forgotten_device_gives_everything_back(driver_kind: type[Driver], double: Double) -> None:
    device = CudaDevice(driver=driver_kind())
    device.allocate("b", ROW, staged=True)
    device.mark("m")
    device.capture("g", lambda: None)
    assert double.live()["blocks"] == 1
    del device
    gc.collect()
    assert not any(double.live().values())


def test_close_ends_an_unfinished_capture(open_device: Callable[..., CudaDevice], double: Double) -> None:
    device = open_device()
    buffer = device.allocate("b", ROW, staged=True)

    def work() -> None:
        device.upload(buffer)
        device.close()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.capture("g", work)
    assert not any(double.live().values())


def test_another_thread_is_told(device: CudaDevice) -> None:
    told: list[tuple[int, str]] = []

    def work() -> None:
        try:
            device.synchronize()
        except CudaError as error:
            told.append((error.code, str(error)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ((code, message),) = told
    assert code == 201
    assert "thread that made it" in message


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
    assert double.entries() == ["cuStreamSynchronize"]
    with pytest.raises(BufferError, match="no copy"):
        motion.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="no other device"):
        motion.__dlpack__(dl_device=(1, 0))


@needs_pycuda
def test_pycuda_arrays_look_in_without_a_copy(device: CudaDevice) -> None:
    from pycuda.gpuarray import GPUArray

    motion = device.allocate("motion", ROW)
    device.write(motion, np.arange(4, dtype=np.float32).reshape(1, 4))
    array = GPUArray((1, 4), np.float32, gpudata=motion.address, base=motion)
    assert array.get().tolist() == [[0, 1, 2, 3]]
