"""Rolls frames out through the runtime itself: records what stages read, compares two precisions frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Buffer, Engine
from edgetalker.engines.errors import Progress, unheard
from edgetalker.engines.host import HostBuffer
from edgetalker.engines.manifest import Step
from edgetalker.engines.ort import OrtEngine, ort_engines
from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker

__all__ = ["Divergence", "Inputs", "RememberingEngine", "compare_rollouts", "play", "record_inputs"]

Inputs = dict[str, Array]


class _StepwiseEngine(OrtEngine):
    """An engine whose every run, captured or not, goes through `run`."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Return the outputs, in the order of `self.outputs`."""
        made: list[Array] = self._session.run(list(self.outputs), dict(inputs))
        return made

    def _run_at(self, buffers: Mapping[str, Buffer]) -> Callable[[], object]:
        arrays = {name: buffer.array for name, buffer in buffers.items() if isinstance(buffer, HostBuffer)}
        inputs = {name: arrays[name] for name in self.inputs}

        def run() -> None:
            for name, values in zip(self.outputs, self.run(inputs), strict=True):
                np.copyto(arrays[name], values)

        return run


class _RecordingEngine(_StepwiseEngine):
    """An engine that keeps what it reads in each run while `running`."""

    running = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.tape: list[Inputs] = []

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        if self.running:
            self.tape.append({name: values.copy() for name, values in inputs.items()})
        return super().run(inputs)


class RememberingEngine(_StepwiseEngine):
    """An engine that computes nothing twice: what it once made of the same inputs, bit for bit, it gives again.

    With one stage in 8 bits the stages before it hear what they heard in FP32: most of a large network's time. The
    stages after it hear what nobody hears again: `learning` is off by then, so that memory stays what one run takes.
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.memory: dict[bytes, list[Array]] = {}
        self.learning = True

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        seen = hashlib.blake2b(digest_size=16)
        for values in inputs.values():
            seen.update(values.tobytes())
        key = seen.digest()
        if (known := self.memory.get(key)) is not None:
            return known
        made = super().run(inputs)
        if self.learning:
            self.memory[key] = made
        return made


def record_inputs(
    bundle: Bundle, sound: NDArray[np.float32], frames: int, keep: int, *, seed: int = 0, progress: Progress = unheard
) -> dict[str, list[Inputs]]:
    """Play `frames` frames of every schedule in FP32 and return stage -> what it read in `keep` of them.

    The first frames are always kept, where histories are short, and the rest evenly; of a kept frame every row,
    the extremes of the timestep among them. Controls go through their extremes from frame to frame. Each schedule hears
    another part of the sound first: stages that all of them play see as many different frames as are kept.
    """
    engines: dict[str, _RecordingEngine] = ort_engines(bundle, kind=_RecordingEngine)
    periods = {step.stage: step.every for step in bundle.manifest.program if isinstance(step, Step)}
    kept = {name: _kept_frames(frames, keep, periods.get(name, 1)) for name in engines}
    with Model(bundle, engines=engines) as model, closing(model.talker(seed=seed)) as talker:
        for place, schedule in enumerate(talker.schedules):
            talker.reset()
            heard = np.roll(sound, -(place * len(sound) // len(talker.schedules)))
            for index in range(frames):
                progress("observing ranges", (place + index / frames) / len(talker.schedules))
                for name, engine in engines.items():
                    engine.running = index in kept[name]
                _turn_controls(talker, index)
                talker.make(schedule, window=_window(talker, bundle, heard, index))
    return {name: engine.tape for name, engine in engines.items()}


def _kept_frames(frames: int, keep: int, period: int) -> set[int]:
    """Frames in which a stage that runs every `period` frames runs: the first three, the rest spread evenly."""
    runs = -(-frames // period)
    first = min(3, keep, runs)
    later = np.linspace(first, runs - 1, max(1, keep - first)).astype(int).tolist() if runs > first else []
    return {run * period for run in (*range(first), *later)}


_TURN, _DEFAULTS = 15, 5  # frames for which controls stand; how often the defaults come again after both ends


def _turn_controls(talker: Talker, index: int) -> None:
    """Every few frames: default, all low, all high, and a while at the defaults again.

    A range that only defaults have been through proves little; but weights are fitted to these frames, and defaults
    are what a talker plays most of the time."""
    if index % _TURN:
        return
    for name, control in talker.controls.items():
        tensor = control.tensor
        turns = (tensor.default, tensor.low, tensor.high, *_DEFAULTS * [tensor.default])
        choices = [values for values in turns if values]
        talker.set(name, list(choices[index // _TURN % len(choices)]))


def _window(talker: Talker, bundle: Bundle, sound: NDArray[np.float32], index: int) -> NDArray[np.float32] | None:
    """Return the samples that frame `index` sees, with the sound repeated for ever and silence before it."""
    if talker.audio is None:
        return None
    end, size = talker.end(index), bundle.manifest.audio.window
    places = np.arange(end - size, end)
    return np.where(places >= 0, sound[places % len(sound)], np.float32(0.0)).astype(np.float32)


def play(
    bundle: Bundle,
    engines: Mapping[str, Engine],
    sound: NDArray[np.float32],
    frames: int,
    schedule: str,
    *,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Play `frames` frames with these engines, which stay open, and return their motion (frames, values)."""
    talker = Model(bundle, engines=engines).talker(seed=seed, schedules=[schedule])  # its model is left open
    motion = [
        talker.make(schedule, window=_window(talker, bundle, sound, index)).motion.reshape(-1).copy()
        for index in range(frames)
    ]
    talker.close()
    return np.stack(motion)


