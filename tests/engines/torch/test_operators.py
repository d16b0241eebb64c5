"""Each operator against ONNX Runtime on random values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetalker.engines.errors import EngineError
from edgetalker.engines.torch import OnnxModule
from edgetalker.engines.torch.graph import OPERATORS

ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

F, I64 = np.float32, np.int64
RNG = np.random.default_rng(11)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F)


def positive(*shape: int) -> np.ndarray:
    values: np.ndarray = np.abs(real(*shape)) + F(0.1)
    return values


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


X = real(2, 3, 4)
# operator, inputs that are fed, constants (in their places after the inputs), attributes, number of outputs
CASES: list[tuple[str, list[Any], list[Any], dict[str, Any], int]] = [
    *[(kind, [X], [], {}, 1) for kind in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Relu", "Round")],
    *[(kind, [X], [], {}, 1) for kind in ("Sigmoid", "Sign", "Sin", "Tanh", "Softplus", "Identity", "Elu")],
    *[(kind, [positive(2, 3)], [], {}, 1) for kind in ("Log", "Reciprocal", "Sqrt")],
    *[(kind, [X, real(3, 1)], [], {}, 1) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")],
    ("Div", [ints(7, -7, 9)], [ints(2, 2, -4)], {}, 1),
    ("Pow", [positive(2, 3)], [np.array(1.5, F)], {}, 1),
    ("Mod", [ints(7, -7, 9)], [ints(3, 3, 4)], {}, 1),
    ("Mod", [X], [np.array(0.7, F)], {"fmod": 1}, 1),
    *[(kind, [X, X.copy()[:, ::-1].copy()], [], {}, 1) for kind in ("Equal", "Greater", "GreaterOrEqual", "Less")],
    ("LessOrEqual", [X, real(2, 3, 4)], [], {}, 1),
    *[(kind, [X > 0, real(2, 3, 4) > 0], [], {}, 1) for kind in ("And", "Or")],
    ("Not", [X > 0], [], {}, 1),
    ("Where", [X > 0, X, real(2, 3, 4)], [], {}, 1),
    ("Clip", [X], [np.array(-0.5, F), np.array(0.5, F)], {}, 1),
    ("Clip", [X], [np.array(-0.5, F)], {}, 1),
    ("LeakyRelu", [X], [], {"alpha": 0.2}, 1),
    ("Gelu", [X], [], {}, 1),
    ("Gelu", [X], [], {"approximate": "tanh"}, 1),
    ("HardSigmoid", [X], [], {}, 1),
    ("Cast", [X], [], {"to": TensorProto.INT64}, 1),
    ("CastLike", [X], [ints(1)], {}, 1),
    ("ReduceMean", [X], [ints(-1)], {}, 1),
    ("ReduceMean", [X], [], {"keepdims": 0}, 1),
    ("ReduceSum", [X], [ints(0, 2)], {"keepdims": 0}, 1),
    ("ReduceSum", [X], [], {"noop_with_empty_axes": 1}, 1),
    ("ReduceMax", [X], [ints(1)], {}, 1),
    ("ReduceMin", [X], [ints(1)], {}, 1),
    ("ReduceL2", [X], [ints(1)], {}, 1),
    ("ReduceSumSquare", [X], [ints(1)], {}, 1),
    ("ArgMax", [X], [], {"axis": 1}, 1),
    ("ArgMin", [X], [], {"axis": -1, "keepdims": 0}, 1),
    ("CumSum", [X], [np.array(1, I64)], {}, 1),
    ("Reshape", [X], [ints(0, -1)], {}, 1),
    ("Flatten", [X], [], {"axis": 2}, 1),
    ("Transpose", [X], [], {"perm": [2, 0, 1]}, 1),
    ("Transpose", [X], [], {}, 1),
    ("Unsqueeze", [X], [ints(0, -1)], {}, 1),
    ("Squeeze", [real(1, 3, 1)], [ints(0)], {}, 1),
    ("Squeeze", [real(1, 3, 1)], [], {}, 1),
    ("Concat", [X, real(2, 1, 4)], [], {"axis": 1}, 1),
    ("Split", [X], [ints(1, 2)], {"axis": 1}, 2),
    ("Split", [X], [], {"axis": 2, "num_outputs": 2}, 2),
    ("Slice", [X], [ints(1), ints(2**63 - 1), ints(-1)], {}, 1),
    ("Slice", [X], [ints(-1, 0), ints(-(2**62), 3), ints(2, 1), ints(-2, 1)], {}, 1),
    ("Gather", [X], [np.array(-1, I64)], {"axis": 1}, 1),
    ("Gather", [X], [np.array([[0, -1], [1, 1]], I64)], {"axis": 2}, 1),
    ("GatherElements", [X], [np.array([[[0, -1, 2, 1]]], I64).repeat(2, 0)], {"axis": 1}, 1),
    ("Expand", [real(3, 1)], [ints(2, 1, 4)], {}, 1),
    ("Tile", [X], [ints(1, 2, 3)], {}, 1),
    ("Pad", [X], [ints(0, 1, 0, 0, 0, 2), np.array(0.5, F)], {}, 1),
    ("Pad", [X], [ints(0, 0, 1, 0, 0, 2)], {"mode": "edge"}, 1),
    ("Pad", [X], [ints(0, 0, 1, 0, 0, 2)], {"mode": "reflect"}, 1),
    ("Pad", [X], [ints(1, 1), np.array(0, F), ints(1)], {}, 1),
    ("ScatterND", [X], [np.array([[0, 1], [1, 2]], I64), real(2, 4)], {}, 1),
    ("Trilu", [real(4, 4)], [], {}, 1),
    ("Trilu", [real(4, 4)], [np.array(-1, I64)], {"upper": 0}, 1),
    ("MatMul", [X, real(4, 5)], [], {}, 1),
    ("Gemm", [real(2, 3)], [real(3, 4), real(4)], {}, 1),
    ("Gemm", [real(3, 2)], [real(4, 3), real(2, 4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
    ("Gemm", [real(2, 3)], [real(3, 4)], {"alpha": 0.5}, 1),
    ("Conv", [real(1, 4, 9)], [real(6, 2, 3), real(6)], {"pads": [2, 1], "strides": [2], "group": 2}, 1),
    ("Conv", [real(1, 2, 5, 6)], [real(3, 2, 3, 3)], {"pads": [1, 1, 1, 1]}, 1),
    ("ConvTranspose", [real(1, 4, 5)], [real(4, 3, 4), real(3)], {"strides": [2], "pads": [1, 1]}, 1),
    ("LayerNormalization", [X], [real(4), real(4)], {"epsilon": 1e-5}, 1),
    ("LayerNormalization", [X], [real(3, 4)], {"axis": 1}, 1),
    ("RMSNormalization", [X], [real(4)], {}, 1),
    ("InstanceNormalization", [real(2, 3, 5)], [real(3), real(3)], {}, 1),
    ("GroupNormalization", [real(2, 4, 5)], [real(4), real(4)], {"num_groups": 2}, 1),
    ("BatchNormalization", [real(2, 3, 5)], [real(3), real(3), real(3), positive(3)], {}, 1),
    ("Softmax", [X], [], {"axis": 1}, 1),
    ("LogSoftmax", [X], [], {}, 1),
    ("GRU", [real(5, 1, 3)], [real(1, 12, 3), real(1, 12, 4), real(1, 24)], {"hidden_size": 4}, 2),
    (
        "GRU",
        [real(5, 2, 3)],
        [real(1, 12, 3), real(1, 12, 4), real(1, 24), None, real(1, 2, 4)],
        {"hidden_size": 4, "linear_before_reset": 1},
        2,
    ),
    ("LSTM", [real(5, 2, 3)], [real(1, 16, 3), real(1, 16, 4), real(1, 32)], {"hidden_size": 4}, 3),
    ("Attention", [real(1, 2, 5, 8), real(1, 2, 6, 8), real(1, 2, 6, 8)], [real(5, 6)], {}, 1),
    ("Attention", [real(1, 4, 5, 8), real(1, 2, 5, 8), real(1, 2, 5, 8)], [], {"is_causal": 1}, 1),
]
OPSET_23 = {"Attention", "RMSNormalization", "GroupNormalization"}


def build(kind: str, fed: list[Any], fixed: list[Any], attributes: dict[str, Any], outputs: int) -> onnx.ModelProto:
    names = [f"in{place}" for place in range(len(fed))]
    constants = [f"fixed{place}" if value is not None else "" for place, value in enumerate(fixed)]
    results = [f"out{place}" for place in range(outputs)]
    node = helper.make_node(kind, names + constants, results, name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, fed, strict=True)
        ],
        [
            # shape inference expands no functions, and GroupNormalization is one
            helper.make_tensor_value_info(name, TensorProto.FLOAT, fed[0].shape)
            if kind == "GroupNormalization"
            else helper.make_empty_tensor_value_info(name)
            for name in results
        ],
        [
            numpy_helper.from_array(value, name)
            for name, value in zip(constants, fixed, strict=True)
            if value is not None
        ],
    )
    opset = 23 if kind in OPSET_23 else 20
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def run_here(path: Path, fed: list[np.ndarray]) -> list[np.ndarray]:
    module = OnnxModule(path)
    inputs = {f"in{place}": torch.from_numpy(value.copy()) for place, value in enumerate(fed)}
    outputs = {
        name: torch.full(spec.shape, 77, dtype=getattr(torch, spec.dtype)) for name, spec in module.outputs.items()
    }
    with torch.inference_mode():
        module(inputs, outputs)
    return [value.numpy() for value in outputs.values()]


@pytest.mark.parametrize(
    ("kind", "fed", "fixed", "attributes", "outputs"),
    CASES,
    ids=[f"{place}-{case[0]}" for place, case in enumerate(CASES)],
)
def test_operator(
    tmp_path: Path, kind: str, fed: list[Any], fixed: list[Any], attributes: dict[str, Any], outputs: int
) -> None:
    path = tmp_path / "one.onnx"
    model = build(kind, fed, fixed, attributes, outputs)
    onnx.save(model, str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {f"in{place}": value for place, value in enumerate(fed)})
    for here, there in zip(run_here(path, fed), wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    computed_at_load = {"ConstantOfShape", "Range"}
    assert {case[0] for case in CASES} | computed_at_load == set(OPERATORS)


def save(path: Path, nodes: list[Any], outputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def test_shapes_are_computed_once_at_load(tmp_path: Path) -> None:
    node = helper.make_node
    path = save(
        tmp_path / "g.onnx",
        [
            node("Shape", ["x"], ["shape"], start=1),
            node("Constant", [], ["two"], value_ints=[2]),
            node("Concat", ["two", "shape"], ["wanted"], axis=0),
            node("ConstantOfShape", ["wanted"], ["ones"], value=numpy_helper.from_array(np.ones(1, F))),
            node("Range", ["zero", "three", "one"], ["ramp"]),
            node("Mul", ["ones", "ramp"], ["scale"]),
            node("Mul", ["x", "scale"], ["y"]),
        ],
        {"y": (2, 3)},
        {"zero": np.array(0, F), "three": np.array(3, F), "one": np.array(1, F)},
    )
    module = OnnxModule(path)
    assert [step.node.kind for step in module._steps] == ["Mul"]
    x = real(2, 3)
    y = torch.empty(2, 3)
    module({"x": torch.from_numpy(x)}, {"y": y})
    np.testing.assert_allclose(y.numpy(), x * [0, 1, 2], rtol=1e-6)


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "g.onnx", [helper.make_node("Det", ["x"], ["y"])], {"y": ()}, {})
    with pytest.raises(EngineError, match=r"uses Det.*does not know"):
        OnnxModule(path)


def test_a_shape_that_is_computed_while_running_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Gather", ["sizes", "zero"], ["row"], axis=0),
        helper.make_node("Tile", ["x", "row"], ["y"]),
    ]
    path = save(tmp_path / "g.onnx", nodes, {"y": (2, 3)}, {"zero": np.array(0, I64)})
    with pytest.raises(EngineError, match="`row` must be a constant"):
        OnnxModule(path)


def test_an_output_that_is_an_input_is_copied(tmp_path: Path) -> None:
    path = save(tmp_path / "g.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"y": (2, 3)}, {})
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    OnnxModule(path)({"x": x}, {"y": y})
    assert (y == 1).all()
