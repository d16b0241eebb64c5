from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetalker.engines.cuda import CudaDevice, OutOfMemoryError
from edgetalker.engines.engine import DTYPES, Device, TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError
from edgetalker.engines.host import HostDevice
from tests.cuda.double.control import Double

ROW = TensorSpec("float32", (1, 4))


def ramp(spec: TensorSpec) -> np.ndarray:
    return np.arange(np.prod(spec.shape)).astype(spec.dtype).reshape(spec.shape)


def test_device_is_one(device: CudaDevice) -> None:
    assert isinstance(device, Device)
    assert device.kind == "cuda"
    assert device.describe().startswith("Driver Double 0 (compute 9.0, driver for CUDA 13.0")
    assert device.stream > 2


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_write_then_read_keeps_every_bit(device: CudaDevice, dtype: str) -> None:
    spec = TensorSpec(dtype, (3, 5))
    buffer = device.allocate("b", spec)
    device.write(buffer, ramp(spec))
    assert device.read(buffer).tobytes() == ramp(spec).tobytes()
    with pytest.raises(ValueError, match="values are"):
        device.write(buffer, ramp(TensorSpec(dtype, (5, 3))))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_fresh_memory_is_poisoned_or_zero_as_on_the_host(open_device: Callable[..., CudaDevice], dtype: str) -> None:
    spec = TensorSpec(dtype, (7,))
    for poison in (True, False):
        host = HostDevice(poison=poison)
        device = open_device(poison=poison)
        np.testing.assert_array_equal(device.read(device.allocate("b", spec)), host.read(host.allocate("b", spec)))


def test_copies_read_their_memory_when_the_queue_comes_by(device: CudaDevice) -> None:
    buffer = device.allocate("b", ROW, staged=True)
    staging = device.staging(buffer)
    staging[:] = 1
    device.upload(buffer)
    staging[:] = 2  # before the queue has run: this is what arrives
    assert (device.read(buffer) == 2).all()
    device.download(buffer)
    staging[:] = 3
    device.synchronize()
    assert (staging == 2).all()


def test_staging_is_the_same_memory_every_time(device: CudaDevice) -> None:
    buffer = device.allocate("b", TensorSpec("float32", (2, 4)), staged=True)
    again = device.staging(buffer)
    assert again.ctypes.data == device.staging(buffer).ctypes.data
    view = buffer.view("second row", 16, ROW)
    device.staging(view)[:] = 9
    assert again.tolist() == [[pytest.approx(v, nan_ok=True) for v in row] for row in again.tolist()]
    assert (again[1] == 9).all()


def test_views_move_only_their_own_bytes(device: CudaDevice, double: Double) -> None:
    block = device.allocate("block", TensorSpec("uint8", (64,)), staged=True)
    device.write(block, np.zeros(64, np.uint8))
    view = block.view("part", 16, ROW)
    device.staging(view)[:] = 5
    double.clear_log()
    device.upload(view)
    device.synchronize()
    (copy,) = (line for line in double.log() if line.startswith("cuMemcpyHtoDAsync"))
    assert f"target={view.address:#x}" in copy
    assert "bytes=16" in copy
    values = device.read(block)
    assert (values[16:32].view(np.float32) == 5).all()
    assert not values[:16].any()
    assert not values[32:].any()


@pytest.mark.parametrize("offset", [-1, 49, 1 << 40])
def test_views_stay_inside(device: CudaDevice, offset: int) -> None:
    block = device.allocate("block", TensorSpec("uint8", (64,)))
    with pytest.raises(ValueError, match="does not lie inside"):
        block.view("part", offset, ROW)


def test_upload_without_host_memory_says_what_to_do(device: CudaDevice) -> None:
    buffer = device.allocate("lonely", ROW)
    with pytest.raises(EngineError, match="staged=True"):
        device.upload(buffer)


def test_out_of_memory_says_what_was_asked_for_and_what_is_free(device: CudaDevice, double: Double) -> None:
    double.set("total_memory", 1 << 20)
    free, total = device.memory()
    with pytest.raises(OutOfMemoryError) as caught:
        device.allocate("weights", TensorSpec("float32", (1 << 20,)), staged=True)
    message = str(caught.value)
    assert "buffer `weights` of float32[1048576]: 4,194,304 bytes were asked for" in message
    assert f"{free:,} of {total:,} bytes are free" in message
    assert "CUDA_ERROR_OUT_OF_MEMORY" in message
    assert "nvidia-smi" in message
    assert isinstance(caught.value, DeviceError)
    assert (device.read(device.allocate("small", ROW))).shape == (1, 4)  # the device lives on


