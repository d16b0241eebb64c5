"""Times a bundle: what a frame costs, where the time goes, and what the runtime itself adds."""

from __future__ import annotations

import gc
import platform
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgetalker import __version__
from edgetalker.engines.errors import Progress, unheard
from edgetalker.engines.machine import peak_memory
from edgetalker.measure.report import FIGURES, Summary
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.talker import Talker

__all__ = ["Bench", "BenchReport", "Opener", "ScheduleFigures", "frame_times", "kept_bytes", "made_up_sound"]

_WARM = 10


class Opener(Protocol):
    """Opens the session that is measured; each call a new one, which its caller closes."""

    def __call__(self, *, timings: bool) -> Talker: ...


@dataclass(frozen=True)
class ScheduleFigures:
    """Times of one schedule in ns. frame: plain frames. stages: summed over a stage's rows, one value a frame.

    overhead: frame time minus the time between the engines' marks, taken from frames with marks. kept: bytes that
    Python still held a frame later, averaged over many frames.
    """

    rows: int
    frame: Summary
    stages: dict[str, Summary]
    row: Summary | None
    overhead: Summary
    misses: int
    kept: float
    against: Summary | None = None


@dataclass(frozen=True)
class BenchReport:
    """Everything that one `bench` measured."""

    bundle: str
    device: str
    engine: str
    precision: str
    fps: float
    open_ns: int
    first_ns: int
    session_bytes: int
    peak_bytes: int
    against: str
    schedules: dict[str, ScheduleFigures] = field(default_factory=dict)
    plans: Mapping[str, list[str]] = field(default_factory=dict)

    def text(self) -> str:
        """Return the report for people."""
        lines = [f"{self.bundle} on {self.device}, {self.engine}, {self.precision}"]
        for name, figures in self.schedules.items():
            lines += ["", *self._schedule(name, figures)]
        for name, plan in self.plans.items():
            lines += ["", f"on a clock a block's pieces run in the slots of the frames before it ({name}):"]
            lines += [f"  {line}" for line in plan]
        lines += [
            "",
            f"opened in {self.open_ns / 1e6:.0f} ms, first frame {self.first_ns / 1e6:.1f} ms after that; "
            f"session buffers {self.session_bytes / 1e6:.2f} MB, process peak {self.peak_bytes / 1e6:.0f} MB",
        ]
        return "\n".join(lines)

    def _schedule(self, name: str, figures: ScheduleFigures) -> list[str]:
        rows = [("frame", figures.frame)]
        rows += [(f"  {stage}", summary) for stage, summary in figures.stages.items()]
        if figures.row is not None:
            rows.append(("  one row", figures.row))
        rows.append(("  runtime overhead", figures.overhead))
        if figures.against is not None:
            rows.append((f"frame, {self.against}", figures.against))
        period = 1e3 / self.fps
        lines = [f"schedule {name} ({figures.rows} rows)", _table(rows, unit="ms", scale=1e6)]
        lines.append(
            f"{figures.misses} of {figures.frame.count} frames took longer than a frame at {self.fps:g} fps "
            f"({period:.1f} ms); {figures.kept:.1f} bytes kept a frame"
        )
        if figures.against is not None:
            lines.append(
                f"{figures.against.median / figures.frame.median:.1f} times faster than {self.against} (median)"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the report under stable keys; times in ns."""
        schedules = {}
        for name, figures in self.schedules.items():
            schedules[name] = {
                "rows": figures.rows,
                "frame": figures.frame.as_dict(),
                "stages": {stage: summary.as_dict() for stage, summary in figures.stages.items()},
                "row": figures.row.as_dict() if figures.row else None,
                "overhead": figures.overhead.as_dict(),
                "misses": figures.misses,
                "kept_bytes_per_frame": figures.kept,
                "against": figures.against.as_dict() if figures.against else None,
            }
        return {
            "bundle": self.bundle,
            "device": self.device,
            "engine": self.engine,
            "precision": self.precision,
            "edgetalker": __version__,
            "python": platform.python_version(),
            "fps": self.fps,
            "open_ns": self.open_ns,
            "first_ns": self.first_ns,
            "session_bytes": self.session_bytes,
            "peak_bytes": self.peak_bytes,
            "against": self.against,
            "schedules": schedules,
            "plans": dict(self.plans),
        }


class Bench:
    """Opens the same bundle twice (plain, and with marks) and steps both through the same sound."""

    def __init__(
        self,
        opener: Opener,
        *,
        frames: int = 300,
        schedules: list[str] | None = None,
        against: str = "",
        other: Opener | None = None,
    ) -> None:
        """other opens what to compare with, `against` says what that is."""
        self._opener = opener
        self._frames = frames
        self._schedules = schedules
        self._against = against
        self._other = other

    def run(self, *, progress: Progress = unheard) -> BenchReport:
        """Measure every schedule; every session that was opened is closed."""
        with ExitStack() as stack:
            begin = time.perf_counter_ns()
            plain = stack.enter_context(closing(self._opener(timings=False)))
            opened = time.perf_counter_ns()
            plain.make(window=made_up_sound(plain))
            first = time.perf_counter_ns()
            marked = stack.enter_context(closing(self._opener(timings=True)))
            other = stack.enter_context(closing(self._other(timings=False))) if self._other else None
            schedules = {}
            names = self._schedules or plain.schedules
            for place, name in enumerate(names):
                progress(f"schedule {name}: {self._frames} frames", place / len(names))
                schedules[name] = self._measure(name, plain, marked, other)
            engines, plans = plain.engines.values(), {}
            if plain.spread is not None:
                rehearse(plain, list(schedules))
                plans = {name: plan.lines() for name, plan in plain.spread.plan.items()}
            return BenchReport(
                bundle=f"{plain.manifest.name} ({plain.manifest.family})",
                device=plain.device.describe(),
                engine=", ".join(sorted({type(engine).__name__ for engine in engines})),
                precision=", ".join(sorted({engine.precision for engine in engines})),
                fps=float(plain.manifest.motion.fps),
                open_ns=opened - begin,
                first_ns=first - opened,
                session_bytes=plain.nbytes,
                peak_bytes=peak_memory(),
                against=self._against,
                schedules=schedules,
                plans=plans,
            )

    def _measure(self, name: str, plain: Talker, marked: Talker, other: Talker | None) -> ScheduleFigures:
        frames = whole_blocks(plain, self._frames)
        frame = frame_times(plain, name, frames)
        stages, rows, overhead = self._split(marked, name, frames)
        period = 1e9 / float(plain.manifest.motion.fps)
        return ScheduleFigures(
            rows=len(plain.bundle.table(name)),
            frame=Summary.of(frame),
            stages=stages,
            row=rows,
            overhead=overhead,
            misses=sum(cost > period for cost in frame),
            kept=kept_bytes(plain, name),
            against=Summary.of(frame_times(other, name, frames)) if other else None,
        )

    def _split(self, session: Talker, name: str, frames: int) -> tuple[dict[str, Summary], Summary | None, Summary]:
        session.reset()
        sound = made_up_sound(session)
        by_stage: dict[str, list[int]] = {}
        rows: list[int] = []
        overhead: list[int] = []
        for count in range(_WARM + frames):
            frame = session.make(name, window=sound if session.listens else None)
            spent = session.durations()
            if count < _WARM:
                continue
            overhead.append(frame.cost_ns - sum(spent))
            _add_stages(by_stage, session.labels(), spent)
            rows += [cost for label, cost in zip(session.labels(), spent, strict=True) if label.endswith("]")]
        stages = {stage: Summary.of(values) for stage, values in by_stage.items()}
        return stages, Summary.of(rows) if rows else None, Summary.of(overhead)


def _add_stages(by_stage: dict[str, list[int]], labels: tuple[str, ...], spent: list[int]) -> None:
    totals: dict[str, int] = {}
    for label, cost in zip(labels, spent, strict=True):
        stage = label.partition("[")[0]
        totals[stage] = totals.get(stage, 0) + cost
    for stage, cost in totals.items():
        by_stage.setdefault(stage, []).append(cost)


def whole_blocks(session: Talker, frames: int) -> int:
    """Return as many frames, but no fewer than a block has, so that what runs once in a block is among them."""
    return max(frames, session.clock.block)


def frame_times(session: Talker, schedule: str, frames: int) -> list[int]:
    """Return the wall time of each of `frames` frames in ns, after a warm-up. Starts with a reset."""
    session.reset()
    sound = made_up_sound(session)
    costs = [session.make(schedule, window=sound if session.listens else None).cost_ns for _ in range(_WARM + frames)]
    return costs[_WARM:]


def kept_bytes(session: Talker, schedule: str, frames: int = 200) -> float:
    """Return the bytes that the runtime still holds for each frame after `frames` frames; 0 when nothing is kept."""
    sound = made_up_sound(session)
    for _ in range(_WARM):
        session.make(schedule, window=sound)
    tracemalloc.start()
    try:
        session.make(schedule, window=sound)
        before = _held()
        for _ in range(frames):
            session.make(schedule, window=sound)
        return max(_held() - before, 0) / frames
    finally:
        tracemalloc.stop()


def _held() -> int:
    """Bytes that this package's own lines hold: what ONNX Runtime keeps for itself is not the runtime's.

    A full collection empties CPython's free lists (2,000 freed tuples of each length), which are no leak.
    """
    gc.collect()
    own = tracemalloc.Filter(inclusive=True, filename_pattern=str(Path(__file__).resolve().parents[1] / "*"))
    return sum(stat.size for stat in tracemalloc.take_snapshot().filter_traces([own]).statistics("filename"))


def made_up_sound(session: Talker) -> Any:
    """Return noise at speech level for a whole window: zeros can run faster than sound does. None without audio."""
    if session.audio is None:
        return None
    shape = session.audio.shape
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def _table(rows: Sequence[tuple[str, Summary]], *, unit: str, scale: float) -> str:
    """Return an aligned text table; values are divided by `scale` (1e6 shows ns as ms)."""
    width = max([len(name) for name, _ in rows] + [5])
    head = f"{unit:<{width}}  " + "".join(f"{name:>10}" for name in FIGURES) + f"{'cv %':>8}{'n':>8}"
    lines = [head, "-" * len(head)]
    for name, summary in rows:
        cells = "".join(f"{getattr(summary, column) / scale:>10.3f}" for column in FIGURES)
        lines.append(f"{name:<{width}}  {cells}{100 * summary.cv:>8.1f}{summary.count:>8}")
    return "\n".join(lines)
