"""Products in 8 bits: what is written, and that its three forms compute alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetalker.calibration.network import Network
from edgetalker.calibration.quantise import (
    ROWS,
    Form,
    Kind,
    Product,
    _inverse,
    fit,
    fitted_weights,
    from_fp8,
    int8_weights,
    kind_for,
    kinds_on_host,
    products,
    to_quantised,
    weights_of,
)
from edgetalker.calibration.ranges import METHODS, Rows, range_ends, range_errors, rows_of, sample
from edgetalker.engines.ort import open_session
from tests.calibration.conftest import network_of, node, weight


def dense(rows: int, size: int = 64, columns: int = 48, *, bias: bool = True) -> Network:
    """x @ w (+ b), then a second one behind an activation."""
    return network_of(
        [
            node("Gemm", "x w b" if bias else "x w", "y", transB=0),
            node("Relu", "y", "r"),
            node("MatMul", "r v", "z"),
        ],
        {"x": (rows, size)},
        {"z": (rows, 32)},
        w=weight(size, columns),
        **({"b": weight(columns, seed=2)} if bias else {}),
        v=weight(columns, 32, seed=1),
    )


def computed(model: Any, **inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = open_session(model.SerializeToString()).run(None, inputs)[0]
    return found


def as_written(model: Any, **inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Operator by operator: ONNX Runtime's fusions would narrow the activations of the GPU's form too."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, inputs)[0]
    return found


def off(wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", ["w8", "a8"])
@pytest.mark.parametrize("rows", [1, 24])
@pytest.mark.parametrize("bias", [True, False])
def test_the_forms_compute_alike_and_near_fp32(kind: Kind, rows: int, bias: bool) -> None:
    network = dense(rows, bias=bias)
    x = np.random.default_rng(3).standard_normal((rows, 64)).astype(np.float32)
    seen = sample(network, ["x", "r"], [{"x": x}])
    ends = {name: float(values.max()) for name, values in seen.items()}
    kinds: dict[str, Kind] = {"y": kind, "z": kind}
    full = computed(network.model, x=x)
    how = {"gpu": as_written, "host": computed, "emulated": computed}
    found = {form: how[form](to_quantised(network, kinds, ends, form), x=x) for form in forms()}
    for form, values in found.items():
        assert 1e-5 < off(full, values) < 0.03, form
    assert off(found["emulated"], found["host"]) < 2e-3
    assert off(found["emulated"], found["gpu"]) < 2e-3


@pytest.mark.parametrize("rows", [1, 4])
def test_a_product_may_read_what_another_has_made(rows: int) -> None:
    nodes = [node("Gemm", "x w", "y"), node("Gemm", "y v", "z")]
    network = network_of(nodes, {"x": (rows, 64)}, {"z": (rows, 48)}, w=weight(64, 64), v=weight(64, 48, seed=1))
    x = np.random.default_rng(3).standard_normal((rows, 64)).astype(np.float32)
    full = computed(network.model, x=x)
    for form in forms():
        model = to_quantised(network, {"y": "w8", "z": "w8"}, {"x": 4.0, "y": 4.0}, form)
        assert 1e-5 < off(full, (as_written if form == "gpu" else computed)(model, x=x)) < 0.03, form


@pytest.mark.parametrize("kind", ["w8", "a8"])
def test_two_products_may_read_the_same_weights(kind: Kind) -> None:
    nodes = [node("MatMul", "x w", "y"), node("MatMul", "u w", "v"), node("Add", "y v", "z")]
    shape = (ROWS, 64)
    network = network_of(nodes, {"x": shape, "u": shape}, {"z": (ROWS, 48)}, w=weight(64, 48))
    random = np.random.default_rng(3)
    given = {name: random.standard_normal(shape).astype(np.float32) for name in "xu"}
    host = to_quantised(network, {"y": kind, "v": kind}, {"x": 4.0, "u": 4.0}, "host")
    assert off(computed(network.model, **given), computed(host, **given)) < 0.03


def forms() -> tuple[Form, ...]:
    return ("gpu", "host", "emulated")


def test_weights_are_stored_in_8_bits_and_the_border_stays() -> None:
    network = dense(1)
    model = to_quantised(network, {"y": "w8"}, {"x": 3.0}, "gpu")
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    assert kinds["w__kn"] == onnx.TensorProto.INT8
    assert "w" not in kinds, "the wide weights are gone"
    assert kinds["v"] == onnx.TensorProto.FLOAT, "what was not chosen stays"
    assert [item.name for item in model.graph.input] == ["x"]
    assert [item.name for item in model.graph.output] == ["z"]
    assert max(item.version for item in model.opset_import if not item.domain) <= 20  # what TensorRT 10.3 reads


def test_onnx_runtime_runs_the_host_form_on_integers(tmp_path: Any) -> None:
    """A pattern that its fusions do not know would be unpacked in every run, thirty times slower than FP32."""
    network = dense(4)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = to_quantised(network, {"y": "w8", "z": "a8"}, {"x": 3.0, "r": 3.0}, "host")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ran = [item.op_type for item in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert ran.count("QGemm") == 2  # w8's two halves of an activation are rows of one
    assert not {"Gemm", "MatMul"} & set(ran)


@pytest.mark.parametrize(("vnni", "wanted"), [(True, "0"), (False, "1")])
def test_weights_become_u8_only_where_products_would_overflow(
    vnni: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VNNI they are exact as they are, and up to three times as fast."""
    monkeypatch.setattr("edgetalker.engines.ort.has_vnni", lambda: vnni)
    options = open_session(dense(2).model.SerializeToString()).get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == wanted


