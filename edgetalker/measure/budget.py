"""Says before anything is bought whether a device should hold a bundle's deadline. A prediction, never a figure.

A stage takes the longer of moving its weights and computing, and a fixed cost for each of its kernels:

    time = factor * max(bytes / bandwidth, operations / rate) + kernels * launch

For `cpu` the sum goes node by node (core.py) with what is measured on this machine in the same rounds, and the factor
comes from playing the talker that ships. For other devices bandwidth, rates and memory are the vendor's public figures,
dense, and factor and launch cost are this file's assumptions, which the report prints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Binding, Buffer, Device, Layers
from edgetalker.engines.errors import InputError, unknown
from edgetalker.engines.host import HostDevice
from edgetalker.engines.manifest import Step
from edgetalker.measure.bench import made_up_sound
from edgetalker.measure.core import Core, CoreMeter
from edgetalker.measure.floor import StageCost, stage_cost
from edgetalker.runtime.model import Model, find_bundle
from edgetalker.runtime.talker import Talker

__all__ = ["DEVICES", "Budget", "DeviceFacts", "Played", "StageBudget", "budget", "device_facts", "frame_cpu_ns"]

_FACTOR = 2.0
_ROUNDS, _FRAMES = 12, 8  # rounds, and frames that are played in each at least


@dataclass(frozen=True)
class DeviceFacts:
    """bytes_per_s, operations_per_s (precision -> rate, 2 for each multiply-add), memory in bytes, launch_ns: of one
    kernel in a captured graph. factor: how much longer than the larger floor a stage is taken to need. core: of this
    machine, None for a GPU. own_ns: of a frame without its stages."""

    name: str
    bytes_per_s: float
    operations_per_s: Mapping[str, float]
    memory: int
    launch_ns: float
    factor: float
    source: str
    core: Core | None = None
    own_ns: float = 0.0

    def rate(self, precision: str) -> float:
        """Return the rate of a precision, or of the next wider one that the device has."""
        wider = {"fp8": ("fp8", "int8", "fp16", "fp32"), "int8": ("int8", "fp16", "fp32"), "w8": ("fp16", "fp32")}
        known = self.operations_per_s
        return next(known[name] for name in wider.get(precision, (precision, "fp32")) if name in known)


def _gpu(
    name: str,
    source: str,
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
    told = f"{source}; dense rates, public, not measured here"
    return DeviceFacts(name, gbytes * 1e9, rates, memory << 30, launch_us * 1e3, _FACTOR, told)


# GeForce cards add FP16 and FP8 products up in FP32 at half the rate: that rate stands here, because sums in FP16 are
# not what the stages were judged with.
_JETSON, _ADA = "NVIDIA Jetson Orin {} Series Data Sheet", "NVIDIA Ada GPU Architecture (white paper) and product page"
DEVICES: Mapping[str, DeviceFacts] = {
    facts.name: facts
    for facts in (
        _gpu("orin-nano", _JETSON.format("Nano"), 68, 8, 1.28, 10, 20, launch_us=5.0),
        _gpu("orin-nano-super", "NVIDIA Jetson Orin Nano Super data sheet", 102, 8, 2.09, 17, 33, launch_us=5.0),
        _gpu("orin-nx", _JETSON.format("NX"), 102, 16, 1.88, 15, 30, launch_us=5.0),
        _gpu("agx-orin", "NVIDIA Jetson AGX Orin Series Technical Brief", 205, 64, 5.3, 42, 85, launch_us=5.0),
        _gpu("thor", "NVIDIA Jetson Thor Series Modules Data Sheet", 273, 128, 8.1, 258, 517, 517, launch_us=4.0),
        _gpu("t4", "NVIDIA T4 data sheet", 320, 16, 8.1, 65, 130),
        _gpu("rtx3060", "NVIDIA Ampere GA102 Architecture (white paper) and product page", 360, 12, 12.7, 25, 102),
        _gpu("rtx4060", _ADA, 272, 8, 15.1, 30, 121, 60),
        _gpu("rtx4090", _ADA, 1008, 24, 82.6, 165, 661, 330),
        _gpu("rtx5090", "NVIDIA RTX Blackwell GPU Architecture (white paper)", 1792, 32, 104.8, 209, 838, 419),
        _gpu("h100", "NVIDIA H100 (SXM) data sheet", 3350, 80, 67, 989, 1979, 1979),
        _gpu("h200", "NVIDIA H200 (SXM) data sheet", 4800, 141, 67, 989, 1979, 1979),
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
        if facts.core is not None:
            yield f"{'the runtime itself':<54}{facts.own_ns / 1e3:>12.1f}"
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
                "own_ns": self.device.own_ns,
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


def device_facts(
    name: str,
    bundle: Bundle,
    precision: str = "fp32",
    schedule: str | None = None,
    *,
    beside: Sequence[Played] = (),
) -> DeviceFacts:
    """Return what is known of a device; `cpu` is measured here. Raises OptionError for an unknown one.

    beside: what is played in the same rounds, to be held against the prediction."""
    if name == "cpu":
        return _this_cpu(bundle, precision, schedule or bundle.manifest.ladder[0], beside)
    if name not in DEVICES:
        raise unknown("device", name, ["cpu", *DEVICES])
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
        raise unknown("schedule", name, manifest.ladder, "the bundle has")
    rows = max(1, len(bundle.table(name)))
    costs = _costs(bundle, precision, host=facts.core is not None)
    weights = sum(cost.weight_bytes for cost in costs.values())
    stages = []
    for step in manifest.program:
        if isinstance(step, Step) and (not step.schedules or name in step.schedules):
            most = rows if step.rows else 1
            path, runs = bundle.onnx(step.stage, precision, host=facts.core is not None), most / step.every
            stages.append(_stage(path, step.stage, facts, precision, most, runs, costs[step.stage], weights))
    frame = facts.own_ns + sum(stage.ns * stage.runs for stage in stages)
    worst = facts.own_ns + sum(stage.ns * stage.most for stage in stages)
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


def _stage(
    path: Path, name: str, facts: DeviceFacts, precision: str, most: int, runs: float, cost: StageCost, weights: int
) -> StageBudget:
    """weights: bytes of all stages, which a core reads from one run of this stage to the next."""
    kernels = _kernels(path)
    if facts.core is not None:
        between = cost.weight_bytes if most > 1 else weights
        parts = facts.core.parts_ns(path, between, most)
        return StageBudget(
            name, runs, most, cost, kernels, facts.factor * sum(parts.values()), max(parts, key=parts.__getitem__)
        )
    moving = (cost.weight_bytes + cost.activation_bytes) / facts.bytes_per_s * 1e9
    computing = cost.operations / facts.rate(precision) * 1e9
    launching = kernels * facts.launch_ns
    limit = max((moving, "memory"), (computing, "compute"), (launching, "launches"))[1]
    return StageBudget(name, runs, most, cost, kernels, facts.factor * max(moving, computing) + launching, limit)


def _talkers(
    stages: Sequence[StageBudget], facts: DeviceFacts, precision: str, deadline: float, weights: int, state: int
) -> int:
    """On a CPU core one after the other; on a GPU in lock-step, where weights are read and kernels launched once."""
    if facts.core is not None:
        return int(deadline // max(1.0, facts.own_ns + sum(stage.ns * stage.runs for stage in stages)))

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


def _costs(bundle: Bundle, precision: str, *, host: bool) -> dict[str, StageCost]:
    """Return each stage's cost; a file is read once.

    ONNX Runtime widens weights that are stored as FP16 when it opens a stage; a GPU's engine keeps them."""
    return {
        stage: stage_cost(bundle.onnx(stage, precision, host=host), widened=host) for stage in bundle.manifest.stages
    }


