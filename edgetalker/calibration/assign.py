"""Decides which nodes of a stage compute in FP16, and why the others do not.

Matrix products and convolutions are where the weights and the time are, so they go to FP16; so does what lies
between two of them and cannot lose more than they do. Norms, softmax, reductions, time embeddings, scheduler
arithmetic and residual sums stay FP32: each reads or feeds something that is not a product. What the rollouts
show to overflow, to vanish or to round too coarsely stays FP32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetalker.calibration.network import CURVES, MOVES, Network, name_nodes, reached, relative_error
from edgetalker.calibration.ranges import Range

__all__ = ["FOLLOWERS", "PRODUCTS", "Assignment", "assign"]

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Operators that are worth FP16 by themselves."""

FOLLOWERS = (
    *MOVES,
    *("Identity", "Add", "Sub", "Mul", "Neg", "Relu", "LeakyRelu", "Gelu", "Tanh", "Sigmoid", "Elu", "Max", "Min"),
)
"""Operators that join FP16 when everything around them is FP16."""

_SOFTMAX = ("Softmax", "LogSoftmax")
_LARGEST = 65504.0 / 4  # a quarter of FP16's largest number: a rollout does not show everything
_SMALLEST = 2.0**-14  # below it FP16 loses a bit with every halving
_WEIGHT_ERROR = 2.0**-10
_LOGITS = 128.0  # above it FP16 rounds by 1/16 and more, which shifts a softmax by several percent


@dataclass
class Assignment:
    """half: names of the nodes that compute in FP16. kept: name -> why a product or its follower stays FP32.

    reductions: products with a vector, which are sums, to be written as such.
    """

    half: set[str] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)
    reductions: set[str] = field(default_factory=set)


def assign(network: Network, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> Assignment:
    """Assign a precision to every node. ranges: tensor -> what rollouts showed. keep: nodes held in FP32."""
    name_nodes(network)
    result = Assignment()
    outer = network.outer_names()
    for node in network.nodes:
        if node.op_type not in (*PRODUCTS, *FOLLOWERS) or not network.is_float(node.output[0]):
            continue
        name = node.name
        if is_reduction(network, node):
            result.reductions.add(name)
            result.kept[name] = "product with a vector: a sum, kept as FP32"
            continue
        reason = "held by the user or by its sensitivity" if name in keep else _objection(network, node, ranges, outer)
        if reason:
            result.kept[name] = reason
        else:
            result.half.add(name)
    _drop_lonely(network, result)
    return result


def is_reduction(network: Network, node: Any) -> bool:
    """Return whether a MatMul's right side is one column of a matrix: a weighted sum, such as a mean."""
    if node.op_type != "MatMul":
        return False
    shape, left = network.shapes.get(node.input[1]), network.shapes.get(node.input[0])
    return bool(shape and left and shape[-1] == 1 and len(shape) >= 2 and -1 not in shape)


def _objection(network: Network, node: Any, ranges: Mapping[str, Range], outer: Collection[str]) -> str:
    """Return why a node must not compute in FP16; empty when it may."""
    floats = [name for name in (*node.input, *node.output) if name and network.is_float(name)]
    if any(name in outer for name in node.output):
        return "feeds a subgraph"
    for name in floats:
        reason = _weight_objection(network, name) if name in network.constants else _range_objection(name, ranges)
        if reason:
            return reason
    return _product_objection(network, node, ranges) if node.op_type in PRODUCTS else ""


def _product_objection(network: Network, node: Any, ranges: Mapping[str, Range]) -> str:
    curve = reached(network, node, MOVES, CURVES)
    if curve:
        return f"feeds {curve}: a spectrum or a statistic"
    logits = ranges.get(node.output[0])
    if logits and logits.largest > _LOGITS and reached(network, node, FOLLOWERS, _SOFTMAX):
        spacing = np.spacing(np.float16(logits.largest))
        return f"attention logits reach {logits.largest:.0f}, where FP16 rounds by {spacing:g}"
    return ""


def _range_objection(name: str, ranges: Mapping[str, Range]) -> str:
    seen = ranges.get(name)
    if seen is None:
        return ""
    if not np.isfinite(seen.largest) or seen.largest > _LARGEST:
        return f"`{name}` reaches {seen.largest:.3g}, too near to FP16's 65504"
    if 0.0 < seen.rms < _SMALLEST:
        return f"`{name}` has a size of {seen.rms:.2g}, which vanishes in FP16"
    return ""


def _weight_objection(network: Network, name: str) -> str:
    values = network.constants[name]
    if not values.size:
        return ""
    largest = float(np.max(np.abs(values)))
    if largest > _LARGEST and np.isfinite(largest):
        return f"constant `{name}` reaches {largest:.3g}, too near to FP16's 65504"
    with np.errstate(over="ignore"):
        error = relative_error(values, values.astype(np.float16))
    return f"constant `{name}` loses {error:.1e} of itself in FP16" if error > _WEIGHT_ERROR else ""


def _drop_lonely(network: Network, result: Assignment) -> None:
    """Take followers back to FP32 until each of them has FP16 on all sides: a cast must not cost a bit for nothing."""
    followers = [node for node in network.nodes if node.op_type in FOLLOWERS and node.name in result.half]
    changed = True
    while changed:
        changed = False
        for node in followers:
            if node.name in result.half and not _surrounded(network, node, result.half):
                result.half.discard(node.name)
                result.kept[node.name] = "not between FP16 nodes on every side"
                changed = True


def _surrounded(network: Network, node: Any, half: Collection[str]) -> bool:
    flowing = network.flowing(node)
    before = all(name in network.producers and network.producers[name].name in half for name in flowing)
    users = [user for name in node.output for user in network.consumers.get(name, [])]
    after = all(user.name in half for user in users) and not set(node.output) & network.outputs
    return bool(flowing) and before and after and bool(users)
