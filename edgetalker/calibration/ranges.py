"""What values the tensors inside a stage take, over the inputs that rollouts recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetalker.engines.engine import Array
from edgetalker.engines.ort import open_session

if TYPE_CHECKING:
    from edgetalker.calibration.network import Network

__all__ = ["Range", "measure_ranges"]


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
    import onnx

    names = [name for node in network.nodes for name in node.output if name and network.is_float(name)]
    names += [item.name for item in network.graph.input if network.is_float(item.name)]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    model.graph.node.extend(node for name in names for node in _probes(name))
    del model.graph.output[:]
    model.graph.output.extend(_probe_outputs(names))
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
    from onnx import helper

    yield helper.make_node("Abs", [name], [f"{name}__abs"])
    yield helper.make_node("ReduceMax", [f"{name}__abs"], [f"{name}__largest"], keepdims=0)
    yield helper.make_node("Mul", [name, name], [f"{name}__square"])
    yield helper.make_node("ReduceMean", [f"{name}__square"], [f"{name}__mean"], keepdims=0)


def _probe_outputs(names: Iterable[str]) -> Iterator[Any]:
    from onnx import TensorProto, helper

    for name in names:
        for suffix in ("largest", "mean"):
            yield helper.make_tensor_value_info(f"{name}__{suffix}", TensorProto.FLOAT, [])
