"""Runs an FP16 network so that every FP16 node rounds its result: a pessimistic stand-in for a GPU.

onnx's reference evaluator computes each node by itself, in the types that the graph states; matrix products and
convolutions are handed to PyTorch, whose CPU kernels round to half as well. Slow; meant for a few runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgetalker.calibration.onestep import OneStep, compare
from edgetalker.engines.engine import Array
from edgetalker.engines.errors import MissingPackageError
from edgetalker.engines.ort import open_session

__all__ = ["half_error", "half_runner"]


def half_error(full: bytes, converted: bytes, inputs: Sequence[Mapping[str, Array]]) -> OneStep:
    """Compare FP32 in ONNX Runtime with the converted network rounded node by node.

    An output that is not finite is an infinite error. Raises MissingPackageError without PyTorch.
    """
    session = open_session(full)
    names = [item.name for item in session.get_outputs()]
    return compare(session.run, half_runner(converted), names, inputs)


def half_runner(model: bytes) -> Any:
    """Return a callable (None, inputs) -> outputs. Raises MissingPackageError without PyTorch."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(model), new_ops=list(_operators()))

    def run(names: None, inputs: Mapping[str, Array]) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in the outputs
            return evaluator.run(names, dict(inputs))

    return run


def _operators() -> Sequence[Any]:
    """The operators that PyTorch computes, as the evaluator wants them: classes named after them."""
    try:
        import torch
    except ImportError:
        raise MissingPackageError("torch", "rounding every FP16 node", extra="export") from None
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
