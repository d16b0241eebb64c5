"""What this machine moves and computes in a second, measured in the same run as the stages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgetalker.engines.engine import Device, TensorSpec
from edgetalker.engines.errors import UserError

__all__ = ["Rates", "measure_rates"]

_REPEATS = 5
_HOST_COPY = 64 << 20
_DEVICE_COPY = 256 << 20
_COPIES = 10  # a graph, so that a launch does not count
_HOST_SIDE, _DEVICE_SIDE = 768, 4096
_PRODUCTS = 4


@dataclass(frozen=True)
class Rates:
    """bytes_per_s: read plus written by a copy. operations_per_s: of a large matrix product; None where unknown.

    notes: how each was measured, or why it could not be.
    """

    bytes_per_s: float | None
    operations_per_s: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the rates under stable keys."""
        return {
            "bytes_per_s": self.bytes_per_s,
            "operations_per_s": self.operations_per_s,
            "notes": list(self.notes),
        }


def measure_rates(device: Device, *, precision: str = "fp32", threads: int = 1) -> Rates:
    """Measure. Takes about a second and frees what it used, but for two buffers on a GPU until the device closes."""
    if device.kind == "host":
        return _host_rates(threads)
    return _device_rates(device, precision)


def _host_rates(threads: int) -> Rates:
    moved = _host_copy()
    notes = [f"copy of {_HOST_COPY >> 20} MiB by one core"]
    try:
        rate: float | None = _host_product(threads)
        notes.append(f"product of {_HOST_SIDE}x{_HOST_SIDE} float32 by ONNX Runtime, {threads} threads")
    except (ImportError, UserError) as error:
        rate = None
        notes.append(f"no matrix rate: {getattr(error, 'message', error)}")
    return Rates(moved, rate, tuple(notes))


def _host_copy() -> float:
    source, target = np.ones(_HOST_COPY, np.uint8), np.zeros(_HOST_COPY, np.uint8)
    return 2 * _HOST_COPY / _best(lambda: np.copyto(target, source))


def _best(work: Callable[[], object]) -> float:
    """Return the shortest of several runs in seconds: others on the machine can only make it longer."""
    shortest = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter_ns()
        work()
        shortest = min(shortest, (time.perf_counter_ns() - begin) / 1e9)
    return shortest


def _host_product(threads: int) -> float:
    from edgetalker.engines.host import HostDevice
    from edgetalker.engines.ort import OrtEngine

    spec = TensorSpec("float32", (_HOST_SIDE, _HOST_SIDE))
    device = HostDevice()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        path.write_bytes(_product_network(spec))
        engine = OrtEngine("product", path, {"a": spec, "b": spec}, {"c": spec}, threads=threads)
    binding = engine.bind({name: device.allocate(name, spec) for name in "abc"})
    binding.enqueue(device)
    return 2 * _HOST_SIDE**3 / _best(lambda: binding.enqueue(device))


def _product_network(spec: TensorSpec) -> bytes:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, spec.shape) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def _device_rates(device: Device, precision: str) -> Rates:
    notes = []
    moved: float | None = None
    try:
        moved, size = _device_copy(device)
        notes.append(f"{_COPIES} copies of {size >> 20} MiB within the GPU's memory")
    except UserError as error:
        notes.append(f"no copy bandwidth: {error.message}")
    try:
        rate: float | None = _device_product(device, precision)
        notes.append(f"product of {_DEVICE_SIDE}x{_DEVICE_SIDE} {precision} by PyTorch")
    except (ImportError, UserError) as error:
        rate = None
        notes.append(f"no matrix rate: {getattr(error, 'message', error)}")
    return Rates(moved, rate, tuple(notes))


def _device_copy(device: Device) -> tuple[float, int]:
    """Return bytes a second and the size that was copied: less on a small GPU, whose memory others need too."""
    free = device.memory()[0] if hasattr(device, "memory") else _DEVICE_COPY
    size = min(_DEVICE_COPY, free // 16)
    spec = TensorSpec("uint8", (size,))
    source, target = device.allocate("copy source", spec), device.allocate("copy target", spec)

    def work() -> None:
        for _ in range(_COPIES):
            device.copy(target, source)

    return _COPIES * 2 * size / (_on_device(device, "copies", work) / 1e9), size


def _on_device(device: Device, name: str, work: Callable[[], None]) -> float:
    """Return the shortest of several replays in ns of device time."""
    first, last = device.mark(f"{name} begin"), device.mark(f"{name} end")

    def timed() -> None:
        device.record(first)
        work()
        device.record(last)

    graph = device.capture(name, timed)
    shortest = float("inf")
    for _ in range(_REPEATS):
        device.launch(graph)
        device.synchronize()
        shortest = min(shortest, device.elapsed(first, last))
    return max(shortest, 1.0)


def _device_product(device: Device, precision: str) -> float:
    import torch

    from edgetalker.engines.torch import TorchPool

    pool = TorchPool(device)
    dtype = torch.float16 if precision != "fp32" else torch.float32
    with pool.entered():
        a = torch.ones(_DEVICE_SIDE, _DEVICE_SIDE, dtype=dtype, device=pool.where)
        out = torch.empty_like(a)
        torch.matmul(a, a, out=out)

    def work() -> None:
        with pool.entered():
            for _ in range(_PRODUCTS):
                torch.matmul(a, a, out=out)

    return _PRODUCTS * 2 * _DEVICE_SIDE**3 / (_on_device(device, "products", work) / 1e9)
