"""Writes products in 8 bits into a stage's graph, as QuantizeLinear and DequantizeLinear around ordinary operators.

Three kinds: `w8`, int8 weights with a scale for each output channel, for products that wait for their weights; `a8`,
int8 weights and activations, for products with rows enough to keep an integer unit busy; `f8`, the same in FP8 E4M3.
Three forms of the same numbers: `gpu` as TensorRT wants it (signed, symmetric, bias as it was); `host` as ONNX Runtime
runs it fastest (unsigned activations around 128, bias in int32, so that Gemm becomes its QGemm; with w8 of twice the
rows, an activation's upper 8 bits and its lower 8, so that nothing but the weights is narrow); `emulated`,
FP32 products of the rounded values, as a GPU computes them, for closed loops on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgetalker.calibration.network import CURVES, FLOAT, FLOAT8, MOVES, Network, checked, copied, reached
from edgetalker.calibration.ranges import Rows
from edgetalker.engines.engine import Array
from edgetalker.engines.lazy import helper, numpy_helper

__all__ = [
    "FP8_LARGEST",
    "ROWS",
    "Fitted",
    "Form",
    "Kind",
    "Product",
    "fit",
    "fitted_weights",
    "int8_weights",
    "kind_for",
    "kinds_on_host",
    "products",
    "to_quantised",
    "weights_of",
]

Kind = Literal["w8", "a8", "f8"]
Form = Literal["gpu", "host", "emulated"]
Made = Generator[Any, None, str]
"""Nodes, and the name of what they make."""
_REST = 254.0  # what 8 bits leave of an activation is so much smaller
ROWS = 16
"""From so many rows on a product is bound by arithmetic and its activations are worth 8 bits."""
FP8_LARGEST = 448.0
"""The largest number of float8 E4M3FN."""
_LEAST_WEIGHTS = 1024  # smaller matrices cost more in scales and launches than they save
_LEAST_ON_HOST = 1 << 15  # weights; two rows cost ONNX Runtime seven small nodes, which fewer do not earn back
_CLIPS = np.linspace(0.75, 1.0, 11, dtype=np.float32)
_LEAST_TOP = 127.0 * 2.0**-24  # a column of zeros has a scale too, which FP16 must hold: TensorRT refuses a zero
_BLOCK = 128
_DAMPING = 0.1  # of the inputs' mean power: less fits what was heard better, and other sound worse (docs/precision.md)
_HALF_SUFFIX, _AGAIN = "__fp16", "__again"
_TO_A_LOGARITHM = (*MOVES, "Add", "Mul", "Max", "Clip")  # a filter bank's sums must not even become negative


@dataclass(frozen=True)
class Product:
    """A product of a computed tensor with a constant matrix or kernel. rows: how often each weight is used.

    source: the computed tensor. matrix: the constant's name, which two products may share. operations: multiply-adds of
    one run.
    """

    name: str
    operator: str
    source: str
    rows: int
    weights: int
    matrix: str = ""

    @property
    def operations(self) -> int:
        """Multiply-adds: every weight is used once a row."""
        return self.rows * self.weights


@dataclass(frozen=True)
class Fitted:
    """A matrix (in, out) as int8 `whole` and a scale for each column. even: what each row was multiplied by before, and
    its input has to be divided by (None: nothing). largest: absolute value of the divided inputs."""

    whole: Array
    scales: Array
    even: Array | None = None
    largest: float = 0.0


def products(network: Network) -> list[Product]:
    """Return the products of a stage that could be written in 8 bits, in order. Nodes must have been named."""
    return [found for node in network.nodes if (found := _product(network, node)) is not None]


def _product(network: Network, node: Any) -> Product | None:
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[0] in network.constants:
        return None
    weights, out = network.constants.get(node.input[1]), network.shapes.get(node.output[0])
    if reached(network, node, MOVES, CURVES) or reached(network, node, _TO_A_LOGARITHM, ("Log",)):
        return None  # a spectrum or a statistic: a lost bit of a small value becomes a large error
    if (
        weights is None
        or weights.size < _LEAST_WEIGHTS
        or out is None
        or -1 in out
        or not network.is_float(node.input[0])
    ):
        return None
    if node.op_type == "Conv":
        rows = out[0] * math.prod(out[2:])
        return Product(node.name, "Conv", node.input[0], rows, int(weights.size), node.input[1])
    plain = all(
        item.f == 1.0 if item.name in ("alpha", "beta") else item.name == "transB" or not item.i
        for item in node.attribute
    )
    if weights.ndim != 2 or not plain:
        return None
    columns = weights.shape[0] if _transposed(node) else weights.shape[1]
    rows = math.prod(out) // columns
    return Product(node.name, node.op_type, node.input[0], rows, int(weights.size), node.input[1])


def weights_of(chosen: Iterable[Product]) -> int:
    """Return how many weights the products of one stage hold: a matrix that two of them share counts once."""
    return sum({item.matrix or item.name: item.weights for item in chosen}.values())


def kind_for(product: Product, precision: str) -> Kind | None:
    """Return how a product is written under `int8`, `w8` or `fp8`; None where 8 bits bring nothing."""
    if product.operator == "Conv":  # a kernel alone in 8 bits is unpacked in every run, by every library here
        return {"int8": "a8", "fp8": "f8"}.get(precision) if product.rows >= ROWS else None  # type: ignore[return-value]
    if precision == "w8" or product.rows < ROWS:
        return "w8"
    return "f8" if precision == "fp8" else "a8"


def kinds_on_host(chosen: Iterable[Product], kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return the kinds of those products that are faster in 8 bits on a CPU; the others stay as they were there."""
    return {
        item.name: kinds[item.name]
        for item in chosen
        if item.name in kinds and (kinds[item.name] != "w8" or item.weights >= _LEAST_ON_HOST)
    }


