"""A stage for one talker made into one for any number: every operator of its ONNX graph gets a leading axis of talkers.

Weights stay as they are and are there once, whatever the number. What `jax.vmap` and `torch.vmap` do to Python, this
does to a graph: each value either has the new axis (`mapped`: it differs from talker to talker) or not, and each
operator has a rule. An operator without one raises EngineError, and the stage is then run talker by talker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.lazy import onnx, required

__all__ = ["batched_stage", "widened"]


AXIS = "talkers"
ELEMENTWISE = frozenset(
    "Abs Add And BitShift Cast Ceil Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish Identity IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mod Mul Neg Not Or Pow Reciprocal Relu Round "
    "Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh Where Xor".split()
)
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "ReduceL2")


def widened(spec: TensorSpec, talkers: int) -> TensorSpec:
    """Return a tensor's spec for many talkers: an axis of talkers before its own."""
    return TensorSpec(spec.dtype, (talkers, *spec.shape))


def batched_stage(path: Path, mapped: Iterable[str]) -> bytes:
    """Return the ONNX model at `path` with a leading axis of any length at its outputs and its `mapped` inputs.

    Raises EngineError for an operator that has no rule, MissingPackageError without the package onnx.
    """
    required("onnx", "one launch for many talkers", extra="serve")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    done: bytes = _Batcher(model, frozenset(mapped)).run().SerializeToString()
    return done


