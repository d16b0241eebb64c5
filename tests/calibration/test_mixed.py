"""The converted network: the same border, FP16 exactly where assigned, close to FP32, and valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import shape_inference

from edgetalker.calibration.assign import FOLLOWERS, PRODUCTS, assign
from edgetalker.calibration.mixed import to_mixed
from edgetalker.calibration.network import FLOAT, HALF, Network
from edgetalker.calibration.onestep import emulated, one_step_error
from edgetalker.calibration.ranges import measure_ranges
from edgetalker.engines.engine import Array
from edgetalker.engines.ort import open_session
from tests.calibration.conftest import TINY, network_of, node, weight
from tests.calibration.test_assign import block

STAGES = ("audio", "condition", "denoise", "decode")


def types_of(model: Any) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {item.name: item.type.tensor_type.elem_type for item in [*graph.input, *graph.output, *graph.value_info]}
    return {**found, **{item.name: item.data_type for item in graph.initializer}}


def border(model: Any) -> list[Any]:
    return [[item.SerializeToString() for item in side] for side in (model.graph.input, model.graph.output)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_keeps_its_border_and_has_fp16_where_assigned(stage: str) -> None:
    original = onnx.load(str(TINY / f"{stage}.onnx"))
    network = Network(original)
    assignment = assign(network, {})
    model = to_mixed(network, assignment)
    assert border(model) == border(original)
    assert model.opset_import == original.opset_import
    types = types_of(model)
    for item in model.graph.node:
        floats = {types[name] for name in (*item.input, *item.output) if name and types.get(name) in (FLOAT, HALF)}
        if item.op_type != "Cast":
            assert floats <= ({HALF} if item.name in assignment.half else {FLOAT}), item.name


@pytest.mark.parametrize("stage", STAGES)
def test_norms_softmax_and_reductions_read_fp32(stage: str) -> None:
    network = Network(onnx.load(str(TINY / f"{stage}.onnx")))
    model = to_mixed(network, assign(network, {}))
    types = types_of(model)
    for item in model.graph.node:
        if item.op_type not in (*PRODUCTS, *FOLLOWERS, "Cast", "Where"):
            assert all(types.get(name) != HALF for name in item.input), item.op_type


def test_no_tensor_is_cast_twice_and_no_weight_is_kept_twice() -> None:
    network = block()
    model = to_mixed(network, assign(network, {}))
    casts = [item.input[0] for item in model.graph.node if item.op_type == "Cast"]
    assert sorted(casts) == ["narrow__fp16", "normed"]
    assert sorted(item.name for item in model.graph.initializer) == [
        "bias__fp16", "down__fp16", "scale", "shift", "up__fp16",
    ]  # fmt: skip


def test_a_weight_that_both_precisions_read_is_there_in_both() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Softmax", "a", "b"), node("Mul", "b w", "y")]
    network = network_of(nodes, {"x": (8, 8)}, {"y": (8, 8)}, w=weight(8, 8))
    model = to_mixed(network, assign(network, {}))
    assert {item.name: item.data_type for item in model.graph.initializer} == {"w": FLOAT, "w__fp16": HALF}


def test_a_product_that_is_an_output_is_cast_back() -> None:
    network = network_of([node("MatMul", "x w", "y")], {"x": (2, 8)}, {"y": (2, 8)}, w=weight(8, 8))
    model = to_mixed(network, assign(network, {}))
    assert [item.op_type for item in model.graph.node] == ["Cast", "MatMul", "Cast"]
    assert model.graph.node[-1].output[0] == "y"


@pytest.mark.parametrize("constant", [True, False])
def test_a_sum_written_as_a_sum_gives_the_same(constant: bool) -> None:
    column = weight(8, 1, seed=3)
    inputs: dict[str, tuple[int, ...]] = {"x": (2, 4, 8)} if constant else {"x": (2, 4, 8), "mean": (8, 1)}
    weights = {"mean": column} if constant else {}
    network = network_of([node("MatMul", "x mean", "y")], inputs, {"y": (2, 4, 1)}, **weights)
    model = to_mixed(network, assign(network, {}))
    assert "MatMul" not in {item.op_type for item in model.graph.node}
    values: dict[str, Array] = {"x": weight(2, 4, 8, seed=4), **({} if constant else {"mean": column})}
    (found,) = open_session(model.SerializeToString()).run(None, values)
    np.testing.assert_allclose(found, values["x"] @ column, rtol=1e-6, atol=1e-6)


OPERATIONS = ("MatMul", "Add", "Gelu", "LayerNormalization", "Softmax", "Residual", "Transpose", "Scale")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=9), st.integers(0, 99))
def test_any_chain_converts_to_a_valid_network_that_is_close(operations: list[str], seed: int) -> None:
    """Whatever is chained: the border stays, the network is valid, and the error is that of FP16."""
    size, nodes, weights, last = 8, [], {}, "x"
    for place, operation in enumerate(operations):
        name = f"n{place}"
        if operation == "MatMul":
            weights[f"w{place}"] = weight(size, size, seed=seed + place)
            nodes.append(node("MatMul", f"{last} w{place}", name))
        elif operation in ("Add", "Scale"):
            weights[f"w{place}"] = weight(size, seed=seed + place)
            nodes.append(node("Add" if operation == "Add" else "Mul", f"{last} w{place}", name))
        elif operation == "LayerNormalization":
            weights[f"w{place}"] = np.ones(size, np.float32)
            nodes.append(node(operation, f"{last} w{place}", name))
        elif operation == "Residual":
            nodes.append(node("Add", f"x {last}", name))
        else:
            attributes = {"perm": [1, 0]} if operation == "Transpose" else {}
            nodes.append(node(operation, last, name, **attributes))
        last = name
    nodes.append(node("Identity", last, "y"))
    network = network_of(nodes, {"x": (size, size)}, {"y": (size, size)}, **weights)
    inputs = [{"x": weight(size, size, seed=seed + 50 + i) * 3} for i in range(2)]
    assignment = assign(network, measure_ranges(network, inputs))
    model = to_mixed(network, assignment)
    assert border(model) == border(network.model)
    one_step_error(network.model.SerializeToString(), model.SerializeToString(), inputs)  # ONNX Runtime takes it too
    rounding = emulated(model, assignment.half)
    error = one_step_error(network.model.SerializeToString(), rounding, inputs).error
    assert error < 0.02
    named = {item.output[0]: item.name for item in network.nodes}
    products = {named[f"n{place}"] for place, operation in enumerate(operations) if operation == "MatMul"}
    assert products <= assignment.half | assignment.kept.keys()
    if not assignment.half:
        assert error == 0.0
    elif named[last] in assignment.half:
        (found,) = open_session(rounding).run(None, inputs[0])
        assert (found == found.astype(np.float16)).all()


def test_emulation_rounds_what_onnx_runtime_would_not() -> None:
    """A product with the identity: FP16 loses the bits below 2^-11; ONNX Runtime's own FP16 loses none."""
    network = network_of([node("MatMul", "x w", "y")], {"x": (1, 8)}, {"y": (1, 8)}, w=np.eye(8, dtype=np.float32))
    model, values = to_mixed(network, assign(network, {})), {"x": 1.0 + weight(1, 8) / 100}
    (found,) = open_session(emulated(model, {"y"})).run(None, values)
    np.testing.assert_array_equal(found, values["x"].astype(np.float16).astype(np.float32))
    assert not np.array_equal(found, values["x"])


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "bias"),
    [
        ("MatMul", (6, 5), {}, None),
        ("Gemm", (6, 5), {}, (5,)),
        ("Gemm", (5, 6), {"transB": 1}, (5,)),
        ("Gemm", (5, 6), {"transB": 1}, (1,)),
    ],
)
def test_a_product_that_stays_fp32_becomes_a_convolution(
    kind: str, shape: tuple[int, int], attributes: dict[str, int], bias: tuple[int] | None
) -> None:
    """Only so does TensorRT-RTX build it for sm75; the result is that of the product."""
    weights: dict[str, Array] = {"w": weight(*shape), **({"b": weight(*bias, seed=5)} if bias else {})}
    inner: tuple[int, ...] = (2, 3, 6) if kind == "MatMul" else (3, 6)
    nodes = [node(kind, "x w b" if bias else "x w", "p", **attributes), node("Exp", "p", "y")]
    network = network_of(nodes, {"x": inner}, {"y": (*inner[:-1], 5)}, **weights)
    assignment = assign(network, {})
    assert assignment.kept == {"p": "feeds Exp: a spectrum or a statistic"}
    model = to_mixed(network, assignment)
    assert [item.op_type for item in model.graph.node] == ["Reshape", "Conv", "Reshape", "Exp"]
    inputs = [{"x": weight(*inner, seed=6)}]
    assert one_step_error(network.model.SerializeToString(), model.SerializeToString(), inputs).error < 1e-6


