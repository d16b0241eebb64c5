"""What each layer in 8 bits does to the closed loop, and the choice that keeps a goal at the least size.

A layer is tried alone: the runtime plays a short piece with only that layer narrow, and its motion is compared with
FP32's on the same sound and noise. Errors of different layers are taken to add up as independent ones do, in squares;
the curve says how well that held where it was measured.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.calibration.network import Network
from edgetalker.calibration.quantise import Fitted, Form, Kind, Product, to_quantised, weights_of
from edgetalker.calibration.rollout import RememberingEngine, play
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import Progress, unheard

__all__ = ["Choice", "Layer", "Point", "Prober", "cheapest", "choice_of", "curve_of"]

_LEAST_FRAMES = 60  # histories are full by then

Choice = Mapping[str, Mapping[str, Kind]]
"""Stage -> product -> kind; what is not named stays as it was."""


@dataclass(frozen=True)
class Layer:
    """One product, or several that are tried together in a large network. drifts: schedule -> what it does alone."""

    stage: str
    products: tuple[Product, ...]
    kinds: Mapping[str, Kind]
    drifts: Mapping[str, float] = field(default_factory=dict)

    @property
    def drift(self) -> float:
        """The worst schedule's."""
        return max(self.drifts.values(), default=float("nan"))

    @property
    def saved(self) -> int:
        """Three bytes of each weight's four."""
        return 3 * weights_of(self.products)

    @property
    def name(self) -> str:
        """Stage and first product."""
        more = f" and {len(self.products) - 1} more" if len(self.products) > 1 else ""
        return f"{self.stage}/{self.products[0].name}{more}"


@dataclass(frozen=True)
class Point:
    """A point of the curve of size against drift: the `layers` cheapest layers narrow. saved: bytes. share: of the
    weights.

    predicted: root of the sum of the layers' squares, of the worst schedule. measured: played, nan where it was not.
    """

    layers: int
    saved: int
    share: float
    predicted: float
    measured: float = float("nan")