@dataclass(frozen=True)
class Divergence:
    """How far the motion of a precision drifts from FP32's, on the same sound and noise.

    seconds: error of each second of motion, root mean square over its frames and values, as a share of the FP32
    motion's own standard deviation. worst: the largest single difference, as the same share. deviation: that
    standard deviation, in the motion's units (root mean square over values of each value's deviation in time).
    closures: F1 of the frames with shut lips against FP32's, one frame off allowed; None for motion without ARKit's
    mouth. shut: how many frames FP32 shows shut.
    """

    schedule: str
    frames: int
    deviation: float
    seconds: tuple[float, ...]
    worst: float
    closures: float | None = None
    shut: int = 0

    @property
    def error(self) -> float:
        """The error over the whole rollout, as a share of the motion's standard deviation."""
        return float(np.sqrt(np.mean(np.square(self.seconds)))) if self.seconds else 0.0

    @property
    def growth(self) -> float:
        """The median second of the last quarter over that of the first: about 1 when nothing accumulates.

        A median, because an event that comes a frame later, such as a blink, makes one second stand out."""
        quarter = max(1, len(self.seconds) // 4)
        first, last = np.median(self.seconds[:quarter]), np.median(self.seconds[-quarter:])
        return float(last / first) if first > 0 else 1.0


class _Course:
    """How the motion of some precisions drifts from FP32's in one schedule, frame by frame."""

    def __init__(self, names: Sequence[str], precisions: int, frames: int) -> None:
        """names: of the motion's values."""
        self._sum = self._square = np.zeros(())
        self._errors = np.zeros((precisions, frames))
        self._worst = np.zeros(precisions)
        self._lips = _lips(names)
        self._gaps = np.zeros((frames, 1 + precisions))

    def add(self, index: int, played: Sequence[NDArray[np.float64]]) -> None:
        """Take in frame `index`: FP32's motion and each precision's."""
        motion, differences = played[0], np.array(played[1:]) - played[0]
        self._sum, self._square = self._sum + motion, self._square + motion * motion
        self._errors[:, index] = np.square(differences).mean(1)
        self._worst = np.maximum(self._worst, np.abs(differences).max(1))
        if self._lips is not None:
            self._gaps[index] = np.array(played) @ self._lips

    def divergences(self, schedule: str, rate: int) -> list[Divergence]:
        """Return what came out, precision by precision. rate: frames a second."""
        frames = len(self._gaps)
        variance = self._square / frames - np.square(self._sum / frames)
        deviation = float(np.sqrt(np.mean(np.maximum(variance, 0.0))))
        unit = deviation or 1.0
        found = []
        for place, errors in enumerate(self._errors):
            seconds = tuple(float(np.sqrt(np.mean(errors[i : i + rate]))) / unit for i in range(0, frames, rate))
            closures, shut = (None, 0) if self._lips is None else _closures(self._gaps[:, [0, 1 + place]])
            largest = float(self._worst[place]) / unit
            found.append(Divergence(schedule, frames, deviation, seconds, largest, closures, shut))
        return found


def compare_rollouts(
    bundle: Bundle,
    precisions: Sequence[str],
    sound: NDArray[np.float32],
    frames: int,
    *,
    seed: int = 0,
    progress: Progress = unheard,
) -> dict[str, list[Divergence]]:
    """Play the same sound and noise in FP32 and in each of these precisions, all on their own histories, and return
    precision -> how far its motion is from FP32's, schedule by schedule.

    The schedules play side by side: what they hear alike, most of a large network's time, is computed once a frame.
    """
    manifest = bundle.manifest
    what = f"closed loop, {', '.join(precisions)}, schedules {', '.join(manifest.ladder)}"
    courses = {name: _Course(manifest.motion.names, len(precisions), frames) for name in manifest.ladder}
    with ExitStack() as stack:
        engines = list[RememberingEngine]()
        models = list[Model]()
        for name in ("fp32", *precisions):
            stages: dict[str, RememberingEngine] = ort_engines(bundle, name, kind=RememberingEngine)
            engines += stages.values()
            models.append(stack.enter_context(Model(bundle, engines=stages)))
        talkers = {
            schedule: [model.talker(seed=seed, schedules=[schedule]) for model in models] for schedule in courses
        }
        for index in range(frames):
            progress(what, index / frames)
            for schedule, course in courses.items():
                window = _window(talkers[schedule][0], bundle, sound, index)
                made = [talker.make(schedule, window=window).motion for talker in talkers[schedule]]
                course.add(index, [motion.astype(np.float64).reshape(-1) for motion in made])
            for engine in engines:
                engine.memory.clear()
    rate = max(1, round(manifest.motion.fps))
    by_schedule = [course.divergences(schedule, rate) for schedule, course in courses.items()]
    return {name: [found[place] for found in by_schedule] for place, name in enumerate(precisions)}


_SHUT = 0.05  # lips count as shut where the gap is below this, in units of JawOpen
_GAP = {"JawOpen": 1.0, "MouthClose": -1.0, "MouthUpperUp": 0.25, "MouthLowerDown": 0.25}


def _lips(names: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the weights of the gap between the lips in a motion's values, None where ARKit's mouth is not in it."""
    short = [name[:1].upper() + name[1:].removesuffix("Left").removesuffix("Right") for name in names]
    if not {"JawOpen", "MouthClose"} <= set(short):
        return None
    return np.array([_GAP.get(name, 0.0) for name in short])


def _closures(gaps: NDArray[np.float64]) -> tuple[float | None, int]:
    """Return F1 of the second column's shut frames against the first's, and how many those are; None without any."""
    wanted, shown = gaps.T < _SHUT
    if not wanted.any():
        return None, 0
    near = [np.convolve(flags, [1, 1, 1], "same") > 0 for flags in (wanted, shown)]
    precision = float(near[0][shown].mean()) if shown.any() else 0.0
    recall = float(near[1][wanted].mean())
    return (2 * precision * recall / (precision + recall) if precision + recall else 0.0), int(wanted.sum())
