"""Converts one stage: ranges from recorded inputs, an assignment, and what is too sensitive held back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetalker.calibration.assign import PRODUCTS, Assignment, assign
from edgetalker.calibration.mixed import is_linear, to_mixed
from edgetalker.calibration.network import HALF, Network, read_network
from edgetalker.calibration.onestep import OneStep, emulated, one_step_error
from edgetalker.calibration.ranges import Range, measure_ranges
from edgetalker.calibration.rollout import Inputs
from edgetalker.engines.errors import InputError

__all__ = ["ConvertedStage", "convert_stage"]

_PROBED = 4  # recorded runs on which sensitivities are compared


@dataclass(frozen=True)
class ConvertedStage:
    """One stage in mixed precision; `onnx` is empty when nothing in it is worth FP16.

    emulated: the same as an FP32 network that rounds as a GPU would, for runs on a CPU. half: nodes that compute in
    FP16. kept: node -> why it could not. products_kept: products of two computed tensors that stay FP32, which
    TensorRT-RTX cannot build for sm75. largest: the largest value on any tensor. error: of one run.
    """

    name: str
    onnx: bytes
    emulated: bytes
    half: tuple[str, ...]
    kept: dict[str, str]
    products_kept: tuple[str, ...]
    largest: float
    full_bytes: int
    error: OneStep


def convert_stage(
    name: str, path: Path, inputs: Sequence[Inputs], limit: float, *, narrow: Collection[str] = ()
) -> ConvertedStage:
    """Convert a stage's ONNX file so that one run's relative error stays below `limit`, if need be with more FP32.

    inputs: what rollouts recorded. narrow: products that will read and hold 8 bits; what FP16 would do to them is not
    counted, and none of them is held in FP32 for it. Raises InputError for a file that is no ONNX or that is not finite
    in FP32 either.
    """
    network = read_network(path)
    ranges = measure_ranges(network, inputs)
    _check_finite(name, network, ranges)
    full = path.read_bytes()
    order: list[str] = []
    held = 0
    while True:
        judged = assign(network, ranges, [*narrow, *order[:held]])
        model = to_mixed(network, judged) if judged.half else None
        rounding = b"" if model is None else emulated(model, judged.half)
        error = one_step_error(full, rounding or full, inputs)
        if error.error <= limit or not judged.half:
            break
        order = order or _by_harm(network, judged, full, inputs)
        held = max(1, 2 * held)  # one, two, four, …: each try is a whole conversion
    assignment = judged
    if narrow:
        assignment = assign(network, ranges, order[:held])
        model = to_mixed(network, assignment) if assignment.half else None
    onnx = b"" if model is None else model.SerializeToString()
    largest = max((seen.largest for seen in ranges.values()), default=0.0)
    kept = _products_kept(network, assignment)
    return ConvertedStage(
        name, onnx, rounding, tuple(sorted(assignment.half)), dict(assignment.kept), kept, largest, len(full), error
    )


def _check_finite(name: str, network: Network, ranges: Mapping[str, Range]) -> None:
    """A network that fails in FP32 cannot be judged in FP16: name the first tensor that is not finite."""
    order = [item.name for item in network.graph.input] + [tensor for node in network.nodes for tensor in node.output]
    for tensor in order:
        if tensor in ranges and not np.isfinite(ranges[tensor].largest):
            kind = getattr(network.producers.get(tensor), "op_type", "the input")
            raise InputError(
                f"stage `{name}` is not finite in FP32: `{tensor}` ({kind}) reaches {ranges[tensor].largest}",
                hint="a logarithm or a quotient needs a floor: mend the model and export it again",
            )


def _products_kept(network: Network, assignment: Assignment) -> tuple[str, ...]:
    return tuple(
        node.name
        for node in network.nodes
        if node.op_type in ("MatMul", "Gemm")
        and node.name in assignment.kept
        and node.name not in assignment.reductions
        and not is_linear(network, node)
    )


def _by_harm(network: Network, assignment: Assignment, full: bytes, inputs: Sequence[Inputs]) -> list[str]:
    """Return the FP16 products, the one first that does the most harm when it alone is in FP16."""
    probes = [inputs[place] for place in sorted({*np.linspace(0, len(inputs) - 1, _PROBED).astype(int).tolist()})]

    def harm(name: str) -> float:
        alone = Assignment(half={name}, reductions=assignment.reductions)
        return one_step_error(full, emulated(to_mixed(network, alone), alone.half), probes).error

    products = [node.name for node in network.nodes if node.op_type in PRODUCTS and node.name in assignment.half]
    return sorted(products, key=harm, reverse=True)


def half_share(onnx: bytes) -> float:
    """Return the share of a model's weights that are FP16, by number of values."""
    import onnx as library

    sizes = [(item.data_type, int(np.prod(item.dims))) for item in library.load_from_string(onnx).graph.initializer]
    total = sum(size for kind, size in sizes if kind in (1, HALF))
    return sum(size for kind, size in sizes if kind == HALF) / total if total else 0.0
