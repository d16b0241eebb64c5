"""The error of one run of a stage in a precision, on the inputs that FP32 rollouts recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetalker.engines.engine import Array
from edgetalker.engines.ort import open_session

__all__ = ["OneStep", "one_step_error"]


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

    converted: an emulation (see emulate.py), because ONNX Runtime drops the rounding of a true FP16 network. An
    output of it that is not finite is an infinite error.
    """
    return compare_runs(open_session(full).run, open_session(converted).run, _output_names(full), inputs)


def compare_runs(full: Any, other: Any, names: Sequence[str], inputs: Sequence[Mapping[str, Array]]) -> OneStep:
    """Compare two callables (output names or None, inputs) -> outputs on the same inputs."""
    wrong, right = np.zeros(len(names)), np.zeros(len(names))
    worst = 0.0
    for values in inputs:
        pairs = list(zip(full(None, dict(values)), other(None, dict(values)), strict=True))
        for place, (wanted, found) in enumerate(pairs):
            size = float(np.sum(np.square(wanted, dtype=np.float64)))
            finite = bool(np.isfinite(found).all())
            off = float(np.sum(np.square(found.astype(np.float64) - wanted))) if finite else np.inf
            right[place], wrong[place] = right[place] + size, wrong[place] + off
            worst = max(worst, np.sqrt(off / size) if size else 0.0)
    relative = np.sqrt(np.divide(wrong, right, out=np.zeros_like(wrong), where=right > 0))
    return OneStep(dict(zip(names, relative.tolist(), strict=True)), float(worst), len(inputs))


def _output_names(model: bytes) -> list[str]:
    import onnx

    return [item.name for item in onnx.load_from_string(model).graph.output]
