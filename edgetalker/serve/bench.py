"""How many talkers a machine plays: the time of a tick at each width and schedule, and the CPU time of a talker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker
from edgetalker.serve.wide import Widths

__all__ = ["Row", "as_dicts", "bench_talkers", "text"]


@dataclass(frozen=True)
class Row:
    """Figures of one schedule with so many talkers, all due at once. Times in ms; cpu: of the process, per frame.

    room: how many ticks of the 99th percentile fit into a frame's time.
    """

    schedule: str
    talkers: int
    width: int
    p50: float
    p90: float
    p99: float
    talker: float
    cpu: float
    room: float


def bench_talkers(
    model: Model, talkers: int, frames: int, schedules: Sequence[str] = (), counts: Sequence[int] = ()
) -> list[Row]:
    """Time `frames` ticks of each schedule with 1, 2, 4, … talkers, on made-up sound. Raises as Widths does."""
    names = tuple(schedules) or model.bundle.manifest.ladder
    widths = Widths(model, talkers, schedules=names)
    seats = [model.talker(stream=place, schedules=names) for place in range(talkers)]
    rows = []
    for name in names:
        for count in counts or widths.widths:
            rows.append(_row(widths, seats[:count], name, frames))
    widths.close()
    return rows


def _row(widths: Widths, seats: Sequence[Talker], schedule: str, frames: int) -> Row:
    random, fps = np.random.default_rng(0), float(seats[0].manifest.motion.fps)
    for seat in seats:
        seat.reset()
    costs, cpu = [], 0
    for frame in range(frames + 10):
        for seat in seats:
            missing = max(seat.needs - seat.window.total, 0)
            seat.take((0.1 * random.standard_normal(missing)).astype(np.float32))
        start, begun = time.perf_counter_ns(), time.process_time_ns()
        for seat in seats:
            seat.prepare(schedule)
        widths.make(seats, schedule)
        for seat in seats:
            seat.finish(start)
        if frame >= 10:  # the first ones warm caches
            costs.append(time.perf_counter_ns() - start)
            cpu += time.process_time_ns() - begun
    p50, p90, p99 = (float(value) * 1e-6 for value in np.percentile(costs, (50, 90, 99)))
    count = len(seats)
    per_frame = cpu / frames / count * 1e-6
    return Row(schedule, count, widths.fitting(count), p50, p90, p99, p50 / count, per_frame, 1000 / fps / p99)


def text(rows: Sequence[Row]) -> str:
    """Return an aligned table."""
    head = f"{'schedule':<10}{'talkers':>8}{'width':>7}"
    head += f"{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'ms/talker':>11}{'CPU ms':>9}{'room':>7}"
    lines = [head, "-" * len(head)]
    for row in rows:
        times = f"{row.p50:>9.2f}{row.p90:>9.2f}{row.p99:>9.2f}{row.talker:>11.3f}{row.cpu:>9.3f}{row.room:>7.1f}"
        lines.append(f"{row.schedule:<10}{row.talkers:>8}{row.width:>7}{times}")
    lines.append(
        "room: ticks of the 99th percentile that fit into a frame's time; CPU ms: of the process, for each frame"
    )
    return "\n".join(lines)


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows for JSON."""
    return [asdict(row) for row in rows]
