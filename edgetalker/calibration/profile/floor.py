"""The least that one run of a stage must move and compute, counted from its ONNX file.

Bytes: each weight once, and the stage's inputs and outputs; what lies between can stay on the chip. Operations: the
multiplications and additions of matrix products, convolutions and recurrent layers, 2 for each pair; the rest is
small beside them and is left out, so that the floor stays a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import EngineError, MissingPackageError

__all__ = ["StageCost", "stage_cost"]

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


def stage_cost(path: Path) -> StageCost:
    """Count one stage. Raises EngineError when shapes are not fixed, MissingPackageError without onnx."""
    try:
        import onnx
    except ImportError:
        raise MissingPackageError("onnx", "counting a stage's floor", extra="export") from None
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True).graph
    sizes = {item.name: _nbytes(item.data_type, tuple(item.dims)) for item in graph.initializer}
    shapes = _shapes(graph)
    border = [item for item in (*graph.input, *graph.output) if item.name not in sizes]
    return StageCost(
        weight_bytes=_weight_bytes(graph, sizes, shapes),
        activation_bytes=sum(_nbytes(item.type.tensor_type.elem_type, shapes[item.name]) for item in border),
        operations=sum(_operations(node, shapes, path.name) for node in graph.node if node.op_type in _MATRIX),
    )


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
