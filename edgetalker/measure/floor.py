"""The least that one run of a stage must move and compute, counted from its ONNX file, and what this machine moves
and computes in a second, measured in the same run as the stages.

Bytes: each weight once, and the stage's inputs and outputs; what lies between can stay on the chip. Operations: the
multiplications and additions of matrix products, convolutions and recurrent layers, 2 for each pair; the rest is
small beside them and is left out, so that the floor stays a lower bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgetalker.engines.engine import Device, TensorSpec
from edgetalker.engines.errors import EngineError, UserError
from edgetalker.engines.lazy import required

__all__ = ["Rates", "StageCost", "StageGraph", "measure_rates", "stage_cost"]

Shapes = Mapping[str, tuple[int, ...]]
_MATRIX = ("MatMul", "Gemm", "Conv", "ConvTranspose", "GRU", "LSTM", "Attention")


@dataclass(frozen=True)
class StageCost:
    """weight_bytes, activation_bytes: what one run reads and writes at least. operations: 2 for each multiply-add."""

    weight_bytes: int
    activation_bytes: int
    operations: int

    def floor_ns(self, bytes_per_s: float | None, operations_per_s: float | None) -> float | None:
        """Return the longer of moving and computing, None when neither rate is known."""
        moving = self._time(self.weight_bytes + self.activation_bytes, bytes_per_s)
        computing = self._time(self.operations, operations_per_s)
        known = [time for time in (moving, computing) if time is not None]
        return max(known) if known else None

    def limit(self, bytes_per_s: float | None, operations_per_s: float | None) -> str:
        """Return `memory` or `compute`: what sets the floor; empty when a rate is not known."""
        if bytes_per_s is None or operations_per_s is None:
            return ""
        moving = (self.weight_bytes + self.activation_bytes) / bytes_per_s
        return "memory" if moving >= self.operations / operations_per_s else "compute"

    @staticmethod
    def _time(amount: int, rate: float | None) -> float | None:
        return None if rate is None else amount / rate * 1e9


def stage_cost(path: Path, *, widened: bool = False) -> StageCost:
    """Count one stage. widened: count FP16 weights as the FP32 that ONNX Runtime makes of them.

    Raises EngineError when shapes are not fixed, MissingPackageError without onnx.
    """
    return StageGraph(path).cost(widened=widened)


class StageGraph:
    """A stage's ONNX file with every shape that is fixed; what its nodes read and compute.

    nodes: in order. shapes: tensor -> shape. Raises MissingPackageError without onnx.
    """

    def __init__(self, path: Path) -> None:
        onnx = required("onnx", "counting a stage's floor", extra="export")
        self._file = path.name
        self._graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True).graph
        self.nodes: Sequence[Any] = self._graph.node
        self.shapes = _shapes(self._graph)
        self._types = {item.name: item.data_type for item in self._graph.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._constants = set(self._types)
        for node in self.nodes:
            if node.op_type == "Constant" or (node.input and all(name in self._constants for name in node.input)):
                self._constants.update(node.output)

    def cost(self, *, widened: bool) -> StageCost:
        """Count the whole stage."""
        wide = {10: 1} if widened else {}
        sizes = {name: _nbytes(wide.get(kind, kind), self.shapes[name]) for name, kind in self._types.items()}
        border = [item for item in (*self._graph.input, *self._graph.output) if item.name not in sizes]
        return StageCost(
            weight_bytes=_weight_bytes(self._graph, sizes, self.shapes),
            activation_bytes=sum(_nbytes(item.type.tensor_type.elem_type, self.shapes[item.name]) for item in border),
            operations=sum(self.operations(node) for node in self.nodes if self.is_product(node)),
        )

    @staticmethod
    def is_product(node: Any) -> bool:
        """Return whether a node is a matrix product, a convolution or a recurrent layer."""
        return node.op_type in _MATRIX

    def is_constant(self, node: Any) -> bool:
        """Return whether a node computes the same in every run, so that a library computes it once."""
        return node.output[0] in self._constants

    def is_narrow(self, node: Any) -> bool:
        """Return whether a product's weights and activations come from 8 bits."""
        return all(self._from_8_bits(name) for name in node.input[:2])

    def _from_8_bits(self, name: str) -> bool:
        return getattr(self._producers.get(name), "op_type", "") == "DequantizeLinear"

    def operations(self, node: Any) -> int:
        """Return a product's operations, 2 for each multiply-add. Raises EngineError when its shapes are not fixed."""
        return _operations(node, self.shapes, self._file)

    def weight_bytes_of(self, node: Any) -> int:
        """Return the bytes of a node's constants as ONNX Runtime holds them: 8 bits stay, FP16 becomes FP32."""
        return sum(
            math.prod(self.shapes.get(name, ())) * (1 if self._from_8_bits(name) else 4)
            for name in node.input
            if name in self._constants
        )

    def elements(self, node: Any) -> int:
        """Return how many numbers a node makes; 0 where a shape is not known."""
        return sum(math.prod(self.shapes.get(name, (0,))) for name in node.output if name)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    shapes = {item.name: tuple(item.dims) for item in graph.initializer}
    for item in (*graph.input, *graph.output, *graph.value_info):
        dims = item.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[item.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _nbytes(element: int, shape: tuple[int, ...]) -> int:
    from onnx import helper

    return math.prod(shape) * int(helper.tensor_dtype_to_np_dtype(element).itemsize)


def _weight_bytes(graph: Any, sizes: Mapping[str, int], shapes: Shapes) -> int:
    """Count each weight once; of a table that is only looked into, the rows that are taken."""
    total = 0
    read = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    total += sum(size for name, size in sizes.items() if name in read)
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in sizes and node.input[0] not in read:
            taken = math.prod(shapes.get(node.output[0], ())) / max(math.prod(shapes[node.input[0]]), 1)
            total += round(sizes[node.input[0]] * min(taken, 1.0))
    return total


def _operations(node: Any, shapes: Shapes, file: str) -> int:
    needed = [name for name in (*node.input[:2], node.output[0]) if name]
    if any(name not in shapes for name in needed):
        raise EngineError(
            f"{file}: node `{node.name}` ({node.op_type}) has no fixed shapes", hint="export the bundle again"
        )
    return _COUNTS[node.op_type](node, shapes)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _of_product(node: Any, shapes: Shapes) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _of_gemm(node: Any, shapes: Shapes) -> int:
    inner = shapes[node.input[0]][0 if _attribute(node, "transA", 0) else 1]
    return 2 * math.prod(shapes[node.output[0]]) * inner


def _of_convolution(node: Any, shapes: Shapes) -> int:
    """A weight is (out, in / groups, *kernel): every output element meets all but the first."""
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _of_transposed(node: Any, shapes: Shapes) -> int:
    """A weight is (in, out / groups, *kernel): every input element meets all but the first."""
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _of_recurrence(node: Any, shapes: Shapes) -> int:
    steps, batch = shapes[node.input[0]][:2]
    return 2 * steps * batch * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))


def _of_attention(node: Any, shapes: Shapes) -> int:
    query, key = shapes[node.input[0]], shapes[node.input[1]]
    return 4 * math.prod(query) * key[-2]


_COUNTS: Mapping[str, Callable[[Any, Shapes], int]] = {
    "Attention": _of_attention,
    "Conv": _of_convolution,
    "ConvTranspose": _of_transposed,
    "GRU": _of_recurrence,
    "Gemm": _of_gemm,
    "LSTM": _of_recurrence,
    "MatMul": _of_product,
}


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
        return {**asdict(self), "notes": list(self.notes)}


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


def _best(work: Callable[[], object], threads: int = 1) -> float:
    """Return the shortest of several runs in seconds: others on the machine can only make it longer.

    One thread is timed by the processor where it has a fine clock, so that a floor does not rise on a busy machine.
    """
    fine = threads == 1 and time.get_clock_info("process_time").resolution < 1e-5
    clock = time.process_time_ns if fine else time.perf_counter_ns
    shortest = float("inf")
    for _ in range(_REPEATS):
        begin = clock()
        work()
        shortest = min(shortest, (clock() - begin) / 1e9)
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
    return 2 * _HOST_SIDE**3 / _best(lambda: binding.enqueue(device), threads)


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
