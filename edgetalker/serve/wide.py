"""The steps of every frame, run for many talkers at once at some widths.

Each talker keeps all that is its own in its own memory (its slot): a frame's inputs, states and motion. A launch copies
what the steps read from the slots into the rows of wide buffers, runs the steps once for all rows, and copies back what
they leave. So talkers may come, go, begin anew or wait at any frame, and sit in any row. Steps that run once in several
frames stay with each talker (`Talker.prepare`), as talkers' blocks begin at different times.

TensorRT's plans have no widths: see `Own`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Binding, Buffer, Device, Engine, Layers, TensorSpec
from edgetalker.engines.errors import EngineError, OptionError
from edgetalker.engines.manifest import ROW, Carry, Manifest, Stage, Step, Tensor, reference
from edgetalker.engines.ort import OrtBinding, OrtEngine, open_session, run_at
from edgetalker.engines.tensorrt.engine import TensorRTEngine
from edgetalker.engines.verify import traffic
from edgetalker.runtime.memory import INBOUND, Memory
from edgetalker.runtime.model import Model
from edgetalker.runtime.program import Program
from edgetalker.runtime.talker import Talker
from edgetalker.serve.batched import batched_stage, widened

__all__ = ["WIDTHS", "Wide", "Widths", "shared_inputs"]

WIDTHS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
PHASE = "~phase"
TOLERANCE = 1e-4
"""Most by which a row of a wide stage may differ from the stage alone, of its largest value: sums run in another order
at another width, which moves the sixth digit; a graph that mixes talkers up moves the first."""
PLANS = "a plan is for one talker, and each talker has execution contexts of its own"


def frame_steps(manifest: Manifest) -> tuple[Step | Carry, ...]:
    """Return the steps of every frame."""
    return tuple(step for step in manifest.program if step.every == 1)


def shared_inputs(manifest: Manifest, stage: str) -> frozenset[str]:
    """Return the inputs of a stage that are the same for every talker: the schedule's row and constants."""
    found = set()
    for step in manifest.program:
        if isinstance(step, Step) and step.stage == stage:
            for name, text in step.inputs.items():
                if text == ROW or manifest.tensors[reference(text).name].role == "constant":
                    found.add(name)
    return frozenset(found)


@dataclass(frozen=True)
class WideBundle(Bundle):
    """A bundle whose manifest is that of many talkers' frame steps; the files are those of the bundle for one."""

    single: Bundle

    def array(self, file: str) -> Array:
        """Load an array; the first state of one talker is that of each."""
        values = self.single.array(file)
        for name, tensor in self.single.manifest.tensors.items():
            if tensor.file == file and tensor.role == "state":
                return np.ascontiguousarray(np.broadcast_to(values, self.manifest.tensors[name].spec.shape))
        return values


class Rows:
    """A stage at one width as an engine: one run for all rows, or, where it cannot be widened, a run for each.

    run: the ONNX Runtime session of the widened stage; None: `engine` for each row.
    """

    def __init__(self, engine: Engine, device: Device, talkers: int, shared: frozenset[str], run: Any) -> None:
        self.name, self.file, self.precision = engine.name, engine.file, engine.precision
        self._engine, self._device, self._talkers, self._shared, self._run = engine, device, talkers, shared, run
        self.inputs = {n: spec if n in shared else widened(spec, talkers) for n, spec in engine.inputs.items()}
        self.outputs = {name: widened(spec, talkers) for name, spec in engine.outputs.items()}

    def bind(self, buffers: Mapping[str, Buffer]) -> Binding:
        """Give the stage its memory."""
        if self._run is None:
            return _EachRow([self._engine.bind(self._row(buffers, row)) for row in range(self._talkers)])
        return OrtBinding(self.name, run_at(self._run, self.inputs, self.outputs, buffers), buffers)

    def _row(self, buffers: Mapping[str, Buffer], row: int) -> dict[str, Buffer]:
        specs = {**self._engine.inputs, **self._engine.outputs}
        return {n: b if n in self._shared else row_of(b, row, specs[n]) for n, b in buffers.items()}

    def layers(self, runs: int) -> Layers:
        """Raises EngineError: layers are told of the stage for one talker."""
        raise EngineError(f"stage `{self.name}` is widened; profile it for one talker")

    def close(self) -> None:
        """Do nothing: the sessions are the model's and the widths'."""


