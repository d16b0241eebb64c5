"""What values the tensors inside a stage take, over the inputs that rollouts recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetalker.calibration.network import FLOAT, FLOAT8, Network, copied, relative_error
from edgetalker.engines.engine import Array
from edgetalker.engines.lazy import helper, onnx
from edgetalker.engines.ort import open_session

__all__ = ["METHODS", "Range", "Rows", "measure_ranges", "range_ends", "range_errors", "rows_of", "sample"]


@dataclass(frozen=True)
class Range:
    """largest: the largest absolute value seen. rms: root mean square over everything seen."""

    largest: float
    rms: float


def measure_ranges(network: Network, inputs: Iterable[Mapping[str, Array]]) -> dict[str, Range]:
    """Run a stage over recorded inputs and return tensor -> range for every computed float32 tensor.

    The extremes are taken inside the graph, so that no large tensor leaves it. Ends early, with that run counted, at
    a run in which something is not finite.
    """
    names = [name for node in network.nodes for name in node.output if name and network.is_float(name)]
    names += [item.name for item in network.graph.input if network.is_float(item.name)]
    model = copied(network.model)
    model.graph.node.extend(node for name in names for node in _probes(name))
    del model.graph.output[:]
    shown = [f"{name}__{suffix}" for name in names for suffix in ("largest", "mean")]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, []) for name in shown)
    session = open_session(model.SerializeToString())
    largest, squares, runs = np.zeros(len(names)), np.zeros(len(names)), 0
    for values in inputs:
        found = np.array(session.run(None, dict(values)), np.float64).reshape(-1, 2)
        largest, squares, runs = np.maximum(largest, found[:, 0]), squares + found[:, 1], runs + 1
        if not np.isfinite(largest).all():
            break  # later runs would only show where it has spread
    return {
        name: Range(float(top), float(np.sqrt(total / max(1, runs))))
        for name, top, total in zip(names, largest, squares, strict=True)
    }


def _probes(name: str) -> Iterator[Any]:
    yield helper.make_node("Abs", [name], [f"{name}__abs"])
    yield helper.make_node("ReduceMax", [f"{name}__abs"], [f"{name}__largest"], keepdims=0)
    yield helper.make_node("Mul", [name, name], [f"{name}__square"])
    yield helper.make_node("ReduceMean", [f"{name}__square"], [f"{name}__mean"], keepdims=0)


METHODS = ("max", "percentile", "entropy", "mse")
"""How the end of an 8-bit range is chosen: the largest value seen; the 99.99th percentile; the least Kullback-Leibler
divergence between the histogram and its 8-bit form (as TensorRT's entropy calibration did); the least mean square."""
_KEPT = 1 << 16  # values of a tensor that are looked at, spread over all runs
_BINS, _LEVELS = 2048, 128
_TOGETHER = 256  # rows that are multiplied at once: one by one, Gram matrices took most of a conversion's time


def sample(network: Network, names: Collection[str], inputs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Run a stage over recorded inputs; return tensor -> absolute values seen (n,), the largest of all among them."""
    random = np.random.default_rng(0)
    share = max(1, _KEPT // max(1, len(inputs)))
    found: dict[str, list[Array]] = {name: [] for name in names}
    for name, value in _values(network, names, inputs):
        seen = np.abs(np.asarray(value, np.float32)).reshape(-1)
        kept = seen if seen.size <= share else random.choice(seen, share, replace=False)
        found[name].append(np.append(kept, seen.max(initial=0.0)))
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


@dataclass(frozen=True)
class Rows:
    """What the rows x (n, size) of a tensor showed. gram: x^T x (size, size). largest: absolute value, by column."""

    gram: Array
    largest: Array


def rows_of(network: Network, names: Collection[str], inputs: Sequence[Mapping[str, Array]]) -> dict[str, Rows]:
    """Run a stage over recorded inputs; return tensor -> what the rows of all runs showed."""
    found: dict[str, Rows] = {}
    waiting: dict[str, list[Array]] = {}
    for name, value in _values(network, names, inputs):
        waiting.setdefault(name, []).append(np.asarray(value, np.float64).reshape(-1, value.shape[-1]))
        if sum(map(len, waiting[name])) >= _TOGETHER:
            _add(found, name, waiting.pop(name))
    for name, pieces in waiting.items():
        _add(found, name, pieces)
    return found


def _add(found: dict[str, Rows], name: str, pieces: Sequence[Array]) -> None:
    rows = np.concatenate(pieces)
    gram, largest = rows.T @ rows, np.abs(rows).max(0)
    if name in found:
        gram, largest = gram + found[name].gram, np.maximum(largest, found[name].largest)
    found[name] = Rows(gram, largest)


def _values(
    network: Network, names: Collection[str], inputs: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[str, Array]]:
    """Yield each tensor's value in each recorded run."""
    border = {item.name for item in network.graph.input}
    inner = [name for name in names if name not in border]
    model = copied(network.model)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in inner)
    session = open_session(model.SerializeToString()) if inner else None
    for values in inputs:
        yield from ((name, values[name]) for name in names if name in border)
        if session is not None:
            yield from zip(inner, session.run(None, dict(values)), strict=True)


def range_ends(values: Array, largest: float) -> dict[str, float]:
    """Return method -> end of the range for absolute values (n,); `largest`: the type's largest number (127, 448)."""
    top = float(values.max(initial=0.0))
    if top == 0.0:
        return dict.fromkeys(METHODS, 0.0)
    return {
        "max": top,
        "percentile": float(np.percentile(values, 99.99)) or top,
        "entropy": _by_entropy(values, top),
        "mse": min(np.linspace(0.3, 1.0, 36), key=lambda part: _square_error(values, top * part, largest)) * top,
    }


def _square_error(values: Array, end: float, largest: float) -> float:
    """Mean square error of rounding to 8 bits over [-end, end]; FP8's steps grow with the value, int8's do not."""
    scaled = np.minimum(values / end, 1.0) * largest
    if largest > 127.0:
        step = np.exp2(np.floor(np.log2(np.maximum(scaled, 2.0**-6))) - 3)
        rounded = np.rint(scaled / step) * step
    else:
        rounded = np.rint(scaled)
    return float(np.mean(np.square(rounded / largest * end - values)))


def _by_entropy(values: Array, top: float) -> float:
    counts, _ = np.histogram(values, _BINS, (0.0, top))
    best, least = _BINS, np.inf
    for end in range(_LEVELS, _BINS + 1, 16):
        wanted = counts[:end].astype(np.float64)
        wanted[-1] += counts[end:].sum()
        groups = np.arange(end) * _LEVELS // end
        filled = counts[:end] > 0
        sums = np.bincount(groups, counts[:end], _LEVELS)
        shares = np.bincount(groups, filled, _LEVELS)
        given = np.where(filled, (sums / np.maximum(shares, 1))[groups], 0.0)
        if not given.sum():
            continue
        p, q = wanted / wanted.sum(), given / given.sum()
        seen = p > 0
        divergence = float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))))
        if divergence < least:
            best, least = end, divergence
    return top * best / _BINS