_NO_KERNEL = frozenset(
    "Reshape Squeeze Unsqueeze Identity Constant Shape Flatten Cast QuantizeLinear DequantizeLinear Split Slice".split()
)


def _kernels(path: Path) -> int:
    """Count the nodes that are worth a kernel: what only views or widens is taken to be fused."""
    import onnx

    return sum(node.op_type not in _NO_KERNEL for node in onnx.load(str(path), load_external_data=False).graph.node)


def _this_cpu(bundle: Bundle, precision: str, schedule: str, beside: Sequence[Played]) -> DeviceFacts:
    """Measure one core of this machine at the sizes of the bundle and of the talker that ships: all stages, and each
    that runs in rows; frames with stages that do nothing; and, for the factor, the shipped talker's whole frame."""
    known = [(bundle, precision, schedule)]
    with suppress(InputError):  # none ships: the factor stays 1
        shipped = Bundle.open(find_bundle(None))
        known.append((shipped, "fp32", shipped.manifest.ladder[-1]))
    weights = [_weights(*one[:2]) for one in known]
    meter = CoreMeter(size for sizes in weights for size in sizes)
    with ExitStack() as stack:
        owns = [stack.enter_context(closing(Played(_idle(one), name))) for one, _, name in known]
        wholes = [stack.enter_context(closing(Played(Model(one), name))) for one, _, name in known[1:]]
        parts: list[CoreMeter | Played] = [meter, *owns, *wholes, *beside]
        for _ in range(_ROUNDS):
            for part in parts:
                part.play()
        core, own, whole = meter.core(), [part.ns for part in owns], [part.ns for part in wholes]
    source = f"one core of this machine, measured now at {weights[0][0] / 1e6:.1f} MB; factor from the shipped talker"
    rates = {"fp32": core.rates["fp32"], "int8": core.rates["int8"]}
    facts = DeviceFacts("cpu", core.bytes_per_s[weights[0][0]], rates, _memory(), core.node_ns, 1.0, source, core)
    if not whole:
        return replace(facts, own_ns=own[0])
    predicted = budget(known[1][0], facts, schedule=known[1][2]).frame_ns
    return replace(facts, own_ns=own[0], factor=(whole[0] - own[1]) / max(1.0, predicted))