def to_quantised(
    network: Network,
    kinds: Mapping[str, Kind],
    largest: Mapping[str, float],
    form: Form,
    fitted: Mapping[str, Fitted] | None = None,
) -> Any:
    """Return a new ONNX model in which the products of `kinds` (name -> kind) are in 8 bits.

    largest: tensor -> absolute value that is the end of its range, for the sources of `a8` and `f8`. fitted: by
    weight; what is not there is rounded to nearest. Raises ValueError when the result is not
    valid ONNX.
    """
    writer = _Writer(network, dict(largest), form, fitted or {})
    model = copied(
        network.model, (made for node in network.nodes for made in writer.rewritten(node, kinds.get(node.name)))
    )
    del model.graph.value_info[:]
    read = {name for node in model.graph.node for name in node.input} | network.outer_names() | network.outputs
    kept = [item for item in model.graph.initializer if item.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *writer.made.values()])
    return checked(model, "quantised")


def int8_weights(matrix: Array, axis: int) -> tuple[Array, Array]:
    """Return int8 values and the scale of each channel along `axis`, clipped where the mean square error is least."""
    rest = tuple(place for place in range(matrix.ndim) if place != axis)
    top = np.maximum(np.abs(matrix).max(rest, keepdims=True).astype(np.float32), _LEAST_TOP)
    best, error = top, np.full(top.shape, np.inf, np.float32)
    for clip in _CLIPS:
        scale = top * clip / 127.0
        lost = np.square(np.clip(np.rint(matrix / scale), -127, 127) * scale - matrix).mean(rest, keepdims=True)
        best, error = np.where(lost < error, scale, best), np.minimum(lost, error)
    values = np.clip(np.rint(matrix / best), -127, 127).astype(np.int8)
    return values, best.reshape(-1).astype(np.float32)


