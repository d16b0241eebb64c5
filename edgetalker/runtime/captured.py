"""What a talker has on its device: every buffer, and the program that was captured on them.

All of it is made once; afterwards nothing is allocated, bound or captured. A frame passes through none of this file:
talker.py launches what stands here, and profilers and tests look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.engine import Array, Buffer, Engine
from edgetalker.engines.errors import OptionError, unknown
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.inputs import Inbound
from edgetalker.runtime.memory import INBOUND, Memory
from edgetalker.runtime.options import TalkerOptions
from edgetalker.runtime.program import Around, Granularity, Part, Program, Replay

if TYPE_CHECKING:
    from edgetalker.runtime.model import Model

__all__ = ["Captured"]


class Captured:
    """One talker's buffers, with the model's program bound and captured on them.

    audio, controls, inputs: what the host fills before a frame; fed: controls and inputs, which `feed` takes. motion:
    the last sound frame's, read-only. layout: what its numbers mean. schedules: those that were prepared, from the
    fullest to the cheapest.
    """

    def __init__(self, model: Model, options: TalkerOptions) -> None:
        """Allocate, bind, warm and capture. Raises OptionError for an unknown schedule, DeviceError without memory."""
        manifest, device = model.bundle.manifest, model.device
        self.model, self.options = model, options
        self.bundle, self.device, self.manifest = model.bundle, device, manifest
        self.schedules = _chosen(manifest.ladder, options.schedules)
        self._memory = Memory(device, self.bundle, self.schedules)
        names = [name for name, tensor in manifest.tensors.items() if tensor.role in INBOUND]
        staging = {name: device.staging(self._memory.buffer(name)) for name in names}
        keys = options.seed, options.stream, manifest.talkers
        self._inbound = Inbound(manifest.tensors, staging, manifest.motion.fps, options.noise, keys)
        self.audio, self.controls, self.inputs = self._inbound.audio, self._inbound.controls, self._inbound.tracks
        self.fed = self._inbound.fed
        self.graphs: Granularity = options.graphs or ("frame" if device.kind == "cuda" else "step")
        self._program = Program(
            manifest, model.engines, self._memory, self.schedules, graphs=self.graphs, timings=options.timings
        )
        self._groups, self._frames, self._period = self._program.groups, self._program.frames, self._program.period
        repeat = manifest.skipped == "repeat"
        self._repeats = {name: self._program.repeats(name) for name in self.schedules} if repeat else {}
        self._restart = device.launcher([device.capture("reset", self._memory.reset)])
        staged = device.staging(self._program.motion)
        self._staged: NDArray[np.float32] = staged[0] if manifest.talkers == 1 and staged.ndim > 1 else staged
        self._motion = np.zeros(self._staged.shape, np.float32)
        self.motion = self._motion.view()
        self.motion.flags.writeable = False
        self.layout = self._layout()
        self._last: tuple[Replay, ...] = ()
        self.watch(None)

    def _layout(self) -> MotionLayout:
        motion = self.manifest.motion
        extra: dict[str, Any] = {
            "bundle": self.manifest.name, "family": self.manifest.family, "audio": asdict(self.manifest.audio),
        }  # fmt: skip
        mesh = self.manifest.tensors.get("triangles")
        if motion.kind == "vertices" and mesh is not None and mesh.file:
            extra["triangles"] = self.bundle.array(mesh.file).reshape(-1, 3).tolist()
        return MotionLayout(motion.kind, self._motion.shape, motion.fps, motion.names, motion.units, extra)

    @property
    def motion_buffer(self) -> Buffer:
        """The motion on the device, complete after `make`; on cuda it is a `__cuda_array_interface__` and DLPack."""
        return self._program.motion

    def watch(self, around: Around | None) -> None:
        """Let `around` make every call of a frame (upload, launches, download, the wait); None: as before."""
        for replay in self.replays:
            replay.watch(around)
        wait = Part("wait", "wait", self.device.synchronize)
        calls: list[Callable[[], None] | None] = []
        for part in (*self._program.edges, wait):
            if part is None or (around is None and part is not wait and not self.device.copies):
                calls.append(None)  # a call less where there is nothing to copy
            else:
                calls.append(part.call if around is None else partial(around, part))
        self._upload, self._download, self._wait = calls[0], calls[1], calls[2] or wait.call

    @property
    def replays(self) -> tuple[Replay, ...]:
        """Everything that frames launch."""
        return self._program.replays

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The stages' engines by name."""
        return self.model.engines

    def staging(self, name: str) -> Array:
        """Return the host's side of an input that frames fill, or of the motion."""
        return self.device.staging(self._program.see(name, 0))

    def addresses(self) -> Mapping[str, int]:
        """Return the address of every buffer; constant for the talker's life."""
        return self._memory.addresses()

    def read(self, name: str) -> Array:
        """Return a copy of any tensor as it is now."""
        return self.device.read(self._memory.buffer(name))

    @property
    def nbytes(self) -> int:
        """Bytes of the talker's buffers."""
        return self._memory.nbytes()

    def labels(self) -> tuple[str, ...]:
        """Return the names of the last frame's pieces in order: `audio`, `condition`, `denoise[0]`, …

        Pieces that were spread over the frames before are those of the first frame that sees their results.
        """
        return tuple(label for replay in self._last for label in replay.labels)

    def durations(self) -> list[int]:
        """Return the device time of each piece of the last frame in ns. Raises OptionError without `timings`."""
        return [self.device.elapsed(first, last) for replay in self._last for first, last in replay.marks()]

    def starts(self) -> list[int]:
        """Return when each piece of the last frame began on the device, in ns after the first; needs `timings`."""
        marks = [first for replay in self._last for first, _ in replay.marks()]
        return [self.device.elapsed(marks[0], first) for first in marks]

    def pieces(self) -> tuple[str, ...]:
        """Return the labels of all pieces, each once."""
        return tuple(dict.fromkeys(label for replay in self.replays for label in replay.labels))


def _chosen(ladder: tuple[str, ...], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return ladder
    if not wanted:
        raise OptionError(f"`schedules` is empty; some of {', '.join(ladder)} were wanted", hint="None prepares all")
    for name in wanted:
        if name not in ladder:
            raise unknown("schedule", name, ladder, "the bundle has")
    return tuple(name for name in ladder if name in wanted)