def _weights(bundle: Bundle, precision: str) -> list[int]:
    """Return the bytes of all stages' weights together, then of each stage that runs in rows."""
    rows = {step.stage for step in bundle.manifest.program if isinstance(step, Step) and step.rows}
    costs = _costs(bundle, precision, host=True)
    sizes = [sum(cost.weight_bytes for cost in costs.values()), *(costs[stage].weight_bytes for stage in rows)]
    return [max(1, size) for size in sizes]


def _idle(bundle: Bundle) -> Model:
    return Model(bundle, engines={stage: _Idle(bundle, stage) for stage in bundle.manifest.stages})


class _Idle:
    """A stage that does nothing: what a frame then takes is the runtime's own."""

    file, precision = None, "fp32"

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.name = name
        self.inputs, self.outputs = bundle.manifest.stages[name].inputs, bundle.manifest.stages[name].outputs

    def bind(self, buffers: Mapping[str, Buffer]) -> Binding:
        return self

    def enqueue(self, device: Device) -> None:
        assert isinstance(device, HostDevice)
        device.call(lambda: None)

    def layers(self, runs: int) -> Layers:
        return []

    def close(self) -> None:
        pass


class Played:
    """A bundle that is played, some periods of its program at a time. Closes its model."""

    def __init__(self, model: Model, schedule: str) -> None:
        self._model, self._schedule = model, schedule
        self._talker = model.talker(schedules=[schedule])
        self._sound = made_up_sound(self._talker)
        steps = [step for step in model.bundle.manifest.program if isinstance(step, Step)]
        self._least = np.full(math.lcm(*(step.every for step in steps), 1), np.inf)

    @property
    def ns(self) -> float:
        """The mean frame of a period in ns, of each frame the shortest that was seen.

        Processor time of the thread, in which ONNX Runtime computes: on a busy machine wall time shows the waiting."""
        return float(self._least.mean())

    def play(self) -> None:
        """Play some periods."""
        for _ in range(max(1, _FRAMES // len(self._least))):
            times = [frame_cpu_ns(self._talker, self._schedule, self._sound) for _ in self._least]
            np.minimum(self._least, times, out=self._least)

    def close(self) -> None:
        """Close the talker and its model."""
        self._talker.close()
        self._model.close()


def frame_cpu_ns(talker: Talker, schedule: str, sound: Any) -> int:
    """Make a frame of a window of sound; return the thread's processor time of it in ns."""
    begin = time.thread_time_ns()
    talker.make(schedule, window=sound)
    return time.thread_time_ns() - begin


def _memory() -> int:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30  # Windows does not say
