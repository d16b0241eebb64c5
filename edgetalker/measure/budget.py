"""Says before anything is bought whether a device should hold a bundle's deadline. A prediction, never a figure.

A stage takes the longer of moving its weights and computing, and a fixed cost for each of its kernels:

    time = factor * max(bytes / bandwidth, operations / rate) + kernels * launch

For `cpu` all of it is measured on this machine in the same run, in ONNX Runtime: bandwidth at the bundle's own size,
since what fits into a cache is read faster, and the factor by playing the talker that ships. For other devices
bandwidth, rates and memory are the vendor's public figures, dense, and factor and launch cost are this file's
assumptions, which the report prints.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.engines.manifest import Step
from edgetalker.engines.ort import open_session
from edgetalker.measure.bench import made_up_sound
from edgetalker.measure.floor import StageCost, stage_cost
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.talker import Talker

__all__ = ["DEVICES", "Budget", "DeviceFacts", "StageBudget", "budget", "device_facts", "this_cpu"]

_FACTOR = 2.0
_FRAMES = 40
_DATA_SHEET = "NVIDIA's data sheet or architecture paper, dense rates; not measured here"


@dataclass(frozen=True)
class DeviceFacts:
    """bytes_per_s, operations_per_s (precision -> rate, 2 for each multiply-add), memory in bytes, launch_ns: of one
    kernel in a captured graph. factor: how much longer than the larger floor a stage is taken to need."""

    name: str
    bytes_per_s: float
    operations_per_s: Mapping[str, float]
    memory: int
    launch_ns: float
    factor: float
    source: str

    def rate(self, precision: str) -> float:
        """Return the rate of a precision, or of the next wider one that the device has."""
        wider = {"fp8": ("fp8", "int8", "fp16", "fp32"), "int8": ("int8", "fp16", "fp32"), "w8": ("fp16", "fp32")}
        known = self.operations_per_s
        return next(known[name] for name in wider.get(precision, (precision, "fp32")) if name in known)


def _gpu(
    name: str,
    gbytes: float,
    memory: int,
    fp32: float,
    fp16: float,
    int8: float,
    fp8: float | None = None,
    *,
    launch_us: float = 2.5,
) -> DeviceFacts:
    rates = {"fp32": fp32 * 1e12, "fp16": fp16 * 1e12, "int8": int8 * 1e12}
    rates |= {"fp8": fp8 * 1e12} if fp8 else {}
    return DeviceFacts(name, gbytes * 1e9, rates, memory << 30, launch_us * 1e3, _FACTOR, _DATA_SHEET)


DEVICES: Mapping[str, DeviceFacts] = {
    facts.name: facts
    for facts in (
        _gpu("orin-nano", 68, 8, 1.28, 10, 20, launch_us=5.0),
        _gpu("orin-nano-super", 102, 8, 2.09, 17, 33, launch_us=5.0),
        _gpu("orin-nx", 102, 16, 1.88, 15, 30, launch_us=5.0),
        _gpu("agx-orin", 205, 64, 5.3, 42, 85, launch_us=5.0),
        _gpu("thor", 273, 128, 8.1, 259, 517, 517, launch_us=4.0),
        _gpu("t4", 320, 16, 8.1, 65, 130),
        _gpu("rtx3060", 360, 12, 12.7, 51, 102),
        _gpu("rtx4060", 272, 8, 15.1, 60, 121, 121),
        _gpu("rtx4090", 1008, 24, 82.6, 165, 661, 330),
        _gpu("rtx5090", 1792, 32, 104.8, 209, 838, 419),
        _gpu("h100", 3350, 80, 67, 989, 1979, 1979),
        _gpu("h200", 4800, 141, 67, 989, 1979, 1979),
    )
}
"""Devices by name. Memory of a Jetson is shared with its CPU."""


@dataclass(frozen=True)
class StageBudget:
    """One stage. runs: in a frame, on average; most: in the frame that has it. ns: of one run. limit: what sets it."""

    name: str
    runs: float
    most: int
    cost: StageCost
    kernels: int
    ns: float
    limit: str


@dataclass(frozen=True)
class Budget:
    """A prediction. frame_ns: on average over a stage's period; worst_ns: of the frame in which everything is due."""

    bundle: str
    device: DeviceFacts
    precision: str
    schedule: str
    fps: float
    stages: Sequence[StageBudget]
    frame_ns: float
    worst_ns: float
    memory: int
    talkers: int

    @property
    def holds(self) -> bool:
        """Whether the worst frame is predicted to fit its deadline, and the memory the device."""
        return self.worst_ns <= 1e9 / self.fps and self.memory <= self.device.memory

    def lines(self) -> Iterator[str]:
        """Yield the prediction for people."""
        facts, period = self.device, 1e9 / self.fps
        what = f"{self.bundle}, {self.precision}, schedule {self.schedule}, on {facts.name}"
        yield f"PREDICTION for {what}; it was not played"
        rate = facts.rate(self.precision)
        yield (
            f"inputs: {facts.bytes_per_s / 1e9:.1f} GB/s, {rate / 1e12:.3g} Tops/s, {facts.launch_ns / 1e3:.1f} us a "
            f"kernel, factor {facts.factor:g}; source: {facts.source}"
        )
        yield f"{'stage':<14}{'runs':>7}{'MB':>9}{'Mops':>10}{'kernels':>9}{'us a run':>11}{'us a frame':>12}  limit"
        for stage in self.stages:
            yield (
                f"{stage.name:<14}{stage.runs:>7.3g}{stage.cost.weight_bytes / 1e6:>9.2f}"
                f"{stage.cost.operations / 1e6:>10.2f}{stage.kernels:>9}{stage.ns / 1e3:>11.1f}"
                f"{stage.ns * stage.runs / 1e3:>12.1f}  {stage.limit}"
            )
        yield (
            f"frame {self.frame_ns / 1e3:.0f} us on average, {self.worst_ns / 1e3:.0f} us at worst: "
            f"{100 * self.worst_ns / period:.1f} % of a frame at {self.fps:g} fps; memory {self.memory / 1e6:.0f} MB "
            f"of {facts.memory / 1e9:.0f} GB; talkers that fit: {self.talkers}"
        )
        yield f"prediction: {'holds' if self.holds else 'does NOT hold'} the deadline"

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction under stable keys; times in ns."""
        return {
            "prediction": True,
            "bundle": self.bundle,
            "device": self.device.name,
            "source": self.device.source,
            "inputs": {
                "bytes_per_s": self.device.bytes_per_s,
                "operations_per_s": self.device.rate(self.precision),
                "launch_ns": self.device.launch_ns,
                "factor": self.device.factor,
            },
            "precision": self.precision,
            "schedule": self.schedule,
            "fps": self.fps,
            "stages": [
                {
                    "name": stage.name,
                    "runs": stage.runs,
                    "ns": stage.ns,
                    "limit": stage.limit,
                    "kernels": stage.kernels,
                    "weight_bytes": stage.cost.weight_bytes,
                    "operations": stage.cost.operations,
                }
                for stage in self.stages
            ],
            "frame_ns": self.frame_ns,
            "worst_ns": self.worst_ns,
            "memory_bytes": self.memory,
            "talkers": self.talkers,
            "holds": self.holds,
        }


def device_facts(name: str, bundle: Bundle, precision: str = "fp32") -> DeviceFacts:
    """Return what is known of a device; `cpu` is measured here. Raises OptionError for an unknown one."""
    if name == "cpu":
        size = sum(_cost(bundle, stage, precision, host=True).weight_bytes for stage in bundle.manifest.stages)
        facts = this_cpu(size)
        return replace(facts, factor=_factor_here(), source=f"{facts.source}; factor from playing the shipped talker")
    if name not in DEVICES:
        known = ["cpu", *DEVICES]
        raise OptionError(f"no device `{name}`{nearest(name, known)}", hint=f"known are {', '.join(known)}")
    return DEVICES[name]


def budget(
    bundle: Bundle,
    facts: DeviceFacts,
    *,
    precision: str = "fp32",
    schedule: str | None = None,
    fps: float | None = None,
) -> Budget:
    """Predict. Raises OptionError for an unknown schedule or precision, MissingPackageError without onnx."""
    manifest = bundle.manifest
    name = schedule or manifest.ladder[0]
    if name not in manifest.ladder:
        raise OptionError(
            f"no schedule `{name}`; the bundle has {', '.join(manifest.ladder)}{nearest(name, manifest.ladder)}"
        )
    rows = max(1, len(bundle.table(name)))
    stages = []
    for step in manifest.program:
        if isinstance(step, Step) and (not step.schedules or name in step.schedules):
            most = rows if step.rows else 1
            stages.append(_stage(bundle, step.stage, facts, precision, most, most / step.every))
    frame = sum(stage.ns * stage.runs for stage in stages)
    worst = sum(stage.ns * stage.most for stage in stages)
    weights = sum(_cost(bundle, stage, precision, host=facts.name == "cpu").weight_bytes for stage in manifest.stages)
    state = sum(tensor.spec.nbytes for tensor in manifest.tensors.values())
    rate = float(fps or manifest.motion.fps)
    return Budget(
        manifest.name,
        facts,
        precision,
        name,
        rate,
        stages,
        frame,
        worst,
        weights + 2 * state,
        _talkers(stages, facts, precision, 1e9 / rate, weights, state),
    )


def _stage(bundle: Bundle, name: str, facts: DeviceFacts, precision: str, most: int, runs: float) -> StageBudget:
    host = facts.name == "cpu"
    cost = _cost(bundle, name, precision, host=host)
    kernels = _kernels(bundle.onnx(name, precision, host=host))
    moving = (cost.weight_bytes + cost.activation_bytes) / facts.bytes_per_s * 1e9
    computing = cost.operations / facts.rate(precision) * 1e9
    launching = kernels * facts.launch_ns
    limit = max((moving, "memory"), (computing, "compute"), (launching, "launches"))[1]
    return StageBudget(name, runs, most, cost, kernels, facts.factor * max(moving, computing) + launching, limit)


def _talkers(
    stages: Sequence[StageBudget], facts: DeviceFacts, precision: str, deadline: float, weights: int, state: int
) -> int:
    """On a CPU core one after the other; on a GPU in lock-step, where weights are read and kernels launched once."""
    if facts.name == "cpu":
        return int(deadline // max(1.0, sum(stage.ns * stage.runs for stage in stages)))

    def frame(talkers: int) -> float:
        found = 0.0
        for stage in stages:
            moving = (stage.cost.weight_bytes + talkers * stage.cost.activation_bytes) / facts.bytes_per_s * 1e9
            computing = talkers * stage.cost.operations / facts.rate(precision) * 1e9
            found += stage.most * (facts.factor * max(moving, computing) + stage.kernels * facts.launch_ns)
        return found

    most = max(0, int((facts.memory - weights) // max(1, 2 * state)))
    low, high = 0, min(most, 1 << 20)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if frame(middle) <= deadline else (low, middle - 1)
    return low


def _cost(bundle: Bundle, stage: str, precision: str, *, host: bool) -> StageCost:
    """ONNX Runtime widens weights that are stored as FP16 when it opens a stage; a GPU's engine keeps them."""
    return stage_cost(bundle.onnx(stage, precision, host=host), widened=host)


