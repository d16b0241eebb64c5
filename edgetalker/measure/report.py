"""The profile's figures: as text for people, as CSV and JSON under keys that stay, as a trace for Perfetto."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker import __version__
from edgetalker.engines.files import write_whole
from edgetalker.measure.floor import Rates, StageCost
from edgetalker.measure.meter import Span

__all__ = [
    "COLUMNS",
    "FIGURES",
    "FORMAT",
    "LayerTime",
    "PieceTimes",
    "ProfileReport",
    "ScheduleProfile",
    "Summary",
    "TracedFrame",
    "as_text",
    "write_trace",
]

FORMAT = "edgetalker-profile"
VERSION = 1
FIGURES = ("min", "median", "mean", "p90", "p95", "p99", "max")
COLUMNS = (
    "schedule",
    "part",
    "name",
    "row",
    "launches",
    "nodes",
    "count",
    *(f"{name}_ns" for name in FIGURES),
    "cv",
    "share",
    "weight_bytes",
    "activation_bytes",
    "operations",
    "floor_ns",
    "floor_ratio",
    "limit",
)
"""Columns of the CSV and keys of a piece in the JSON. part: `device`, `host` or `frame`."""


@dataclass(frozen=True)
class Summary:
    """Figures of one series of times in the unit of the series; cv is the coefficient of variation (std / mean)."""

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    max: float
    cv: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64] | NDArray[np.int64]) -> Summary:
        """Return the figures of at least one value. Percentiles interpolate linearly. Raises ValueError on none."""
        series = np.asarray(values, np.float64)
        if not len(series):
            raise ValueError("no values to summarise")
        p90, p95, p99 = np.percentile(series, (90, 95, 99))
        mean = float(series.mean())
        return cls(
            count=len(series),
            min=float(series.min()),
            median=float(np.median(series)),
            mean=mean,
            p90=float(p90),
            p95=float(p95),
            p99=float(p99),
            max=float(series.max()),
            cv=float(series.std() / mean) if mean else 0.0,
        )

    def as_dict(self) -> dict[str, float]:
        """Return the figures under stable keys."""
        return asdict(self)


@dataclass(frozen=True)
class PieceTimes:
    """One stage, or one row of it. share: of the frame's device time. floor: None where it is not known."""

    name: str
    stage: str
    row: int
    launches: int
    nodes: int
    times: Summary
    share: float
    cost: StageCost | None = None
    floor_ns: float | None = None
    limit: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the floor the median is."""
        return self.times.median / self.floor_ns if self.floor_ns else None

    def as_dict(self) -> dict[str, Any]:
        """Return the piece under the CSV's keys."""
        cost = self.cost
        return {
            "part": "device",
            "name": self.name,
            "row": self.row,
            "launches": self.launches,
            "nodes": self.nodes,
            **_times(self.times),
            "share": self.share,
            "weight_bytes": cost.weight_bytes if cost else None,
            "activation_bytes": cost.activation_bytes if cost else None,
            "operations": cost.operations if cost else None,
            "floor_ns": self.floor_ns,
            "floor_ratio": self.ratio,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class ScheduleProfile:
    """One schedule. frame: wall time. device: sum of the pieces. between: what the device's queue holds between its
    first piece and its last that is in no piece. host: upload, enqueue, download, wait. unmarked: wall time of the
    same frames in a session without marks, so that the marks' own cost shows; None when none was timed.
    """

    name: str
    frame: Summary
    device: Summary
    between: Summary
    host: Mapping[str, Summary]
    transfer: Summary | None
    pieces: Sequence[PieceTimes]
    warnings: Sequence[str]
    unmarked: Summary | None = None


@dataclass(frozen=True)
class LayerTime:
    """One layer. module: the PyTorch module that it came from, empty where not known. share: of the stage."""

    name: str
    module: str
    ns: float
    share: float


@dataclass(frozen=True)
class ProfileReport:
    """Everything that one `profile` measured."""

    bundle: str
    device: str
    kind: str
    engine: str
    precision: str
    graphs: str
    fps: float
    rates: Rates
    schedules: Sequence[ScheduleProfile]
    health: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Sequence[LayerTime]] = field(default_factory=dict)
    kernels: Sequence[tuple[str, int, float]] = ()
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report under stable keys; times in ns."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "edgetalker": __version__,
            "bundle": self.bundle,
            "device": self.device,
            "kind": self.kind,
            "engine": self.engine,
            "precision": self.precision,
            "graphs": self.graphs,
            "fps": self.fps,
            "rates": self.rates.as_dict(),
            "health": dict(self.health),
            "schedules": {profile.name: _schedule(profile) for profile in self.schedules},
            "layers": {stage: [asdict(layer) for layer in found] for stage, found in self.layers.items()},
            "kernels": [{"name": name, "count": count, "ns": ns} for name, count, ns in self.kernels],
            "notes": list(self.notes),
        }

    def csv(self) -> str:
        """Return a line for each piece and each part of the host's work; what is not known is empty."""
        into = io.StringIO()
        writer = csv.DictWriter(into, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for profile in self.schedules:
            for piece in profile.pieces:
                writer.writerow({"schedule": profile.name, **{k: _cell(v) for k, v in piece.as_dict().items()}})
            whole = {"between pieces": profile.between, "frame": profile.frame}
            if profile.unmarked is not None:
                whole["without marks"] = profile.unmarked
            for part, series in (("host", profile.host), ("frame", whole)):
                for name, times in series.items():
                    writer.writerow({"schedule": profile.name, "part": part, "name": name, "row": -1, **_times(times)})
        return into.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value


def _times(times: Summary) -> dict[str, float]:
    return {"count": times.count, **{f"{name}_ns": getattr(times, name) for name in FIGURES}, "cv": times.cv}


def _schedule(profile: ScheduleProfile) -> dict[str, Any]:
    return {
        "frame": profile.frame.as_dict(),
        "unmarked": profile.unmarked.as_dict() if profile.unmarked else None,
        "device": profile.device.as_dict(),
        "between": profile.between.as_dict(),
        "host": {name: times.as_dict() for name, times in profile.host.items()},
        "transfer": profile.transfer.as_dict() if profile.transfer else None,
        "pieces": [piece.as_dict() for piece in profile.pieces],
        "warnings": list(profile.warnings),
    }


_HEAD = (
    f"{'launch':>7}{'min':>10}{'median':>10}{'mean':>10}{'p90':>10}{'p95':>10}{'p99':>10}{'max':>10}"
    f"{'cv %':>7}{'share %':>9}{'floor':>9}{'ratio':>7}  limit"
)


def as_text(report: ProfileReport) -> str:
    """Return the whole report; times in microseconds."""
    return "\n".join(_lines(report))


def _lines(report: ProfileReport) -> Iterator[str]:
    yield f"{report.bundle} on {report.device}, {report.engine}, {report.precision}, graphs: {report.graphs}"
    yield _rates(report)
    for name, value in report.health.items():
        yield f"{name}: {value}"
    for profile in report.schedules:
        yield ""
        yield from _table(profile, report.fps)
    for stage, layers in report.layers.items():
        yield ""
        yield f"layers of {stage} (one run: us, share %, layer, module)"
        width = max((len(layer.name) for layer in layers), default=0)
        for layer in layers:
            yield f"{layer.ns / 1e3:>10.2f}{100 * layer.share:>7.1f}  {layer.name:<{width}}  {layer.module}".rstrip()
    if report.kernels:
        yield ""
        yield "kernels (one frame: count, us)"
        yield from (f"{count:>6}{ns / 1e3:>10.2f}  {name}" for name, count, ns in report.kernels)
    for note in report.notes:
        yield f"note: {note}"


def _rates(report: ProfileReport) -> str:
    rates = report.rates
    moved = "unknown" if rates.bytes_per_s is None else f"{rates.bytes_per_s / 1e9:.1f} GB/s"
    computed = "unknown" if rates.operations_per_s is None else f"{rates.operations_per_s / 1e12:.3f} Tflop/s"
    return f"measured: copies {moved}, matrix products {computed} ({'; '.join(rates.notes)})"


def _table(profile: ScheduleProfile, fps: float) -> Iterator[str]:
    width = max([len(piece.name) for piece in profile.pieces] + [len("enqueue (host)"), 12])
    yield f"schedule {profile.name}, us"
    yield f"{'':<{width}}{_HEAD}"
    for piece in profile.pieces:
        yield f"{piece.name:<{width}}{_cells(piece)}"
    yield f"{'frame, device':<{width}}{_plain(profile.device)}"
    yield f"{'between pieces':<{width}}{_plain(profile.between)}"
    if profile.transfer is not None:
        yield f"{'copies, device':<{width}}{_plain(profile.transfer)}"
    for name, times in profile.host.items():
        yield f"{name + ' (host)':<{width}}{_plain(times)}"
    yield f"{'frame, wall':<{width}}{_plain(profile.frame)}"
    if profile.unmarked is not None:
        yield f"{'without marks':<{width}}{_plain(profile.unmarked)}"
    period = 1e9 / fps
    whole = profile.unmarked or profile.frame
    median, mean = (100 * ns / period for ns in (whole.median, whole.mean))
    yield f"the median frame takes {median:.1f} % of a frame at {fps:g} fps, the mean one {mean:.1f} %"
    yield from (f"warning: {warning}" for warning in profile.warnings)


def _figures(times: Summary) -> str:
    values: Sequence[float] = (times.min, times.median, times.mean, times.p90, times.p95, times.p99, times.max)
    return "".join(f"{value / 1e3:>10.2f}" for value in values) + f"{100 * times.cv:>7.1f}"


def _plain(times: Summary) -> str:
    return f"{'':>7}{_figures(times)}"


def _cells(piece: PieceTimes) -> str:
    floor = "-" if piece.floor_ns is None else f"{piece.floor_ns / 1e3:.2f}"
    ratio = "-" if piece.ratio is None else f"{piece.ratio:.1f}"
    return f"{piece.launches:>7}{_figures(piece.times)}{100 * piece.share:>9.1f}{floor:>9}{ratio:>7}  {piece.limit}"


_HOST, _DEVICE, _STAGES = 1, 2, 3


@dataclass(frozen=True)
class TracedFrame:
    """One frame: the host's spans, and the device's pieces as (name, start after the first piece, duration) in ns."""

    index: int
    schedule: str
    spans: Sequence[Span]
    pieces: Sequence[tuple[str, int, int]]


def write_trace(path: Path, frames: Sequence[TracedFrame], device: str) -> None:
    """Write the trace, whole or not at all."""
    with write_whole(path) as file:
        file.write(json.dumps({"displayTimeUnit": "ns", "traceEvents": list(_events(frames, device))}).encode())


def _events(frames: Sequence[TracedFrame], device: str) -> Iterator[dict[str, Any]]:
    stages = list(dict.fromkeys(_stage(name) for frame in frames for name, _, _ in frame.pieces))
    tracks = {_HOST: "host", _DEVICE: f"device: {device}"}
    tracks.update({_STAGES + place: f"stage {stage}" for place, stage in enumerate(stages)})
    for track, name in tracks.items():
        yield {"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name}}
        yield {"name": "thread_sort_index", "ph": "M", "pid": 1, "tid": track, "args": {"sort_index": track}}
    zero = min((span.start_ns for frame in frames for span in frame.spans), default=0)
    for frame in frames:
        facts = {"frame": frame.index, "schedule": frame.schedule}
        for span in frame.spans:
            yield _slice(f"{span.part} {span.label}".removesuffix(f" {span.part}"), _HOST, span, zero, facts)
        yield from _device_events(frame, stages, zero, facts)


def _device_events(frame: TracedFrame, stages: list[str], zero: int, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The device's clock is another one: its pieces are laid from the host's first launch on."""
    launches = [span for span in frame.spans if span.part == "enqueue"] or list(frame.spans)
    if not launches:
        return
    begin = launches[0].start_ns
    for name, start, duration in frame.pieces:
        span = Span("device", name, begin + start, begin + start + duration)
        yield _slice(name, _DEVICE, span, zero, facts)
        yield _slice(name, _STAGES + stages.index(_stage(name)), span, zero, facts)


def _stage(name: str) -> str:
    return name.partition("[")[0]


def _slice(name: str, track: int, span: Span, zero: int, facts: dict[str, Any]) -> dict[str, Any]:
    """A complete event; the format wants microseconds."""
    times = {"ts": (span.start_ns - zero) / 1e3, "dur": span.ns / 1e3}
    return {"name": name, "cat": "frame", "ph": "X", **times, "pid": 1, "tid": track, "args": facts}
