"""What one core of this machine does in ONNX Runtime, measured now, and how long a stage then needs: node by node.

    time = run + nodes * node + bytes of weights / bandwidth + operations / rate + elements * element

Moving and computing are added up: a core that waits for a weight does not multiply. Bandwidth is measured at the
bundle's own size, since what fits into a cache is read faster; convolutions of few channels, products in 8 bits and
products without weights (attention's) have rates of their own, and so have operators that look up a curve for each
element. Run and node cost more right after another stage: its code and data lie in the caches then.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.ort import open_session
from edgetalker.measure.floor import StageGraph

__all__ = ["PARTS", "Core", "CoreMeter"]

Inputs = Mapping[str, np.ndarray[Any, Any]]

PARTS = ("launches", "memory", "compute", "elements")
"""What a stage's time is made of."""

_VIEWS = frozenset("Reshape Squeeze Unsqueeze Identity Constant Shape Flatten Cast".split())
_CURVES = frozenset("Sin Cos Tanh Sigmoid Gelu Erf Pow Exp Log Sqrt Softmax Reciprocal Elu Softplus Transpose".split())
_NORMS = frozenset("LayerNormalization InstanceNormalization GroupNormalization".split())
_FOLDED = frozenset("Identity Constant Cast QuantizeLinear DequantizeLinear".split())  # no kernel is left of them
_RUNS = 5  # of each case in a round
_SMALL, _LARGE = (10, 60), (1, 9)  # operators of two chains of small ones, and of those that are timed by element
_SIZE = 1 << 14  # elements of the latter
_OPERATORS = (("Neg", 64), ("Gelu", 64), ("LayerNormalization", 16), ("LayerNormalization", 256))
_HEADS = (8, 32, 64)  # heads, their size, tokens
_NARROW = 48  # channels; convolutions of fewer do not fill the core's vectors


@dataclass(frozen=True)
class Core:
    """One core. run_ns: of a session that does nothing; node_ns, element_ns, curve_ns, norm_ns, row_ns: of one more
    operator, of each element of a sum, of a curve and of a norm, and of each row of a norm. cold_run_ns, cold_node_ns:
    after others ran. bytes_per_s: bytes of weights -> how fast products of one row read them. rates: of large products
    `fp32` and `int8`, of products without weights `heads`, of convolutions `narrow` and `wide`, operations a second."""

    run_ns: float
    node_ns: float
    cold_run_ns: float
    cold_node_ns: float
    element_ns: float
    curve_ns: float
    norm_ns: float
    row_ns: float
    bytes_per_s: Mapping[int, float]
    rates: Mapping[str, float]

    def parts_ns(self, path: Path, between: int, runs: int = 1) -> dict[str, float]:
        """Return what one run of a stage's ONNX file should take, by part. Raises EngineError without fixed shapes.

        between: bytes of weights that are read from one run to the next; what is more than a cache comes from memory.
        runs: in a row; the first of them comes after other stages.
        """
        graph = StageGraph(path)
        bandwidth = self.bytes_per_s[min(self.bytes_per_s, key=lambda size: abs(math.log(max(1, between) / size)))]
        found = dict.fromkeys(PARTS, 0.0)
        found["launches"] = self.run_ns + (self.cold_run_ns - self.run_ns) / runs
        each = self.node_ns + (self.cold_node_ns - self.node_ns) / runs
        for node in graph.nodes:
            if graph.is_constant(node):
                continue  # folded when the stage is opened
            found["launches"] += 0.0 if node.op_type in _FOLDED else each
            if graph.is_product(node):
                found["memory"] += graph.weight_bytes_of(node) / bandwidth * 1e9
                found["compute"] += graph.operations(node) / self.rates[self._rate(graph, node)] * 1e9
            elif node.op_type not in _VIEWS | _FOLDED:
                elements = graph.elements(node)
                found["elements"] += elements * self._element(node.op_type)
                if node.op_type in _NORMS and elements:
                    found["elements"] += elements / graph.shapes[node.output[0]][-1] * self.row_ns
        return found

    def _rate(self, graph: StageGraph, node: Any) -> str:
        if node.op_type in ("Conv", "ConvTranspose"):
            return "narrow" if min(graph.shapes[node.input[1]][:2]) < _NARROW else "wide"
        if not graph.weight_bytes_of(node):
            return "heads"
        return "int8" if graph.is_narrow(node) else "fp32"

    def _element(self, operator: str) -> float:
        if operator in _NORMS:
            return self.norm_ns
        return self.curve_ns if operator in _CURVES else self.element_ns


