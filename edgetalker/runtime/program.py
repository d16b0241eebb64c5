"""The manifest's program with addresses put in, and captured: what a frame launches.

A program is groups, each due every m frames, and then the steps of every frame. A piece is one run of a stage with the
moves around it; it is captured once, whichever groups, schedules and phases it occurs in. A replay is what `make`
launches: the pieces of one group, or of the frame, in one schedule and phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Literal

from edgetalker.engines.engine import Binding, Buffer, Engine, Graph, Mark
from edgetalker.engines.errors import OptionError, unknown
from edgetalker.engines.manifest import Carry, Manifest, Step, reference
from edgetalker.engines.verify import traffic
from edgetalker.runtime.memory import INBOUND, Memory

__all__ = ["GRANULARITIES", "Around", "Granularity", "Group", "Part", "Piece", "Program", "Replay"]

Granularity = Literal["step", "frame", "eager"]
GRANULARITIES: tuple[Granularity, ...] = ("step", "frame", "eager")

Key = tuple[object, ...]
Work = tuple[Key, Callable[[], None]]
Names = Mapping[str, Buffer]


@dataclass(frozen=True)
class Piece:
    """The smallest work that gets a graph of its own: one run of a stage, with the moves before and after it.

    key: equal for pieces that do the same work on the same addresses. row: the schedule's row, -1 for a stage without
    rows. hears: whether the stage reads the audio window.
    """

    key: Key
    label: str
    stage: str
    row: int
    works: tuple[Callable[[], None], ...]
    hears: bool = False


@dataclass(frozen=True)
class Part:
    """One call of a frame. kind: `upload`, `enqueue` or `download`. label: the piece's or the graph's."""

    kind: str
    label: str
    call: Callable[[], None]
    graph: Graph | None = None


Around = Callable[[Part], None]
"""Makes a part's call, with whatever a profiler wants before and after it."""


