"""A toy bundle with every kind of tensor, step and carry, small enough to compute by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.engine import Array

RATE, WINDOW, SIZE, HISTORY, BLOCK = 16000, 1600, 4, 3, 2


def network(
    nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], weights: dict[str, Array]
) -> bytes:
    """Return a float32 ONNX model of opset 20."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def stages() -> dict[str, bytes]:
    """Return the toy's networks.

    audio: block of BLOCK feature rows (mean of the window times row + 1, plus heard). blend: cond = feature +
    count + mean of history rows + settings. denoise: x_next = 0.5 x + a * cond. decode: motion = x + memory.
    """
    node = helper.make_node
    scale = np.arange(1, BLOCK + 1, dtype=np.float32).reshape(BLOCK, 1) * np.ones((1, SIZE), np.float32)
    axis = np.array([1], np.int64)
    return {
        "audio.onnx": network(
            [
                node("ReduceMean", ["wav", "axis"], ["mean"]),
                node("Add", ["mean", "heard"], ["sum"]),
                node("Mul", ["sum", "scale"], ["features"]),
            ],
            {"wav": (1, WINDOW), "heard": (1,)},
            {"features": (BLOCK, SIZE)},
            {"scale": scale, "axis": axis},
        ),
        "blend.onnx": network(
            [
                node("ReduceMean", ["history", "axis"], ["past"], keepdims=0),
                node("Add", ["feature", "past"], ["a"]),
                node("Add", ["a", "count"], ["b"]),
                node("Add", ["b", "setting"], ["cond"]),
            ],
            {"feature": (1, SIZE), "history": (1, HISTORY, SIZE), "count": (1,), "setting": (1, SIZE)},
            {"cond": (1, SIZE)},
            {"axis": axis},
        ),
        "denoise.onnx": network(
            [
                node("Mul", ["x", "half"], ["damped"]),
                node("Slice", ["row", "zero", "one", "last"], ["a"]),
                node("Mul", ["cond", "a"], ["pull"]),
                node("Add", ["damped", "pull"], ["x_next"]),
            ],
            {"x": (1, SIZE), "cond": (1, SIZE), "row": (1, 2)},
            {"x_next": (1, SIZE)},
            {
                "half": np.array([0.5], np.float32),
                "zero": np.array([0], np.int64),
                "one": np.array([1], np.int64),
                "last": np.array([1], np.int64),
            },
        ),
        "decode.onnx": network(
            [node("Add", ["x", "memory"], ["motion"]), node("Mul", ["motion", "keep"], ["memory_next"])],
            {"x": (1, SIZE), "memory": (1, SIZE)},
            {"motion": (1, SIZE), "memory_next": (1, SIZE)},
            {"keep": np.array([0.25], np.float32)},
        ),
    }


def spec(*shape: int) -> dict[str, Any]:
    """Return a float32 tensor description."""
    return {"dtype": "float32", "shape": list(shape)}


def description() -> dict[str, Any]:
    """Return the toy's manifest without format, version and digests."""
    return {
        "name": "toy",
        "family": "toy",
        "origin": "made by a test",
        "audio": {"rate": RATE, "window": WINDOW, "lookahead": 160, "block": BLOCK},
        "motion": {"tensor": "motion", "kind": "other", "fps": "30"},
        "tensors": {
            "wav": {"role": "audio", **spec(1, WINDOW)},
            "heard": {"role": "heard", **spec(1)},
            "count": {"role": "count", "limit": 5, **spec(1)},
            "noise": {"role": "noise", **spec(1, SIZE)},
            "setting": {
                "role": "control",
                **spec(1, SIZE),
                "names": ["north", "east", "south", "west"],
                "default": [0.0, 0.0, 0.0, 0.5],
                "low": [0.0] * SIZE,
                "high": [1.0] * SIZE,
                "glide": 0.1,
            },
            "features": {"role": "value", **spec(BLOCK, SIZE)},
            "history": {"role": "state", "file": "history.npy", **spec(1, HISTORY, SIZE)},
            "cond": {"role": "value", **spec(1, SIZE)},
            "x": {"role": "value", **spec(1, SIZE)},
            "memory": {"role": "state", **spec(1, SIZE)},
            "memory_next": {"role": "value", **spec(1, SIZE)},
            "motion": {"role": "value", **spec(1, SIZE)},
        },
        "stages": {
            "audio": {
                "file": "audio.onnx",
                "inputs": {"wav": spec(1, WINDOW), "heard": spec(1)},
                "outputs": {"features": spec(BLOCK, SIZE)},
            },
            "blend": {
                "file": "blend.onnx",
                "inputs": {
                    "feature": spec(1, SIZE),
                    "history": spec(1, HISTORY, SIZE),
                    "count": spec(1),
                    "setting": spec(1, SIZE),
                },
                "outputs": {"cond": spec(1, SIZE)},
            },
            "denoise": {
                "file": "denoise.onnx",
                "inputs": {"x": spec(1, SIZE), "cond": spec(1, SIZE), "row": spec(1, 2)},
                "outputs": {"x_next": spec(1, SIZE)},
            },
            "decode": {
                "file": "decode.onnx",
                "inputs": {"x": spec(1, SIZE), "memory": spec(1, SIZE)},
                "outputs": {"motion": spec(1, SIZE), "memory_next": spec(1, SIZE)},
            },
        },
        "program": [
            {
                "stage": "audio",
                "inputs": {"wav": "wav", "heard": "heard"},
                "outputs": {"features": "features"},
                "every": BLOCK,
            },
            {
                "stage": "blend",
                "inputs": {"feature": "features[phase]", "history": "history", "count": "count", "setting": "setting"},
                "outputs": {"cond": "cond"},
            },
            {
                "stage": "denoise",
                "rows": True,
                "inputs": {"x": "noise", "cond": "cond", "row": "@row"},
                "outputs": {"x_next": "x"},
                "carry": {"x_next": "x"},
            },
            {"carry": "shift", "from": "x", "to": "history"},
            {
                "stage": "decode",
                "inputs": {"x": "x", "memory": "memory"},
                "outputs": {"motion": "motion", "memory_next": "memory_next"},
            },
            {"carry": "copy", "from": "memory_next", "to": "memory"},
        ],
        "schedules": {"full": {"rank": 0, "file": "full.npy"}, "one": {"rank": 1, "file": "one.npy"}},
        "skipped": "repeat",
    }


def tables() -> dict[str, Array]:
    """Return the toy's arrays: five rows for `full`, one for `one`, the history's start."""
    rows = np.linspace(0.1, 0.5, 10, dtype=np.float32).reshape(5, 2)
    return {"full.npy": rows, "one.npy": rows[:1], "history.npy": np.ones((1, HISTORY, SIZE), np.float32)}


def toy_bundle(path: Path, **changes: Any) -> Bundle:
    """Write the toy bundle; `changes` replace top-level keys of its manifest."""
    return pack(path, {**description(), **changes}, {**stages(), **tables()})
