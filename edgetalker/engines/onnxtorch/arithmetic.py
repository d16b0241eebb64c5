"""Operators that work element by element, and reductions. Meaning: github.com/onnx/onnx, docs/Operators.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

from edgetalker.engines.lazy import LazyModule
from edgetalker.engines.onnxtorch.node import Build, Node, Run

__all__ = ["INTO", "OPERATORS", "dtype_of"]

torch: Any = LazyModule("torch")
functional: Any = LazyModule("torch.nn.functional")

_PLAIN = {
    "Abs": "abs",
    "And": "logical_and",
    "Ceil": "ceil",
    "Cos": "cos",
    "Equal": "eq",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "Log": "log",
    "MatMul": "matmul",
    "Mul": "mul",
    "Add": "add",
    "Sub": "sub",
    "Neg": "neg",
    "Not": "logical_not",
    "Or": "logical_or",
    "Pow": "pow",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
    "Where": "where",
}
"""ONNX operator -> the function of torch that does the same."""

INTO = frozenset({"Add", "Sub", "Mul", "MatMul", "Tanh", "Sigmoid"})
"""Operators whose function can write straight into the stage's output (`out=`)."""


def _plain(name: str) -> Build:
    return lambda _: lambda *inputs, **into: getattr(torch, name)(*inputs, **into)


def _div(_: Node) -> Run:
    """Integers are divided towards zero."""

    def run(a: Any, b: Any) -> Any:
        return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")

    return run


def _mod(node: Node) -> Run:
    name = "fmod" if node.get("fmod", 0) else "remainder"
    return lambda a, b: getattr(torch, name)(a, b)


def _folded(name: str) -> Build:
    return lambda _: lambda *inputs: reduce(getattr(torch, name), inputs)


def _clip(_: Node) -> Run:
    return lambda x, low=None, high=None: x if low is None and high is None else torch.clamp(x, low, high)


def _leaky(node: Node) -> Run:
    slope = node.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


def _elu(node: Node) -> Run:
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def _gelu(node: Node) -> Run:
    return partial(_call_gelu, node.get("approximate", "none"))


def _call_gelu(approximate: str, x: Any) -> Any:
    return functional.gelu(x, approximate=approximate)


def _hard_sigmoid(node: Node) -> Run:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def dtype_of(number: int) -> Any:
    """Return torch's type of an ONNX TensorProto type number."""
    names = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
    names[16] = "bfloat16"
    return getattr(torch, names[number])


def _cast(node: Node) -> Run:
    target = dtype_of(node.get("to"))
    return lambda x: x.to(target)


def _cast_like(_: Node) -> Run:
    return lambda x, like: x.to(like.dtype)


def _axes(node: Node) -> list[int]:
    """Axes are an input since opset 18 (13 for ReduceSum), an attribute before."""
    axes = node.integers(1) if node.has(1) else node.get("axes")
    if axes is None and not node.get("noop_with_empty_axes", 0):
        axes = range(len(node.shape()))
    return list(axes or ())


def _reduction(name: str) -> Build:
    def build(node: Node) -> Run:
        axes, keep = _axes(node), bool(node.get("keepdims", 1))
        if not axes:
            return lambda x, *_: x
        return lambda x, *_: getattr(torch, name)(x, dim=axes, keepdim=keep)

    return build


def _l2(node: Node) -> Run:
    axes, keep = _axes(node), bool(node.get("keepdims", 1))
    return lambda x, *_: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)


def _sum_of_squares(node: Node) -> Run:
    axes, keep = _axes(node), bool(node.get("keepdims", 1))
    return lambda x, *_: torch.sum(x * x, dim=axes, keepdim=keep)


def _argument(name: str) -> Build:
    def build(node: Node) -> Run:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        return lambda x: getattr(torch, name)(x, dim=axis, keepdim=keep)

    return build


def _cumsum(node: Node) -> Run:
    (axis,) = node.integers(1) or (0,)
    return lambda x, _: torch.cumsum(x, axis)


OPERATORS: Mapping[str, Build] = {
    **{kind: _plain(name) for kind, name in _PLAIN.items()},
    "ArgMax": _argument("argmax"),
    "ArgMin": _argument("argmin"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "CumSum": _cumsum,
    "Div": _div,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda _: lambda x: x,
    "LeakyRelu": _leaky,
    "Max": _folded("maximum"),
    "Min": _folded("minimum"),
    "Mod": _mod,
    "ReduceL2": _l2,
    "ReduceMax": _reduction("amax"),
    "ReduceMean": _reduction("mean"),
    "ReduceMin": _reduction("amin"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _sum_of_squares,
    "Softplus": lambda _: lambda x: functional.softplus(x),
    "Sum": _folded("add"),
}
"""ONNX operator -> what builds its run."""
