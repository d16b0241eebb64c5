"""What the host does in a frame: when it uploads, enqueues, downloads and waits; and the kernels that a GPU ran."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgetalker.engines.engine import Mark
from edgetalker.engines.errors import MissingPackageError
from edgetalker.runtime.replay import Replay
from edgetalker.runtime.session import Session

__all__ = ["HOST_PARTS", "HostMeter", "Kernels", "Span", "load_nvtx"]

HOST_PARTS = ("upload", "enqueue", "download", "wait")
_CALLS = {"upload": "upload", "download": "download", "synchronize": "wait"}


@dataclass(frozen=True)
class Span:
    """One call of the host: what it was, of which graph, and when, on `time.perf_counter_ns`."""

    part: str
    label: str
    start_ns: int
    end_ns: int

    @property
    def ns(self) -> int:
        """How long it took."""
        return self.end_ns - self.start_ns


class HostMeter:
    """Times what a session asks of its device while this is entered, by standing before those calls.

    transfers: also bracket uploads and downloads with marks, so that the device's own time for them is known.
    ranges: a module with NVTX's push_range and pop_range, or None.
    """

    def __init__(self, session: Session, *, transfers: bool, ranges: Any = None) -> None:
        self.device = session.device
        self.nodes: dict[str, int] = {}
        self._replays = session.replays
        self._ranges = ranges
        self._spans: list[Span] = []
        self._marks: dict[str, tuple[Mark, Mark]] = {}
        self._kept: list[tuple[Callable[[], None], ...]] = []
        if transfers:
            for part in ("upload", "download"):
                self._marks[part] = (self.device.mark(f"{part} begins"), self.device.mark(f"{part} ends"))
        self._reached: set[str] = set()

    def __enter__(self) -> HostMeter:
        """Stand before the calls."""
        for call, part in _CALLS.items():
            setattr(self.device, call, self._timed(part, part, getattr(self.device, call)))
        self._kept = [replay.calls for replay in self._replays]
        for replay in self._replays:
            labelled = zip(replay.calls, _labels(replay), strict=True)
            replay.calls = tuple(self._timed("enqueue", label, call) for call, label in labelled)
        for calls in self._kept:
            self.nodes.update(dict(found for call in calls for found in _graph(call)))
        return self

    def __exit__(self, *_: object) -> None:
        """Step aside."""
        for call in _CALLS:
            delattr(self.device, call)
        for replay, calls in zip(self._replays, self._kept, strict=True):
            replay.calls = calls

    def _timed(self, part: str, label: str, call: Callable[..., None]) -> Callable[..., None]:
        marks = self._marks.get(part)

        def timed(*arguments: Any) -> None:
            if self._ranges is not None:
                self._ranges.push_range(label)
            start = time.perf_counter_ns()
            if marks is not None:
                self.device.record(marks[0])
            call(*arguments)
            if marks is not None:
                self.device.record(marks[1])
                self._reached.add(part)
            self._spans.append(Span(part, label, start, time.perf_counter_ns()))
            if self._ranges is not None:
                self._ranges.pop_range()

        return timed

    def take(self) -> list[Span]:
        """Return what was timed since the last call of this, and forget it."""
        spans, self._spans = self._spans, []
        return spans

    def transfer_ns(self) -> int | None:
        """Return the device's time of the last upload and download, None when it was not asked for."""
        if not self._reached:
            return None
        return sum(self.device.elapsed(*self._marks[part]) for part in self._reached)


def _graph(call: Callable[[], None]) -> list[tuple[str, int]]:
    """Return the name and the nodes of the graph that a call launches; nothing for eager work."""
    graphs = getattr(call, "args", ())
    return [(graph.name, graph.nodes) for graph in graphs]


def _labels(replay: Replay) -> list[str]:
    """Return a name for each call of a replay: its graph's, or its piece's when there is none."""
    return [
        graphs[0][0] if (graphs := _graph(call)) else replay.labels[place] for place, call in enumerate(replay.calls)
    ]


def load_nvtx() -> Any:
    """Return a module with push_range and pop_range for Nsight Systems: `nvtx`, else PyTorch's; None without both."""
    try:
        return importlib.import_module("nvtx")
    except ImportError:
        pass
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None

    class _Ranges:
        push_range = staticmethod(torch.cuda.nvtx.range_push)
        pop_range = staticmethod(torch.cuda.nvtx.range_pop)

    return _Ranges


class Kernels:
    """The GPU kernels of one frame through CUPTI, where its Python package (cupti-python) is there.

    Made before the session is opened: CUPTI must be there before graphs are captured, or older drivers hang when one
    of them is launched under it.
    """

    def __init__(self) -> None:
        """Start CUPTI. Raises MissingPackageError."""
        self._cupti = _load_cupti()
        self._records: list[Any] = []
        self._cupti.activity_register_callbacks(lambda: (_BUFFER, 0), self._records.extend)
        self._kind = self._cupti.ActivityKind.CONCURRENT_KERNEL
        self._cupti.activity_enable(self._kind)

    def of(self, frame: Callable[[], object]) -> Sequence[tuple[str, int, float]]:
        """Return (name, count, ns) of the kernels of one call of `frame`, the dearest first."""
        self._cupti.activity_flush_all(1)
        self._records.clear()  # of the session's own start
        frame()
        self._cupti.activity_flush_all(1)
        totals: dict[str, tuple[int, float]] = {}
        for record in self._records:
            count, ns = totals.get(record.name, (0, 0.0))
            totals[record.name] = (count + 1, ns + record.end - record.start)
        return sorted(((name, *figures) for name, figures in totals.items()), key=lambda item: -item[2])

    def close(self) -> None:
        """Stop recording."""
        self._cupti.activity_disable(self._kind)


_BUFFER = 8 << 20


def _load_cupti() -> Any:
    try:
        from cupti import cupti
    except ImportError:
        missing = MissingPackageError("cupti-python", "--kernels", extra="cuda")
        missing.hint = "pip install cupti-python"  # too large for an extra that everybody with a GPU installs
        raise missing from None
    return cupti
