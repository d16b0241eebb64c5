"""Writes an assignment into the graph: FP16 weights and products, casts at the borders, FP32 inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from edgetalker.calibration.assign import Assignment
from edgetalker.calibration.network import FLOAT, HALF, Network, checked, copied
from edgetalker.engines.lazy import helper, numpy_helper

__all__ = ["is_linear", "to_mixed"]

_SUFFIX = "__fp16"


def to_mixed(network: Network, assignment: Assignment) -> Any:
    """Return a new ONNX model that computes as `assignment` says, with the border's names, types and shapes kept.

    Raises ValueError when the result is not valid ONNX.
    """
    writer = _Writer(network, assignment)
    model = copied(network.model, writer.nodes())
    del model.graph.value_info[:]  # its types are the old ones
    _write_constants(model.graph, network)
    model.graph.initializer.extend(writer.made)
    return checked(model, "converted", full=True)


class _Writer:
    """Walks the nodes in order; knows which tensors already exist in which precision."""

    def __init__(self, network: Network, assignment: Assignment) -> None:
        self.network, self.assignment = network, assignment
        self.narrow: set[str] = set()  # tensors that have an FP16 twin so far
        self.wide: set[str] = set()  # FP16 results that have an FP32 twin so far
        self.results: set[str] = set()  # tensors that are computed in FP16
        self.made: list[Any] = []  # constants that rewritten nodes brought with them

    def nodes(self) -> Iterator[Any]:
        for node in self.network.nodes:
            if node.name in self.assignment.half:
                yield from self._half(node)
            elif node.name in self.assignment.reductions:
                yield from self._widened(node.input)
                yield from self._sum(node)
            elif node.name in self.assignment.kept and is_linear(self.network, node):
                yield from self._widened(node.input)
                yield from self._convolution(node)
            else:
                yield from self._widened([*node.input, *self.network.outer_names([node])])
                yield node
        yield from self._widened(sorted(self.network.outputs))

    def _half(self, node: Any) -> Iterator[Any]:
        copy = deepcopy(node)
        for place, name in enumerate(node.input):
            if name and self.network.is_float(name):
                yield from self._narrowed(name)
                copy.input[place] = name + _SUFFIX
        for place, name in enumerate(node.output):
            if name:
                copy.output[place] = name + _SUFFIX
                self.results.add(name)
        yield copy

    def _narrowed(self, name: str) -> Iterator[Any]:
        """Make the FP16 twin of a computed FP32 tensor, once; constants get theirs as initializers."""
        if name in self.network.constants or name in self.results or name in self.narrow:
            return
        self.narrow.add(name)
        yield _cast(name, name + _SUFFIX, HALF)

    def _widened(self, names: Any) -> Iterator[Any]:
        """Make the FP32 twin of FP16 results that an FP32 node reads, once."""
        for name in names:
            if name in self.results and name not in self.wide:
                self.wide.add(name)
                yield _cast(name + _SUFFIX, name, FLOAT)

    def _sum(self, node: Any) -> Iterator[Any]:
        """x @ w with one column w, as sum(x * w^T): TensorRT-RTX has no FP32 products on sm75, and needs none here."""
        left, right = node.input
        column = f"{right}__row"
        order = [*range(len(self.network.shapes[right] or ()))]
        order[-2:] = order[:-3:-1]
        base = node.output[0]
        if right not in self.network.constants:
            yield helper.make_node("Transpose", [right], [f"{base}__row"], name=f"{node.name}__row", perm=order)
            column = f"{base}__row"
        yield helper.make_node("Mul", [left, column], [f"{base}__terms"], name=f"{node.name}__terms")
        yield helper.make_node("ReduceSum", [f"{base}__terms", "last__axis"], [base], name=node.name, keepdims=1)

    def _convolution(self, node: Any) -> Iterator[Any]:
        """x @ w + b, as a convolution of width 1: the one FP32 product that TensorRT-RTX builds for sm75."""
        base, shape = node.output[0], self.network.shapes[node.input[0]] or ()
        matrix = self.network.constants[node.input[1]]
        kernel = matrix if any(item.i for item in node.attribute) else matrix.T
        made = {
            f"{base}__columns": np.array([int(np.prod(shape[:-1])), shape[-1], 1], np.int64),
            f"{base}__kernel": np.ascontiguousarray(kernel)[:, :, None],
            f"{base}__shape": np.array([*shape[:-1], len(kernel)], np.int64),
        }
        self.made += [numpy_helper.from_array(values, name) for name, values in made.items()]
        columns, kernel_name, result = made
        inputs = [f"{base}__read", kernel_name, *node.input[2:]]
        if len(node.input) > 2 and len(self.network.constants[node.input[2]]) != len(kernel):
            inputs[2] = f"{base}__bias"  # one value, where a convolution wants one for each column
            bias = np.broadcast_to(self.network.constants[node.input[2]], (len(kernel),))
            self.made.append(numpy_helper.from_array(bias.copy(), inputs[2]))
        yield helper.make_node("Reshape", [node.input[0], columns], [inputs[0]], name=f"{node.name}__read")
        yield helper.make_node("Conv", inputs, [f"{base}__written"], name=node.name)
        yield helper.make_node("Reshape", [f"{base}__written", result], [base], name=f"{node.name}__write")


def is_linear(network: Network, node: Any) -> bool:
    """Return whether a MatMul or Gemm multiplies by a constant matrix, perhaps adds a constant, and does no more."""
    if node.op_type not in ("MatMul", "Gemm") or any(item.name != "transB" for item in node.attribute):
        return False
    shape, right = network.shapes.get(node.input[0]), network.constants.get(node.input[1])
    biased = len(node.input) < 3 or getattr(network.constants.get(node.input[2]), "ndim", 0) == 1
    return bool(shape) and -1 not in (shape or ()) and right is not None and right.ndim == 2 and biased


def _cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _write_constants(graph: Any, network: Network) -> None:
    """Keep what is still read, add the FP16 twins and the rows of sums that are now read."""
    read = {name for node in graph.node for name in node.input} | network.outer_names() | network.outputs
    kept = [numpy_helper.from_array(values, name) for name, values in network.constants.items() if name in read]
    for name, values in network.constants.items():
        if name + _SUFFIX in read:
            kept.append(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        if f"{name}__row" in read:
            row = np.ascontiguousarray(np.swapaxes(values, -1, -2))
            kept.append(numpy_helper.from_array(row, f"{name}__row"))
    if "last__axis" in read:
        kept.append(numpy_helper.from_array(np.array([-1], np.int64), "last__axis"))
    del graph.initializer[:]
    graph.initializer.extend(kept)
