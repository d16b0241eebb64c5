"""The pessimistic bound: every FP16 node rounded, products and convolutions in PyTorch's half."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgetalker.calibration.assign import assign
from edgetalker.calibration.mixed import to_mixed
from edgetalker.calibration.onestep import emulated, half_error, one_step_error
from tests.calibration.conftest import network_of, weight
from tests.calibration.test_assign import block

pytest.importorskip("torch", reason="PyTorch is not installed, which rounds the products")

ATTRIBUTES = [
    ("MatMul", {"x": (2, 8)}, (8, 4), {}, (2, 4)),
    ("Gemm", {"x": (2, 8)}, (4, 8), {"transB": 1, "alpha": 0.5}, (2, 4)),
    ("Gemm", {"x": (8, 2)}, (8, 4), {"transA": 1}, (2, 4)),
    ("Conv", {"x": (1, 4, 20)}, (6, 4, 3), {"strides": [2], "pads": [1, 1]}, (1, 6, 10)),
    ("Conv", {"x": (1, 4, 20)}, (4, 2, 3), {"group": 2, "dilations": [2], "pads": [0, 2]}, (1, 4, 18)),
    ("Conv", {"x": (1, 2, 6, 5)}, (3, 2, 2, 3), {"pads": [0, 1, 1, 2]}, (1, 3, 6, 6)),
]


@pytest.mark.parametrize(("kind", "inputs", "shape", "attributes", "output"), ATTRIBUTES)
def test_in_fp32_the_operators_are_those_of_onnx(
    kind: str,
    inputs: dict[str, tuple[int, ...]],
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    output: tuple[int, ...],
) -> None:
    operation = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    network = network_of([operation], inputs, {"y": output}, w=weight(*shape))
    data = network.model.SerializeToString()
    assert half_error(data, data, [{"x": weight(*inputs["x"], seed=9)}]).error < 1e-6


def test_pytorch_s_half_agrees_with_the_emulation() -> None:
    network = block()
    full = network.model.SerializeToString()
    assignment = assign(network, {})
    model = to_mixed(network, assignment)
    mixed, rounding = model.SerializeToString(), emulated(model, assignment.half)
    inputs = [{"x": weight(4, 16, seed=i) * 4} for i in range(4)]
    emulation, pessimistic = one_step_error(full, rounding, inputs), half_error(full, mixed, inputs)
    assert 1e-4 < emulation.error < 5e-3
    assert 0.8 < pessimistic.error / emulation.error < 2.0
    assert pessimistic.samples == 4


def test_an_overflow_shows() -> None:
    network = network_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="y")], {"x": (1, 8)}, {"y": (1, 8)}, w=weight(8, 8)
    )
    mixed = to_mixed(network, assign(network, {})).SerializeToString()
    found = half_error(network.model.SerializeToString(), mixed, [{"x": np.full((1, 8), 1e5, np.float32)}])
    assert found.error == float("inf")
