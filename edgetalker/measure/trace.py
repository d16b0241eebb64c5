"""Where each frame's time went: a table that is filled while playing and written as a picture or as numbers.

The table is allocated once. It is a ring: a run longer than `capacity` frames keeps the newest ones.

`.json` is the Trace Event Format that https://ui.perfetto.dev and chrome://tracing open: one slice a frame, below it
one a piece (a stage, or one row of the denoise loop), a mark at each deadline. `.csv` has one line a frame with the
columns COLUMNS, then `<piece>.start_ns` and `<piece>.ns` for each piece; what did not happen is empty. Times count from
the start of the first frame in the table; a piece's start counts from the start of the frame's first piece.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import unknown
from edgetalker.engines.files import PartFile, checked_target
from edgetalker.runtime.frame import Frame, Outcome

__all__ = ["CAPACITY", "COLUMNS", "Timed", "Trace"]

CAPACITY = 18_000
"""Frames kept by default: ten minutes at 30 frames a second."""
COLUMNS = ("frame", "sample", "outcome", "schedule", "due_ns", "start_ns", "done_ns", "cost_ns")
_OUTCOMES = tuple(Outcome)
_MADE = (Outcome.ON_TIME, Outcome.LATE)
_NONE = int(np.iinfo(np.int64).min)


class Timed(Protocol):
    """A talker that was made with timings."""

    def pieces(self) -> tuple[str, ...]:
        """Names of all pieces that any of its frames may have, in the program's order."""
        ...

    def labels(self) -> tuple[str, ...]:
        """Names of the last frame's pieces in order."""
        ...

    def starts(self) -> list[int]:
        """When each began, in ns after the first one."""
        ...

    def durations(self) -> list[int]:
        """How long each took, in ns."""
        ...


