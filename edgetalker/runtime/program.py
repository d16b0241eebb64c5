"""The manifest's program with addresses put in: the pieces of work that one frame consists of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgetalker.engines.engine import Binding, Buffer, Device, Engine
from edgetalker.engines.manifest import Carry, Manifest, Step
from edgetalker.engines.references import reference
from edgetalker.runtime.memory import Memory

__all__ = ["Piece", "Program", "Variant"]

Key = tuple[object, ...]


@dataclass(frozen=True)
class Piece:
    """The smallest work that gets a graph of its own: one run of a stage, with the carries before it.

    key: equal for pieces that do the same work on the same addresses, so that none is captured twice. row: the
    schedule's row, -1 for a stage without rows. hears: whether the stage reads the audio window.
    """

    key: Key
    label: str
    stage: str
    row: int
    works: tuple[Callable[[], None], ...]
    hears: bool = False

    def enqueue(self) -> None:
        """Enqueue the work."""
        for work in self.works:
            work()


@dataclass(frozen=True)
class Variant:
    """Which form of the program a frame takes: its schedule, its phase, and which periodic stages are due."""

    schedule: str
    phase: int
    due: tuple[bool, ...]


class Program:
    """Compiles variants into pieces. A binding is made once for each set of addresses and kept."""

    def __init__(self, manifest: Manifest, engines: Mapping[str, Engine], memory: Memory, device: Device) -> None:
        self._manifest = manifest
        self._engines = engines
        self._memory = memory
        self._device = device
        self._bindings: dict[Key, Binding] = {}
        self._audio = {name for name, tensor in manifest.tensors.items() if tensor.role == "audio"}
        self.periodic = tuple(
            place for place, step in enumerate(manifest.program) if isinstance(step, Step) and step.every > 1
        )
        self.period = math.lcm(1, *self._periods())

    def _periods(self) -> Iterator[int]:
        for step in self._manifest.program:
            texts = step.inputs.values() if isinstance(step, Step) else (step.source,)
            if isinstance(step, Step):
                yield step.every
            for ref in map(reference, texts):
                if ref.phase:
                    yield self._manifest.tensors[ref.name].spec.shape[0]

    def every(self, place: int) -> int:
        """Return how many frames lie between two runs of the periodic step at `place`."""
        step = self._manifest.program[place]
        assert isinstance(step, Step)
        return step.every

    def variants(self, schedule: str) -> Iterator[Variant]:
        """Yield every variant that can occur. A periodic stage may also be due late, after a skipped frame."""
        for phase in range(self.period):
            due = [(True,) if phase % self.every(place) == 0 else (False, True) for place in self.periodic]
            for choice in itertools.product(*due):
                yield Variant(schedule, phase, choice)

    def pieces(self, variant: Variant) -> tuple[Piece, ...]:
        """Return the work of one frame in order; carries join the stage that follows, the last ones the last."""
        pieces: list[Piece] = []
        waiting: list[tuple[Key, Callable[[], None]]] = []
        for place, step in enumerate(self._manifest.program):
            if step.schedules and variant.schedule not in step.schedules:
                continue
            if isinstance(step, Carry):
                waiting.append(self._carry(step, variant.phase))
            elif place not in self.periodic or variant.due[self.periodic.index(place)]:
                runs = self._runs(step, variant)
                pieces.append(_join(waiting, next(runs)))
                pieces.extend(runs)
                waiting = []
        if waiting:
            pieces[-1] = _append(pieces[-1], waiting)
        return tuple(pieces)

    def repeats(self, variant: Variant) -> tuple[Callable[[], None], ...]:
        """Return the shifts of a program: what a skipped frame does to the histories under `repeat`."""
        steps = [step for step in self._manifest.program if isinstance(step, Carry) and step.kind == "shift"]
        return tuple(
            self._carry(step, variant.phase)[1]
            for step in steps
            if not step.schedules or variant.schedule in step.schedules
        )

    def _carry(self, carry: Carry, phase: int) -> tuple[Key, Callable[[], None]]:
        source = self._memory.source(carry.source, phase, None)
        target = self._memory.buffer(carry.target)
        move = self._device.copy if carry.kind == "copy" else self._device.shift
        return (carry.kind, source.address, target.address), lambda: move(target, source)

    def _runs(self, step: Step, variant: Variant) -> Iterator[Piece]:
        copies = self._copies(step, variant.phase)
        if not step.rows:
            buffers = self._reads(step, variant.phase, None) | self._writes(step)
            yield _join(copies, self._run(step.stage, step.stage, -1, buffers))
            return
        table = self._memory.tables[variant.schedule]
        for place, row in enumerate(table):
            buffers = self._reads(step, variant.phase, row) | self._writes(step)
            buffers |= self._carried(step, place, len(table))
            piece = self._run(step.stage, f"{step.stage}[{place}]", place, buffers)
            yield piece if place else _join(copies, piece)

    def _copies(self, step: Step, phase: int) -> list[tuple[Key, Callable[[], None]]]:
        """Block rows that lie across an engine's alignment are copied out first."""
        moves: list[tuple[Key, Callable[[], None]]] = []
        for text in step.inputs.values():
            if reference(text).phase:
                source = self._memory.source(text, phase, None)
                target = self._memory.aligned(source)
                if target is not source:
                    moves.append((("copy", source.address, target.address), partial(self._device.copy, target, source)))
        return moves

    def _reads(self, step: Step, phase: int, row: Buffer | None) -> dict[str, Buffer]:
        found = {name: self._memory.source(text, phase, row) for name, text in step.inputs.items()}
        return {
            name: self._memory.aligned(found[name]) if reference(text).phase else found[name]
            for name, text in step.inputs.items()
        }

    def _writes(self, step: Step) -> dict[str, Buffer]:
        return {name: self._memory.buffer(target) for name, target in step.outputs.items()}

    def _carried(self, step: Step, place: int, rows: int) -> dict[str, Buffer]:
        """Alternate between a tensor and its twin so that the last row lands in the tensor, with no copy."""
        buffers: dict[str, Buffer] = {}
        for output, given in step.carry.items():
            name = step.outputs[output]
            buffers[output] = self._either(name, rows - 1 - place)
            if place > 0:
                buffers[given] = self._either(name, rows - place)
        return buffers

    def _either(self, name: str, distance: int) -> Buffer:
        return self._memory.buffer(name) if distance % 2 == 0 else self._memory.twin(name)

    def _run(self, stage: str, label: str, row: int, buffers: Mapping[str, Buffer]) -> Piece:
        key: Key = (stage, *((name, buffers[name].address) for name in sorted(buffers)))
        if key not in self._bindings:
            self._bindings[key] = self._engines[stage].bind(buffers)
        binding = self._bindings[key]
        hears = any(buffer.name in self._audio for buffer in buffers.values())
        return Piece(key, label, stage, row, (partial(binding.enqueue, self._device),), hears)


def _join(before: list[tuple[Key, Callable[[], None]]], piece: Piece) -> Piece:
    keys, works = tuple(key for key, _ in before), tuple(work for _, work in before)
    return replace(piece, key=(*keys, *piece.key), works=(*works, *piece.works))


def _append(piece: Piece, after: list[tuple[Key, Callable[[], None]]]) -> Piece:
    keys, works = tuple(key for key, _ in after), tuple(work for _, work in after)
    return replace(piece, key=(*piece.key, *keys), works=(*piece.works, *works))
