"""Turns one PyTorch module into one checked ONNX file with fixed shapes."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.engines.errors import UserError
from edgetalker.engines.lazy import packages_for
from edgetalker.engines.ort import open_session

__all__ = ["OPSET", "Check", "ExportError", "StageFile", "compare", "export_stage", "runner"]

OPSET = 20
"""The newest operator set that TensorRT 10.3 (JetPack 6) parses."""

_SINGLE_FILE_LIMIT = 1_900_000_000  # a protobuf message ends at 2 GiB
_TYPES = {torch.float32: "float32", torch.int64: "int64"}
_KEPT_METADATA = "namespace"

Arrays = Mapping[str, NDArray[Any]]


class ExportError(UserError):
    """A stage that could not be exported, or whose ONNX file does not compute what PyTorch computes."""

    exit_code = 70


@dataclass(frozen=True)
class StageFile:
    """One exported stage: the ONNX bytes and its border as the manifest writes it."""

    name: str
    content: bytes
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    nodes: int


@dataclass(frozen=True)
class Check:
    """How far one stage is from PyTorch: the largest absolute error over all cases, and what was allowed."""

    stage: str
    error: float
    allowed: float
    cases: int

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"{self.stage:<10} max |error| {self.error:.2e} of {self.allowed:.1e}, {self.cases} cases: {verdict}"


def export_stage(name: str, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> StageFile:
    """Export a module whose forward takes `inputs` in order and returns a tensor, or a tuple in `outputs`' order.

    Shapes are fixed to the inputs'. The file passes `onnx.checker` and strict shape inference, and holds neither
    stack traces nor paths.

    Raises:
        ExportError: the exporter, the checker or shape inference refuses the module, or the file would be too big.
        MissingPackageError: onnx or onnxscript is not installed.
    """
    model = _exported(name, module, inputs, outputs)
    _strip(model)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > _SINGLE_FILE_LIMIT:
        raise ExportError(f"stage `{name}` has {size / 1e9:.1f} GB of weights; one ONNX file holds 1.9 GB")
    content = model.SerializeToString(deterministic=True)  # once: it takes seconds a gigabyte
    _check(name, content)
    with torch.no_grad():
        values = module(*inputs.values())
    results = dict(zip(outputs, values if isinstance(values, tuple) else (values,), strict=True))
    return StageFile(
        name,
        content,
        {key: _border(value) for key, value in inputs.items()},
        {key: _border(value) for key, value in results.items()},
        len(model.graph.node),
    )


def _exported(name: str, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
    with packages_for("exporting a model", extra="export"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    try:
        with _quiet(), _one_registry(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors share no base class but Exception
        raise ExportError(f"stage `{name}` cannot be exported: {_first_line(error)}") from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation notes about its own insides from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """Let all exports of a process share PyTorch's table of operators.

    `torch.onnx.export` makes it anew each time, by parsing the source of 500 functions, which takes longer than the
    rest of a small stage. Only inside of this: a table that someone else adds operators to is not ours. Where PyTorch
    keeps it elsewhere, it is made each time.
    """
    try:
        registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        make = registry.__dict__["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def shared(*words: Any, **options: Any) -> Any:
        key = (words, *sorted(options.items()))
        if key not in _registries:
            _registries[key] = make.__get__(None, registry)(*words, **options)
        return _registries[key]

    registry.from_torchlib = staticmethod(shared)
    try:
        yield
    finally:
        registry.from_torchlib = make


_registries: dict[Any, Any] = {}


def _strip(model: Any) -> None:
    """Drop what the exporter notes about the source: stack traces hold paths of the exporting machine."""
    for node in model.graph.node:
        kept = [(item.key, item.value) for item in node.metadata_props if item.key == _KEPT_METADATA]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
        node.doc_string = ""
    for holder in (model, model.graph, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]


def _check(name: str, content: bytes) -> None:
    import onnx

    try:
        onnx.checker.check_model(content)  # its full check would be an inference like the next one, but less strict
        onnx.shape_inference.infer_shapes(content, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # checker and inference raise two unrelated types
        raise ExportError(f"stage `{name}`: the exported file is not valid ONNX: {_first_line(error)}") from error


def _border(value: Tensor) -> dict[str, Any]:
    return {"dtype": _TYPES[value.dtype], "shape": list(value.shape)}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def runner(stage: StageFile) -> Any:
    """Return a function from arrays by name to arrays by name that runs the stage in ONNX Runtime on the CPU."""
    session = open_session(stage.content, max(1, min(4, os.cpu_count() or 1)))
    names = list(stage.outputs)

    def run(values: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(values)), strict=True))

    return run


def compare(name: str, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], tolerance: float) -> Check:
    """Compare what ONNX Runtime gave with what PyTorch gave, case by case.

    The allowed error is `tolerance` times the larger of 1 and the largest expected magnitude. NaN fails.
    """
    scale = max(1.0, *(float(np.abs(expected).max()) for _, expected in pairs))
    # nan in any case must survive the maximum, so that it fails the check
    error = float(np.max([np.abs(found.reshape(expected.shape) - expected).max() for found, expected in pairs]))
    return Check(name, error, tolerance * scale, len(pairs))