class Trace:
    """A table of `capacity` frames: `begin` a row, then `piece` by piece; `frame` does both for a talker."""

    def __init__(self, pieces: Sequence[str], *, capacity: int = CAPACITY) -> None:
        """`pieces`: names of all that a frame may consist of. Raises ValueError for a capacity below 1."""
        if capacity < 1:
            raise ValueError(f"a trace of {capacity} frames")
        self.pieces = tuple(pieces)
        self._columns = {name: len(COLUMNS) + 2 * place for place, name in enumerate(self.pieces)}
        self._table = np.full((capacity, len(COLUMNS) + 2 * len(self.pieces)), _NONE, np.int64)
        self._schedules: dict[str, int] = {}
        self._row = self._table[0]
        self.recorded = 0

    @classmethod
    def for_session(cls, session: Timed, *, capacity: int = CAPACITY) -> Trace:
        """Return a trace with a column pair for each of the talker's pieces."""
        return cls(session.pieces(), capacity=capacity)

    def __len__(self) -> int:
        """Frames in the table."""
        return min(self.recorded, len(self._table))

    @property
    def forgotten(self) -> int:
        """Frames that were recorded and overwritten by later ones."""
        return self.recorded - len(self)

    def frame(self, frame: Frame, start_ns: int, session: Timed) -> None:
        """Record one frame and, if it was computed, the pieces of the talker's last frame."""
        self.begin(frame, start_ns)
        if frame.outcome in _MADE:
            for name, start, duration in zip(session.labels(), session.starts(), session.durations(), strict=True):
                self.piece(name, start, duration)

    def begin(self, frame: Frame, start_ns: int) -> None:
        """Open the next row; `start_ns` is when the frame's step began, on the clock of its due and done times."""
        self._row = row = self._table[self.recorded % len(self._table)]
        self.recorded += 1
        row.fill(_NONE)
        row[0], row[1] = frame.index, frame.sample
        row[2] = _OUTCOMES.index(frame.outcome)
        row[3] = self._schedules.setdefault(frame.schedule, len(self._schedules))
        row[4] = frame.due_ns or _NONE
        row[5], row[6] = start_ns, frame.done_ns or start_ns + frame.cost_ns
        row[7] = frame.cost_ns

    def piece(self, name: str, start_ns: int, duration_ns: int) -> None:
        """Record one piece of the open row; `start_ns` counts from the frame's first piece. KeyError if unknown."""
        column = self._columns[name]
        self._row[column], self._row[column + 1] = start_ns, duration_ns

    def rows(self) -> NDArray[np.int64]:
        """Return the table from the oldest frame to the newest, shape (len(self), columns).

        Columns as in the CSV, but times as they came and words as numbers; the smallest int64 where nothing was.
        """
        oldest = self.recorded % len(self._table) if self.forgotten else 0
        rows: NDArray[np.int64] = np.roll(self._table, -oldest, axis=0)[: len(self)]
        return rows

    def write(self, path: Path | str) -> None:
        """Write `.json` (Perfetto) or `.csv`, whole or not at all. Raises OptionError or OutputError."""
        target = checked_target(path)
        writers = {".json": self._json, ".csv": self._csv}
        if target.suffix not in writers:
            raise unknown("trace format", target.suffix, writers)
        part = PartFile(target)
        try:
            for line in writers[target.suffix]():
                part.write(line.encode() + b"\n")
        except BaseException:
            part.discard()
            raise
        part.keep()

    def _csv(self) -> Iterator[str]:
        yield _line([*COLUMNS, *(f"{name}.{what}" for name in self.pieces for what in ("start_ns", "ns"))])
        for row in self._times_from_zero():
            texts = [str(value) if value != _NONE else "" for value in row]
            texts[2], texts[3] = self._words(row)
            yield _line(texts)

    def _json(self) -> Iterator[str]:
        """One event a line, so that a long trace needs no memory."""
        about = json.dumps({"forgotten_frames": str(self.forgotten)})
        yield f'{{"displayTimeUnit": "ms", "otherData": {about}, "traceEvents": ['
        names = [("process_name", 0, "edgetalker"), ("thread_name", 1, "frames"), ("thread_name", 2, "pieces")]
        for what, thread, name in names:
            yield json.dumps({"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}) + ","
        for row in self._times_from_zero():
            yield from (json.dumps(event) + "," for event in self._events(row))
        # The format's own way to avoid a comma after the last event is one more event.
        yield json.dumps({"name": "end", "ph": "M", "pid": 1, "tid": 0, "args": {}}) + "]}"

    def _events(self, row: list[int]) -> Iterator[dict[str, Any]]:
        frame, sample, _, _, due, start, done, cost = row[: len(COLUMNS)]
        outcome, schedule = self._words(row)
        facts = {"frame": frame, "sample": sample, "outcome": outcome, "schedule": schedule, "cost_us": cost / 1000}
        yield _slice(f"frame {frame}", outcome, 1, start, done - start, facts)
        if due != _NONE:
            yield {"name": "due", "ph": "i", "s": "t", "ts": due / 1000, "pid": 1, "tid": 1, "args": {"frame": frame}}
        for name, column in self._columns.items():
            if row[column] != _NONE:
                yield _slice(name, "piece", 2, start + row[column], row[column + 1], {"frame": frame})

    def _times_from_zero(self) -> Iterator[list[int]]:
        rows = self.rows()
        first = rows[0, 5] if len(rows) else 0
        times = rows[:, 4:7]
        times[times != _NONE] -= first
        for row in rows:
            yield row.tolist()

    def _words(self, row: list[int]) -> tuple[str, str]:
        return _OUTCOMES[row[2]].value, list(self._schedules)[row[3]]


def _line(texts: Sequence[str]) -> str:
    """One line of a CSV: names that hold commas are quoted."""
    into = io.StringIO()
    csv.writer(into, lineterminator="").writerow(texts)
    return into.getvalue()


def _slice(name: str, category: str, thread: int, start: int, duration: int, facts: dict[str, Any]) -> dict[str, Any]:
    """A complete event; the format wants microseconds."""
    times = {"ts": start / 1000, "dur": duration / 1000}
    return {"name": name, "cat": category, "ph": "X", **times, "pid": 1, "tid": thread, "args": facts}