def fitted_weights(matrix: Array, scales: Array, gram: Array) -> Array:
    """Return int8 values of a matrix (in, out) whose product with the inputs seen errs least, given their Gram matrix.

    Each row's rounding error is made up for in the rows that follow (GPTQ: Frantar et al., arXiv:2210.17323, section
    3.3, with the damping and the lazy blocks of its algorithm 1). The inputs with most power go first, so that most
    rows are left to make up for theirs.
    """
    seen = np.diag(gram)
    order = np.argsort(-seen, kind="stable")
    rest = matrix.astype(np.float32)[order]
    size = len(rest)
    damped = gram.astype(np.float64)[np.ix_(order, order)] + (_DAMPING * float(np.mean(seen)) + 1e-9) * np.eye(size)
    # The upper factor of the inverse is the inverse of the factor of the matrix with its rows and columns reversed.
    upper = _inverse(np.linalg.cholesky(damped[::-1, ::-1]))[::-1, ::-1].astype(np.float32)
    whole = np.zeros(rest.shape, np.int8)
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        errors = np.zeros((last - first, rest.shape[1]), np.float32)
        for row in range(first, last):
            rounded = np.clip(np.rint(rest[row] / scales), -127, 127)
            whole[order[row]] = rounded.astype(np.int8)
            error = (rest[row] - rounded * scales) / upper[row, row]
            rest[row:last] -= upper[row, row:last, None] * error
            errors[row - first] = error
        rest[last:] -= upper[first:last, last:].T @ errors
    return whole


def _inverse(lower: Array) -> Array:
    """Invert a lower triangular matrix by halves, which takes a sixth of the operations of inverting any matrix."""
    half = len(lower) // 2
    if half < _BLOCK:
        inverse: Array = np.linalg.inv(lower)
        return inverse
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    below = -last @ lower[half:, :half] @ first
    return np.block([[first, np.zeros_like(below.T)], [below, last]])


