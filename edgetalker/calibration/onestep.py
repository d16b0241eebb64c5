"""The error of one run of a stage in a precision, on a CPU that rounds where a GPU would: two stand-ins for a GPU.

`emulated`: ONNX Runtime's CPU has no FP16 products: it puts casts around them and then takes out every pair that meets,
and with it the rounding (measured: an FP16 product with the identity returns its FP32 input unchanged). A pair of casts
that stands in the file is kept. So each FP16 node becomes an FP32 node whose inputs were rounded to FP16 and whose
results are rounded to FP16, which is what a tensor core does that accumulates in FP32.

`half_runner`: every FP16 node rounds its result, which is pessimistic. onnx's reference evaluator computes each node by
itself, in the types that the graph states; matrix products and convolutions are handed to PyTorch, whose CPU kernels
round to half as well. Slow; meant for a few runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetalker.calibration.network import FLOAT, HALF, MOVES, copied
from edgetalker.engines.engine import Array
from edgetalker.engines.lazy import helper, numpy_helper, onnx, required
from edgetalker.engines.ort import open_session

__all__ = ["OneStep", "emulated", "half_error", "half_runner", "one_step_error"]


@dataclass(frozen=True)
class OneStep:
    """relative: ||converted - FP32|| / ||FP32|| over all recorded runs, for each output. worst: the largest of a
    single run. samples: number of runs."""

    relative: Mapping[str, float]
    worst: float
    samples: int

    @property
    def error(self) -> float:
        """The largest of the outputs' relative errors."""
        return max(self.relative.values(), default=0.0)


def one_step_error(full: bytes, converted: bytes, inputs: Sequence[Mapping[str, Array]]) -> OneStep:
    """Run both networks through ONNX Runtime on the same inputs and compare them output by output.

    converted: an emulation (see `emulated`), because ONNX Runtime drops the rounding of a true FP16 network. An
    output of it that is not finite is an infinite error.
    """
    return _compared(full, open_session(converted).run, inputs)


def _compared(full: bytes, other: Any, inputs: Sequence[Mapping[str, Array]]) -> OneStep:
    """Compare a network with a callable (None, inputs) -> outputs on the same inputs."""
    session = open_session(full)
    names = [item.name for item in session.get_outputs()]
    wrong, right = np.zeros(len(names)), np.zeros(len(names))
    worst = 0.0
    for values in inputs:
        pairs = list(zip(session.run(None, dict(values)), other(None, dict(values)), strict=True))
        for place, (wanted, found) in enumerate(pairs):
            size = float(np.sum(np.square(wanted, dtype=np.float64)))
            finite = bool(np.isfinite(found).all())
            off = float(np.sum(np.square(found.astype(np.float64) - wanted))) if finite else np.inf
            right[place], wrong[place] = right[place] + size, wrong[place] + off
            worst = max(worst, np.sqrt(off / size) if size else 0.0)
    relative = np.sqrt(np.divide(wrong, right, out=np.zeros_like(wrong), where=right > 0))
    return OneStep(dict(zip(names, relative.tolist(), strict=True)), float(worst), len(inputs))


def emulated(model: Any, half: Collection[str]) -> bytes:
    """Return a converted model as an FP32 model with the rounding written out. half: names of its FP16 nodes."""
    copy = copied(model)
    narrow = {item.name for item in copy.graph.initializer if item.data_type == HALF}
    copy = copied(copy, (node for item in copy.graph.node for node in _rewritten(item, half, narrow)))
    for item in copy.graph.initializer:
        if item.data_type == HALF:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype("float32"), item.name))
    data: bytes = copy.SerializeToString()
    return data


def _rewritten(node: Any, half: Collection[str], narrow: set[str]) -> Iterator[Any]:
    """Yield a node's stand-ins. narrow: tensors that were FP16 so far; grows with the walk."""
    kind = next((item.i for item in node.attribute if item.name == "to"), 0) if node.op_type == "Cast" else 0
    if kind == HALF:
        narrow.add(node.output[0])
        yield from _rounded(node.input[0], node.output[0])
    elif kind == FLOAT and node.input[0] in narrow:
        yield helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)
    elif node.name in half and node.op_type not in MOVES:
        results = list(node.output)
        narrow.update(results)
        for place, name in enumerate(results):
            node.output[place] = f"{name}__wide"
        yield node
        for name in results:
            yield from _rounded(f"{name}__wide", name)
    else:
        narrow.update(node.output if node.name in half else ())
        yield node


def _rounded(source: str, target: str) -> Iterator[Any]:
    yield helper.make_node("Cast", [source], [f"{target}__half"], name=f"narrow_{target}", to=HALF)
    yield helper.make_node("Cast", [f"{target}__half"], [target], name=f"widen_{target}", to=FLOAT)


def half_error(full: bytes, converted: bytes, inputs: Sequence[Mapping[str, Array]]) -> OneStep:
    """Compare FP32 in ONNX Runtime with the converted network rounded node by node.

    An output that is not finite is an infinite error. Raises MissingPackageError without PyTorch.
    """
    return _compared(full, half_runner(converted), inputs)


def half_runner(model: bytes) -> Any:
    """Return a callable (None, inputs) -> outputs. Raises MissingPackageError without PyTorch."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(model), new_ops=list(_operators()))

    def run(names: None, inputs: Mapping[str, Array]) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in the outputs
            return evaluator.run(names, dict(inputs))

    return run


def _operators() -> Sequence[Any]:
    """The operators that PyTorch computes, as the evaluator wants them: classes named after them."""
    torch = required("torch", "rounding every FP16 node", extra="export")
    from onnx.reference.op_run import OpRun

    functional = torch.nn.functional

    def tensor(values: Any) -> Any:
        return torch.from_numpy(np.array(values, order="C"))  # a copy: weights are read-only

    class MatMul(OpRun):
        def _run(self, a: Any, b: Any) -> Any:
            return (torch.matmul(tensor(a), tensor(b)).numpy(),)

    class Gemm(OpRun):
        def _run(self, a: Any, b: Any, c: Any = None, **given: Any) -> Any:
            left = tensor(a).T if given.get("transA") else tensor(a)
            right = tensor(b).T if given.get("transB") else tensor(b)
            product = torch.matmul(left, right) * given.get("alpha", 1.0)
            return ((product if c is None else product + given.get("beta", 1.0) * tensor(c)).numpy(),)

    class Conv(OpRun):
        def _run(self, x: Any, w: Any, b: Any = None, **given: Any) -> Any:
            axes = x.ndim - 2
            pads = given.get("pads") or [0] * 2 * axes
            sides = [side for pair in zip(reversed(pads[:axes]), reversed(pads[axes:]), strict=True) for side in pair]
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
            bias = None if b is None else tensor(b)
            strides, dilations = given.get("strides") or 1, given.get("dilations") or 1
            padded = functional.pad(tensor(x), sides)
            return (convolve(padded, tensor(w), bias, strides, 0, dilations, given.get("group") or 1).numpy(),)

    class Gelu(OpRun):
        def _run(self, x: Any, approximate: Any = "none") -> Any:
            return (functional.gelu(tensor(x), approximate=approximate).numpy(),)

    return MatMul, Gemm, Conv, Gelu
