"""Operators that compute: element by element, reductions, products, convolutions, norms, recurrence, attention.

Meaning: github.com/onnx/onnx, docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from operator import methodcaller
from typing import Any

from edgetalker.engines.errors import EngineError
from edgetalker.engines.torch.operators import Build, Node, Run, axes_of, functional, torch

__all__ = ["INTO", "OPERATORS", "dtype_of"]

_SAME = (
    "Abs Add Ceil Cos Erf Exp Floor Log MatMul Mul Neg Pow Reciprocal Relu Round Sigmoid Sign Sin Sqrt Sub Tanh Where"
).split()
"""ONNX operators that torch has under the same name, in lower case."""
_PLAIN = {
    **{kind: kind.lower() for kind in _SAME},
    "And": "logical_and",
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "Not": "logical_not",
    "Or": "logical_or",
}
"""ONNX operator -> the function of torch that does the same."""

INTO = frozenset({"Add", "Sub", "Mul", "MatMul", "Tanh", "Sigmoid"})
"""Operators whose function can write straight into the stage's output (`out=`)."""


def _plain(name: str) -> Build:
    return lambda _: getattr(torch, name)


def _div(_: Node) -> Run:
    """Integers are divided towards zero."""

    def run(a: Any, b: Any) -> Any:
        return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")

    return run


def _folded(name: str) -> Build:
    return lambda _: lambda *inputs: reduce(getattr(torch, name), inputs)


def _clip(_: Node) -> Run:
    return lambda x, low=None, high=None: x if low is None and high is None else torch.clamp(x, low, high)


def _hard_sigmoid(node: Node) -> Run:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def dtype_of(number: int) -> Any:
    """Return torch's type of an ONNX TensorProto type number."""
    names = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
    names[16] = "bfloat16"
    return getattr(torch, names[number])