def range_errors(
    network: Network,
    ends: Mapping[str, Mapping[str, float]],
    largest: Mapping[str, float],
    inputs: Sequence[Mapping[str, Array]],
    together: int = 1,
) -> dict[str, dict[str, float]]:
    """Return tensor -> method -> relative error at the stage's outputs when this tensor alone is rounded to 8 bits.

    ends: as `range_ends` gives them. largest: 127 for int8, 448 for FP8 E4M3. together: how many tensors, in order, are
    rounded at once where one by one would take too long. One network serves all: each tensor's scale, and whether it
    is rounded at all, are inputs of it.
    """
    model = copied(network.model)
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[0] in ends:
            node.input[0] = f"{node.input[0]}__switched"
    made = [node for name in ends for node in _switched(name, largest[name])]
    model = copied(model, _in_order(model.graph.node, made, {item.name for item in model.graph.input}))
    for name in ends:
        model.graph.input.append(helper.make_tensor_value_info(f"{name}__scale", FLOAT, []))
        model.graph.input.append(helper.make_tensor_value_info(f"{name}__on", onnx.TensorProto.BOOL, []))
    fp8 = helper.make_tensor("zero__448", FLOAT8, [], b"\0", raw=True)
    model.graph.initializer.extend([onnx.numpy_helper.from_array(np.asarray(0, np.int8), "zero__127"), fp8])
    del model.graph.value_info[:]
    session = open_session(model.SerializeToString())
    off = {f"{name}__on": np.asarray(False) for name in ends}
    off |= {f"{name}__scale": np.asarray(1.0, np.float32) for name in ends}
    errors: dict[str, dict[str, float]] = {name: dict.fromkeys(METHODS, 0.0) for name in ends}
    for values in inputs:
        wanted = session.run(None, {**values, **off})
        for first in range(0, len(ends), together):
            names = list(ends)[first : first + together]
            for method in METHODS:
                given = {**values, **off}
                for name in names:
                    given[f"{name}__on"] = np.asarray(True)
                    given[f"{name}__scale"] = np.asarray(max(ends[name][method], 1e-12) / largest[name], np.float32)
                error = max(map(relative_error, wanted, session.run(None, given)), default=0.0) / len(inputs)
                for name in names:
                    errors[name][method] += error
    return errors


def _switched(name: str, largest: float) -> Iterator[Any]:
    zero, scale = f"zero__{largest:.0f}", f"{name}__scale"
    yield helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}__narrow"])
    yield helper.make_node("DequantizeLinear", [f"{name}__narrow", scale, zero], [f"{name}__rounded"])
    yield helper.make_node("Where", [f"{name}__on", f"{name}__rounded", name], [f"{name}__switched"])


def _in_order(nodes: Sequence[Any], added: Sequence[Any], given: Collection[str]) -> Iterator[Any]:
    """Yield the nodes with each added group right behind what it reads."""
    groups = {added[place].input[0]: added[place : place + 3] for place in range(0, len(added), 3)}
    for name in groups.keys() & set(given):
        yield from groups[name]
    for node in nodes:
        yield node
        for name in node.output:
            yield from groups.get(name, ())