def test_weights_that_are_stored_in_half_are_found_and_lose_nothing() -> None:
    stored = weight(8, 8).astype(np.float16)
    nodes = [node("Cast", "stored", "w", to=1), node("MatMul", "x w", "y")]
    network = network_of(nodes, {"x": (1, 8)}, {"y": (1, 8)}, stored=stored)
    assert [item.op_type for item in network.nodes] == ["MatMul"]
    model = to_mixed(network, assign(network, {}))
    assert {item.name: item.data_type for item in model.graph.initializer} == {"w__fp16": HALF}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), stored)


def test_ranges_are_those_of_the_runs() -> None:
    network = network_of([node("Mul", "x w", "y")], {"x": (2, 2)}, {"y": (2, 2)}, w=np.array([2.0], np.float32))
    runs = [{"x": np.full((2, 2), value, np.float32)} for value in (-3.0, 1.0)]
    found = measure_ranges(network, runs)
    assert found["x"].largest == 3.0
    assert found["y"].largest == 6.0
    assert found["y"].rms == pytest.approx(np.sqrt((36 + 4) / 2))


def test_an_output_that_is_not_finite_is_an_infinite_error() -> None:
    """The reference gives x, the converted one x / x * x, which is no number at 0."""
    x: dict[str, tuple[int, ...]] = {"x": (1, 2)}
    y: dict[str, tuple[int, ...]] = {"y": (1, 2)}
    full = network_of([node("Identity", "x", "y")], x, y).model.SerializeToString()
    odd = network_of([node("Div", "x x", "one"), node("Mul", "x one", "y")], x, y).model.SerializeToString()
    fine, broken = ({"x": np.array([[value, 1.0]], np.float32)} for value in (2.0, 0.0))
    assert one_step_error(full, odd, [fine]).error == 0.0
    assert one_step_error(full, odd, [fine, broken, fine]).error == float("inf")
