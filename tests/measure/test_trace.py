"""The trace: what was recorded comes out again, in a bounded table and two open formats."""

from __future__ import annotations

import csv
import json
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.errors import OptionError
from edgetalker.measure.trace import COLUMNS, Timed, Trace
from edgetalker.runtime.frame import Frame, Outcome

PIECES = ("audio", "condition", "denoise[0]", "denoise[1]", "decode")
START = 5_000_000_000
MOTION = np.zeros(3, np.float32)


class Session:
    """A session whose audio stage runs in even frames only."""

    index = 0

    def pieces(self) -> tuple[str, ...]:
        return PIECES

    def labels(self) -> tuple[str, ...]:
        return PIECES[self.index % 2 :]

    def starts(self) -> list[int]:
        return [1000 * place for place in range(len(self.labels()))]

    def durations(self) -> list[int]:
        return [700 + place for place in range(len(self.labels()))]


def frame(index: int, outcome: Outcome = Outcome.ON_TIME, schedule: str = "full") -> Frame:
    start = START + index * 40_000
    made = outcome is Outcome.ON_TIME
    return Frame(index, 533 * index, Fraction(index, 30), MOTION, outcome, schedule, 9000 * made, start + 33, start + 9)


def filled(count: int, capacity: int = 100) -> Trace:
    session = Session()
    trace = Trace.for_session(session, capacity=capacity)
    for index in range(count):
        session.index = index
        outcome = Outcome.HELD if index == 3 else Outcome.ON_TIME
        trace.frame(frame(index, outcome, "" if index == 3 else "full"), START + index * 40_000, session)
    return trace


def read_csv(trace: Trace, path: Path) -> list[dict[str, str]]:
    trace.write(path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_stable_columns_and_every_time(tmp_path: Path) -> None:
    rows = read_csv(filled(5), tmp_path / "t.csv")
    names = [f"{piece}.{what}" for piece in PIECES for what in ("start_ns", "ns")]
    assert list(rows[0]) == [*COLUMNS, *names]
    assert rows[2] == {
        **dict(zip(COLUMNS, ["2", "1066", "on_time", "full", "80033", "80000", "80009", "9000"], strict=True)),
        **{f"{piece}.start_ns": str(1000 * place) for place, piece in enumerate(PIECES)},
        **{f"{piece}.ns": str(700 + place) for place, piece in enumerate(PIECES)},
    }
    assert rows[1]["audio.ns"] == "", "a stage that did not run has no time"
    assert rows[1]["condition.ns"] == "700"


def test_a_frame_that_was_not_made_has_no_pieces(tmp_path: Path) -> None:
    held = read_csv(filled(5), tmp_path / "t.csv")[3]
    assert (held["outcome"], held["schedule"], held["cost_ns"]) == ("held", "", "0")
    assert {held[f"{piece}.ns"] for piece in PIECES} == {""}


def test_a_run_without_a_clock_has_no_deadlines(tmp_path: Path) -> None:
    trace = Trace(PIECES)
    trace.begin(Frame(0, 0, Fraction(0), MOTION, cost_ns=77), START)
    row = read_csv(trace, tmp_path / "t.csv")[0]
    assert (row["due_ns"], row["start_ns"], row["done_ns"]) == ("", "0", "77")


def events(trace: Trace, path: Path) -> list[dict[str, Any]]:
    trace.write(path)
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return found


def test_json_is_a_trace_that_perfetto_opens(tmp_path: Path) -> None:
    found = events(filled(4), tmp_path / "t.json")
    for event in found:
        assert {"name", "ph", "pid", "tid"} <= set(event)
        assert event["ph"] in ("X", "i", "M")
        assert event["ph"] == "M" or event["ts"] >= 0
    slices = [event for event in found if event["ph"] == "X"]
    frames = [event for event in slices if event["tid"] == 1]
    assert [event["name"] for event in frames] == ["frame 0", "frame 1", "frame 2", "frame 3"]
    assert [event["cat"] for event in frames] == ["on_time"] * 3 + ["held"]
    assert (frames[2]["ts"], frames[2]["dur"]) == (80.0, 0.009)
    assert frames[2]["args"] == {
        "frame": 2,
        "sample": 1066,
        "outcome": "on_time",
        "schedule": "full",
        "cost_us": 9.0,
    }
    pieces = [event for event in slices if event["tid"] == 2 and event["args"]["frame"] == 2]
    assert [(event["name"], event["ts"], event["dur"]) for event in pieces] == [
        (name, 80.0 + place, 0.7 + place / 1000) for place, name in enumerate(PIECES)
    ]
    due = [event for event in found if event["ph"] == "i"]
    assert [event["ts"] for event in due] == [0.033, 40.033, 80.033, 120.033]


@pytest.mark.parametrize(("count", "first"), [(7, 0), (8, 0), (9, 1), (23, 15)])
def test_a_long_run_keeps_the_newest_frames(tmp_path: Path, count: int, first: int) -> None:
    trace = filled(count, capacity=8)
    assert (len(trace), trace.forgotten) == (min(count, 8), max(0, count - 8))
    rows = read_csv(trace, tmp_path / "t.csv")
    assert [int(row["frame"]) for row in rows] == list(range(first, count))
    assert rows[0]["start_ns"] == "0"
    assert rows[-1]["audio.ns"] == ("700" if (count - 1) % 2 == 0 else ""), "an overwritten row kept an old time"
    trace.write(tmp_path / "t.json")
    about = json.loads((tmp_path / "t.json").read_text())["otherData"]
    assert about == {"forgotten_frames": str(trace.forgotten)}


def test_recording_keeps_no_memory() -> None:
    session: Timed = Session()
    trace = Trace.for_session(session, capacity=64)
    kept = frame(0)

    def record(count: int) -> None:
        for _ in range(count):
            trace.frame(kept, START, session)

    record(100)
    tracemalloc.start()
    try:
        record(100)
        before = tracemalloc.get_traced_memory()[0]
        record(2000)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 2000, "more than a byte a frame"


def test_names_with_commas_stay_one_column(tmp_path: Path) -> None:
    trace = Trace(["a,b"])
    trace.begin(frame(0, schedule='x,"y"'), START)
    trace.piece("a,b", 0, 5)
    row = read_csv(trace, tmp_path / "t.csv")[0]
    assert (row["a,b.ns"], row["schedule"]) == ("5", 'x,"y"')


def test_an_empty_trace_is_still_valid(tmp_path: Path) -> None:
    assert read_csv(Trace(PIECES), tmp_path / "t.csv") == []
    assert all(event["ph"] == "M" for event in events(Trace(PIECES), tmp_path / "t.json"))


def test_unknown_formats_and_pieces_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no trace format `\.jsn`; known are \.json, \.csv \(did you mean `\.json`"):
        filled(1).write(tmp_path / "t.jsn")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        filled(1).piece("encode", 0, 0)
    with pytest.raises(ValueError, match="a trace of 0 frames"):
        Trace(PIECES, capacity=0)