class _EachRow:
    def __init__(self, bindings: Sequence[Binding]) -> None:
        self._bindings = tuple(bindings)

    def enqueue(self, device: Device) -> None:
        """Enqueue one run for each row."""
        for binding in self._bindings:
            binding.enqueue(device)


def row_of(buffer: Buffer, row: int, spec: TensorSpec) -> Buffer:
    """Return one talker's part of a wide buffer."""
    return buffer.view(f"{buffer.name}/{row}", row * spec.nbytes, spec)


class Wide:
    """The frame steps at one width."""

    def __init__(
        self, model: Model, talkers: int, engines: Mapping[str, Engine], schedules: Sequence[str], graphs: str | None
    ) -> None:
        manifest, device = model.bundle.manifest, model.device
        steps, sources = _renamed(frame_steps(manifest))
        wide = _wide_manifest(manifest, steps, sources, engines, talkers)
        self.talkers, self._device = talkers, device
        self._memory = Memory(device, WideBundle(model.bundle.path, wide, model.bundle), schedules)
        granularity: Any = graphs or ("frame" if device.kind == "cuda" else "step")
        program = Program(wide, engines, self._memory, schedules, graphs=granularity, timings=False)
        self._program = program
        self._frames = {name: program.frames[name, 0].launch for name in schedules}
        self._edges = [part.call if part is not None and device.copies else None for part in program.edges]
        reads, writes = _needs(manifest, wide)
        roles = {name: tensor.role for name, tensor in wide.tensors.items()}
        self._given = [(name, sources.get(name, name)) for name in reads if roles[name] in INBOUND]
        self._gathered = [(name, sources.get(name, name)) for name in reads if roles[name] not in INBOUND]
        self._left = writes
        self._motion = manifest.motion.tensor
        self._staging = {name: device.staging(self._memory.buffer(name)) for name, _ in self._given}
        self._rows = {name: self._split(name) for name in {*(name for name, _ in self._gathered), *writes}}
        self._staged = device.staging(self._program.motion)

    def make(self, talkers: Sequence[Talker], schedule: str) -> None:
        """Run the frame steps of prepared talkers, at most as many as the width; the rows left over run idle."""
        device, copy = self._device, self._device.copy
        for row, talker in enumerate(talkers):
            for name, text in self._given:
                self._staging[name][row] = talker.staging(text)
        upload, download = self._edges
        if upload is not None:
            upload()
        for row, talker in enumerate(talkers):
            for name, text in self._gathered:
                copy(self._rows[name][row], talker.buffer(text))
        self._frames[schedule]()
        for row, talker in enumerate(talkers):
            for name in self._left:
                copy(talker.buffer(name), self._rows[name][row])
        if download is not None:
            download()
        device.synchronize()
        for row, talker in enumerate(talkers):
            talker.staging(self._motion)[...] = self._staged[row]

    def _split(self, name: str) -> list[Buffer]:
        whole = self._memory.buffer(name)
        spec = TensorSpec(whole.spec.dtype, whole.spec.shape[1:])
        return [row_of(whole, row, spec) for row in range(self.talkers)]

    @property
    def nbytes(self) -> int:
        """Bytes of the wide buffers."""
        return self._memory.nbytes()


class Own:
    """The frame steps of plans, at any width: each talker's as it captured them when it was made, one after the other.

    A plan's shapes are fixed, and every binding of it is an execution context. On wide buffers there would be one more
    for each row of each width, and rows do not begin at the addresses that a plan asks for. A talker's own buffers do,
    and are bound already: nothing is bound or copied here.
    """

    nbytes = 0

    def __init__(self, device: Device) -> None:
        self._device = device

    def make(self, talkers: Sequence[Talker], schedule: str) -> None:
        """Run the frame steps of talkers that were prepared for this schedule: a launch each, one wait for all."""
        for talker in talkers:
            talker.launch()
        self._device.synchronize()


