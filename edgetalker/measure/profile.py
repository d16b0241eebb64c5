"""Steps a session through its schedules, times every piece of every frame, and says what to be suspicious of."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import MissingPackageError, Progress, UserError, unheard
from edgetalker.measure.bench import Opener, frame_times, made_up_sound, whole_blocks
from edgetalker.measure.floor import Rates, StageCost, measure_rates, stage_cost
from edgetalker.measure.meter import HOST_PARTS, HostMeter, Kernels, Span, load_nvtx
from edgetalker.measure.report import (
    LayerTime,
    PieceTimes,
    ProfileReport,
    ScheduleProfile,
    Summary,
    TracedFrame,
    write_trace,
)
from edgetalker.runtime.talker import Talker

__all__ = ["ENQUEUE_LIMIT", "UNSTABLE", "ProfileOptions", "Profiler", "layers_of", "profile", "warnings_for"]

ENQUEUE_LIMIT = 0.8
"""Enqueueing above this part of the device's time holds the device up (trtexec's limit)."""
UNSTABLE = 0.025
"""Coefficient of variation above which times are called unstable (trtexec's limit)."""
_WARM = 10
_TRACED = 100
_LAYER_RUNS = 20


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure. schedules: names (none: all). trace: where the newest frames go."""

    frames: int = 300
    schedules: tuple[str, ...] = ()
    threads: int = 1
    trace: Path | None = None
    layers: bool = False
    kernels: bool = False
    nvtx: bool = False


def profile(opener: Opener, options: ProfileOptions, *, progress: Progress = unheard) -> ProfileReport:
    """Profile the sessions that `opener` opens, with marks and without. What cannot be measured is a note.

    GPU kernels are taken last, in a session of their own, so that CUPTI is there when its graphs are captured and
    not there while anything is timed.
    """
    notes: list[str] = []
    ranges = _ranges(options, notes)
    with closing(opener(timings=True)) as session, closing(opener(timings=False)) as plain:
        device, engines = session.device, session.engines.values()
        precision = ", ".join(sorted({engine.precision for engine in engines}))
        rates = measure_rates(device, precision=precision, threads=options.threads)
        profiler = Profiler(session, rates, plain=plain, ranges=ranges)
        names = options.schedules or session.schedules
        schedules = []
        for place, name in enumerate(names):
            progress(f"schedule {name}: {options.frames} frames", place / len(names))
            schedules.append(profiler.run(name, options.frames))
        if options.trace is not None:
            write_trace(options.trace, profiler.traced, device.describe())
        found: dict[str, Any] = {
            "bundle": f"{session.manifest.name} ({session.manifest.family})",
            "device": device.describe(),
            "kind": device.kind,
            "engine": ", ".join(sorted({type(engine).__name__ for engine in engines})),
            "fps": float(session.manifest.motion.fps),
            "graphs": session.graphs,
            "health": _health_of(device),
            "layers": _noted(notes, "layers", layers_of, session.engines) or {} if options.layers else {},
        }
    return ProfileReport(
        **found,
        precision=precision,
        rates=rates,
        schedules=schedules,
        kernels=_noted(notes, "kernels", _kernels_of, opener, names[0]) or () if options.kernels else (),
        notes=notes,
    )


def _ranges(options: ProfileOptions, notes: list[str]) -> Any:
    if not options.nvtx:
        return None
    ranges = load_nvtx()
    if ranges is None:
        missing = MissingPackageError("nvtx", "--nvtx", extra="cuda")
        missing.hint = "pip install nvtx"
        raise missing
    notes.append("NVTX ranges cost about a microsecond each and are in the host's times")
    return ranges


def _noted(notes: list[str], what: str, function: Any, *arguments: Any) -> Any:
    """Return what was found, or None and a note that says why not."""
    try:
        return function(*arguments)
    except UserError as error:
        notes.append(f"no {what}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return None


def _health_of(device: Device) -> Mapping[str, Any]:
    """Return power, clocks, temperature and throttling of a GPU where they can be read."""
    if device.kind != "cuda":
        return {}
    from edgetalker.measure.health import read_health

    return read_health(device.facts().get("bus"))


def _kernels_of(opener: Opener, schedule: str) -> Sequence[tuple[str, int, float]]:
    """A frame in which every group is due, when clocks are up and what the first ones do is done."""
    with closing(Kernels()) as kernels, closing(opener(timings=False)) as session:
        sound, block = made_up_sound(session), session.clock.block
        for _ in range(-(-_WARM // block) * block):
            session.make(schedule, window=sound)
        return kernels.of(lambda: session.make(schedule, window=sound))


def layers_of(engines: Mapping[str, Engine], runs: int = _LAYER_RUNS) -> Mapping[str, Sequence[LayerTime]]:
    """Return the layers of every stage, the dearest first. Raises EngineError for an engine that shows none."""
    found = {}
    for stage, engine in engines.items():
        times = engine.layers(runs)
        modules = _modules(engine.file)
        whole = sum(ns for _, ns in times) or 1.0
        layers = [LayerTime(name, _module_of(name, modules), ns, ns / whole) for name, ns in times]
        found[stage] = sorted(layers, key=lambda layer: -layer.ns)
    return found


def _modules(path: Path | None) -> Mapping[str, str]:
    """Return node -> PyTorch module, as PyTorch's exporter left it in the file; nothing without onnx."""
    try:
        import onnx
    except ImportError:
        return {}
    nodes = onnx.load(str(path), load_external_data=False).graph.node if path is not None else ()
    texts = {node.name: item.value for node in nodes for item in node.metadata_props if item.key == "namespace"}
    return {name: ".".join(re.findall(r"/([^:/]+): (?=[^/]*/)", text)) for name, text in texts.items()}


def _module_of(layer: str, modules: Mapping[str, str]) -> str:
    """An engine's own names hold the nodes' names: fused, with a suffix, or in brackets."""
    whole = [name for name in modules if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", layer)]
    return modules[whole[0]] if whole else ""


class _Series:
    """The times of one schedule's frames in ns."""

    def __init__(self, *, graphed: bool) -> None:
        self.graphed = graphed
        self.frame: list[int] = []
        self.device: list[int] = []
        self.between: list[int] = []
        self.transfer: list[int] = []
        self.host: dict[str, list[int]] = {part: [] for part in HOST_PARTS}
        self.pieces: dict[str, list[int]] = {}
        self.launches: dict[str, int] = {}

    def add(self, cost_ns: int, pieces: Sequence[tuple[str, int, int]], spans: Sequence[Span]) -> None:
        """Count one frame in. pieces: (label, start, duration) in order."""
        whole = sum(duration for _, _, duration in pieces)
        self.frame.append(cost_ns)
        self.device.append(whole)
        self.between.append(max(pieces[-1][1] + pieces[-1][2] - whole, 0) if pieces else 0)
        for label, _, duration in pieces:
            self.pieces.setdefault(label, []).append(duration)
        for part in HOST_PARTS:
            self.host[part].append(sum(span.ns for span in spans if span.part == part))
        for span in spans:
            if span.part == "enqueue" and self.graphed:
                self.launches[span.label] = 1


class Profiler:
    """Profiles a session that was opened with timings. traced: the newest frames, for a trace."""

    def __init__(self, session: Talker, rates: Rates, *, plain: Talker | None = None, ranges: Any = None) -> None:
        """Count the floors. plain: the same without timings, to time whole frames. Raises MissingPackageError."""
        self._session = session
        self._plain = plain
        self._rates = rates
        self._ranges = ranges
        files = {name: engine.file for name, engine in session.engines.items()}
        self.costs = {name: stage_cost(file) for name, file in files.items() if file is not None}
        self.traced: deque[TracedFrame] = deque(maxlen=_TRACED)

    def run(self, schedule: str, frames: int) -> ScheduleProfile:
        """Time `frames` frames of one schedule after a warm-up; half of those without marks before, half after."""
        frames = whole_blocks(self._session, frames)
        unmarked = self._without_marks(schedule, frames - frames // 2)
        series, nodes = self._with_marks(schedule, frames)
        unmarked += self._without_marks(schedule, frames // 2)
        device = Summary.of(series.device)
        host = {part: Summary.of(values) for part, values in series.host.items()}
        transfer = Summary.of(series.transfer) if series.transfer else None
        pieces = self._pieces(series, device, nodes)
        return ScheduleProfile(
            name=schedule,
            frame=Summary.of(series.frame),
            device=device,
            between=Summary.of(series.between),
            host=host,
            transfer=transfer,
            pieces=pieces,
            warnings=warnings_for(self._session.device.kind, device, host, transfer, pieces),
            unmarked=Summary.of(unmarked) if unmarked else None,
        )

    def _without_marks(self, schedule: str, frames: int) -> list[int]:
        if self._plain is None or not frames:
            return []
        return frame_times(self._plain, schedule, whole_blocks(self._plain, frames))

    def _with_marks(self, schedule: str, frames: int) -> tuple[_Series, Mapping[str, int]]:
        session = self._session
        session.reset()
        sound = made_up_sound(session)
        with HostMeter(session, transfers=session.device.kind != "host", ranges=self._ranges) as meter:
            series = _Series(graphed=bool(meter.nodes))
            for count in range(_WARM + frames):
                meter.take()
                frame = session.make(schedule, window=sound)
                spans = meter.take()
                pieces = tuple(zip(session.labels(), session.starts(), session.durations(), strict=True))
                if count < _WARM:
                    continue
                series.add(frame.cost_ns, pieces, spans)
                transfer = meter.transfer_ns()
                if transfer is not None:
                    series.transfer.append(transfer)
                self.traced.append(TracedFrame(frame.index, schedule, spans, pieces))
        return series, meter.nodes

    def _pieces(self, series: _Series, device: Summary, nodes: Mapping[str, int]) -> list[PieceTimes]:
        """A stage with rows gets a line for itself, with the sum of its rows in each frame, then one a row."""
        by_stage: dict[str, list[str]] = {}
        for label in sorted(series.pieces, key=self._session.pieces().index):
            by_stage.setdefault(label.partition("[")[0], []).append(label)
        pieces = []
        for stage, labels in by_stage.items():
            with_rows = any(label.endswith("]") for label in labels)
            if with_rows:
                pieces.append(self._piece(f"{stage} ({len(labels)} rows)", stage, -1, labels, series, device, nodes))
            for row, label in enumerate(labels):
                pieces.append(self._piece(label, stage, row if with_rows else -1, [label], series, device, nodes))
        return pieces

    def _piece(
        self,
        name: str,
        stage: str,
        row: int,
        labels: Sequence[str],
        series: _Series,
        device: Summary,
        nodes: Mapping[str, int],
    ) -> PieceTimes:
        """Return the line of what runs under `labels`, summed up in each frame."""
        times = Summary.of(np.sum([series.pieces[label] for label in labels], axis=0))
        cost = _times(self.costs.get(stage), len(labels))
        rates = (self._rates.bytes_per_s, self._rates.operations_per_s)
        return PieceTimes(
            name=name,
            stage=stage,
            row=row,
            launches=sum(series.launches.get(label, 0) for label in labels),
            nodes=sum(nodes.get(label, 0) for label in labels),
            times=times,
            share=times.mean * times.count / (device.mean * device.count) if device.mean else 0.0,
            cost=cost,
            floor_ns=cost.floor_ns(*rates) if cost else None,
            limit=cost.limit(*rates) if cost else "",
        )


def _times(cost: StageCost | None, runs: int) -> StageCost | None:
    if cost is None:
        return None
    return StageCost(cost.weight_bytes * runs, cost.activation_bytes * runs, cost.operations * runs)


def warnings_for(
    kind: str, device: Summary, host: Mapping[str, Summary], transfer: Summary | None, pieces: Sequence[PieceTimes]
) -> list[str]:
    """Return a sentence for each; kind: of the device. On the host, enqueueing is computing and is not judged."""
    found = []
    if kind != "host" and host["enqueue"].median > ENQUEUE_LIMIT * device.median:
        found.append(
            f"enqueueing takes {host['enqueue'].median / 1e3:.0f} us of the host for {device.median / 1e3:.0f} us of "
            "the device: the device waits for the host; --graphs frame enqueues once a frame"
        )
    if transfer is not None and transfer.median > device.median:
        found.append(f"copies take longer ({transfer.median / 1e3:.0f} us) than computing")
    shaky = [piece for piece in pieces if piece.row < 0 and piece.times.cv > UNSTABLE]
    if shaky:
        worst = max(shaky, key=lambda piece: piece.times.cv)
        found.append(
            f"times are unstable: {len(shaky)} stages vary by more than {100 * UNSTABLE:g} %, {worst.name} by "
            f"{100 * worst.times.cv:.1f} %; lock the clocks (docs/profiling.md) or close other programs"
        )
    return found