def _axes(node: Node) -> list[int]:
    axes: Any = axes_of(node)
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
    return lambda node: partial(getattr(torch, name), dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


def _cumsum(node: Node) -> Run:
    (axis,) = node.integers(1) or (0,)
    return lambda x, _: torch.cumsum(x, axis)


# Neural networks


def _gemm(node: Node) -> Run:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    turn_a, turn_b = node.get("transA", 0), node.get("transB", 0)
    plain = alpha == beta == 1.0

    def run(a: Any, b: Any, c: Any = None) -> Any:
        a, b = a.t() if turn_a else a, b.t() if turn_b else b
        if c is None:
            return a @ b if alpha == 1.0 else alpha * (a @ b)
        return torch.addmm(c, a, b) if plain else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


def _geometry(node: Node) -> tuple[int, list[int], list[int], dict[str, Any]]:
    """Return a convolution's number of axes, the begins and ends of its padding, and what else torch wants."""
    rank, kind = len(node.shape()) - 2, node.get("auto_pad", "NOTSET")
    if kind not in ("NOTSET", "VALID"):
        raise EngineError(f"node `{node.name}` ({node.kind}): auto_pad `{kind}` is not known", hint="export pads")
    pads = node.get("pads") or [0] * (2 * rank)
    options = {
        "stride": node.get("strides") or [1] * rank,
        "dilation": node.get("dilations") or [1] * rank,
        "groups": node.get("group", 1),
    }
    return rank, list(pads[:rank]), list(pads[rank:]), options


def _conv(node: Node) -> Run:
    rank, begins, ends, options = _geometry(node)
    flat = [size for begin, end in zip(reversed(begins), reversed(ends), strict=True) for size in (begin, end)]
    name = f"conv{rank}d"
    if begins == ends:
        return lambda x, w, b=None: getattr(functional, name)(x, w, b, padding=begins, **options)
    return lambda x, w, b=None: getattr(functional, name)(functional.pad(x, flat), w, b, **options)


def _conv_transpose(node: Node) -> Run:
    rank, begins, ends, options = _geometry(node)
    if begins != ends or node.get("output_shape"):
        raise EngineError(f"node `{node.name}` (ConvTranspose): only equal padding on both sides is known")
    options["output_padding"] = node.get("output_padding") or [0] * rank
    name = f"conv_transpose{rank}d"
    return lambda x, w, b=None: getattr(functional, name)(x, w, b, padding=begins, **options)


def _layer_norm(node: Node) -> Run:
    """stash_type 1: half precision is normalized in float32, which PyTorch's kernels do by themselves."""
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    shape = node.shape()[axis:]
    return lambda x, scale, bias=None: functional.layer_norm(x, shape, scale, bias, epsilon)


def _rms_norm(node: Node) -> Run:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    shape = node.shape()[axis:]
    return lambda x, scale: functional.rms_norm(x, shape, scale, epsilon)


def _instance_norm(node: Node) -> Run:
    epsilon = node.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _group_norm(node: Node) -> Run:
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.group_norm(x, groups, scale, bias, epsilon)


def _batch_norm(node: Node) -> Run:
    epsilon = node.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _check_recurrent(node: Node) -> None:
    if node.get("direction", "forward") != "forward" or node.has(4) or node.get("activations") or node.get("layout", 0):
        raise EngineError(f"node `{node.name}` ({node.kind}): only the plain forward form is known")


def _gru(node: Node) -> Run:
    """ONNX orders the gates update, reset, hidden. x: (time, batch, size). Without a start, from zeros."""
    _check_recurrent(node)
    after, size = node.get("linear_before_reset", 0), node.get("hidden_size")
    steps = node.shape()[0]

    def step(given: Any, h: Any, r: Any, b: Any) -> Any:
        update, reset, new = given.chunk(3, -1)
        r_update, r_reset, r_new = r.chunk(3, 0)
        b_update, b_reset, b_new = b.chunk(3, 0)
        update = torch.sigmoid(update + h @ r_update.t() + b_update)
        reset = torch.sigmoid(reset + h @ r_reset.t() + b_reset)
        past = reset * (h @ r_new.t() + b_new) if after else (reset * h) @ r_new.t() + b_new
        return torch.lerp(torch.tanh(new + past), h, update)

    def run(x: Any, w: Any, r: Any, b: Any = None, _: Any = None, start: Any = None) -> Any:
        bias = torch.zeros(6 * size, dtype=x.dtype, device=x.device) if b is None else b[0]
        h = torch.zeros(x.shape[1], size, dtype=x.dtype, device=x.device) if start is None else start[0]
        given = x @ w[0].t() + bias[: 3 * size]
        made = []
        for place in range(steps):
            h = step(given[place], h, r[0], bias[3 * size :])
            made.append(h)
        return torch.stack(made).unsqueeze(1), h.unsqueeze(0)

    return run


def _lstm(node: Node) -> Run:
    """ONNX orders the gates input, output, forget, cell. x: (time, batch, size)."""
    _check_recurrent(node)
    size, steps = node.get("hidden_size"), node.shape()[0]

    def run(x: Any, w: Any, r: Any, b: Any = None, _: Any = None, h0: Any = None, c0: Any = None) -> Any:
        bias = 0 if b is None else b[0][: 4 * size] + b[0][4 * size :]
        zeros = torch.zeros(x.shape[1], size, dtype=x.dtype, device=x.device)
        h, c = (zeros if h0 is None else h0[0]), (zeros if c0 is None else c0[0])
        given, made = x @ w[0].t() + bias, []
        for place in range(steps):
            i, o, f, g = (given[place] + h @ r[0].t()).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            made.append(h)
        return torch.stack(made).unsqueeze(1), h.unsqueeze(0), c.unsqueeze(0)

    return run


def _attention(node: Node) -> Run:
    """Opset 23, four-dimensional inputs (batch, heads, length, size), no past."""
    if len(node.shape()) != 4 or any(node.has(place) for place in (4, 5)) or len(node.outputs) > 1:
        raise EngineError(f"node `{node.name}` (Attention): only (batch, heads, length, size) without a past is known")
    scale, causal = node.get("scale"), bool(node.get("is_causal", 0))
    grouped = node.shape(0)[1] != node.shape(1)[1]

    def run(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )

    return run


OPERATORS: Mapping[str, Build] = {
    **{kind: _plain(name) for kind, name in _PLAIN.items()},
    "ArgMax": _argument("argmax"),
    "ArgMin": _argument("argmin"),
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "Cast": lambda node: methodcaller("to", dtype_of(node.get("to"))),
    "CastLike": lambda _: lambda x, like: x.to(like.dtype),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "CumSum": _cumsum,
    "Div": _div,
    "Elu": lambda node: partial(functional.elu, alpha=node.get("alpha", 1.0)),
    "GRU": _gru,
    "Gelu": lambda node: partial(functional.gelu, approximate=node.get("approximate", "none")),
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda _: lambda x: x,
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node: partial(functional.leaky_relu, negative_slope=node.get("alpha", 0.01)),
    "LogSoftmax": lambda node: partial(torch.log_softmax, dim=node.get("axis", -1)),
    "Max": _folded("maximum"),
    "Min": _folded("minimum"),
    "Mod": lambda node: torch.fmod if node.get("fmod", 0) else torch.remainder,
    "RMSNormalization": _rms_norm,
    "ReduceL2": _l2,
    "ReduceMax": _reduction("amax"),
    "ReduceMean": _reduction("mean"),
    "ReduceMin": _reduction("amin"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _sum_of_squares,
    "Softmax": lambda node: partial(torch.softmax, dim=node.get("axis", -1)),
    "Softplus": lambda _: functional.softplus,
    "Sum": _folded("add"),
}
"""ONNX operator -> what builds its run."""