_NO_KERNEL = frozenset(
    "Reshape Squeeze Unsqueeze Identity Constant Shape Flatten Cast QuantizeLinear DequantizeLinear Split Slice".split()
)


def _kernels(path: Path) -> int:
    """Count the nodes that are worth a kernel: what only views or widens is taken to be fused."""
    import onnx

    return sum(node.op_type not in _NO_KERNEL for node in onnx.load(str(path), load_external_data=False).graph.node)


def this_cpu(weight_bytes: int) -> DeviceFacts:
    """Measure one core of this machine in ONNX Runtime: products of one row over so many bytes, of many rows, and the
    cost of a small operator."""
    side = int(np.clip(np.sqrt(weight_bytes / 4), 128, 6144))
    rates = {"fp32": 2.0 * 256 * 768 * 768 / _seconds(*_product(256, 768, 768))}
    moved = 4.0 * side * side / _seconds(*_product(1, side, side))
    operator = _seconds(*_adds(64)) / 64
    source = f"one core of this machine, measured now at {weight_bytes / 1e6:.1f} MB"
    return DeviceFacts("cpu", moved, rates, _memory(), operator * 1e9, 1.0, source)


def _factor_here() -> float:
    """Return how much longer than its floors the shipped talker's frame takes on one core; 1 where none ships."""
    try:
        bundle = Bundle.open(find_bundle(None))
    except InputError:
        return 1.0
    size = sum(_cost(bundle, stage, "fp32", host=True).weight_bytes for stage in bundle.manifest.stages)
    schedule = bundle.manifest.ladder[-1]
    with closing(Talker(bundle, schedules=[schedule])) as talker:
        sound = made_up_sound(talker)
        measured = min(_made(talker, schedule, sound) for _ in range(_FRAMES))
    predicted = budget(bundle, this_cpu(size), schedule=schedule)
    launching = sum(stage.kernels * stage.runs for stage in predicted.stages) * predicted.device.launch_ns
    return max(0.5, (measured - launching) / max(1.0, predicted.frame_ns - launching))