class Replay:
    """One group's or one frame's work, ready to launch. parts: every call that `launch` makes, one by one."""

    __slots__ = ("_fast", "_marks", "hears", "labels", "launch", "parts")

    def __init__(
        self,
        pieces: Sequence[Piece],
        parts: Sequence[Part],
        launch: Callable[[], None],
        marks: tuple[tuple[Mark, Mark], ...],
    ) -> None:
        self.parts, self._fast, self._marks = tuple(parts), launch, marks
        self.launch = launch
        self.labels = tuple(piece.label for piece in pieces)
        self.hears = any(piece.hears for piece in pieces)

    def watch(self, around: Around | None) -> None:
        """Let `around` make every part's call from now on; None: launch in the fewest calls again."""
        self.launch = self._fast if around is None else partial(_run_parts, self.parts, around)

    def marks(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return the marks before and after each piece. Raises OptionError when no marks were asked for."""
        if len(self._marks) != len(self.labels):
            raise OptionError("this talker was opened without timings", hint="open it with timings=True")
        return self._marks


@dataclass(frozen=True)
class Group:
    """Steps that are due together, before those of every frame.

    every: frames from one run to the next. period: phases that differ. replays: by (schedule, phase). spread: whether
    its pieces may run one by one in the frames before they are needed; `parts` are then the pieces, each a replay of
    its own, `hold` keeps the inputs as they are for all of them, `show` hands the results over to the frames.
    """

    every: int
    period: int
    replays: Mapping[tuple[str, int], Replay]
    parts: Mapping[str, tuple[Replay, ...]]
    hold: Replay | None = None
    show: Replay | None = None

    @property
    def spread(self) -> bool:
        """Whether its pieces may run in the frames before they are needed."""
        return self.hold is not None


class Program:
    """Binds and captures everything that a talker will ever launch; groups first, then frames."""

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        memory: Memory,
        schedules: Sequence[str],
        *,
        graphs: Granularity,
        timings: bool,
    ) -> None:
        if graphs not in GRANULARITIES:
            raise unknown("kind of graphs", graphs, GRANULARITIES)
        self._manifest, self._engines, self._memory = manifest, engines, memory
        self._device = device = memory.device
        self._graphs, self._timings, self._schedules = graphs, timings, schedules
        self._bindings: dict[Key, Binding] = {}
        self._captured: dict[Key, Graph] = {}
        self._marks: dict[Key, tuple[Mark, Mark]] = {}
        self._audio = {name for name, tensor in manifest.tensors.items() if tensor.role == "audio"}
        steps = manifest.program
        periodic = [step for step in steps if step.every > 1]
        framed = [step for step in steps if step.every == 1]
        block = manifest.audio.block if manifest.audio.spread else 0
        self._held, self._shown = self._border([step for step in periodic if step.every == block], framed)
        self.motion = self._shown.get(manifest.motion.tensor, memory.buffer(manifest.motion.tensor))
        self.upload = Part("upload", "upload", partial(device.upload, memory.inbound)) if memory.inbound else None
        self.download = Part("download", "download", partial(device.download, self.motion))
        self.groups = tuple(
            self._group(every, list(run), spread=every == block) for every, run in groupby(periodic, lambda s: s.every)
        )
        self.period = self._period(framed)
        self.frames = {
            (name, phase): self._replay(self._pieces(framed, name, phase, self._shown), up=True, down=True)
            for name in schedules
            for phase in range(self.period)
        }

    @property
    def replays(self) -> tuple[Replay, ...]:
        """Everything that is ever launched for groups and frames."""
        found: list[Replay] = []
        for group in self.groups:
            found += (group.hold,) if group.hold else ()
            found += group.replays.values()
            found += (part for parts in group.parts.values() for part in parts)
            found += (group.show,) if group.show else ()
        return (*found, *self.frames.values())

    @property
    def edges(self) -> tuple[Part | None, Part | None]:
        """What a frame begins and ends with outside its graphs: upload and download, where they are no nodes."""
        return (None, None) if self._graphs == "frame" else (self.upload, self.download)

    def _border(self, spread: Sequence[Step | Carry], framed: Sequence[Step | Carry]) -> tuple[Names, Names]:
        """Return the second buffers at a spread group's border: inputs that it holds, results that frames are shown."""
        reads = {name for step in spread for name in traffic(step)[0]}
        writes = {name for step in spread for name in traffic(step)[1]}
        seen = {name for step in framed for name in traffic(step)[0]} | {self._manifest.motion.tensor}
        roles = {name: tensor.role for name, tensor in self._manifest.tensors.items()}
        held = {name: self._memory.second(name, "held") for name in sorted(reads) if roles[name] in INBOUND}
        return held, {name: self._memory.second(name, "shown") for name in sorted(writes & seen)}

    def _group(self, every: int, steps: Sequence[Step | Carry], *, spread: bool) -> Group:
        if not spread:
            period = self._period(steps)
            phases = [(name, phase) for name in self._schedules for phase in range(period)]
            return Group(
                every, period, {key: self._replay(self._pieces(steps, *key, {}), up=True) for key in phases}, {}
            )
        held = self._held
        parts = {
            name: tuple(self._replay([piece]) for piece in self._pieces(steps, name, 0, held))
            for name in self._schedules
        }
        hold = self._moves("hold", [(buffer, self._memory.buffer(name)) for name, buffer in held.items()])
        show = self._moves("show", [(buffer, self._memory.buffer(name)) for name, buffer in self._shown.items()])
        hears = any(part.hears for parts_of in parts.values() for part in parts_of)
        hold = replace(hold, hears=hears)
        return Group(every, 1, {}, parts, self._replay([hold], up=True), self._replay([show]))

    def _moves(self, label: str, moves: Sequence[tuple[Buffer, Buffer]]) -> Piece:
        copies = [self._copy(target, source) for target, source in moves]
        return Piece((label, *(key for key, _ in copies)), label, label, -1, tuple(work for _, work in copies))

    def _period(self, steps: Sequence[Step | Carry]) -> int:
        """Return after how many frames the steps read the same rows again."""
        texts = [text for s in steps for text in ([s.source] if isinstance(s, Carry) else s.inputs.values())]
        phased = [ref.name for ref in map(reference, texts) if ref.phase]
        return math.lcm(1, *(self._memory.buffer(name).spec.shape[0] for name in phased))

    # Pieces

    def _pieces(self, steps: Sequence[Step | Carry], schedule: str, phase: int, names: Names) -> tuple[Piece, ...]:
        """Return the work of some steps in order; moves join the stage that follows, the last ones the last.

        names: the buffers that stand in for some tensors'.
        """
        pieces: list[Piece] = []
        waiting: list[Work] = []
        for step in steps:
            if step.schedules and schedule not in step.schedules:
                continue
            if isinstance(step, Carry):
                waiting.append(self._carry(step, phase, names))
                continue
            runs = list(self._runs(step, schedule, phase, names))
            pieces += [_join(waiting, runs[0], []), *runs[1:]]
            waiting = []
        if waiting and pieces:
            pieces[-1] = _join([], pieces[-1], waiting)
        elif waiting:
            pieces = [_join(waiting, Piece((), "move", "move", -1, ()), [])]
        return tuple(pieces)

    def repeats(self, schedule: str) -> Callable[[], None]:
        """Return what launches the shifts of every frame: what a skipped frame does to the histories under `repeat`."""
        shifts = [
            self._carry(step, 0, self._shown)
            for step in self._manifest.program
            if isinstance(step, Carry) and step.kind == "shift" and step.every == 1
            if not step.schedules or schedule in step.schedules
        ]
        return self._replay([_join(shifts, Piece((), f"repeat {schedule}", "repeat", -1, ()), [])]).launch

    def see(self, text: str, phase: int) -> Buffer:
        """Return the buffer that the steps of a frame see for a reference (not `@row`)."""
        return self._see(text, phase, self._shown)

    def _see(self, text: str, phase: int, names: Names) -> Buffer:
        return self._memory.part(text, phase, names.get(reference(text).name))

    def _carry(self, carry: Carry, phase: int, names: Names) -> Work:
        source, target = self._see(carry.source, phase, names), self._see(carry.target, 0, names)
        if carry.kind == "copy":
            return self._copy(target, source)
        return ("shift", source.address, target.address), partial(self._device.shift, target, source)

    def _copy(self, target: Buffer, source: Buffer) -> Work:
        return ("copy", source.address, target.address), partial(self._device.copy, target, source)

    def _runs(self, step: Step, schedule: str, phase: int, names: Names) -> Iterator[Piece]:
        """Yield a piece, or one for each row of the schedule. What lies across an engine's alignment is copied."""
        seen = {given: self._see(text, phase, names) for given, text in step.inputs.items() if text != "@row"}
        wanted = {name: self._see(text, 0, names) for name, text in step.outputs.items()}
        buffers = {name: self._memory.aligned(buffer) for name, buffer in (seen | wanted).items()}
        before = [self._copy(buffers[name], part) for name, part in seen.items() if buffers[name] is not part]
        after = [self._copy(part, buffers[name]) for name, part in wanted.items() if buffers[name] is not part]
        table = self._memory.tables[schedule] if step.rows else ()
        for place, row in enumerate(table):
            bound = buffers | {given: row for given, text in step.inputs.items() if text == "@row"}
            bound |= self._carried(step, place, len(table), names)
            piece = self._run(step.stage, f"{step.stage}[{place}]", place, bound)
            yield _join([] if place else before, piece, after if place == len(table) - 1 else [])
        if not step.rows:
            yield _join(before, self._run(step.stage, step.stage, -1, buffers), after)

    def _carried(self, step: Step, place: int, rows: int, names: Names) -> dict[str, Buffer]:
        """Alternate between a tensor and its twin so that the last row lands in the tensor, with no copy."""
        buffers: dict[str, Buffer] = {}
        for output, given in step.carry.items():
            name = step.outputs[output]
            both = self._see(name, 0, names), self._memory.second(name, "twin")
            buffers[output] = both[(rows - 1 - place) % 2]
            if place > 0:
                buffers[given] = both[(rows - place) % 2]
        return buffers

    def _run(self, stage: str, label: str, row: int, buffers: Mapping[str, Buffer]) -> Piece:
        key: Key = (stage, *((name, buffers[name].address) for name in sorted(buffers)))
        if key not in self._bindings:
            self._bindings[key] = self._engines[stage].bind(buffers)
        binding = self._bindings[key]
        hears = any(buffer.name.partition("~")[0] in self._audio for buffer in buffers.values())
        return Piece(key, label, stage, row, (partial(binding.enqueue, self._device),), hears)

    # Capture

    def _replay(self, pieces: Sequence[Piece], *, up: bool = False, down: bool = False) -> Replay:
        """Capture what is not captured yet. up, down: in a graph of its own, the work begins with the upload of the
        inputs, or ends with the motion's download."""
        marks = tuple(self._pair(piece) for piece in pieces) if self._timings else ()
        device, works = self._device, [self._bracketed(piece) for piece in pieces]
        if self._graphs == "frame":
            first = [self.upload.call] if up and self.upload else []
            last = [self.download.call] if down else []
            key = (up, *(piece.key for piece in pieces), down)
            graph = self._captured_once(key, "frame" if down else "group", [*first, *works, *last])
            whole = Part("enqueue", graph.name, partial(device.launch, graph), graph)
            return Replay(pieces, [whole], device.launcher([graph]), marks)
        if self._graphs == "eager":
            parts = [Part("enqueue", piece.label, work) for piece, work in zip(pieces, works, strict=True)]
            return Replay(pieces, parts, partial(_run_all, works), marks)
        labelled = zip(pieces, works, strict=True)
        graphs = [self._captured_once(piece.key, piece.label, [work]) for piece, work in labelled]
        parts = [Part("enqueue", graph.name, partial(device.launch, graph), graph) for graph in graphs]
        return Replay(pieces, parts, device.launcher(graphs), marks)

    def _captured_once(self, key: Key, name: str, works: Sequence[Callable[[], None]]) -> Graph:
        if key not in self._captured:
            self._captured[key] = self._device.capture(name, partial(_run_all, works))
        return self._captured[key]

    def _pair(self, piece: Piece) -> tuple[Mark, Mark]:
        if piece.key not in self._marks:
            first, last = self._device.mark(f"{piece.label} begins"), self._device.mark(f"{piece.label} ends")
            self._marks[piece.key] = (first, last)
        return self._marks[piece.key]

    def _bracketed(self, piece: Piece) -> Callable[[], None]:
        if not self._timings:
            return partial(_run_all, piece.works)
        first, last = self._pair(piece)
        record = self._device.record
        return partial(_run_all, [partial(record, first), *piece.works, partial(record, last)])


def _join(before: Sequence[Work], piece: Piece, after: Sequence[Work]) -> Piece:
    """Return the piece with moves before and after it."""
    if not before and not after:
        return piece
    keys = (*(key for key, _ in before), *piece.key, *(key for key, _ in after))
    works = (*(work for _, work in before), *piece.works, *(work for _, work in after))
    return replace(piece, key=keys, works=works)


def _run_parts(parts: Sequence[Part], around: Around) -> None:
    for part in parts:
        around(part)


def _run_all(works: Sequence[Callable[[], None]]) -> None:
    for work in works:
        work()
