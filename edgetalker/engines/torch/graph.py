"""Loads an ONNX file of fixed shapes and runs it with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.engine import DTYPES, TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.lazy import helper, numpy_helper, onnx, required
from edgetalker.engines.torch import arithmetic, operators
from edgetalker.engines.torch.operators import Build, Node, Run, torch

__all__ = ["OPERATORS", "OnnxModule"]

OPERATORS: Mapping[str, Build] = {**arithmetic.OPERATORS, **operators.OPERATORS}
"""Every ONNX operator that is known here."""

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class _Step:
    """One node ready to run. drop: values that nobody reads afterwards, so that their memory can be used again."""

    node: Node
    run: Run
    drop: tuple[str, ...]


class OnnxModule:
    """A stage as PyTorch operations. `module(inputs, outputs)` writes its results into tensors that it is given.

    inputs, outputs: name -> TensorSpec, as the file says.
    """

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        """Load the file, and its weights onto a device of PyTorch (`cpu`, `cuda:0`).

        Raises EngineError naming every operator that is not known, or what is not fixed.
        """
        model = _load(Path(path))
        graph = model.graph
        self.name = Path(path).stem
        constants = _initializers(graph)
        _refuse_unknown(self.name, graph)
        shapes = _shapes(model, constants)
        given = [item for item in graph.input if item.name not in constants]
        self.inputs = {item.name: _spec(self.name, item) for item in given}
        self.outputs = {item.name: _spec(self.name, item) for item in graph.output}
        nodes = _fold([_node(proto, constants, shapes) for proto in graph.node], constants)
        self._steps = _with_drops([(node, OPERATORS[node.kind](node)) for node in nodes], self.outputs)
        needed = {name for step in self._steps for name in step.node.inputs} | set(self.outputs)
        self._values = {
            name: torch.from_numpy(np.array(array)).to(device) for name, array in constants.items() if name in needed
        }

    def steps(self) -> list[str]:
        """Return the names of the operators that run, in order."""
        return [f"{step.node.kind} {step.node.name}" for step in self._steps]

    def __call__(self, inputs: Tensors, outputs: Tensors, after: Callable[[], None] | None = None) -> None:
        """Compute `outputs` in place from `inputs`; call `after` behind each operator.

        Neither waits for the device nor reads a value on the host.
        """
        values = {**self._values, **inputs}
        for step in self._steps:
            _run(step, values, outputs)
            if after is not None:
                after()
        for name, target in outputs.items():
            if values[name] is not target:
                target.copy_(values[name])

    def compute(self, *inputs: Tensors) -> dict[str, Any]:
        """Return new outputs for inputs that may come in several mappings: the form that torch.vmap maps."""
        values = dict(self._values)
        for given in inputs:
            values.update(given)
        for step in self._steps:
            _run(step, values, {})
        return {name: values[name] for name in self.outputs}


def _run(step: _Step, values: dict[str, Any], outputs: Tensors) -> None:
    node = step.node
    arguments = [values[name] if name else None for name in node.inputs]
    into = outputs.get(node.outputs[0]) if node.kind in arithmetic.INTO else None
    made = step.run(*arguments) if into is None else step.run(*arguments, out=into)
    results: Sequence[Any] = made if isinstance(made, (tuple, list)) else (made,)
    for name, value in zip(node.outputs, results, strict=False):
        if name:
            values[name] = value
    for name in step.drop:
        values.pop(name, None)


def _load(path: Path) -> Any:
    onnx, _ = (required(name, "running a stage with PyTorch", extra="export") for name in ("onnx", "torch"))
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError and OSError
        raise EngineError(f"{path.name} cannot be read: {error}", hint="export the bundle again") from None


def _refuse_unknown(name: str, graph: Any) -> None:
    unknown = {node.op_type for node in graph.node} - OPERATORS.keys() - {"Constant", "Shape"}
    if unknown:
        raise EngineError(
            f"stage `{name}` uses {', '.join(sorted(unknown))}, which this PyTorch engine does not know",
            hint="run the stage with --engine tensorrt or on the host",
        )


def _initializers(graph: Any) -> dict[str, NDArray[Any]]:
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
    return constants


def _constant(node: Any) -> NDArray[Any]:
    attribute = node.attribute[0]
    value = _attribute(attribute)
    if attribute.name == "value":
        return np.asarray(value)
    return np.asarray(value, np.int64 if "int" in attribute.name else np.float32)


def _attribute(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _shapes(model: Any, constants: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return every shape that ONNX's own inference knows to be fixed."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {name: array.shape for name, array in constants.items()}
    for item in (*graph.input, *graph.output, *graph.value_info):
        dims = item.type.tensor_type.shape.dim
        if item.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[item.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _spec(stage: str, item: Any) -> TensorSpec:
    tensor = item.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if dtype not in DTYPES or not all(shape):
        raise EngineError(f"stage `{stage}`: tensor `{item.name}` has no fixed shape or the type {dtype}")
    return TensorSpec(dtype, shape)


def _node(proto: Any, constants: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Node:
    return Node(
        proto.op_type,
        proto.name or proto.output[0],
        tuple(proto.input),
        tuple(proto.output),
        {item.name: _attribute(item) for item in proto.attribute},
        constants,
        shapes,
    )


def _fold(nodes: list[Node], constants: dict[str, NDArray[Any]]) -> list[Node]:
    """Compute once what depends on constants alone; return the nodes that are left."""
    left = []
    for node in nodes:
        if node.kind == "Constant":
            continue
        known = node.kind == "Shape" or (node.inputs and all(not name or name in constants for name in node.inputs))
        if not known:
            left.append(node)
            continue
        for name, value in zip(node.outputs, _compute(node, constants), strict=False):
            constants[name] = value
    return left


def _compute(node: Node, constants: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    if node.kind == "Shape":
        return [np.array(node.shape()[node.get("start", 0) : node.get("end")], np.int64)]
    arguments = [torch.from_numpy(np.array(constants[name])) if name else None for name in node.inputs]
    made = OPERATORS[node.kind](node)(*arguments)
    return [value.numpy() for value in (made if isinstance(made, (tuple, list)) else (made,))]


def _with_drops(built: list[tuple[Node, Callable[..., Any]]], kept: Mapping[str, Any]) -> list[_Step]:
    last: dict[str, int] = {}
    for place, (node, _) in enumerate(built):
        for name in (*node.inputs, *node.outputs):
            last[name] = place
    drops: dict[int, list[str]] = {}
    for name, place in last.items():
        if name and name not in kept:
            drops.setdefault(place, []).append(name)
    return [_Step(node, run, tuple(drops.get(place, ()))) for place, (node, run) in enumerate(built)]
