"""The state of one talker (or of several in lock-step) and the step that makes the next frame.

The session owns every buffer; engines learned their addresses at start-up; `step` allocates nothing on the device,
binds nothing and captures nothing. It reads like the frame: fill, upload, launch, download, wait.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Buffer, Device, Engine, Graph
from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.runtime.control import Control
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.memory import INBOUND, Memory
from edgetalker.runtime.noise import NoiseSource, counter_noise
from edgetalker.runtime.program import Program, Variant
from edgetalker.runtime.replay import Granularity, Recorder, Replay, run_all
from edgetalker.runtime.window import SampleClock

__all__ = ["Granularity", "NoiseSource", "Session"]


class Session:
    """One talker on one device. Not safe for use from two threads at once.

    seed, stream: key of the noise; talker k of a lock-step bundle uses stream + k. graphs: `step` captures a graph
    for each stage run and schedule row, `frame` one for the whole frame, `eager` none; all give the same frames.
    timings: bracket every piece with marks, so that `durations` can tell where the frame's time went. schedules:
    those to prepare (default: all); the others cannot be played.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        device: Device,
        *,
        seed: int = 0,
        stream: int = 0,
        graphs: Granularity = "step",
        timings: bool = False,
        schedules: Sequence[str] | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        """Allocate, bind, warm and capture. Raises UserError subclasses for what cannot be prepared."""
        manifest = bundle.manifest
        self.bundle, self.device, self.manifest = bundle, device, manifest
        audio = manifest.audio
        self.clock = SampleClock(audio.rate, manifest.motion.fps, audio.lookahead, audio.block)
        self.schedules = _chosen(manifest.ladder, schedules)
        self._engines = dict(engines)
        self._memory = Memory(device, bundle, self.schedules)
        noises = [name for name, tensor in manifest.tensors.items() if tensor.role == "noise"]
        self._noise = noise or counter_noise(noises, seed, stream, manifest.talkers)
        self._prepare_inputs()
        self._program = Program(manifest, engines, self._memory, device)
        self._every = [self._program.every(place) for place in self._program.periodic]
        recorder = Recorder(device, graphs, timings=timings)
        self._replays = {
            (variant.schedule, variant.phase, variant.due): recorder.replay(self._program.pieces(variant))
            for name in self.schedules
            for variant in self._program.variants(name)
        }
        self._repeats = self._capture_repeats()
        self._restart: Graph = device.capture("reset", self._memory.reset)
        motion = self._memory.buffer(manifest.motion.tensor)
        self._motion_buffer = motion
        self._motion = _read_only(device.staging(motion), manifest.talkers)
        self._last: Replay | None = None
        self.reset()

    def _prepare_inputs(self) -> None:
        by_role = {
            role: [name for name, tensor in self.manifest.tensors.items() if tensor.role == role] for role in INBOUND
        }
        staging = {name: self.device.staging(self._memory.buffer(name)) for names in by_role.values() for name in names}
        self.audio: NDArray[np.float32] | None = staging[by_role["audio"][0]] if by_role["audio"] else None
        self._heard = [staging[name] for name in by_role["heard"]]
        self._counts = [(staging[name], float(self.manifest.tensors[name].limit)) for name in by_role["count"]]
        self._noises = [(name, staging[name]) for name in by_role["noise"]]
        self._inputs = {name: staging[name] for name in by_role["input"]}
        tensors, fps = self.manifest.tensors, self.manifest.motion.fps
        self.controls = {name: Control(tensors[name], fps, staging[name]) for name in by_role["control"]}

    def _capture_repeats(self) -> Mapping[str, Graph]:
        if self.manifest.skipped != "repeat":
            return {}
        graphs = {}
        for name in self.schedules:
            works = self._program.repeats(Variant(name, 0, ()))
            graphs[name] = self.device.capture(f"repeat {name}", partial(run_all, works))
        return graphs

    @property
    def layout(self) -> MotionLayout:
        """What the motion's numbers mean."""
        motion, audio = self.manifest.motion, self.manifest.audio
        extra = {"bundle": self.manifest.name, "family": self.manifest.family, "audio": asdict(audio)}
        return MotionLayout(motion.kind, self._motion.shape, motion.fps, motion.names, motion.units, extra)

    @property
    def index(self) -> int:
        """Index of the frame that the next `step` makes."""
        return self._index

    @property
    def listens(self) -> bool:
        """Whether the next step reads the audio window; a block's later frames need not be given it."""
        return self._choose(self.schedules[0]).hears

    def end(self, index: int) -> int:
        """Return the sample after the last one that frame `index` sees (the audio contract)."""
        return self.clock.end(index)

    def set(self, control: str, values: Mapping[str, float] | Sequence[float]) -> None:
        """Change a control from the next frame on; it glides. Raises OptionError for what does not exist or fit."""
        if control not in self.controls:
            raise OptionError(f"{self._describe_controls()}; `{control}` is none{nearest(control, self.controls)}")
        self.controls[control].set(values)

    def feed(self, name: str, values: Array) -> None:
        """Fill an `input` tensor for the next frame. Raises OptionError or ValueError for a wrong name or shape."""
        if name not in self._inputs:
            raise OptionError(f"the bundle has no input `{name}`{nearest(name, self._inputs)}")
        if values.shape != self._inputs[name].shape:
            raise ValueError(f"input `{name}` is {list(self._inputs[name].shape)}, values are {list(values.shape)}")
        self._inputs[name][...] = values

    def step(
        self, audio: NDArray[np.float32] | None = None, *, heard: int | None = None, schedule: str | None = None
    ) -> Frame:
        """Make the next frame and return it; its motion is valid until the next step.

        audio: the window [end(i) - window, end(i)), float32 (window,) or (talkers, window); None when the caller
        has filled `session.audio` itself. heard: number of its samples after the stream's start (default: what
        the contract says). schedule: name (default: the fullest). Raises InputError when the audio has another
        length or is not finite, OptionError for an unknown schedule.
        """
        start = time.perf_counter_ns()
        schedule = schedule or self.schedules[0]
        replay = self._choose(schedule)
        self._fill(audio, heard)
        if self._memory.inbound is not None:
            self.device.upload(self._memory.inbound)
        replay.launch()
        self.device.download(self._motion_buffer)
        self.device.synchronize()
        self._last, self._last_schedule = replay, schedule
        return self._frame(time.perf_counter_ns() - start)

    def _choose(self, schedule: str) -> Replay:
        program, index = self._program, self._index
        due = tuple([index // every != ran for every, ran in zip(self._every, self._ran, strict=True)])
        replay = self._replays.get((schedule, index % program.period, due))
        if replay is None:
            known = ", ".join(self.schedules)
            raise OptionError(f"no schedule `{schedule}`; prepared are {known}{nearest(schedule, self.schedules)}")
        return replay

    def _fill(self, audio: NDArray[np.float32] | None, heard: int | None) -> None:
        if audio is not None:
            self._take(audio)
        if heard is None:
            heard = min(self.end(self._index), self.manifest.audio.window)
        for into in self._heard:
            into[0] = heard
        for into, limit in self._counts:
            into[0] = min(float(self._index), limit)
        for name, values in self._noises:
            self._noise(name, self._index, values)
        for control in self.controls.values():
            control.advance()

    def _take(self, audio: NDArray[np.float32]) -> None:
        if self.audio is None:
            raise InputError("this bundle hears no audio; it is fed through `feed`")
        if audio.shape not in (self.audio.shape, self.audio.shape[1:]):
            wanted = f"float32 ({self.audio.shape[1]},)"
            raise InputError(f"the window of frame {self._index} is {list(audio.shape)}; {wanted} was wanted")
        self.audio[...] = audio

    def _frame(self, cost_ns: int) -> Frame:
        fps, index = self.manifest.motion.fps, self._index
        for slot, every in enumerate(self._every):
            self._ran[slot] = index // every
        self._index += 1
        return Frame(
            index=index,
            sample=self.end(index),
            time=Fraction(index * fps.denominator, fps.numerator),
            motion=self._motion,
            schedule=self._last_schedule,
            cost_ns=cost_ns,
        )

    def skip(self) -> None:
        """Let one frame pass without making it. The history does what the manifest's `skipped` says."""
        graph = self._repeats.get(self._last_schedule)
        if graph is not None and self._last is not None:
            self.device.launch(graph)
        self._index += 1

    def heal(self) -> None:
        """Put every state back to its start and go on with the next frame: what mends a history that holds NaN."""
        self.device.launch(self._restart)
        self.device.synchronize()

    def reset(self) -> None:
        """Begin anew at frame 0: states as at the start, controls at their targets. Frees and allocates nothing."""
        self.heal()
        self._index = 0
        self._ran = [-1] * len(self._program.periodic)
        self._last, self._last_schedule = None, self.schedules[0]
        for control in self.controls.values():
            control.settle()

    @property
    def motion(self) -> NDArray[np.float32]:
        """The last frame's motion, read-only, overwritten by the next step."""
        return self._motion

    @property
    def motion_buffer(self) -> Buffer:
        """The motion on the device, complete after `step`; on cuda it is a `__cuda_array_interface__` and DLPack."""
        return self._motion_buffer

    @property
    def replays(self) -> tuple[Replay, ...]:
        """What the variants of a frame launch; for profilers, which may stand before the calls."""
        return tuple(self._replays.values())

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The stages' engines by name."""
        return self._engines

    def addresses(self) -> Mapping[str, int]:
        """Return the address of every buffer; constant for the session's life."""
        return self._memory.addresses()

    def read(self, name: str) -> Array:
        """Return a copy of any tensor as it is now. For tests and calibration, not for frames."""
        return self.device.read(self._memory.buffer(name))

    @property
    def nbytes(self) -> int:
        """Bytes of the session's buffers."""
        return self._memory.nbytes()

    def labels(self) -> tuple[str, ...]:
        """Return the names of the last frame's pieces in order: `audio`, `condition`, `denoise[0]`, …"""
        return self._last.labels if self._last else ()

    def durations(self) -> list[int]:
        """Return the device time of each piece of the last frame in ns; needs `timings`."""
        return self._last.durations() if self._last else []

    def starts(self) -> list[int]:
        """Return when each piece of the last frame began on the device, in ns after the first; needs `timings`."""
        return self._last.starts() if self._last else []

    def pieces(self) -> tuple[str, ...]:
        """Return the labels of all pieces of all variants, each once."""
        return tuple(dict.fromkeys(label for replay in self.replays for label in replay.labels))

    def close(self) -> None:
        """Free engines and device memory."""
        for engine in self._engines.values():
            engine.close()
        self.device.close()

    def _describe_controls(self) -> str:
        return (
            f"this bundle's controls are {', '.join(self.controls)}" if self.controls else "this bundle has no controls"
        )


def _chosen(ladder: tuple[str, ...], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return ladder
    for name in wanted:
        if name not in ladder:
            raise OptionError(f"no schedule `{name}`; the bundle has {', '.join(ladder)}{nearest(name, ladder)}")
    return tuple(name for name in ladder if name in wanted)


def _read_only(values: Array, talkers: int) -> NDArray[np.float32]:
    """One talker's motion is shown without the talkers' axis."""
    view: NDArray[np.float32] = (values[0] if talkers == 1 else values).view()
    view.flags.writeable = False
    return view