@pytest.mark.parametrize("kind", ["w8", "a8"])
def test_the_largest_products_do_not_overflow(kind: Kind) -> None:
    """Two products of u8 by s8 exceed 16 bits, in which ONNX Runtime adds them up on x86 without VNNI."""
    network = network_of(
        [node("MatMul", "x w", "y")], {"x": (ROWS, 64)}, {"y": (ROWS, 48)}, w=np.ones((64, 48), np.float32)
    )
    x = np.full((ROWS, 64), 3.0, np.float32)
    host = to_quantised(network, {"y": kind}, {"x": 3.0}, "host")
    assert off(computed(network.model, x=x), computed(host, x=x)) < 0.01


def test_fp8_is_rounded_as_the_type_rounds() -> None:
    network = dense(16)
    x = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32)
    ends = {"x": float(np.abs(x).max())}
    narrow = to_quantised(network, {"y": "f8"}, ends, "gpu")
    assert {item.data_type for item in narrow.graph.initializer} >= {onnx.TensorProto.FLOAT8E4M3FN}
    error = off(computed(network.model, x=x), computed(to_quantised(network, {"y": "f8"}, ends, "emulated"), x=x))
    assert 0.005 < error < 0.06
    assert from_fp8(b"\x7e\x38\x00", (3,)).tolist() == [448.0, 1.0, 0.0]


def test_kinds_follow_rows_and_precision() -> None:
    few, many = products(dense(1))[0], products(dense(ROWS))[0]
    assert [kind_for(few, precision) for precision in ("int8", "w8", "fp8")] == ["w8", "w8", "w8"]
    assert [kind_for(many, precision) for precision in ("int8", "w8", "fp8")] == ["a8", "w8", "f8"]
    assert (many.rows, many.weights, many.operations) == (ROWS, 64 * 48, ROWS * 64 * 48)


def test_a_cpu_leaves_small_products_of_few_rows_wide() -> None:
    def product(name: str, weights: int) -> Product:
        return Product(name, "Gemm", "x", 1, weights)

    chosen = [product("small", 32767), product("large", 32768), product("rows", 2048), product("wide", 65536)]
    kinds: dict[str, Kind] = {"small": "w8", "large": "w8", "rows": "a8"}
    assert kinds_on_host(chosen, kinds) == {"large": "w8", "rows": "a8"}


def test_rows_are_seen_alike_one_by_one_and_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    inputs = [{"x": random.standard_normal((2, 64)).astype(np.float32)} for _ in range(10)]
    seen = []
    for together in (1, 4):  # ten runs leave two over
        monkeypatch.setattr("edgetalker.calibration.ranges._TOGETHER", together)
        seen.append(rows_of(dense(2), ["x", "r"], inputs))
    every = np.concatenate([values["x"] for values in inputs]).astype(np.float64)
    np.testing.assert_allclose(seen[1]["x"].gram, every.T @ every)
    np.testing.assert_array_equal(seen[1]["x"].largest, np.abs(every).max(0))
    np.testing.assert_allclose(seen[0]["r"].gram, seen[1]["r"].gram)


def test_spectra_and_products_of_computed_tensors_are_left_alone() -> None:
    network = network_of(
        [node("MatMul", "x w", "y"), node("Mul", "y y", "p"), node("Log", "y", "l"), node("MatMul", "x t", "z")],
        {"x": (1, 64), "t": (64, 48)},
        {"p": (1, 48), "l": (1, 48), "z": (1, 48)},
        w=weight(64, 48),
    )
    assert products(network) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**31))
