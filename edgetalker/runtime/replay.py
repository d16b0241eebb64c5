"""Turns pieces of work into what a frame launches: a graph a piece, a graph a frame, or no graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from edgetalker.engines.engine import Device, Graph, Mark
from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.program import Piece

__all__ = ["GRANULARITIES", "Granularity", "Recorder", "Replay", "run_all"]

Granularity = Literal["step", "frame", "eager"]
GRANULARITIES: tuple[Granularity, ...] = ("step", "frame", "eager")


class Replay:
    """One variant of the frame, ready to launch. calls: what `launch` calls in order; a profiler may wrap them."""

    __slots__ = ("_device", "_marks", "calls", "hears", "labels")

    def __init__(
        self,
        device: Device,
        calls: tuple[Callable[[], None], ...],
        labels: tuple[str, ...],
        marks: tuple[tuple[Mark, Mark], ...],
        hears: bool,
    ) -> None:
        self._device = device
        self.calls = calls
        self._marks = marks
        self.labels = labels
        self.hears = hears

    def launch(self) -> None:
        """Enqueue the frame's work."""
        for call in self.calls:
            call()

    def durations(self) -> list[int]:
        """Return each piece's device time in ns. Raises OptionError when no marks were asked for."""
        self._check_timed()
        return [self._device.elapsed(first, last) for first, last in self._marks]

    def starts(self) -> list[int]:
        """Return when each piece began on the device, in ns after the first piece. Raises as `durations` does."""
        self._check_timed()
        return [self._device.elapsed(self._marks[0][0], first) for first, _ in self._marks]

    def _check_timed(self) -> None:
        if not self._marks:
            raise OptionError("this session was opened without timings")


class Recorder:
    """Captures pieces. A piece that occurs in several variants is captured once."""

    def __init__(self, device: Device, graphs: Granularity, *, timings: bool) -> None:
        if graphs not in GRANULARITIES:
            raise OptionError(
                f"graphs `{graphs}` is unknown; known are {', '.join(GRANULARITIES)}{nearest(graphs, GRANULARITIES)}"
            )
        self._device = device
        self._graphs = graphs
        self._timings = timings
        self._pieces: dict[object, Graph] = {}
        self._frames: dict[object, Graph] = {}
        self._marks: dict[object, tuple[Mark, Mark]] = {}

    def replay(self, pieces: tuple[Piece, ...]) -> Replay:
        """Prepare one variant of the frame."""
        marks = tuple(self._pair(piece) for piece in pieces) if self._timings else ()
        labels = tuple(piece.label for piece in pieces)
        return Replay(self._device, self._calls(pieces), labels, marks, any(piece.hears for piece in pieces))

    def _calls(self, pieces: tuple[Piece, ...]) -> tuple[Callable[[], None], ...]:
        if self._graphs == "eager":
            return tuple(self._bracketed(piece) for piece in pieces)
        if self._graphs == "step":
            return tuple(self._launcher(self._piece_graph(piece)) for piece in pieces)
        return (self._launcher(self._frame_graph(pieces)),)

    def _launcher(self, graph: Graph) -> Callable[[], None]:
        """A device may know a shorter way to launch than `launch`; the host does."""
        own = getattr(self._device, "launcher", None)
        return own(graph) if own is not None else partial(self._device.launch, graph)

    def _piece_graph(self, piece: Piece) -> Graph:
        if piece.key not in self._pieces:
            self._pieces[piece.key] = self._device.capture(piece.label, self._bracketed(piece))
        return self._pieces[piece.key]

    def _frame_graph(self, pieces: tuple[Piece, ...]) -> Graph:
        key = tuple(piece.key for piece in pieces)
        if key not in self._frames:
            works = [self._bracketed(piece) for piece in pieces]
            self._frames[key] = self._device.capture("frame", partial(run_all, works))
        return self._frames[key]

    def _pair(self, piece: Piece) -> tuple[Mark, Mark]:
        if piece.key not in self._marks:
            first, last = self._device.mark(f"{piece.label} begins"), self._device.mark(f"{piece.label} ends")
            self._marks[piece.key] = (first, last)
        return self._marks[piece.key]

    def _bracketed(self, piece: Piece) -> Callable[[], None]:
        if not self._timings:
            return piece.enqueue
        first, last = self._pair(piece)

        def work() -> None:
            self._device.record(first)
            piece.enqueue()
            self._device.record(last)

        return work


def run_all(works: Sequence[Callable[[], None]]) -> None:
    """Call each work in order."""
    for work in works:
        work()