@dataclass
class _Writer:
    """Rewrites nodes one by one; remembers weights (`made`: name -> initializer) and tensors that were written."""

    network: Network
    largest: dict[str, float]
    form: Form
    fitted: Mapping[str, Fitted]
    made: dict[str, Any] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def rewritten(self, node: Any, kind: Kind | None) -> Iterator[Any]:
        if kind is None:
            yield node
        elif node.op_type == "Conv":
            yield from self._convolution(node, kind)
        else:
            yield from self._matrix(node, kind)

    def _matrix(self, node: Any, kind: Kind) -> Iterator[Any]:
        """Weights lie as (in, out), which ONNX Runtime's fusions and TensorRT both want; Gemm's transB goes."""
        matrix = self.network.constants[node.input[1]]
        matrix = np.ascontiguousarray(matrix.T) if _transposed(node) else matrix
        weights = yield from self._weights(f"{node.input[1]}__kn", matrix, 1, kind)
        source = yield from self._evened(node)
        if self.form == "host" and kind != "f8":
            yield from self._integers(node, source, weights, matrix.shape[1], kind)
            return
        source = source if kind == "w8" else (yield from self._narrow(source, kind))
        yield helper.make_node(node.op_type, [source, weights, *node.input[2:]], node.output, name=node.name)

    def _evened(self, node: Any) -> Made:
        """Divide a product's input by what its weights' rows were multiplied by; emulated weights hold the quotient."""
        source: str = node.input[0]
        fitted = self.fitted.get(_plain(node.input[1]))
        if fitted is None or fitted.even is None or self.form == "emulated":
            return source
        evened = f"{source}__{node.input[1]}__even"
        if evened not in self.written:
            self.written.add(evened)
            self.largest[evened] = fitted.largest
            dtype = np.float32 if self.network.types.get(source, FLOAT) == FLOAT else np.float16
            parts = self._constant(f"{node.input[1]}__even", (1.0 / fitted.even).astype(dtype))
            yield helper.make_node("Mul", [source, parts], [evened], name=f"even_{evened}")
        return evened

    def _integers(self, node: Any, source: str, weights: str, columns: int, kind: Kind) -> Iterator[Any]:
        """Gemm on 8-bit integers, which wants two axes. Under w8 activations keep 16 bits, as two parts of 8."""
        out = node.output[0]
        shape = self.network.shapes[node.input[0]] or ()
        flat, made = source, out
        if len(shape) != 2:
            flat, made = f"{out}__rows", f"{out}__made"
            rows = self._constant(f"{out}__flat", np.array([-1, shape[-1]], np.int64))
            yield helper.make_node("Reshape", [source, rows], [flat], name=f"{node.name}__rows")
        bias: list[str] = []
        for name in node.input[2:]:
            bias.append((yield from self._int32(node, name, columns, self._scale(source, kind), kind)))
        narrow = f"{flat}__{kind}"
        if kind == "w8":
            narrow = yield from self._in_two(flat, source)
        elif narrow not in self.written:
            self.written.add(narrow)
            yield from self._pair(flat, narrow, self._scale(source, kind))
        product = f"{out}__both" if kind == "w8" else made
        yield helper.make_node("Gemm", [narrow, weights, *bias], [product], name=node.name)
        if kind == "w8":
            yield from self._of_two(node, product, made, math.prod(shape[:-1]))
        if made != out:
            back = self._constant(f"{out}__back", np.array([*shape[:-1], columns], np.int64))
            yield helper.make_node("Reshape", [made, back], [out], name=f"{node.name}__back")

    def _in_two(self, flat: str, source: str) -> Made:
        """Write rows in 8 bits, and below them what that left, made as large: one product reads its weights once for
        both."""
        two, high, left = (f"{flat}__{part}" for part in ("w8", "rounded", "left"))
        if two not in self.written:
            self.written.add(two)
            scale, zero = self._scale(source, "w8"), self._zero("a8")
            small = self._constant(f"{scale}_low", numpy_helper.to_array(self.made[scale]) / np.float32(_REST))
            yield from self._pair(flat, high, scale)
            yield helper.make_node("Sub", [flat, high], [left], name=f"rest_{flat}")
            yield helper.make_node("QuantizeLinear", [left, small, zero], [f"{left}__q"], name=f"narrow_{left}")
            yield helper.make_node("Concat", [f"{high}__q", f"{left}__q"], [f"{two}__q"], name=f"two_{flat}", axis=0)
            yield helper.make_node("DequantizeLinear", [f"{two}__q", scale, zero], [two], name=f"widen_{two}")
        return two

    def _of_two(self, node: Any, both: str, made: str, rows: int) -> Iterator[Any]:
        """Add the product's lower rows, made small again, to its upper ones."""
        if rows == 1:
            mix = self._constant("rest__mix", np.array([[1.0, 1.0 / _REST]], np.float32))
            yield helper.make_node("MatMul", [mix, both], [made], name=f"{node.name}__sum")
            return
        high, left, low = (f"{node.output[0]}__{part}" for part in ("upper", "lower", "low"))
        part = self._constant("rest__part", np.asarray(1.0 / _REST, np.float32))
        yield helper.make_node("Split", [both], [high, left], name=f"{node.name}__parts", axis=0, num_outputs=2)
        yield helper.make_node("Mul", [left, part], [low], name=f"{node.name}__low")
        yield helper.make_node("Add", [high, low], [made], name=f"{node.name}__sum")

    def _convolution(self, node: Any, kind: Kind) -> Iterator[Any]:
        copy = deepcopy(node)
        copy.input[1] = yield from self._weights(f"{node.input[1]}__k", self.network.constants[node.input[1]], 0, kind)
        if kind != "w8":
            copy.input[0] = yield from self._narrow(node.input[0], kind)
        if kind == "a8" and self.form == "host" and len(node.input) > 2:
            channels = len(self.network.constants[node.input[1]])
            scale = self._scale(node.input[0], kind)
            copy.input[2] = yield from self._int32(node, node.input[2], channels, scale)
        if kind != "a8" or self.form != "host":
            yield copy
            return
        # ONNX Runtime's QLinearConv writes 8 bits too, so that its result needs a range of its own.
        out = node.output[0]
        copy.output[0] = f"{out}__wide"
        yield copy
        yield from self._pair(f"{out}__wide", out, self._scale(out, kind), kind)

    def _weights(self, name: str, values: Array, axis: int, kind: Kind) -> Made:
        # Weights that two products read cannot be made u8 by ONNX Runtime: each has its own in the host's form.
        while self.form == "host" and f"{name}__wide" in self.written:
            name += _AGAIN
        wide = f"{name}__wide"
        if wide in self.written:
            return wide
        self.written.add(wide)
        dtype = values.dtype  # float16 in a network that was converted to FP16 before
        full = values.astype(np.float32)
        if self.form == "emulated":
            self.made[wide] = numpy_helper.from_array(self._rounded(name, full, axis, kind), wide)
            return wide
        attributes: dict[str, Any] = {}
        if kind == "f8":
            top = max(float(np.abs(full).max()), 1e-12)
            scale: Array = np.asarray(top / FP8_LARGEST, dtype)
            narrow = helper.make_tensor(name, FLOAT8, values.shape, _to_fp8(full / np.float32(scale)), raw=True)
            inputs = [name, self._constant(f"{name}__scale", scale)]
        else:
            whole, scales = self._int8(name, full, axis)
            narrow = numpy_helper.from_array(whole, name)
            inputs = [name, self._constant(f"{name}__scale", scales.astype(dtype))]
            attributes["axis"] = axis
            if self.form == "host":  # ONNX Runtime's fusions want the zeros to be there
                inputs.append(self._constant(f"{name}__zero", np.zeros(scales.shape, np.int8)))
        self.made[name] = narrow
        yield helper.make_node("DequantizeLinear", inputs, [wide], name=f"widen_{name}", **attributes)
        return wide

    def _int8(self, name: str, full: Array, axis: int) -> tuple[Array, Array]:
        fitted = self.fitted.get(_plain(name)) if axis == 1 else None
        return (fitted.whole, fitted.scales) if fitted else int8_weights(full, axis)

    def _rounded(self, name: str, full: Array, axis: int, kind: Kind) -> Array:
        values: Array
        if kind == "f8":
            scale = max(float(np.abs(full).max()), 1e-12) / FP8_LARGEST
            values = from_fp8(_to_fp8(full / scale), full.shape) * np.float32(scale)
            return values
        whole, scales = self._int8(name, full, axis)
        values = whole * scales.reshape([-1 if place == axis else 1 for place in range(full.ndim)])
        fitted = self.fitted.get(_plain(name)) if axis == 1 else None
        return values if fitted is None or fitted.even is None else values / fitted.even[:, None]

    def _narrow(self, name: str, kind: Kind) -> Made:
        """Write a tensor's way through 8 bits, once."""
        wide = f"{name}__{kind}"
        if wide not in self.written:
            self.written.add(wide)
            yield from self._pair(name, wide, self._scale(name, kind), kind)
        return wide

    def _pair(self, source: str, target: str, scale: str, kind: Kind = "a8") -> Iterator[Any]:
        zero = self._zero(kind)
        last = f"{target}__unbound" if self.form == "emulated" else target
        for operator, given, made in (("Quantize", source, f"{target}__q"), ("Dequantize", f"{target}__q", last)):
            yield helper.make_node(f"{operator}Linear", [given, scale, zero], [made], name=f"{operator}_{target}")
        if last != target:
            # Behind a bare DequantizeLinear ONNX Runtime would narrow the product's FP32 weights as well.
            bounds = [
                self._constant("unbound__low", np.asarray(-3e38, np.float32)),
                self._constant("unbound__high", np.asarray(3e38, np.float32)),
            ]
            yield helper.make_node("Clip", [last, *bounds], [target], name=f"bound_{target}")

    def _scale(self, name: str, kind: Kind) -> str:
        """A constant. Under w8 there is room for twice of what was seen: 16 bits have it to spare."""
        top = max(self.largest[name.removesuffix(_HALF_SUFFIX)], 1e-12) * (2.0 if kind == "w8" else 1.0)
        dtype = np.float32 if self.network.types.get(name, FLOAT) == FLOAT else np.float16
        narrowest = FP8_LARGEST if kind == "f8" else 127.0
        return self._constant(f"{name}__{kind}_scale", np.asarray(top / narrowest, dtype))

    def _zero(self, kind: Kind) -> str:
        """The zero point also says the type."""
        if kind == "f8":
            self.made.setdefault("zero__f8", helper.make_tensor("zero__f8", FLOAT8, [], b"\0", raw=True))
            return "zero__f8"
        middle = np.asarray(128, np.uint8) if self.form == "host" else np.asarray(0, np.int8)
        return self._constant("zero__a8", middle)

    def _int32(self, node: Any, bias: str, size: int, scale: str, kind: Kind = "a8") -> Made:
        """A bias as int32 in units of the product's own scale: what an integer product adds at no cost. Under w8 it is
        added to both rows, of which the sum is taken."""
        end = numpy_helper.to_array(self.made[scale])
        weights = f"{node.input[1]}__{'k' if node.op_type == 'Conv' else 'kn'}"
        scales = end * numpy_helper.to_array(self.made[f"{weights}__scale"])
        values = np.broadcast_to(self.network.constants[bias], (size,)).astype(np.float64)
        values = values / (1.0 + 1.0 / _REST) if kind == "w8" else values
        whole = np.clip(np.rint(values / scales), -(2.0**31) + 1, 2.0**31 - 1).astype(np.int32)
        base = f"{node.output[0]}__bias"
        inputs = [self._constant(base, whole), self._constant(f"{base}_scale", scales.astype(np.float32))]
        yield helper.make_node("DequantizeLinear", inputs, [f"{base}_wide"], name=f"widen_{base}", axis=0)
        return f"{base}_wide"

    def _constant(self, name: str, values: Array) -> str:
        self.made.setdefault(name, numpy_helper.from_array(np.asarray(values), name))
        return name


