"""Steps a session through its schedules and times every piece of every frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from edgetalker.calibration.profile.advice import warnings_for
from edgetalker.calibration.profile.floor import StageCost, stage_cost
from edgetalker.calibration.profile.meter import HOST_PARTS, HostMeter, Span
from edgetalker.calibration.profile.perfetto import TracedFrame
from edgetalker.calibration.profile.rates import Rates
from edgetalker.calibration.profile.report import Piece, ScheduleProfile
from edgetalker.runtime.session import Session
from edgetalker.runtime.stats import Summary

__all__ = ["Profiler"]

_WARM = 10
_TRACED = 100


class _Series:
    """The times of one schedule's frames in ns."""

    def __init__(self, *, graphed: bool) -> None:
        self.graphed = graphed
        self.frame: list[int] = []
        self.device: list[int] = []
        self.transfer: list[int] = []
        self.host: dict[str, list[int]] = {part: [] for part in HOST_PARTS}
        self.pieces: dict[str, list[int]] = {}
        self.launches: dict[str, int] = {}

    def add(self, cost_ns: int, labels: Sequence[str], durations: Sequence[int], spans: Sequence[Span]) -> None:
        self.frame.append(cost_ns)
        self.device.append(sum(durations))
        for label, duration in zip(labels, durations, strict=True):
            self.pieces.setdefault(label, []).append(duration)
        for part in HOST_PARTS:
            self.host[part].append(sum(span.ns for span in spans if span.part == part))
        for span in spans:
            if span.part == "enqueue" and self.graphed:
                self.launches[span.label] = 1


class Profiler:
    """Profiles a session that was opened with timings. traced: the newest frames, for a trace."""

    def __init__(self, session: Session, rates: Rates, *, precision: str = "fp32", ranges: Any = None) -> None:
        """Count the floors. Raises MissingPackageError without onnx."""
        self._session = session
        self._rates = rates
        self._ranges = ranges
        bundle = session.bundle
        self.costs = {name: stage_cost(bundle.onnx(name, precision)) for name in session.manifest.stages}
        self.traced: deque[TracedFrame] = deque(maxlen=_TRACED)

    def run(self, schedule: str, frames: int, *, progress: TextIO | None = None) -> ScheduleProfile:
        """Time `frames` frames of one schedule after a warm-up."""
        if progress is not None:
            progress.write(f"schedule {schedule}: {frames} frames …\n")
        session = self._session
        session.reset()
        sound = _sound(session)
        with HostMeter(session, transfers=session.device.kind != "host", ranges=self._ranges) as meter:
            series = _Series(graphed=bool(meter.nodes))
            for count in range(_WARM + frames):
                meter.take()
                frame = session.step(sound, schedule=schedule)
                spans, labels, durations = meter.take(), session.labels(), session.durations()
                if count < _WARM:
                    continue
                series.add(frame.cost_ns, labels, durations, spans)
                transfer = meter.transfer_ns()
                if transfer is not None:
                    series.transfer.append(transfer)
                pieces = tuple(zip(labels, session.starts(), durations, strict=True))
                self.traced.append(TracedFrame(frame.index, schedule, spans, pieces))
        return self._profile(schedule, series, meter.nodes)

    def _profile(self, schedule: str, series: _Series, nodes: Mapping[str, int]) -> ScheduleProfile:
        device = Summary.of(series.device)
        host = {part: Summary.of(values) for part, values in series.host.items()}
        transfer = Summary.of(series.transfer) if series.transfer else None
        pieces = self._pieces(series, device, nodes)
        return ScheduleProfile(
            name=schedule,
            frame=Summary.of(series.frame),
            device=device,
            host=host,
            transfer=transfer,
            pieces=pieces,
            warnings=warnings_for(self._session.device.kind, device, host, transfer, pieces),
        )

    def _pieces(self, series: _Series, device: Summary, nodes: Mapping[str, int]) -> list[Piece]:
        """A stage with rows gets a line for itself, with the sum of its rows in each frame, then one a row."""
        by_stage: dict[str, list[str]] = {}
        for label in sorted(series.pieces, key=self._session.pieces().index):
            by_stage.setdefault(label.partition("[")[0], []).append(label)
        pieces = []
        for stage, labels in by_stage.items():
            with_rows = any(label.endswith("]") for label in labels)
            if with_rows:
                pieces.append(self._stage_of_rows(stage, labels, series, device, nodes))
            for row, label in enumerate(labels):
                times = Summary.of(series.pieces[label])
                pieces.append(self._piece(label, stage, row if with_rows else -1, times, 1, series, device, nodes))
        return pieces

    def _stage_of_rows(
        self, stage: str, labels: list[str], series: _Series, device: Summary, nodes: Mapping[str, int]
    ) -> Piece:
        sums = np.sum([series.pieces[label] for label in labels], axis=0)
        piece = self._piece(stage, stage, -1, Summary.of(sums), len(labels), series, device, nodes)
        launches = sum(series.launches.get(label, 0) for label in labels)
        together = sum(nodes.get(label, 0) for label in labels)
        return Piece(
            **{**vars(piece), "name": f"{stage} ({len(labels)} rows)", "launches": launches, "nodes": together}
        )

    def _piece(
        self,
        label: str,
        stage: str,
        row: int,
        times: Summary,
        runs: int,
        series: _Series,
        device: Summary,
        nodes: Mapping[str, int],
    ) -> Piece:
        cost = _times(self.costs[stage], runs)
        rates = (self._rates.bytes_per_s, self._rates.operations_per_s)
        return Piece(
            name=label,
            stage=stage,
            row=row,
            launches=series.launches.get(label, 0),
            nodes=nodes.get(label, 0),
            times=times,
            share=times.mean * times.count / (device.mean * device.count) if device.mean else 0.0,
            cost=cost,
            floor_ns=cost.floor_ns(*rates),
            limit=cost.limit(*rates),
        )


def _times(cost: StageCost, runs: int) -> StageCost:
    return StageCost(cost.weight_bytes * runs, cost.activation_bytes * runs, cost.operations * runs)


def _sound(session: Session) -> Any:
    """Noise at speech level: zeros can run faster than sound does."""
    if session.audio is None:
        return None
    return (0.1 * np.random.default_rng(0).standard_normal(session.audio.shape)).astype(np.float32)
