"""Adds 8 bits to a bundle: ranges and layers judged on the closed loop, one assignment, two forms, one report.

The `gpu` form stands in the bundle as the precision itself, FP16 around the 8 bits, for TensorRT; the `host` form
beside it as `PRECISION-host`, which ONNX Runtime plays. Both hold the same numbers in the same layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.calibration.network import Network, name_nodes, read_network
from edgetalker.calibration.onestep import OneStep, one_step_error
from edgetalker.calibration.quantise import (
    FP8_LARGEST,
    Fitted,
    Form,
    Kind,
    Product,
    fit,
    kind_for,
    kinds_on_host,
    products,
    to_quantised,
    weights_of,
)
from edgetalker.calibration.ranges import METHODS, range_ends, range_errors, rows_of, sample
from edgetalker.calibration.rollout import Inputs
from edgetalker.calibration.sensitivity import Layer, Point, Prober, cheapest, choice_of, curve_of
from edgetalker.calibration.stage import convert_stage
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, Progress, UserError, unheard
from edgetalker.engines.lazy import onnx

__all__ = ["EIGHT_BITS", "EightBits", "Narrowing", "NothingQuantisedError", "StageForms"]

EIGHT_BITS = ("int8", "w8", "fp8")
_LARGE = 8_000_000  # weights; a stage with more is tried as a whole, then in groups of layers, as its ranges are
_GROUPS = 12
_PROBE_RUNS = 2  # recorded runs on which the methods for a tensor's range are compared
_FITTED_ROWS = 1 << 14
_MARGIN = 0.9  # of the goal: a short piece does not show everything


class NothingQuantisedError(UserError):
    """A conversion that would leave every weight as it was."""

    exit_code = 65


@dataclass(frozen=True)
class StageForms:
    """One stage's files: gpu, host and emulated ONNX, empty where nothing of it is in 8 bits. kinds: product -> kind.
    weights: share of the stage's weights in 8 bits; operations: of its multiply-adds; on_host: of its weights in the
    host's form. one_step: of the emulated form and of the host's, where there is one."""

    name: str
    gpu: bytes
    host: bytes
    emulated: bytes
    kinds: Mapping[str, Kind]
    weights: float
    operations: float
    on_host: float
    one_step: Mapping[str, OneStep]
    full_bytes: int


@dataclass
class EightBits:
    """What was found. ranges: stage -> tensor -> method -> error at the stage's outputs, `chosen` among them. methods:
    choice of ranges -> drift of all layers. layers, curve: in the order in which they become narrow; `taken` of them
    are."""

    stages: list[StageForms] = field(default_factory=list)
    ranges: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    methods: dict[str, float] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    taken: int = 0
    curve: list[Point] = field(default_factory=list)
    weights: float = 0.0
    operations: float = 0.0
    on_host: float = 0.0
    probe_frames: int = 0


@dataclass
class Narrowing:
    """The pass over one bundle, all but the long closed loops. sound: what layers are judged on, unlike `recorded`."""

    bundle: Bundle
    precision: str
    recorded: Mapping[str, Sequence[Inputs]]
    sound: NDArray[np.float32]
    goal: float
    hold: Sequence[str] = ()
    limit: float = 2e-3
    seed: int = 0
    budget: float = 120.0
    progress: Progress = unheard
    found: EightBits = field(default_factory=EightBits)

    def prepare(self) -> None:
        """Find the ranges, try every layer alone, order the layers. Raises NothingQuantisedError without any."""
        stages = self.bundle.manifest.stages
        self.networks = {name: read_network(self.bundle.onnx(name)) for name in stages}
        for network in self.networks.values():
            name_nodes(network)
        self.layers = [layer for name in stages if name not in self.hold for layer in self._layers(name)]
        if not self.layers:
            raise NothingQuantisedError(
                f"{self.bundle.manifest.name}: no product in it can be written in {self.precision}",
                hint="its matrices are too small, or all its stages are held; play it in fp16",
            )
        self.largest: dict[str, dict[str, float]] = {name: {} for name in stages}
        self.fitted = {name: self._fit(name) for name in stages}
        with ExitStack() as stack:  # closed here: a large network's engines would not fit beside the long closed loop's
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetalker-narrow-"))
            self.prober = Prober(
                self.bundle,
                self.networks,
                self.largest,
                self.fitted,
                self.sound,
                Path(folder),
                seed=self.seed,
                progress=self.progress,
            )
            stack.callback(self.prober.close)
            tries = sum(min(_GROUPS, len(layer.products)) for layer in self.layers)
            self._choose_ranges(lambda: self.prober.start(tries + 10, self.budget))
            self.found.probe_frames = self.prober.frames
            tried = self._with_weights_alone(self._in_groups(self.prober.try_alone(self.layers)))
            self.found.layers = cheapest(tried, self.goal * _MARGIN)
            self.found.curve = self._measured(curve_of(self.found.layers, self._all_weights()))
            self.found.taken = self._most(self.goal * _MARGIN)

    def _in_groups(self, tried: Sequence[Layer]) -> list[Layer]:
        """Try the groups of those large stages alone that as a whole take more than their share of the goal."""
        found = list[Layer]()
        for layer in tried:
            if len(layer.products) == 1 or layer.drift <= self.goal * _MARGIN / len(tried) ** 0.5:
                found.append(layer)
            else:
                found += self.prober.try_alone(_parts(layer, -(-len(layer.products) // _GROUPS)))
        return found

    def _with_weights_alone(self, tried: Sequence[Layer]) -> list[Layer]:
        """Where narrow activations do much more harm than narrow weights, narrow the weights alone."""
        found = []
        for layer in tried:
            kinds: dict[str, Kind] = {
                item.name: "w8" for item in layer.products if item.operator != "Conv" and layer.kinds[item.name] != "w8"
            }
            if layer.drift > self.goal / 4 and len(kinds) == len(layer.products):
                (other,) = self.prober.try_alone([replace(layer, kinds=kinds)])
                layer = other if other.drift < layer.drift / 2 else layer
            found.append(layer)
        return found

    def _layers(self, stage: str) -> list[Layer]:
        """Return a layer for each product, or one of all products of a large stage."""
        kinds = {item.name: kind for item in products(self.networks[stage]) if (kind := kind_for(item, self.precision))}
        whole = Layer(stage, tuple(self._products(stage, kinds)), kinds)
        return [whole] if sum(item.weights for item in whole.products) > _LARGE else _parts(whole, 1)

    def _chosen(self, stage: str) -> dict[str, Kind]:
        return {name: kind for layer in self.layers if layer.stage == stage for name, kind in layer.kinds.items()}

    def _fit(self, stage: str) -> dict[str, Fitted]:
        self.progress(f"fitting weights of {stage}", 0.0)
        kinds = self._chosen(stage)
        matrices = [item for item in products(self.networks[stage]) if item.operator != "Conv"]
        sources = {item.source for item in matrices if kinds.get(item.name) in ("w8", "a8")}
        inputs = self.recorded[stage]
        rows = max((item.rows for item in matrices), default=1)
        runs = inputs[:: max(1, len(inputs) * rows // _FITTED_ROWS)]
        return fit(self.networks[stage], kinds, rows_of(self.networks[stage], sources, runs)) if sources else {}

    def _ranged(self, stage: str) -> dict[str, float]:
        """Return tensor -> the type's largest number, for what needs a range that cuts off nothing needlessly."""
        wide = {"a8": 127.0, "f8": FP8_LARGEST}
        kinds, found = self._chosen(stage), {}
        outputs = {node.name: node.output[0] for node in self.networks[stage].nodes}
        for item in products(self.networks[stage]):
            kind = kinds.get(item.name, "w8")
            if kind in wide:
                found[item.source] = wide[kind]
                if kind == "a8" and item.operator == "Conv":
                    found[outputs[item.name]] = wide[kind]
        return found

    def _choose_ranges(self, start: Callable[[], None]) -> None:
        """Compare the four methods tensor by tensor on the stage's outputs, then all of them on the closed loop."""
        ends: dict[str, dict[str, dict[str, float]]] = {}
        for stage in self.networks:
            ranged = self._ranged(stage)
            kinds = self._chosen(stage)
            sources = {item.source for item in products(self.networks[stage]) if item.name in kinds}
            seen = sample(self.networks[stage], sorted({*ranged, *sources}), self.recorded[stage])
            self.largest[stage].update({name: float(values.max(initial=0.0)) for name, values in seen.items()})
            for name in ranged:
                if not self.largest[stage][name]:
                    raise InputError(
                        f"stage `{stage}`: `{name}` was 0 in all that was observed; no range can be taken from that",
                        hint="the audio is silent or too short: give at least ten seconds of speech, --audio DIR",
                    )
            ends[stage] = {name: range_ends(seen[name], largest) for name, largest in ranged.items()}
            self._compare(stage, ends[stage], ranged)
        start()
        if not any(ends.values()):
            return
        everything = choice_of(self.layers)
        for method in (*METHODS, "each its own"):
            self.progress(f"comparing ranges: {method}", 0.0)
            for stage, tensors in ends.items():
                own = self.found.ranges.get(stage, {})
                chosen = {name: own[name]["chosen"] if method == "each its own" else method for name in tensors}
                self.largest[stage].update({name: tensors[name][chosen[name]] for name in tensors})
            self.found.methods[method] = self.prober.drift(everything)
        best = min(self.found.methods, key=self.found.methods.__getitem__)
        for stage, tensors in ends.items():
            for name, values in tensors.items():
                entry = self.found.ranges[stage][name]
                entry["chosen"] = entry["chosen"] if best == "each its own" else best
                self.largest[stage][name] = values[entry["chosen"]]

    def _compare(self, stage: str, ends: Mapping[str, Mapping[str, float]], ranged: Mapping[str, float]) -> None:
        if not ends:
            return
        inputs = self.recorded[stage]
        picked = [inputs[place] for place in np.linspace(0, len(inputs) - 1, _PROBE_RUNS).astype(int)]
        whole = any(len(layer.products) > 1 for layer in self.layers if layer.stage == stage)
        together = -(-len(ends) // _GROUPS) if whole else 1
        errors = range_errors(self.networks[stage], ends, ranged, picked, together)
        self.found.ranges[stage] = {
            name: {**errors[name], "chosen": min(METHODS, key=errors[name].__getitem__)} for name in ends
        }

    def _measured(self, points: list[Point]) -> list[Point]:
        """Play some of the curve's points."""
        layers, last = self.found.layers, len(points) - 1
        played = {round(last * part) for part in (0.25, 0.5, 0.75, 1.0)} - {0}
        return [
            replace(point, measured=self.prober.drift(choice_of(layers[: point.layers])))
            if point.layers in played
            else point
            for point in points
        ]

    def _most(self, goal: float) -> int:
        """Return how many layers can be narrow: by prediction, then played.

        Fewer until the short piece keeps the goal, more as long as it does: one event that comes a frame late in one of
        the pieces may be counted with many layers, and comes late once when all of them are narrow.
        """
        layers, most = self.found.layers, len(self.found.layers)
        count = max(point.layers for point in self.found.curve if point.predicted <= goal)
        while count and self.prober.drift(choice_of(layers[:count])) > goal:
            most = count - 1  # `count` was played, and is too much
            count -= max(1, count // 8)
        while count < most and self.prober.drift(choice_of(layers[: count + 1])) <= goal:
            count += 1
        return count

    def _all_weights(self) -> int:
        return sum(_weights(network) for network in self.networks.values())

    def tighten(self, factor: float) -> None:
        """Take layers back after a long closed loop that missed the goal by `factor`."""
        curve, count = self.found.curve, self.found.taken
        wanted = curve[count].predicted / max(factor, 1.1)
        self.found.taken = max(point.layers for point in curve[:count] if point.predicted <= wanted)

    def write(self) -> None:
        """Make every stage's files for the choice as it stands, with the error of one run and the shares.

        Raises NothingQuantisedError when no layer keeps the goal.
        """
        if not self.found.taken:
            raise NothingQuantisedError(
                f"{self.bundle.manifest.name}: no layer can be in {self.precision} within {self.goal:.2%} of drift",
                hint="allow more, --goal, or play the bundle in fp16",
            )
        choice = choice_of(self.found.layers[: self.found.taken])
        narrow_ = [item for name, kinds in choice.items() for item in self._products(name, kinds)]
        every = sum(_operations(self.bundle.onnx(stage)) for stage in self.networks)
        self.found.weights, self.found.on_host = (
            sum(weights_of(self._products(name, kinds)) for name, kinds in form.items()) / max(1, self._all_weights())
            for form in (choice, {name: self._on_host(name, kinds) for name, kinds in choice.items()})
        )
        self.found.operations = sum(item.operations for item in narrow_) / max(1, every)
        self.found.stages = [self._stage(name, choice.get(name, {})) for name in self.networks if name not in self.hold]

    def _on_host(self, stage: str, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
        """FP8 has no form that a CPU plays faster."""
        return {} if self.precision == "fp8" else kinds_on_host(self._products(stage, kinds), kinds)

    def _products(self, stage: str, kinds: Mapping[str, Kind]) -> list[Product]:
        return [item for item in products(self.networks[stage]) if item.name in kinds]

    def _stage(self, name: str, kinds: Mapping[str, Kind]) -> StageForms:
        self.progress(f"writing {name}", 0.0)
        path, inputs = self.bundle.onnx(name), self.recorded[name]
        full = path.read_bytes()
        probes = inputs[:: max(1, len(inputs) // 8)][:8]
        on_host = self._on_host(name, kinds)
        forms: dict[Form, Mapping[str, Kind]] = {"emulated": kinds, "host": on_host}
        files = {form: self.prober.model(name, narrow_, form) for form, narrow_ in forms.items() if narrow_}
        chosen = self._products(name, kinds)
        return StageForms(
            name,
            self._for_gpu(name, path, probes, kinds),
            files.get("host", b""),
            files.get("emulated", b""),
            kinds,
            weights_of(chosen) / max(1, _weights(self.networks[name])),
            sum(item.operations for item in chosen) / max(1, _operations(path)),
            weights_of(self._products(name, on_host)) / max(1, _weights(self.networks[name])),
            {form: one_step_error(full, data, probes) for form, data in files.items()},
            len(full),
        )

    def _for_gpu(self, name: str, path: Path, inputs: Sequence[Inputs], chosen: Mapping[str, Kind]) -> bytes:
        """FP16 first, by its own rules; then 8 bits where they were chosen."""
        narrow = [product for product, kind in chosen.items() if kind != "w8"]  # which computes in FP16 on a GPU
        half = convert_stage(name, path, inputs, self.limit, narrow=narrow)
        if not chosen:
            return half.onnx
        network = Network(onnx.load_from_string(half.onnx)) if half.onnx else self.networks[name]
        model = to_quantised(network, chosen, self.largest[name], "gpu", self.fitted.get(name))
        data: bytes = model.SerializeToString()
        return data


def _parts(layer: Layer, size: int) -> list[Layer]:
    """Return a layer's products, `size` at a time, as layers of their own that nobody has tried yet."""
    groups = [layer.products[first : first + size] for first in range(0, len(layer.products), size)]
    return [Layer(layer.stage, group, {item.name: layer.kinds[item.name] for item in group}) for group in groups]


def _weights(network: Network) -> int:
    """Count the weights that nodes read: one that is stored in FP16 and widened lies there twice."""
    read = {name for node in network.nodes for name in node.input}
    return sum(
        int(values.size)
        for name, values in network.constants.items()
        if name in read and values.dtype in (np.float32, np.float16)
    )


def _operations(path: Path) -> int:
    """Multiply-adds of one run of a stage, products of two computed tensors among them."""
    from edgetalker.measure.floor import stage_cost

    return stage_cost(path).operations // 2
