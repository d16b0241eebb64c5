"""What the host does in a frame: when it uploads, enqueues, downloads and waits; and the kernels that a GPU ran."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgetalker.engines.engine import Mark
from edgetalker.engines.errors import MissingPackageError
from edgetalker.runtime.program import Part
from edgetalker.runtime.talker import Talker

__all__ = ["HOST_PARTS", "HostMeter", "Kernels", "Span", "load_nvtx"]

HOST_PARTS = ("upload", "enqueue", "download", "wait")


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

    def __init__(self, session: Talker, *, transfers: bool, ranges: Any = None) -> None:
        self.device = session.device
        self.nodes: dict[str, int] = {}
        self._session = session
        self._ranges = ranges
        self._spans: list[Span] = []
        self._marks: dict[str, tuple[Mark, Mark]] = {}
        if transfers:
            for part in ("upload", "download"):
                self._marks[part] = (self.device.mark(f"{part} begins"), self.device.mark(f"{part} ends"))
        self._reached: set[str] = set()

    def __enter__(self) -> HostMeter:
        """Stand before the calls."""
        self.nodes.update(
            {p.graph.name: p.graph.nodes for replay in self._session.replays for p in replay.parts if p.graph}
        )
        self._session.watch(self._timed)
        return self

    def __exit__(self, *_: object) -> None:
        """Step aside."""
        self._session.watch(None)

    def _timed(self, part: Part) -> None:
        marks = self._marks.get(part.kind)
        if self._ranges is not None:
            self._ranges.push_range(part.label)
        start = time.perf_counter_ns()
        if marks is not None:
            self.device.record(marks[0])
        part.call()
        if marks is not None:
            self.device.record(marks[1])
            self._reached.add(part.kind)
        self._spans.append(Span(part.kind, part.label, start, time.perf_counter_ns()))
        if self._ranges is not None:
            self._ranges.pop_range()

    def take(self) -> list[Span]:
        """Return what was timed since the last call of this, and forget it."""
        spans, self._spans = self._spans, []
        return spans

    def transfer_ns(self) -> int | None:
        """Return the device's time of the last upload and download, None when it was not asked for."""
        if not self._reached:
            return None
        return sum(self.device.elapsed(*self._marks[part]) for part in self._reached)


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
