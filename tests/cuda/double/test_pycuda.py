"""pycuda as a guest in the primary context: its streams are adopted, its arrays look into our buffers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import DeviceError
from tests.cuda.double.control import Double

pytest.importorskip("pycuda", reason="pycuda is not installed: tests/cuda/build_pycuda.sh installs it without a GPU")
ROW = TensorSpec("float32", (1, 4))


@pytest.fixture
def pycuda(double: Double) -> Iterator[Any]:
    """pycuda's driver module with the primary context current, as `import pycuda.autoprimaryctx` leaves it."""
    import pycuda.driver

    pycuda.driver.init()
    context = pycuda.driver.Device(0).retain_primary_context()
    context.push()
    yield pycuda.driver
    gc.collect()
    context.pop()
    context.detach()


def test_a_pycuda_stream_is_used_and_not_destroyed(
    pycuda: Any, open_device: Callable[..., CudaDevice], double: Double
) -> None:
    stream = pycuda.Stream(1)
    device = open_device(stream=stream)
    assert device.stream == stream.handle
    buffer = device.allocate("b", ROW, staged=True)
    device.staging(buffer)[:] = 4
    graph = device.capture("g", lambda: device.upload(buffer))
    device.launch(graph)
    ours = np.zeros((1, 4), np.float32)
    pycuda.memcpy_dtoh_async(ours, buffer.address, stream)  # the program's own work on the same stream
    stream.synchronize()
    assert (ours == 4).all()
    device.close()
    assert double.count("streams") == 1
    stream.synchronize()


def test_pycuda_reads_and_writes_a_buffer_where_it_lies(pycuda: Any, device: CudaDevice) -> None:
    from pycuda.gpuarray import GPUArray

    motion = device.allocate("motion", ROW)
    device.write(motion, np.arange(4, dtype=np.float32).reshape(1, 4))
    array = GPUArray((1, 4), np.float32, gpudata=motion.address, base=motion)
    assert array.get().tolist() == [[0, 1, 2, 3]]
    array.set(np.full((1, 4), 9, np.float32))
    assert (device.read(motion) == 9).all()
    assert motion.__cuda_array_interface__["data"] == (array.ptr, False)


def test_a_device_may_be_closed_before_or_after_pycuda_lets_go(
    pycuda: Any, open_device: Callable[..., CudaDevice]
) -> None:
    first, second = open_device(), open_device()
    first.close()
    theirs = pycuda.mem_alloc(64)
    second.allocate("b", ROW)
    theirs.free()
    second.close()


def test_a_context_of_pycudas_own_is_refused(open_device: Callable[..., CudaDevice]) -> None:
    """What `import pycuda.autoinit` makes."""
    import pycuda.driver

    pycuda.driver.init()
    context = pycuda.driver.Device(0).make_context()
    with pytest.raises(DeviceError, match="autoprimaryctx"):
        open_device()
    context.pop()
    context.detach()
    device = open_device()
    assert device.read(device.allocate("b", ROW)).shape == (1, 4)