def _renamed(steps: Sequence[Step | Carry]) -> tuple[tuple[Step | Carry, ...], dict[str, str]]:
    """Return the steps with `name[phase]` as a tensor of its own, which each talker fills from its own phase."""
    sources: dict[str, str] = {}

    def plain(text: str) -> str:
        if text == ROW or not reference(text).phase:
            return text
        name = f"{reference(text).name}{PHASE}"
        sources[name] = text
        return name

    done: list[Step | Carry] = []
    for step in steps:
        if isinstance(step, Carry):
            done.append(replace(step, source=plain(step.source)))
        else:
            done.append(replace(step, inputs={name: plain(text) for name, text in step.inputs.items()}))
    return tuple(done), sources


def _wide_manifest(
    manifest: Manifest,
    steps: tuple[Step | Carry, ...],
    sources: Mapping[str, str],
    engines: Mapping[str, Engine],
    talkers: int,
) -> Manifest:
    used = {name for step in steps for names in traffic(step) for name in names} | {manifest.motion.tensor}
    tensors: dict[str, Tensor] = {}
    for name in sorted(used):
        ref = reference(sources.get(name, name))
        single = manifest.tensors[ref.name]
        spec = single.spec if single.role == "constant" else widened(ref.of(single.spec), talkers)
        role = "value" if ref.phase else single.role
        tensors[name] = replace(single, name=name, spec=spec, role=role, file="" if ref.phase else single.file)
    stages = {
        name: Stage(name, manifest.stages[name].file, engine.inputs, engine.outputs) for name, engine in engines.items()
    }
    audio = replace(manifest.audio, spread=0)
    return replace(manifest, talkers=talkers, tensors=tensors, stages=stages, program=steps, audio=audio)


def _needs(manifest: Manifest, wide: Manifest) -> tuple[list[str], list[str]]:
    """Return what the wide steps read that was there before them, and what they leave in the slots: states, the motion,
    and what a skipped frame repeats."""
    by_groups = {name for step in manifest.program if step.every > 1 for name in traffic(step)[1]}
    roles = {name: tensor.role for name, tensor in wide.tensors.items()}
    reads = [n for n, role in roles.items() if role in (*INBOUND, "state") or n.endswith(PHASE) or n in by_groups]
    made = {name for step in wide.program for name in traffic(step)[1]}
    repeated = {step.source for step in wide.program if isinstance(step, Carry) and step.kind == "shift"}
    left = {name for name in made if roles[name] == "state" or name == wide.motion.tensor or name in repeated}
    return reads, sorted(left)


class Widths:
    """The frame steps at every width, from one set of weights, each compared with the stages for one talker."""

    def __init__(
        self,
        model: Model,
        talkers: int,
        *,
        widths: Iterable[int] = (),
        schedules: Sequence[str] = (),
        graphs: str | None = None,
    ) -> None:
        """Widen, compare, allocate, bind and capture; for plans, nothing of it.

        widths: those to prepare (default: WIDTHS up to `talkers`, which is always one). Raises EngineError when the
        bundle cannot play many talkers, OptionError for a width that is none, MissingPackageError without onnx.
        """
        manifest = model.bundle.manifest
        chosen = sorted({*(width for width in widths or WIDTHS if width <= talkers), *([] if widths else [talkers])})
        if not chosen or chosen[0] < 1:
            raise OptionError(f"widths {list(widths)} for {talkers} talkers; whole numbers from 1 to that were wanted")
        self.reasons: dict[str, str] = {}
        self._sessions: dict[str, Any] = {}
        check_bundle(manifest)
        stages = {step.stage for step in frame_steps(manifest) if isinstance(step, Step)}
        self.widths = tuple(chosen)
        self._wide: dict[int, Wide | Own]
        if any(isinstance(model.engines[name], TensorRTEngine) for name in stages):
            self.reasons = dict.fromkeys(sorted(stages), PLANS)
            self._wide = dict.fromkeys(chosen, Own(model.device))
            return
        shared = {name: shared_inputs(manifest, name) for name in sorted(stages)}
        for name in shared:
            try:
                self._sessions[name] = self._session(model, name, shared[name])
            except EngineError as error:
                self.reasons[name] = error.message
        self._wide = {
            width: Wide(
                model,
                width,
                {n: self._rows(model, n, width, shared[n]) for n in shared},
                schedules or manifest.ladder,
                graphs,
            )
            for width in chosen
        }

    def _session(self, model: Model, stage: str, shared: frozenset[str]) -> Any:
        """Return an ONNX Runtime session of the widened stage. Raises EngineError where there can be none."""
        engine = model.engines[stage]
        if not isinstance(engine, OrtEngine) or engine.file is None:
            raise EngineError(f"stage `{stage}` does not run on ONNX Runtime")
        data = batched_stage(engine.file, engine.inputs.keys() - shared)
        session = open_session(data, engine.threads, stage=stage)
        compare(model, engine, session, shared)
        return session

    def _rows(self, model: Model, stage: str, width: int, shared: frozenset[str]) -> Engine:
        return Rows(model.engines[stage], model.device, width, shared, self._sessions.get(stage))

    def fitting(self, count: int) -> int:
        """Return the least width that holds `count` talkers, or the widest."""
        return next((width for width in self.widths if width >= count), self.widths[-1])

    def make(self, talkers: Sequence[Talker], schedule: str) -> None:
        """Run the frame steps of prepared talkers: one launch, or several of the widest when there are more; for plans
        one a talker."""
        most = self.widths[-1]
        for start in range(0, len(talkers), most):
            some = talkers[start : start + most]
            self._wide[self.fitting(len(some))].make(some, schedule)

    @property
    def nbytes(self) -> int:
        """Bytes of the wide buffers of all widths; the weights are not in it."""
        return sum(wide.nbytes for wide in self._wide.values())

    def close(self) -> None:
        """Drop the widened stages."""
        self._wide, self._sessions = {}, {}


