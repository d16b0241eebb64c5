"""A Trace Event file for https://ui.perfetto.dev: a track for the host, one for the device, one for each stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetalker.calibration.profile.meter import Span
from edgetalker.engines.files import write_whole

__all__ = ["TracedFrame", "write_trace"]

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