class CoreMeter:
    """Measures this core in rounds, the reading of weights at each of some sizes in bytes.

    All is timed by turns, so that a busy moment of the machine falls on no figure alone. A round takes some 40 ms.
    Raises MissingPackageError without onnxruntime."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self._sides = {max(1, given): int(np.clip(np.sqrt(given / 4), 128, 6144)) for given in sizes}
        cases = {
            **{
                f"{operator} {width} {count}": _chain([operator], (_SIZE // width, width), count)
                for operator, width in _OPERATORS
                for count in _LARGE
            },
            **{f"bytes {side}": _product(1, side, side) for side in self._sides.values()},
            "node 10": _chain(_KINDS, (1, 16), 10),  # each after something large
            "fp32": _product(64, 768, 768),
            "node 60": _chain(_KINDS, (1, 16), 60),
            "int8": _product(64, 768, 768, narrow=True),
            "heads": _heads(),
            "narrow": _convolution(16, 2048),
            "wide": _convolution(256, 512),
        }
        self._timed = {name: _Timed(*case) for name, case in cases.items()}

    def play(self) -> None:
        """Time everything once more."""
        for case in self._timed.values():
            case.play()

    def core(self) -> Core:
        """Return what was found in the rounds so far."""
        timed = self._timed
        node, run = _line([timed[f"node {count}"].ns for count in _SMALL], _SMALL)
        cold_node, cold_run = _line([timed[f"node {count}"].cold_ns for count in _SMALL], _SMALL)

        def beyond(name: str) -> float:
            return max(1.0, timed[name].ns - run)  # a small product may take no longer than a run of nothing seems to

        def element(operator: str, width: int = 64) -> float:
            one, _ = _line([timed[f"{operator} {width} {count}"].ns for count in _LARGE], _LARGE)
            return max(0.01, one / _SIZE)

        narrow, wide = (element("LayerNormalization", width) for width in (16, 256))
        row = max(0.0, (narrow - wide) / (1 / 16 - 1 / 256))
        return Core(
            run_ns=run,
            node_ns=node,
            cold_run_ns=max(run, cold_run),
            cold_node_ns=max(node, cold_node),
            element_ns=element("Neg"),
            curve_ns=element("Gelu"),
            norm_ns=max(0.01, wide - row / 256),
            row_ns=row,
            bytes_per_s={given: 4e9 * side * side / beyond(f"bytes {side}") for given, side in self._sides.items()},
            rates={
                "fp32": 2e9 * 64 * 768 * 768 / beyond("fp32"),
                "int8": 2e9 * 64 * 768 * 768 / beyond("int8"),
                "heads": 2e9 * math.prod(_HEADS) * _HEADS[2] / beyond("heads"),
                "narrow": 6e9 * 16 * 16 * 2048 / beyond("narrow"),
                "wide": 6e9 * 256 * 256 * 512 / beyond("wide"),
            },
        )


def _line(times: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Return what one more costs, and what none costs."""
    one = (times[1] - times[0]) / (counts[1] - counts[0])
    return one, max(0.0, times[0] - counts[0] * one)


