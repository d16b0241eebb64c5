"""The time of each layer of each stage, from the engine's own profiler, in runs of their own.

TensorRT: its profiler on a graph that is captured for it, since events between layers cost time. ONNX Runtime: its
profiler. PyTorch: marks between the ONNX operators, enqueued one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgetalker.engines.engine import DTYPES, Device, TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.runtime.session import Session

__all__ = ["Layers", "layers_of"]

Layers = Sequence[tuple[str, float]]
"""(name, ns) in the order in which they run."""

_RUNS = 20


def layers_of(session: Session, precision: str) -> Mapping[str, Layers]:
    """Return the layers of every stage. Raises EngineError for an engine that has no profiler here."""
    return {name: _profiler_of(engine)(session, name, precision) for name, engine in session.engines.items()}


def _profiler_of(engine: Any) -> Callable[[Session, str, str], Layers]:
    known = {"OrtEngine": _with_ort, "TorchEngine": _with_torch, "TensorRTEngine": _with_tensorrt}
    kind = type(engine).__name__
    if kind not in known:
        raise EngineError(f"{kind} has no profiler of layers")
    return known[kind]


def _with_ort(session: Session, stage: str, precision: str) -> Layers:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = 1
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / stage)
        network = ort.InferenceSession(
            str(session.bundle.onnx(stage, precision)), options, providers=["CPUExecutionProvider"]
        )
        inputs = _random(session.manifest.stages[stage].inputs)
        for _ in range(_RUNS):
            network.run(None, inputs)
        events = json.loads(Path(network.end_profiling()).read_text())
    return _medians((event["name"].removesuffix("_kernel_time"), event["dur"] * 1e3) for event in _kernels(events))


def _kernels(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def _random(specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {name: (0.1 * random.standard_normal(spec.shape)).astype(DTYPES[spec.dtype]) for name, spec in specs.items()}


def _medians(pairs: Any) -> Layers:
    times: dict[str, list[float]] = {}
    for name, ns in pairs:
        times.setdefault(name, []).append(ns)
    return [(name, float(np.median(values))) for name, values in times.items()]


def _with_torch(session: Session, stage: str, precision: str) -> Layers:
    from edgetalker.engines.onnxtorch import OnnxModule
    from edgetalker.engines.torch import TorchPool

    device = session.device
    pool = TorchPool(device)
    module = OnnxModule(session.bundle.onnx(stage, precision), pool.where)
    specs = {**module.inputs, **module.outputs}
    tensors = {name: pool.tensor(device.allocate(f"layers {name}", spec)) for name, spec in specs.items()}
    names = module.steps()
    marks = [device.mark(f"layer {place}") for place in range(len(names) + 1)]
    found = []
    for _ in range(_RUNS):
        with pool.entered():
            device.record(marks[0])
            places = iter(marks[1:])
            module(
                {name: tensors[name] for name in module.inputs},
                {name: tensors[name] for name in module.outputs},
                after=lambda places=places: device.record(next(places)),  # type: ignore[misc]
            )
        device.synchronize()
        found += [(name, device.elapsed(*marks[place : place + 2])) for place, name in enumerate(names)]
    return _medians(found)


def _with_tensorrt(session: Session, stage: str, precision: str) -> Layers:
    """A context of its own, with the profiler attached before the capture; reported after each launch."""
    engine: Any = session.engines[stage]
    device = session.device
    binding = engine.bind(_buffers(device, {**engine.inputs, **engine.outputs}))
    context, profiler = binding._context, _tensorrt_profiler(engine)
    context.profiler = profiler
    context.enqueue_emits_profile = False
    graph = device.capture(f"layers of {stage}", lambda: binding.enqueue(device))
    for _ in range(_RUNS):
        device.launch(graph)
        device.synchronize()
        if not context.report_to_profiler():
            raise EngineError(f"stage `{stage}`: TensorRT reports no layers of a captured graph")
    return _medians(profiler.found)


def _buffers(device: Device, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {name: device.allocate(f"layers {name}", spec) for name, spec in specs.items()}


def _tensorrt_profiler(engine: Any) -> Any:
    base: Any = engine._api.module.IProfiler

    class Profiler(base):  # type: ignore[misc]
        """Keeps what TensorRT reports, in ns."""

        def __init__(self) -> None:
            base.__init__(self)
            self.found: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer."""
            self.found.append((layer_name, ms * 1e6))

    return Profiler()