def test_integrated_gpus_map_what_is_staged_and_copy_nothing(
    open_device: Callable[..., CudaDevice], double: Double
) -> None:
    double.set("integrated", 1)
    device = open_device()
    shared = device.allocate("shared", ROW, staged=True)
    plain = device.allocate("plain", ROW)
    double.clear_log()
    device.staging(shared)[:] = 7
    device.upload(shared)
    device.copy(plain, shared)
    device.download(shared)
    device.synchronize()
    assert not [entry for entry in double.entries() if entry in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")]
    assert (device.read(plain) == 7).all()
    device.write(shared, np.full((1, 4), 8, np.float32))
    assert (device.read(shared) == 8).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talkers=st.integers(1, 4), rows=st.integers(2, 9), fresh=st.integers(1, 8), size=st.integers(1, 5))
def test_shift_is_the_hosts_shift(device: CudaDevice, talkers: int, rows: int, fresh: int, size: int) -> None:
    fresh = min(fresh, rows - 1)
    window, newest = TensorSpec("float32", (talkers, rows, size)), TensorSpec("float32", (talkers, fresh, size))
    results = []
    for each in (device, HostDevice()):
        a, b = each.allocate("window", window), each.allocate("newest", newest)
        each.write(a, ramp(window))
        each.write(b, -1 - ramp(newest))
        graph = each.capture("shift", lambda each=each, a=a, b=b: each.shift(a, b))  # type: ignore[misc]
        each.launch(graph)
        each.launch(graph)
        results.append(each.read(a))
    np.testing.assert_array_equal(results[0], results[1])


def test_shift_costs_three_copies_for_any_number_of_talkers(device: CudaDevice) -> None:
    for talkers in (1, 64):
        window = device.allocate("window", TensorSpec("float32", (talkers, 60, 8)))
        newest = device.allocate("newest", TensorSpec("float32", (talkers, 1, 8)))
        assert device.capture("shift", lambda w=window, n=newest: device.shift(w, n)).nodes == 3  # type: ignore[misc]


def test_rows_are_copied_one_by_one_where_a_driver_wants_its_own_pitch(device: CudaDevice, double: Double) -> None:
    window, newest = TensorSpec("float32", (3, 5, 4)), TensorSpec("float32", (3, 1, 4))
    host = HostDevice()
    made = []
    double.set("any_pitch", 0)
    for each in (device, host):
        a, b = each.allocate("window", window), each.allocate("newest", newest)
        each.write(a, ramp(window))
        each.write(b, -1 - ramp(newest))
        each.launch(each.capture("shift", lambda each=each, a=a, b=b: each.shift(a, b)))  # type: ignore[misc]
        made.append(each.read(a))
    np.testing.assert_array_equal(made[0], made[1])


def test_misfits_are_refused(device: CudaDevice) -> None:
    window = device.allocate("window", TensorSpec("float32", (1, 3, 4)))
    with pytest.raises(ValueError, match="shift of"):
        device.shift(window, device.allocate("long", TensorSpec("float32", (1, 3, 4))))
    with pytest.raises(ValueError, match="copy of"):
        device.copy(window, device.allocate("short", ROW))
    with pytest.raises(ValueError, match="copy of"):
        device.copy(window.view("a", 0, ROW), window.view("b", 8, ROW))


def test_foreign_buffers_are_refused(device: CudaDevice, open_device: Callable[..., CudaDevice]) -> None:
    other = open_device()
    for stranger in (HostDevice().allocate("host's", ROW), other.allocate("other's", ROW)):
        with pytest.raises(EngineError, match="another device"):
            device.upload(stranger)


def test_a_closed_devices_buffer_is_foreign_to_the_next_one(open_device: Callable[..., CudaDevice]) -> None:
    """Which has the same stream: streams of closed devices are used again, and so are addresses."""
    before = open_device()
    old = before.allocate("old", ROW)
    before.close()
    after = open_device()
    assert after.stream == before.stream
    with pytest.raises(EngineError, match="another device"):
        after.read(old)


def test_a_closed_device_refuses_work(open_device: Callable[..., CudaDevice]) -> None:
    device = open_device()
    buffer = device.allocate("b", ROW, staged=True)
    device.close()
    device.close()
    for call in (device.synchronize, lambda: device.upload(buffer), lambda: device.allocate("c", ROW), device.idle):
        with pytest.raises(DeviceError, match="closed"):
            call()