@dataclass
class Prober:
    """Plays short pieces of a bundle with some products in 8 bits. networks: of every stage, nodes named.

    largest: stage -> tensor -> end of its range. seconds: how long one of FP32's pieces may take to play.
    """

    bundle: Bundle
    networks: Mapping[str, Network]
    largest: Mapping[str, Mapping[str, float]]
    fitted: Mapping[str, Mapping[str, Fitted]]
    sound: NDArray[np.float32]
    folder: Path
    seed: int = 0
    frames: int = 600
    progress: Progress = unheard
    _full: dict[str, RememberingEngine] = field(default_factory=dict)
    _wanted: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    frame_seconds: float = 0.0

    def start(self, tries: int, budget: float) -> None:
        """Play FP32's pieces. Fewer frames where `tries` pieces would take longer than `budget` seconds."""
        stages = self.bundle.manifest.stages
        self._full = {name: self._engine(name, self.bundle.onnx(name)) for name in stages}
        warm = 2 * max(3, *(getattr(step, "every", 1) for step in self.bundle.manifest.program))
        for schedule in self.bundle.manifest.ladder:  # the difference of two lengths leaves the opening out
            took = [self._seconds(schedule, frames) for frames in (warm, 3 * warm)]
            self.frame_seconds += max(took[1] - took[0], 0.0) / (2 * warm)
        affordable = int(budget / max(1e-6, self.frame_seconds * (tries + 1)))
        self.frames = max(warm, _LEAST_FRAMES, min(self.frames, affordable))
        for schedule in self.bundle.manifest.ladder:
            self._wanted[schedule] = play(self.bundle, self._full, self.sound, self.frames, schedule, seed=self.seed)
        for engine in self._full.values():
            engine.learning = False

    def _seconds(self, schedule: str, frames: int) -> float:
        for engine in self._full.values():
            engine.memory.clear()
        begin = time.thread_time()  # a busy machine must not make the pieces shorter and their judgement worse
        play(self.bundle, self._full, self.sound, frames, schedule, seed=self.seed)
        return time.thread_time() - begin

    def drift(self, choice: Choice) -> float:
        """Return the worst schedule's drift: RMS of the difference as a share of FP32's own deviation in time."""
        return max(self.drifts(choice).values(), default=0.0)

    def drifts(self, choice: Choice) -> dict[str, float]:
        """Return schedule -> drift, for the schedules in which one of these stages plays."""
        stages = [stage for stage, kinds in choice.items() if kinds]
        trial = dict[str, RememberingEngine]()
        try:
            for stage in stages:
                path = self.folder / f"{stage}.onnx"
                path.write_bytes(self.model(stage, choice[stage]))
                trial[stage] = self._engine(stage, path)
            return {
                schedule: self._drift(schedule, wanted, trial)
                for schedule, wanted in self._wanted.items()
                if self._plays(schedule, stages)
            }
        finally:
            for engine in trial.values():  # a large network's must be gone before the next ones come
                engine.close()

    def _drift(self, schedule: str, wanted: NDArray[np.float32], trial: Mapping[str, RememberingEngine]) -> float:
        engines = {**self._full, **trial}
        found = play(self.bundle, engines, self.sound, self.frames, schedule, seed=self.seed)
        error = float(np.sqrt(np.mean(np.square(found - wanted, dtype=np.float64))))
        deviation = float(np.sqrt(np.mean(np.var(wanted, axis=0, dtype=np.float64)))) or 1.0
        return error / deviation if np.isfinite(error) else np.inf

    def model(self, stage: str, kinds: Mapping[str, Kind], form: Form = "emulated") -> bytes:
        """Return a stage with these products narrow."""
        ends, fitted = self.largest[stage], self.fitted.get(stage)
        data: bytes = to_quantised(self.networks[stage], kinds, ends, form, fitted).SerializeToString()
        return data

    def _plays(self, schedule: str, stages: Sequence[str]) -> bool:
        steps = [step for step in self.bundle.manifest.program if getattr(step, "stage", None) in stages]
        return any(not step.schedules or schedule in step.schedules for step in steps)

    def _engine(self, stage: str, path: Path) -> RememberingEngine:
        border = self.bundle.manifest.stages[stage]
        return RememberingEngine(stage, path, border.inputs, border.outputs)

    def try_alone(self, layers: Sequence[Layer]) -> list[Layer]:
        """Return the layers with the drift of each alone."""
        tried = []
        for place, layer in enumerate(layers):
            self.progress(f"trying {layer.name} alone", place / len(layers))
            drifts = self.drifts({layer.stage: layer.kinds})
            tried.append(Layer(layer.stage, layer.products, layer.kinds, drifts))
        return tried

    def close(self) -> None:
        """Drop the engines."""
        for engine in self._full.values():
            engine.close()


def choice_of(layers: Sequence[Layer]) -> dict[str, dict[str, Kind]]:
    """Return what these layers are, by stage."""
    choice: dict[str, dict[str, Kind]] = {}
    for layer in layers:
        choice.setdefault(layer.stage, {}).update(layer.kinds)
    return choice


def cheapest(layers: Sequence[Layer], goal: float) -> list[Layer]:
    """Return the layers in the order in which they become narrow: the most bytes for the least squared error first, and
    behind all others those with which a schedule would drift by more than `goal`, which smaller ones may still keep."""
    squares: dict[str, float] = defaultdict(float)
    within, beyond = list[Layer](), list[Layer]()
    for layer in sorted(layers, key=lambda layer: layer.drift**2 / max(1, layer.saved)):
        more = {schedule: squares[schedule] + drift**2 for schedule, drift in layer.drifts.items()}
        fits = max(more.values(), default=0.0) <= goal**2
        (within if fits else beyond).append(layer)
        if fits:
            squares.update(more)
    return within + beyond


def curve_of(layers: Sequence[Layer], all_weights: int) -> list[Point]:
    """Return the curve for layers in order, from none of them to all. A matrix that two of them share counts once."""
    points = [Point(0, 0, 0.0, 0.0, 0.0)]
    narrow: dict[str, list[Product]] = {}
    squares: Counter[str] = Counter()
    for count, layer in enumerate(layers, 1):
        narrow.setdefault(layer.stage, []).extend(layer.products)
        weights = sum(map(weights_of, narrow.values()))
        squares.update({schedule: drift**2 for schedule, drift in layer.drifts.items()})
        predicted = float(np.sqrt(max(squares.values(), default=0.0)))
        points.append(Point(count, 3 * weights, weights / max(1, all_weights), predicted))
    return points