class _Timed:
    """A network and the shortest of its runs, in the thread's processor time: others only make it longer.

    ONNX Runtime computes in the calling thread. ns: run after run; cold_ns: after all the others ran."""

    def __init__(self, model: bytes, inputs: Inputs) -> None:
        session = open_session(model)
        made = {item.name: np.empty(item.shape, np.float32) for item in session.get_outputs()}
        io = session.io_binding()
        for bind, arrays in ((io.bind_input, inputs), (io.bind_output, made)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._memory = (inputs, made)  # lives as long as its addresses are bound
        self._run = partial(session.run_with_iobinding, io)
        self.ns = self.cold_ns = math.inf

    def play(self) -> None:
        """Run it some times."""
        times = []
        for _ in range(1 + _RUNS):
            begin = time.thread_time_ns()
            self._run()
            times.append(time.thread_time_ns() - begin)
        self.cold_ns, self.ns = min(self.cold_ns, times[0]), min(self.ns, *times[1:])


_KINDS = ("Mul", "Unsqueeze", "Squeeze", "Tanh", "Slice")  # what small operators are, more or less


def _chain(kinds: Sequence[str], shape: tuple[int, int], count: int) -> tuple[bytes, Inputs]:
    """A chain of these operators, none of which changes the shape for good."""
    from onnx import helper

    more = {
        "Mul": ("factor",),
        "Unsqueeze": ("first",),
        "Squeeze": ("first",),
        "Slice": ("first", "end", "last"),
        "LayerNormalization": ("scale",),
    }
    weights = {
        "factor": np.full(shape, 0.5, np.float32),
        "scale": np.ones(shape[-1], np.float32),
        "first": np.array([0]),
        "end": np.array([shape[-1]]),
        "last": np.array([1]),
    }
    names = ["x", *(f"t{place}" for place in range(count - 1)), "y"]
    nodes = [
        helper.make_node(kinds[place % len(kinds)], [given, *more.get(kinds[place % len(kinds)], ())], [made])
        for place, (given, made) in enumerate(itertools.pairwise(names))
    ]
    read = {name for node in nodes for name in node.input}
    weights = {name: values for name, values in weights.items() if name in read}
    return _model(nodes, {"x": shape}, shape, weights), {"x": np.full(shape, 0.1, np.float32)}


def _product(rows: int, size: int, columns: int, *, narrow: bool = False) -> tuple[bytes, Inputs]:
    from onnx import helper

    random = np.random.default_rng(0)
    values = {"x": random.standard_normal((rows, size), np.float32)}
    weights: dict[str, Any] = {"w": random.standard_normal((size, columns), np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    if narrow:  # the form that calibration writes and ONNX Runtime fuses
        weights = {
            "q": random.integers(-127, 127, (size, columns), np.int8),
            "s": np.float32(0.03), "z": np.asarray(128, np.uint8),
            "ws": np.full(columns, 0.01, np.float32), "wz": np.zeros(columns, np.int8),
        }  # fmt: skip
        nodes = [
            helper.make_node("DequantizeLinear", ["q", "ws", "wz"], ["w"], axis=1),
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xw"]),
            helper.make_node("Gemm", ["xw", "w"], ["y"]),
        ]
    return _model(nodes, {"x": (rows, size)}, (rows, columns), weights), values


def _heads() -> tuple[bytes, Inputs]:
    """What attention multiplies: two tensors that were computed, for some heads."""
    from onnx import helper

    heads, inner, tokens = _HEADS
    shapes = {"x": (heads, tokens, inner), "keys": (heads, inner, tokens)}
    model = _model([helper.make_node("MatMul", ["x", "keys"], ["y"])], shapes, (heads, tokens, tokens), {})
    return model, {name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}


def _convolution(channels: int, length: int) -> tuple[bytes, Inputs]:
    from onnx import helper

    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((channels, channels, 3), np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1])
    shape = (1, channels, length)
    return _model([node], {"x": shape}, shape, weights), {"x": random.standard_normal(shape, np.float32)}


def _model(
    nodes: Sequence[Any], inputs: Mapping[str, tuple[int, ...]], out: tuple[int, ...], weights: Mapping[str, Any]
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "measured", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data