def check_bundle(manifest: Manifest) -> None:
    """Raise EngineError for a program whose frame steps cannot be given an axis of talkers."""
    if manifest.talkers != 1:
        raise EngineError(f"bundle `{manifest.name}` plays {manifest.talkers} talkers in lock-step already")
    steps = frame_steps(manifest)
    texts = [
        t
        for s in steps
        for t in ([s.source, s.target] if isinstance(s, Carry) else [*s.inputs.values(), *s.outputs.values()])
    ]
    parts = sorted({text for text in texts if text != ROW and reference(text).part})
    if parts:
        raise EngineError(
            f"bundle `{manifest.name}` reads or writes parts of tensors in every frame: {', '.join(parts)}"
        )
    if manifest.motion.tensor not in {name for step in steps for name in traffic(step)[1]}:
        raise EngineError(f"bundle `{manifest.name}` makes its motion once a block")


def compare(model: Model, engine: Engine, session: Any, shared: frozenset[str]) -> None:
    """Run the widened stage and the stage alone on the same made-up values. Raises EngineError where they differ.

    The rows differ in size, so that a scale that is taken over all talkers shows.
    """
    random, device, count = np.random.default_rng(0), model.device, 3
    values = {name: _made_up(random, spec, 1 if name in shared else count) for name, spec in engine.inputs.items()}
    given = {name: value[0] if name in shared else value for name, value in values.items()}
    try:
        many = dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise EngineError(f"stage `{engine.name}`, widened: {str(error).strip().splitlines()[0]}") from None
    specs = {**engine.inputs, **engine.outputs}
    buffers = {name: device.allocate(f"compare {name}", spec) for name, spec in specs.items()}
    binding = engine.bind(buffers)
    for row in range(count):
        for name, value in values.items():
            device.write(buffers[name], value[0 if name in shared else row])
        binding.enqueue(device)
        device.synchronize()
        for name in engine.outputs:
            alone = device.read(buffers[name]).astype(np.float64)
            apart = np.abs(many[name][row].reshape(alone.shape) - alone).max(initial=0.0)
            if not apart <= TOLERANCE * max(1.0, np.abs(alone).max(initial=0.0)):
                raise EngineError(f"stage `{engine.name}`, widened: `{name}` of a talker differs by {apart:.2g}")


def _made_up(random: np.random.Generator, spec: TensorSpec, count: int) -> Array:
    values = random.standard_normal((count, *spec.shape))
    values *= np.array([0.03, 1.0, 0.3])[:count].reshape(-1, *[1] * len(spec.shape))
    if spec.dtype not in ("float32", "float16"):
        values = np.abs(values)
    made: Array = values.astype(spec.dtype)
    return made