def _made(talker: Talker, schedule: str, sound: Any) -> int:
    begin = time.thread_time_ns()
    talker.make(schedule, window=sound)
    return time.thread_time_ns() - begin


def _memory() -> int:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30  # Windows does not say


def _seconds(model: bytes, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
    """Return the shortest of several runs: others on the machine can only make it longer."""
    session = open_session(model)
    work: Callable[[], Any] = lambda: session.run(None, dict(inputs))  # noqa: E731
    for _ in range(3):
        work()
    times: list[float] = []
    while len(times) < 25:
        begin = time.thread_time()  # of this thread, in which ONNX Runtime computes: without waiting for others
        work()
        times.append(time.thread_time() - begin)
    return min(times)


def _product(rows: int, size: int, columns: int) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    from onnx import helper

    random = np.random.default_rng(0)
    weights = random.standard_normal((columns, size), np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    return _model([node], {"x": (rows, size)}, (rows, columns), {"w": weights}), {
        "x": random.standard_normal((rows, size), np.float32)
    }


def _adds(count: int) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """A chain of small operators that nothing fuses."""
    from onnx import helper

    names = ["x", *(f"t{place}" for place in range(count - 1)), "y"]
    kinds = ("Sin", "Tanh", "Sqrt", "Neg")
    nodes = [helper.make_node(kinds[at % 2], [a], [b]) for at, (a, b) in enumerate(itertools.pairwise(names))]
    return _model(nodes, {"x": (1, 64)}, (1, 64), {}), {"x": np.full((1, 64), 0.1, np.float32)}


def _model(
    nodes: list[Any], inputs: Mapping[str, tuple[int, ...]], out: tuple[int, ...], weights: Mapping[str, Any]
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "measured", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data
