"""A bundle as a model repository of NVIDIA Triton: one ONNX graph a frame, whose states Triton keeps for each sequence.

A sequence is a talker. Its stages, widened to any number of talkers, and the moves between them become one graph:
Triton's sequence batcher puts the frames of many sequences into one run, and its implicit state hands a sequence's
states from frame to frame. An ensemble of the stages would hand the same tensors through the server at every frame, and
could not keep the order of states and rows. What the host does around a frame stays with the client: it sends the
sound's window, the noise and the controls.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError, OptionError, unknown
from edgetalker.engines.files import reported
from edgetalker.engines.lazy import onnx
from edgetalker.engines.manifest import ROW, Carry, Manifest, Step, Tensor
from edgetalker.engines.verify import traffic
from edgetalker.serve.batched import AXIS, batched_stage
from edgetalker.serve.wide import check_bundle, shared_inputs

__all__ = ["TritonOptions", "export_triton", "frame_model"]


GIVEN = ("audio", "heard", "count", "noise", "control", "input")
"""Roles of the tensors that the client sends with each frame."""
NEXT = "_next"
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
          "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8"}  # fmt: skip


@dataclass(frozen=True)
class TritonOptions:
    """name: of the model (default: the bundle's). schedule: which one (default: the fullest). talkers: frames in one
    run at most. sequences: talkers at a time at most (default: four times that). gpu: run on GPUs. idle: seconds
    without a frame after which Triton forgets a talker."""

    name: str = ""
    schedule: str = ""
    talkers: int = 16
    sequences: int = 0
    gpu: bool = False
    idle: float = 60.0


def export_triton(bundle: Bundle, repository: Path, options: TritonOptions | None = None) -> Path:
    """Write REPOSITORY/NAME whole and return its path.

    Raises OptionError when it is there already or an option does not fit, EngineError for a bundle whose frame is not
    one graph, MissingPackageError without the package onnx, OutputError when it cannot be written.
    """
    options = options or TritonOptions()
    manifest = bundle.manifest
    name, schedule = options.name or manifest.name, options.schedule or manifest.ladder[0]
    if schedule not in manifest.schedules:
        raise unknown("schedule", schedule, manifest.ladder, "the bundle has")
    if not name.isprintable() or "/" in name or name.startswith("."):
        raise OptionError(f"`{name}` is no name of a model")
    target = repository / name
    if target.exists():
        raise OptionError(f"{target} is there already", hint="remove it, or --name another")
    model = frame_model(bundle, schedule)
    with reported(target):
        repository.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=repository, prefix=f".{name}."))
        try:
            draft.chmod(0o755)
            for folder in ("1", "initial_state"):
                (draft / folder).mkdir()
            onnx.save(model, str(draft / "1" / "model.onnx"))
            for state in states(manifest):
                if state.file:
                    (draft / "initial_state" / state.name).write_bytes(bundle.array(state.file).tobytes())
            (draft / "config.pbtxt").write_text(config(bundle, name, schedule, options), encoding="utf-8")
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def used(manifest: Manifest, schedule: str) -> list[Step | Carry]:
    """Return the steps of a schedule's frame."""
    return [step for step in manifest.program if not step.schedules or schedule in step.schedules]


def given(manifest: Manifest, schedule: str) -> list[Tensor]:
    """Return the tensors that the client sends, as the steps of the schedule read them."""
    read = {name for step in used(manifest, schedule) for name in traffic(step)[0]}
    return [tensor for name, tensor in manifest.tensors.items() if tensor.role in GIVEN and name in read]


def states(manifest: Manifest) -> list[Tensor]:
    """Return the tensors that Triton keeps."""
    return [tensor for tensor in manifest.tensors.values() if tensor.role == "state"]


def frame_model(bundle: Bundle, schedule: str) -> Any:
    """Return the ONNX model of a frame: what the client sends and the states in, the motion and the states out.

    Every tensor has its shape of the manifest behind an axis of talkers. Raises EngineError, MissingPackageError.
    """
    manifest = bundle.manifest
    check_bundle(manifest)
    blocks = sorted({step.every for step in manifest.program if step.every > 1})
    if blocks:
        raise EngineError(f"bundle `{manifest.name}` runs stages once in {blocks[-1]} frames; Triton's are all alike")
    graph = _Frame(bundle)
    for step in used(manifest, schedule):
        if isinstance(step, Carry):
            graph.move(step)
        else:
            graph.run(step, schedule)
    return graph.model(given(manifest, schedule))


class _Frame:
    """A graph that grows step by step. Every write makes a new value; `_now` says which one a tensor is."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._manifest = bundle, bundle.manifest
        self._now = {name: name for name, tensor in self._manifest.tensors.items() if tensor.role in (*GIVEN, "state")}
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._opsets: dict[str, int] = {}
        self._stages: dict[str, Any] = {}
        self._count = 0

    def run(self, step: Step, schedule: str) -> None:
        """Add a stage, once for each row of the schedule where it has rows."""
        rows = self._rows(schedule) if step.rows else [None]
        carried: dict[str, str] = {}
        for row in rows:
            inputs = {}
            for name, text in step.inputs.items():
                inputs[name] = carried.get(name) or (self._constant(row) if text == ROW else self._value(text))
            outputs = self._stage(step.stage, inputs)
            carried = {target: outputs[source] for source, target in step.carry.items()}
        for name, text in step.outputs.items():
            self._now[text] = outputs[name]

    def move(self, step: Carry) -> None:
        """Add a move: `copy` is the same value by another name, `shift` appends and drops the oldest rows."""
        source = self._value(step.source)
        if step.kind == "shift":
            source = self._shifted(step, source)
        self._now[step.target] = source

    def _shifted(self, step: Carry, source: str) -> str:
        spec, new = (self._manifest.tensors[name].spec for name in (step.target, step.source))
        rows = int(np.prod(new.shape)) // int(np.prod((spec.shape[0], *spec.shape[2:])))
        shape = self._constant(np.array([0, spec.shape[0], rows, *spec.shape[2:]], np.int64))
        ends = [self._constant(np.array([value], np.int64)) for value in (rows, np.iinfo(np.int64).max, 2)]
        appended = self._add("Reshape", [source, shape])
        kept = self._add("Slice", [self._value(step.target), *ends])
        return self._add("Concat", [kept, appended], axis=2)

    def model(self, inputs: Iterable[Tensor]) -> Any:
        """Return the model with these inputs and the states, and the motion and the next states as outputs."""
        motion = self._manifest.tensors[self._manifest.motion.tensor]
        kept = states(self._manifest)
        self._nodes.append(onnx.helper.make_node("Identity", [self._value(motion.name)], [motion.name]))
        for state in kept:
            self._nodes.append(onnx.helper.make_node("Identity", [self._value(state.name)], [state.name + NEXT]))
        graph = onnx.helper.make_graph(
            self._nodes,
            self._manifest.name,
            [_described(tensor.name, tensor.spec) for tensor in (*inputs, *kept)],
            [_described(motion.name, motion.spec), *(_described(state.name + NEXT, state.spec) for state in kept)],
            list(self._weights.values()),
        )
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="edgetalker")
        model.ir_version = max(stage.ir_version for stage in self._stages.values())
        onnx.checker.check_model(model)
        return model

    def _value(self, text: str) -> str:
        if text not in self._now:
            tensor = self._manifest.tensors[text]
            if tensor.role != "constant":
                raise EngineError(f"`{text}` is read before anything writes it")
            self._now[text] = self._constant(self._bundle.array(tensor.file))
        return self._now[text]

    def _rows(self, schedule: str) -> Iterable[Any]:
        table = self._bundle.array(self._manifest.schedules[schedule].file)
        return [row[None] for row in table]

    def _constant(self, values: Any) -> str:
        self._count += 1
        name = f"edgetalker/{self._count}"
        self._weights[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        self._count += 1
        output = f"edgetalker/{self._count}"
        self._nodes.append(onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _stage(self, stage: str, inputs: Mapping[str, str]) -> dict[str, str]:
        """Add one run of a stage and return what its outputs are called. Its weights are there once."""
        graph = self._loaded(stage).graph
        self._count += 1
        names = {**{item.name: f"{stage}/{item.name}" for item in graph.initializer}, **inputs, "": ""}
        for node in graph.node:
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise EngineError(f"stage `{stage}` has a graph within its graph ({node.op_type})")
            names.update({name: f"{stage}/{self._count}/{name}" for name in node.output if name})
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{stage}/{self._count}/{node.name}" if node.name else ""
            copy.input[:] = [names[name] for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            self._nodes.append(copy)
        return {item.name: names[item.name] for item in graph.output}

    def _loaded(self, stage: str) -> Any:
        if stage not in self._stages:
            described = self._manifest.stages[stage]
            mapped = described.inputs.keys() - shared_inputs(self._manifest, stage)
            model = onnx.load_from_string(batched_stage(self._bundle.path / described.file, mapped))
            for opset in model.opset_import:
                if self._opsets.setdefault(opset.domain, opset.version) != opset.version:
                    raise EngineError(f"the stages are of different ONNX versions ({opset.version})")
            read = {name for node in model.graph.node for name in node.input}
            for item in (item for item in model.graph.initializer if item.name in read):
                name = f"{stage}/{item.name}"
                self._weights[name] = onnx.TensorProto()
                self._weights[name].CopyFrom(item)
                self._weights[name].name = name
            self._stages[stage] = model
        return self._stages[stage]


def _described(name: str, spec: TensorSpec) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, [AXIS, *spec.shape])


def config(bundle: Bundle, name: str, schedule: str, options: TritonOptions) -> str:
    """Return the text of config.pbtxt."""
    manifest = bundle.manifest
    audio, motion = manifest.audio, manifest.motion
    inputs = ",\n".join(f"  {{ {_tensor(tensor.name, tensor.spec)} }}" for tensor in given(manifest, schedule))
    told = {
        "names": ",".join(motion.names),
        "units": motion.units,
        "fps": str(motion.fps),
        "rate": str(audio.rate),
        "window": str(audio.window),
        "lookahead": str(audio.lookahead),
        "delay": str(motion.delay),
        "schedule": schedule,
        "bundle": bundle.digest,
        "defaults": json.dumps({t.name: list(t.default) for t in given(manifest, schedule) if t.role == "control"}),
    }
    parameters = "\n".join(
        f"parameters {{ key: {json.dumps(key, ensure_ascii=False)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in told.items()
    )
    return f"""name: {json.dumps(name, ensure_ascii=False)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {options.talkers}
input [
{inputs}
]
output [
  {{ {_tensor(motion.tensor, manifest.tensors[motion.tensor].spec)} }}
]
sequence_batching {{
  max_sequence_idle_microseconds: {int(options.idle * 1e6)}
  oldest {{ max_candidate_sequences: {options.sequences or 4 * options.talkers} }}
  state [
{",".join(_state(state) for state in states(manifest))}
  ]
}}
instance_group [ {{ count: 1 kind: {"KIND_GPU" if options.gpu else "KIND_CPU"} }} ]
{parameters}
"""


def _tensor(name: str, spec: TensorSpec) -> str:
    return f"name: {json.dumps(name, ensure_ascii=False)} {_form(spec)}"


def _form(spec: TensorSpec) -> str:
    return f"data_type: {_TYPES[spec.dtype]} dims: [ {', '.join(map(str, spec.shape))} ]"


def _state(state: Tensor) -> str:
    content = f"data_file: {json.dumps(state.name)}" if state.file else "zero_data: true"
    return f"""
    {{
      input_name: {json.dumps(state.name)} output_name: {json.dumps(state.name + NEXT)} {_form(state.spec)}
      initial_state {{ name: {json.dumps(state.name)} {_form(state.spec)} {content} }}
    }}"""
