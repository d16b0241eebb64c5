"""An ONNX graph with what a pass over it asks for: element types, producers, consumers, constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.engine import Array
from edgetalker.engines.errors import InputError
from edgetalker.engines.lazy import helper, numpy_helper, onnx, required

__all__ = [
    "CURVES",
    "FLOAT",
    "FLOAT8",
    "HALF",
    "MOVES",
    "Network",
    "checked",
    "copied",
    "name_nodes",
    "reached",
    "read_network",
    "relative_error",
]

FLOAT, HALF, FLOAT8 = 1, 10, 17
"""ONNX's numbers for float32, float16 and float8 E4M3FN."""
MOVES = ("Reshape", "Transpose", "Slice", "Split", "Concat", "Gather", "Squeeze", "Unsqueeze", "Expand", "Flatten")
"""Operators that move values and change none."""
CURVES = ("Pow", "Log", "Sqrt", "Reciprocal", "Exp")
"""Operators that turn a lost bit of a small value into a large error."""


class Network:
    """A model whose functions are inlined and whose constants are initializers: Constant nodes and weights that are
    stored narrow and cast when they are read. Changed by its user alone."""

    def __init__(self, model: Any) -> None:
        from onnx import inliner, shape_inference

        if model.functions:
            model = inliner.inline_local_functions(model)
        self.model = _without_constants(model)
        inferred = shape_inference.infer_shapes(self.model, strict_mode=False, data_prop=True).graph
        self.shapes = {item.name: _shape(item) for item in [*inferred.input, *inferred.output, *inferred.value_info]}
        self.types = {
            item.name: item.type.tensor_type.elem_type
            for item in [*inferred.input, *inferred.output, *inferred.value_info]
        }
        self.constants: dict[str, Array] = {}
        for item in self.graph.initializer:
            self.types[item.name] = item.data_type
            self.shapes[item.name] = tuple(item.dims)
            self.constants[item.name] = onnx.numpy_helper.to_array(item)
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        self.producers: dict[str, Any] = {}
        for node in self.graph.node:
            for name in set(node.input):
                self.consumers[name].append(node)
            for name in node.output:
                self.producers[name] = node

    @property
    def graph(self) -> Any:
        """The ONNX graph itself."""
        return self.model.graph

    @property
    def nodes(self) -> list[Any]:
        """The nodes in topological order."""
        return list(self.graph.node)

    @property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {item.name for item in self.graph.output}

    def outer_names(self, nodes: Iterable[Any] | None = None) -> set[str]:
        """Return the names that subgraphs (If, Loop, Scan) of these nodes (default: all) read from this graph."""
        found: set[str] = set()
        for node in self.graph.node if nodes is None else nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    found |= {name for inner in attribute.g.node for name in inner.input}
        return found

    def is_float(self, name: str) -> bool:
        """Return whether a tensor is float32."""
        return self.types.get(name) == FLOAT

    def flowing(self, node: Any) -> list[str]:
        """Return the float32 inputs of a node that are computed, not constant."""
        return [name for name in node.input if name and self.is_float(name) and name not in self.constants]


def copied(model: Any, nodes: Iterable[Any] | None = None) -> Any:
    """Return a copy of an ONNX model, with these nodes in place of its own."""
    copy = deepcopy(model)
    if nodes is not None:
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
    return copy


def checked(model: Any, what: str, *, full: bool = False) -> Any:
    """Return a model that is valid ONNX, in `full` its types and shapes too. Raises ValueError for one that is not."""
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception as error:  # onnx's checker raises several unrelated classes
        raise ValueError(f"the {what} network is not valid: {error}") from error
    return model


def read_network(path: Path) -> Network:
    """Read an ONNX file. Raises InputError when it is none, MissingPackageError without onnx."""
    onnx = required("onnx", "converting a bundle", extra="calibration")
    try:
        return Network(onnx.load(str(path)))
    except Exception as error:  # protobuf's and onnx's errors share no base class but Exception
        raise InputError(f"{path} cannot be read as ONNX: {error}", hint="export the bundle again") from error


def name_nodes(network: Network) -> None:
    """Give every node a unique name, in the graph itself."""
    seen: set[str] = set()
    for place, node in enumerate(network.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{place}"
        seen.add(node.name)


def reached(network: Network, node: Any, through: Collection[str], wanted: Collection[str]) -> str:
    """Return the operator among `wanted` that a node's result reaches through nodes of `through`; empty if none."""
    waiting, seen = list(node.output), set()
    while waiting:
        for user in network.consumers.get(waiting.pop(), []):
            if user.op_type in wanted:
                return str(user.op_type)
            if user.op_type in through and user.output[0] not in seen:
                seen.add(user.output[0])
                waiting.extend(user.output)
    return ""


def _without_constants(model: Any) -> Any:
    """Turn Constant nodes and casts of weights into initializers, so that weights are found in one place."""
    copy = copied(model)
    stored = {item.name: item for item in copy.graph.initializer}
    outputs = {item.name for item in copy.graph.output}
    kept = []
    for node in copy.graph.node:
        values = None if node.output[0] in outputs else _constant(node, stored)
        if values is None:
            kept.append(node)
        else:
            stored[node.output[0]] = onnx.numpy_helper.from_array(values, node.output[0])
            copy.graph.initializer.append(stored[node.output[0]])
    return copied(copy, kept)


def _constant(node: Any, stored: Mapping[str, Any]) -> Array | None:
    """Return what a Constant node, or a Cast of a constant, gives; None for any other node."""
    attributes = {item.name: item for item in node.attribute}
    if node.op_type == "Constant" and "value" in attributes:
        values: Array = numpy_helper.to_array(attributes["value"].t)
        return values
    if node.op_type == "Cast" and node.input[0] in stored and attributes["to"].i in (FLOAT, HALF):
        wide: Array = numpy_helper.to_array(stored[node.input[0]])
        return wide.astype(helper.tensor_dtype_to_np_dtype(attributes["to"].i))
    return None


def _shape(item: Any) -> tuple[int, ...] | None:
    tensor = item.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)


def relative_error(values: Array, rounded: Array) -> float:
    """Return ||values - rounded|| / ||values||; 0 for zeros."""
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return float(np.linalg.norm(values.astype(np.float64) - rounded.astype(np.float64))) / norm if norm else 0.0