def _plain(name: str) -> str:
    """Return the weight's own name."""
    return name.replace(_AGAIN, "").removesuffix("__k").removesuffix("__kn").removesuffix(_HALF_SUFFIX)


def fit(network: Network, chosen: Mapping[str, Kind], seen: Mapping[str, Rows]) -> dict[str, Fitted]:
    """Return fitted int8 weights of the chosen int8 matrices of whose source something was seen.

    Under w8 rows are brought to one size first: a scale that all rows of a column share is too coarse for small ones.
    Under a8 that would take from the activations' 8 bits what it gives to the weights.
    """
    found = {}
    for node in network.nodes:
        kind = chosen.get(node.name)
        if kind not in ("w8", "a8") or node.op_type == "Conv" or node.input[0] not in seen:
            continue
        matrix, rows = network.constants[node.input[1]], seen[node.input[0]]
        matrix = np.ascontiguousarray(matrix.T if _transposed(node) else matrix, np.float32)
        even = _even(matrix) if kind == "w8" else np.ones(len(matrix), np.float32)
        _, scales = int8_weights(matrix * even[:, None], 1)
        whole = fitted_weights(matrix * even[:, None], scales, rows.gram / np.outer(even, even))
        largest = float((rows.largest / even).max(initial=0.0))
        found[node.input[1]] = Fitted(whole, scales, even if kind == "w8" else None, largest)
    return found


def _even(matrix: Array) -> Array:
    """Return what brings every row of a matrix to one root mean square, one on (geometric) average."""
    size = np.sqrt(np.square(matrix, dtype=np.float64).mean(1))
    size = np.maximum(size, max(1e-3 * float(size.max(initial=0.0)), 1e-12))
    even: Array = (np.exp(np.log(size).mean()) / size).astype(np.float32)
    return even


def _transposed(node: Any) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def from_fp8(data: bytes, shape: tuple[int, ...]) -> Array:
    """Return the values of float8 E4M3FN bytes."""
    import ml_dtypes

    values: Array = np.frombuffer(data, ml_dtypes.float8_e4m3fn).reshape(shape).astype(np.float32)
    return values


def _to_fp8(values: Array) -> bytes:
    """Round to float8 E4M3FN, ties to even, saturating; the bytes of it."""
    import ml_dtypes

    data: bytes = np.clip(values, -FP8_LARGEST, FP8_LARGEST).astype(ml_dtypes.float8_e4m3fn).tobytes()
    return data
