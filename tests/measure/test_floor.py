from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetalker.engines.errors import EngineError
from edgetalker.measure.floor import StageCost, stage_cost

ROOT = Path(__file__).parents[3]


def save(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[Any, ...]],
    outputs: dict[str, tuple[Any, ...]],
    weights: dict[str, np.ndarray],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


NODE = helper.make_node
# nodes, inputs, outputs, weights, operations counted by hand
CASES: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any], dict[str, np.ndarray], int]] = {
    "product": ([NODE("MatMul", ["x", "w"], ["y"])], {"x": (2, 3, 4)}, {"y": (2, 3, 5)}, {"w": zeros(4, 5)}, 240),
    "gemm": (
        [NODE("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": (3, 4)},
        {"y": (3, 5)},
        {"w": zeros(5, 4), "b": zeros(5)},
        120,
    ),
    "gemm turned": ([NODE("Gemm", ["x", "w"], ["y"], transA=1)], {"x": (4, 3)}, {"y": (3, 5)}, {"w": zeros(4, 5)}, 120),
    "convolution": (
        [NODE("Conv", ["x", "w"], ["y"], group=2)],
        {"x": (1, 4, 9)},
        {"y": (1, 6, 7)},
        {"w": zeros(6, 2, 3)},
        2 * 6 * 7 * 2 * 3,
    ),
    "transposed convolution": (
        [NODE("ConvTranspose", ["x", "w"], ["y"])],
        {"x": (1, 4, 5)},
        {"y": (1, 3, 7)},
        {"w": zeros(4, 3, 3)},
        2 * 4 * 5 * 3 * 3,
    ),
    "recurrence": (
        [NODE("GRU", ["x", "w", "r"], ["y"], hidden_size=4)],
        {"x": (5, 1, 3)},
        {"y": (5, 1, 1, 4)},
        {"w": zeros(1, 12, 3), "r": zeros(1, 12, 4)},
        2 * 5 * (12 * 3 + 12 * 4),
    ),
    "nothing but sums": ([NODE("Add", ["x", "w"], ["y"])], {"x": (3, 4)}, {"y": (3, 4)}, {"w": zeros(4)}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_and_bytes_are_those_counted_by_hand(tmp_path: Path, name: str) -> None:
    nodes, inputs, outputs, weights, operations = CASES[name]
    cost = stage_cost(save(tmp_path / "g.onnx", nodes, inputs, outputs, weights))
    assert cost.operations == operations
    assert cost.weight_bytes == sum(value.nbytes for value in weights.values())
    border = sum(int(np.prod(shape)) for shape in (*inputs.values(), *outputs.values()))
    assert cost.activation_bytes == 4 * border


def test_of_a_table_only_the_rows_that_are_taken_count(tmp_path: Path) -> None:
    nodes = [NODE("Gather", ["table", "place"], ["row"]), NODE("Add", ["x", "row"], ["y"])]
    weights = {"table": zeros(100, 8), "place": np.array([3], np.int64)}
    cost = stage_cost(save(tmp_path / "g.onnx", nodes, {"x": (1, 8)}, {"y": (1, 8)}, weights))
    assert cost.weight_bytes == 8 * 4


def test_shapes_that_are_not_fixed_are_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "g.onnx", [NODE("MatMul", ["x", "w"], ["y"])], {"x": ("n", 4)}, {"y": ("n", 5)}, {"w": zeros(4, 5)}
    )
    with pytest.raises((EngineError, KeyError)):
        stage_cost(path)


def test_the_floor_is_the_longer_of_moving_and_computing() -> None:
    cost = StageCost(weight_bytes=800, activation_bytes=200, operations=4000)
    assert cost.floor_ns(1e9, 1e9) == pytest.approx(4000)
    assert cost.limit(1e9, 1e9) == "compute"
    assert cost.floor_ns(1e8, 1e9) == pytest.approx(10_000)
    assert cost.limit(1e8, 1e9) == "memory"
    assert cost.floor_ns(1e9, None) == pytest.approx(1000)
    assert cost.limit(1e9, None) == ""
    assert cost.floor_ns(None, None) is None