class _Batcher:
    """One pass over a graph's nodes, which stand in the order in which they run."""

    def __init__(self, model: Any, mapped: frozenset[str]) -> None:
        self._model, self._graph, self._mapped = model, model.graph, set(mapped)
        self._constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        self._shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self._constants.items()}
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            self._shapes[value.name] = tuple(dim.dim_value for dim in dims)
        self._nodes: list[Any] = []
        self._made: dict[str, str] = {}
        self._count = next(item.name for item in model.graph.input if item.name in mapped)  # whose axis tells how many

    def run(self) -> Any:
        """Return the model."""
        for node in self._graph.node:
            if any(name in self._mapped for name in node.input):
                self._rule(node.op_type)(node)
                self._mapped.update(node.output)
            else:
                self._nodes.append(node)
        for value in self._graph.output:
            if value.name not in self._mapped:
                raise EngineError(f"output `{value.name}` does not depend on the talker")
        for value in (*(item for item in self._graph.input if item.name in self._mapped), *self._graph.output):
            dims = value.type.tensor_type.shape.dim
            sizes = [dim.dim_value for dim in dims]
            del dims[:]
            dims.add().dim_param = AXIS
            for size in sizes:
                dims.add().dim_value = size
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        return self._model

    def _rule(self, operator: str) -> Callable[[Any], None]:
        if operator in ELEMENTWISE:
            return self._elementwise
        if operator in REDUCTIONS:
            return self._reduce
        if operator in ("LayerNormalization", "Softmax", "LogSoftmax", "Hardmax"):
            return self._along
        found = getattr(self, f"_{operator.lower()}", None)
        if found is None:
            raise EngineError(f"operator {operator} has no rule for many talkers")
        rule: Callable[[Any], None] = found
        return rule

    # What rules are made of

    def _rank(self, name: str) -> int:
        if name not in self._shapes:
            raise EngineError(f"the shape of `{name}` is not known")
        return len(self._shapes[name])

    def _constant(self, values: Iterable[int]) -> str:
        array = np.array(list(values), np.int64)
        name = f"{AXIS} {array.tolist()}"
        if name not in self._made:
            self._graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            self._made[name] = name
        return name

    def _add(self, operator: str, inputs: Iterable[str], output: str = "", **attributes: Any) -> str:
        name = output or f"{AXIS} {len(self._nodes)}"
        self._nodes.append(onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def _keep(self, node: Any, inputs: Iterable[str] | None = None, **attributes: Any) -> None:
        """Add the node with other inputs or attributes."""
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        if inputs is not None:
            del fresh.input[:]
            fresh.input.extend(inputs)
        kept = [item for item in fresh.attribute if item.name not in attributes]
        del fresh.attribute[:]
        fresh.attribute.extend(kept)
        fresh.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(fresh)

    def _attribute(self, node: Any, name: str, default: Any) -> Any:
        for item in node.attribute:
            if item.name == name:
                return onnx.helper.get_attribute_value(item)
        return default

    def _known(self, node: Any, place: int) -> list[int] | None:
        """Return the whole numbers of an input that must be constant; None when the node has no such input."""
        if len(node.input) <= place or not node.input[place]:
            return None
        if node.input[place] not in self._constants:
            raise EngineError(f"{node.op_type} `{node.name}` takes `{node.input[place]}`, which is no constant")
        return [int(value) for value in self._constants[node.input[place]].reshape(-1)]

    def _aligned(self, name: str, rank: int) -> str:
        """Return a value whose own axes are those of `rank`, so that the talkers' axis stays the first."""
        if name not in self._mapped or (missing := rank - self._rank(name)) <= 0:
            return name
        key = f"{name} {rank}"
        if key not in self._made:
            self._made[key] = self._add("Unsqueeze", [name, self._constant(range(1, 1 + missing))])
        return self._made[key]

    def _own(self, name: str) -> str:
        """Return a value that every talker has for itself."""
        if name in self._mapped:
            return name
        size = self._add("Shape", [self._count], start=0, end=1)
        shape = self._add("Concat", [size, self._constant(self._shapes[name])], axis=0)
        return self._add("Expand", [name, shape])

    # Rules

    def _elementwise(self, node: Any) -> None:
        rank = max(self._rank(name) for name in node.input if name)
        self._keep(node, [self._aligned(name, rank) for name in node.input])

    def _reduce(self, node: Any) -> None:
        axes = self._known(node, 1) or self._attribute(node, "axes", None) or range(self._rank(node.input[0]))
        moved = [_after(axis) for axis in axes]
        if self._attribute(node, "axes", None) is not None:
            self._keep(node, axes=moved)
        else:
            self._keep(node, [node.input[0], self._constant(moved)])

    def _along(self, node: Any) -> None:
        self._keep(node, axis=_after(self._attribute(node, "axis", -1)))

    def _slice(self, node: Any) -> None:
        starts, ends = self._known(node, 1), self._known(node, 2)
        assert starts is not None and ends is not None
        axes = self._known(node, 3) or range(len(starts))
        steps = [node.input[4]] if len(node.input) > 4 else []
        self._keep(node, [*node.input[:3], self._constant(map(_after, axes)), *steps])

    def _concat(self, node: Any) -> None:
        inputs = [self._own(name) for name in node.input]
        self._keep(node, inputs, axis=_after(self._attribute(node, "axis", 0)))

    def _split(self, node: Any) -> None:
        self._keep(node, axis=_after(self._attribute(node, "axis", 0)))

    def _gather(self, node: Any) -> None:
        data, indices = node.input
        axis = self._attribute(node, "axis", 0)
        if indices in self._mapped and axis != 0:
            raise EngineError(f"Gather `{node.name}` takes each talker's own places along axis {axis}")
        if data in self._mapped and indices in self._mapped:
            places = self._add("Unsqueeze", [indices, self._constant([-1])])
            self._add("GatherND", [data, places], node.output[0], batch_dims=1)
            return
        self._keep(node, axis=axis if indices in self._mapped else _after(axis))

    def _reshape(self, node: Any) -> None:
        shape = self._known(node, 1)
        if shape is None or (0 in shape and self._attribute(node, "allowzero", 0)):
            raise EngineError(f"Reshape `{node.name}` to {shape}")
        self._keep(node, [node.input[0], self._constant([0, *shape])], allowzero=0)  # 0: the input's own size there

    def _expand(self, node: Any) -> None:
        shape = self._known(node, 1)
        assert shape is not None
        value = self._aligned(node.input[0], len(shape))
        self._keep(node, [value, self._constant([1, *shape])])

    def _transpose(self, node: Any) -> None:
        turned = self._attribute(node, "perm", None) or range(self._rank(node.input[0]))[::-1]
        self._keep(node, perm=[0, *(axis + 1 for axis in turned)])

    def _flatten(self, node: Any) -> None:
        sizes = self._shapes[node.input[0]]
        axis = self._attribute(node, "axis", 1) % (len(sizes) + 1)
        shape = [0, math.prod(sizes[:axis]), math.prod(sizes[axis:])]
        self._add("Reshape", [node.input[0], self._constant(shape)], node.output[0])

    def _unsqueeze(self, node: Any) -> None:
        axes = self._known(node, 1)
        if axes is None:
            raise EngineError(f"{node.op_type} `{node.name}` names no axes")
        self._keep(node, [node.input[0], self._constant(map(_after, axes))])

    _squeeze = _unsqueeze

    def _matmul(self, node: Any) -> None:
        first, second = node.input
        ranks = self._rank(first), self._rank(second)
        if ranks[1] == 1 or (ranks[0] == 1 and second in self._mapped):
            raise EngineError(f"MatMul `{node.name}` of ranks {ranks}")
        rank = max(ranks)
        self._keep(node, [self._aligned(first, rank), self._aligned(second, rank)])

    def _gemm(self, node: Any) -> None:
        """alpha * A' * B' + beta * C. A talker's single row joins the others' as rows of one product."""
        given, weights, *bias = node.input
        if weights in self._mapped or self._attribute(node, "transA", 0):
            raise EngineError(f"Gemm `{node.name}` of another form than rows times weights")
        rows = self._shapes[given][0]
        single = rows == 1 and not any(name in self._mapped for name in bias)
        if single:
            flat = self._add("Squeeze", [given, self._constant([1])])
            made = self._add("Gemm", [flat, weights, *bias], **_attributes(node))
            self._add("Unsqueeze", [made, self._constant([1])], node.output[0])
            return
        if self._attribute(node, "alpha", 1.0) != 1.0 or self._attribute(node, "beta", 1.0) != 1.0:
            raise EngineError(f"Gemm `{node.name}` with factors")
        turned = self._add("Transpose", [weights], perm=[1, 0]) if self._attribute(node, "transB", 0) else weights
        output = node.output[0]
        made = self._add("MatMul", [given, turned], "" if bias and bias[0] else output)
        if bias and bias[0]:
            self._add("Add", [made, self._aligned(bias[0], 2)], output)

    def _conv(self, node: Any) -> None:
        given, *weights = node.input
        if any(name in self._mapped for name in weights) or self._shapes[given][0] != 1:
            raise EngineError(f"Conv `{node.name}` of another form than one input and weights")
        flat = self._add("Squeeze", [given, self._constant([1])])
        made = self._add("Conv", [flat, *weights], **_attributes(node))
        self._add("Unsqueeze", [made, self._constant([1])], node.output[0])


def _after(axis: int) -> int:
    """Return an axis' place behind the talkers'; one counted from the end stays."""
    return axis + 1 if axis >= 0 else axis


def _attributes(node: Any) -> Mapping[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