def test_rounded_weights_are_within_half_a_step_or_clipped(size: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((size, columns)).astype(np.float32)
    whole, scales = int8_weights(matrix, 1)
    assert whole.dtype == np.int8
    assert scales.shape == (columns,)
    assert np.abs(whole).max() <= 127
    inside = np.abs(matrix) <= 127 * scales
    assert np.all(np.abs(whole * scales - matrix)[inside] <= np.broadcast_to(scales, matrix.shape)[inside] * 0.5001)
    assert float(np.square(whole * scales - matrix).sum()) <= float(
        np.square(np.rint(matrix / (np.abs(matrix).max(0) / 127)) * (np.abs(matrix).max(0) / 127) - matrix).sum()
    ) * (1 + 1e-4)


def test_a_column_of_zeros_has_a_scale_that_fp16_holds() -> None:
    values, scales = int8_weights(np.zeros((4, 3), np.float32), 1)
    assert not values.any()
    assert (scales.astype(np.float16) > 0).all(), "TensorRT refuses a scale of zero"


def test_fitting_makes_up_for_rounding_on_the_inputs_that_are_seen() -> None:
    random = np.random.default_rng(0)
    seen = (random.standard_normal((200, 6)) @ random.standard_normal((6, 64))).astype(np.float32)  # six directions
    network = dense(1)
    values = network.constants["w"]
    plain, scales = int8_weights(values, 1)
    fitted = fitted_weights(values, scales, seen.T @ seen)
    errors = [off(seen @ values, seen @ (whole * scales)) for whole in (plain, fitted)]
    assert errors[1] < errors[0] / 3
    rows = Rows(seen.T @ seen, np.abs(seen).max(0))
    found = fit(network, {"y": "a8"}, {"x": rows})["w"]
    np.testing.assert_array_equal(found.whole, fitted)
    assert found.even is None, "activations in 8 bits would lose what rows of one size gain"
    model = to_quantised(network, {"y": "w8"}, {"x": 3.0}, "gpu", {"w": found})
    stored = next(item for item in model.graph.initializer if item.name == "w__kn")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), fitted)


def test_a_triangle_is_inverted_by_halves() -> None:
    lower = np.tril(np.random.default_rng(0).standard_normal((700, 700))) + 40 * np.eye(700)
    inverse = _inverse(lower)
    np.testing.assert_allclose(inverse @ lower, np.eye(700), atol=1e-12)
    assert not np.triu(inverse, 1).any()


def test_a_matrix_that_two_products_share_counts_once() -> None:
    nodes = [node("Gemm", "x w", "y"), node("Gemm", "u w", "z")]
    network = network_of(nodes, {"x": (1, 64), "u": (1, 64)}, {"y": (1, 48), "z": (1, 48)}, w=weight(64, 48))
    found = products(network)
    assert [item.weights for item in found] == [64 * 48, 64 * 48]
    assert weights_of(found) == 64 * 48


def test_rows_are_brought_to_one_size_so_that_small_ones_keep_their_bits() -> None:
    """Half of the inputs have weights a hundredth as large, and values a hundred times as large."""
    random = np.random.default_rng(0)
    size = np.where(np.arange(64) % 2, 0.01, 1.0)
    network = dense(1)
    network.constants["w"] = (network.constants["w"] * size[:, None]).astype(np.float32)
    network.graph.initializer.remove(next(item for item in network.graph.initializer if item.name == "w"))
    network.graph.initializer.append(onnx.numpy_helper.from_array(network.constants["w"], "w"))
    seen = (random.standard_normal((300, 64)) / size).astype(np.float32)
    rows = Rows((seen.T @ seen).astype(np.float64), np.abs(seen).max(0))
    x = (random.standard_normal((1, 64)) / size).astype(np.float32)
    full = computed(network.model, x=x)
    errors = {}
    for kind in ("w8", "a8"):
        fitted = fit(network, {"y": kind}, {"x": rows})
        how = {"gpu": as_written, "host": computed, "emulated": computed}
        ends = {"x": float(rows.largest.max())}
        found = {form: how[form](to_quantised(network, {"y": "w8"}, ends, form, fitted), x=x) for form in forms()}
        errors[kind] = off(full, found["emulated"])
        assert off(found["emulated"], found["gpu"]) < 1e-3
        assert off(found["emulated"], found["host"]) < (1e-3 if kind == "w8" else 1e-2)
    assert errors["w8"] < errors["a8"] / 5


def test_ranges_leave_out_what_is_rare_where_that_is_asked_for() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(60_000)).astype(np.float32)
    values[0] = 400.0
    ends = range_ends(values, 127.0)
    assert ends["max"] == 400.0
    assert ends["percentile"] < 10.0
    assert all(0.0 < ends[method] <= 400.0 for method in METHODS)
    assert range_ends(np.zeros(10, np.float32), 127.0) == dict.fromkeys(METHODS, 0.0)


def test_a_range_is_judged_at_the_outputs_with_that_tensor_alone() -> None:
    network = dense(24)
    x = np.random.default_rng(3).standard_normal((24, 64)).astype(np.float32)
    ends = {name: range_ends(values, 127.0) for name, values in sample(network, ["x", "r"], [{"x": x}]).items()}
    ends["x"]["percentile"] = 0.5  # which cuts off most of it
    errors = range_errors(network, ends, {"x": 127.0, "r": 127.0}, [{"x": x}])
    assert errors["x"]["percentile"] > 10 * errors["x"]["max"]
    assert errors["r"]["percentile"] < 3 * errors["r"]["max"], "the other tensor's range is its own"
    both = range_errors(network, ends, {"x": 127.0, "r": 127.0}, [{"x": x}], together=2)
    assert both["r"] == both["x"], "tensors that are rounded at once have one error"
    assert both["x"]["max"] > max(errors["x"]["max"], errors["r"]["max"])
    only_x = to_quantised(network, {"y": "a8"}, {"x": ends["x"]["max"]}, "emulated")
    weights_too = off(computed(network.model, x=x), computed(only_x, x=x))
    assert 0.3 * weights_too < errors["x"]["max"] < 1.1 * weights_too
