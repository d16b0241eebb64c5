"""Weights stored in half the bytes: float16 initializers that are cast to float32 when the stage is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edgetalker.export.onnx_stage import StageFile

__all__ = ["halve", "round_weights"]

_LEAST = 512  # values; smaller tensors are not worth a cast


def round_weights(module: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """Round a module's large tensors to what float16 can hold, in place, so that `halve` loses nothing.

    keep: names of tensors that stay as they are, and that `halve` then leaves alone.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.numel() >= _LEAST and name not in keep:
            with torch.no_grad():
                tensor.copy_(tensor.half().float())
    return module


def halve(stage: StageFile) -> StageFile:
    """Return the stage with each large float32 initializer that float16 holds exactly stored as float16 and cast.

    ONNX Runtime and TensorRT fold the casts while they load, so that a frame costs the same.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(stage.content)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT, name=f"{name}.cast"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return replace(stage, content=model.SerializeToString(deterministic=True), nodes=len(nodes))
