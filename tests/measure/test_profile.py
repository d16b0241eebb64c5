from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetalker.cli import profile as command
from edgetalker.cli.main import main
from edgetalker.engines.errors import OptionError
from edgetalker.engines.host import HostDevice
from edgetalker.measure.bench import Bench
from edgetalker.measure.floor import Rates, measure_rates
from edgetalker.measure.meter import HOST_PARTS, HostMeter
from edgetalker.measure.profile import ProfileOptions, Profiler, layers_of, profile, warnings_for
from edgetalker.measure.report import COLUMNS, PieceTimes, Summary
from edgetalker.runtime.model import Model
from edgetalker.runtime.program import Granularity
from edgetalker.runtime.talker import Talker
from tests.support.toy import toy_bundle

pytest.importorskip("onnxruntime")
CHUNKED = Path(__file__).parents[1] / "data" / "bundles" / "toy_artalk"
RATES = Rates(1e9, 1e9, ("made up",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "toy").path


@pytest.fixture
def session(folder: Path) -> Iterator[Talker]:
    opened = Talker(folder, timings=True)
    yield opened
    opened.close()


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    return parser.parse_args(["profile", *words])


def test_every_stage_and_every_row_has_its_line(session: Talker) -> None:
    profile = Profiler(session, RATES).run("full", 12)
    names = [piece.name for piece in profile.pieces]
    rows = [f"denoise[{row}]" for row in range(5)]
    assert names == ["audio", "blend", "denoise (5 rows)", *rows, "decode"]
    counts = {piece.name: piece.times.count for piece in profile.pieces}
    assert counts == {**dict.fromkeys(names, 12), "audio": 6}  # a block encoder runs in every other frame here
    assert sum(piece.share for piece in profile.pieces if piece.row < 0) == pytest.approx(1, abs=1e-6)
    whole = next(piece for piece in profile.pieces if piece.name == "denoise (5 rows)")
    assert whole.launches == 5
    assert whole.times.min >= sum(piece.times.min for piece in profile.pieces if piece.row >= 0)
    assert whole.cost is not None
    assert whole.floor_ns == whole.cost.floor_ns(1e9, 1e9)
    assert set(profile.host) == set(HOST_PARTS)
    assert profile.frame.median >= profile.host["enqueue"].median > 0


def test_a_block_that_is_spread_has_a_line_a_stage_however_few_frames_are_asked_for() -> None:
    with Talker(CHUNKED, timings=True) as session:
        profile = Profiler(session, RATES).run("full", 3)
    pieces = {piece.name: piece for piece in profile.pieces}
    scales = [f"scale_{scale}" for scale in range(1, 6)]
    assert list(pieces) == ["audio", "style", "condition", *scales, "decode", "encode", "finish", "move"]
    assert {piece.times.count for name, piece in pieces.items() if name != "move"} == {1}
    assert all(pieces[name].launches == 1 and pieces[name].floor_ns for name in scales)
    assert profile.frame.count == pieces["move"].times.count == 25


def test_bench_tells_the_plan_of_a_block_that_is_spread() -> None:
    report = Bench(lambda *, timings: Talker(CHUNKED, timings=timings), frames=5).run()
    assert {"scale_1", "scale_5", "encode"} < set(report.schedules["full"].stages)
    (lines,) = report.plans.values()
    assert lines[0].startswith("slot 0: audio ") and lines[0] in report.text()
    assert report.as_dict()["plans"] == {"full": lines}


def test_launches_follow_the_granularity(folder: Path) -> None:
    launches = {}
    both: tuple[Granularity, ...] = ("step", "eager")
    for graphs in both:
        session = Talker(folder, timings=True, graphs=graphs)
        pieces = Profiler(session, RATES).run("one", 4).pieces
        launches[graphs] = [piece.launches for piece in pieces if piece.row < 0]
        session.close()
    assert launches == {"step": [1, 1, 1, 1], "eager": [0, 0, 0, 0]}


def test_profiling_changes_no_frame_and_leaves_nothing_behind(folder: Path) -> None:
    frames = []
    for profiled in (False, True):
        session = Talker(folder, timings=True, seed=5)
        before = dict(vars(session.device))
        calls = [replay.launch for replay in session.replays]
        if profiled:
            Profiler(session, RATES).run("full", 3)
            assert dict(vars(session.device)).keys() == before.keys()
            assert [replay.launch for replay in session.replays] == calls
            session.reset()
        sound = np.full(1600, 0.1, np.float32)
        frames.append(np.stack([session.make(window=sound).motion.copy() for _ in range(5)]))
        session.close()
    np.testing.assert_array_equal(frames[0], frames[1])


def test_nvtx_ranges_are_opened_and_closed_in_pairs(session: Talker) -> None:
    said: list[str] = []
    ranges = SimpleNamespace(push_range=said.append, pop_range=lambda: said.append("end"))
    with HostMeter(session, transfers=False, ranges=ranges):
        session.make("one", window=np.zeros(1600, np.float32))
    assert said[::2] == ["upload", "audio", "blend", "denoise[0]", "decode", "download", "wait"]
    assert set(said[1::2]) == {"end"}


def test_the_command_writes_everything(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json")}
    trace = tmp_path / "trace.json"
    words = [str(folder), "--frames", "6", "--layers", "--trace", str(trace)]
    assert command.run(parsed(*words, "--csv", str(files["csv"]), "--json", str(files["json"]))) == 0
    text = capsys.readouterr().out
    assert "schedule full, us" in text
    assert "schedule one, us" in text
    assert "layers of denoise" in text
    assert "the median frame takes" in text
    check_csv(files["csv"])
    check_json(json.loads(files["json"].read_text()))
    check_trace(json.loads(trace.read_text()))


def check_csv(path: Path) -> None:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert {row["part"] for row in rows} == {"device", "host", "frame"}
    assert {row["name"] for row in rows if row["part"] == "frame"} == {"between pieces", "frame", "without marks"}
    for row in rows:
        assert float(row["min_ns"]) <= float(row["median_ns"]) <= float(row["p99_ns"]) <= float(row["max_ns"])


def check_json(report: dict[str, Any]) -> None:
    assert (report["format"], report["version"]) == ("edgetalker-profile", 1)
    assert report["kind"] == "host"
    assert report["engine"] == "OrtEngine"
    assert report["rates"]["bytes_per_s"] > 0
    assert set(report["schedules"]) == {"full", "one"}
    piece = report["schedules"]["full"]["pieces"][0]
    assert set(piece) == set(COLUMNS) - {"schedule"}
    assert set(report["layers"]) == {"audio", "blend", "denoise", "decode"}
    assert all(layer["ns"] >= 0 for layer in report["layers"]["denoise"])


def check_trace(trace: dict[str, Any]) -> None:
    events = trace["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"host", "stage audio", "stage blend", "stage denoise", "stage decode"} < tracks
    assert any(name.startswith("device: host") for name in tracks)
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in slices} >= {1, 2, 3, 4, 5, 6}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in slices)
    by_track: dict[int, float] = {}
    for event in slices:  # on a track nothing begins before the last has ended
        assert event["ts"] >= by_track.get(event["tid"], 0) - 1e-3
        by_track[event["tid"]] = event["ts"] + event["dur"]


def test_misplaced_options_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"ending in \.json"):
        command.run(parsed(str(folder), "--trace", "t.txt"))
    with pytest.raises(OptionError, match="GPU kernels"):
        command.run(parsed(str(folder), "--kernels"))


def test_layers_by_pytorch(folder: Path) -> None:
    pytest.importorskip("torch")
    from edgetalker.engines.torch import torch_engines

    from_file = Talker(folder)
    device = HostDevice()
    session = Talker(
        Model(from_file.bundle, engines=torch_engines(from_file.bundle, device), device=device), timings=True
    )
    layers = layers_of(session.engines)["denoise"]
    assert sorted(layer.name.split()[0] for layer in layers) == ["Add", "Mul", "Mul", "Slice"]
    assert [layer.ns for layer in layers] == sorted((layer.ns for layer in layers), reverse=True)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    session.close()
    from_file.close()


def test_rates_are_measured_on_the_host() -> None:
    rates = measure_rates(HostDevice())
    assert rates.bytes_per_s is not None
    assert rates.bytes_per_s > 1e7
    assert rates.operations_per_s is not None
    assert rates.operations_per_s > 1e7
    assert len(rates.notes) == 2


def summary(*values: float) -> Summary:
    return Summary.of(values)


def test_warnings_are_trtexecs() -> None:
    host = {"enqueue": summary(90.0)}
    steady = PieceTimes("decode", "decode", -1, 1, 1, summary(10.0, 10.0), 1.0)
    shaky = PieceTimes("denoise", "denoise", -1, 1, 1, summary(10.0, 12.0), 1.0)
    assert warnings_for("cuda", summary(200.0), host, summary(100.0), [steady]) == []
    slow, copies, unstable = warnings_for("cuda", summary(100.0), host, summary(120.0), [steady, shaky])
    assert "the device waits for the host" in slow
    assert "copies take longer" in copies
    assert "1 stages vary by more than 2.5 %, denoise by 9.1 %" in unstable
    assert warnings_for("host", summary(100.0), host, None, [steady]) == []


def test_kernels_come_from_cupti_which_is_there_before_graphs_are_captured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    taken: list[Any] = []
    made: list[int] = []
    opened: list[Talker] = []
    records = [SimpleNamespace(name=name, start=0, end=end) for name, end in (("a", 5), ("b", 20), ("a", 6))]

    def flush(flag: int) -> None:
        made.append(opened[-1].index)
        taken[0](records)

    fake = SimpleNamespace(
        ActivityKind=SimpleNamespace(CONCURRENT_KERNEL=10),
        activity_register_callbacks=lambda request, complete: taken.append(complete),
        activity_enable=lambda kind: asked.append(f"enable {kind}"),
        activity_flush_all=flush,
        activity_disable=lambda kind: asked.append(f"disable {kind}"),
    )
    monkeypatch.setitem(sys.modules, "cupti", SimpleNamespace(cupti=fake))

    def opener(*, timings: bool) -> Talker:
        asked.append("open with marks" if timings else "open")
        opened.append(Talker(folder, timings=timings))
        return opened[-1]

    report = profile(opener, ProfileOptions(frames=2, schedules=("one",), kernels=True))
    assert made == [10, 11], "a frame that is not the first"
    assert report.kernels == [("b", 1, 20.0), ("a", 2, 11.0)]
    assert asked == ["open with marks", "open", "enable 10", "open", "disable 10"]
    monkeypatch.setitem(sys.modules, "cupti", None)
    report = profile(opener, ProfileOptions(frames=2, schedules=("one",), kernels=True))
    assert "cupti-python" in report.notes[-1]


@pytest.mark.parametrize(("command", "graphs"), [("bench", None), ("profile", "step")])
def test_sessions_with_marks_and_without_have_the_same_graphs(
    command: str, graphs: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[bool, str | None] = {}

    class Noted(Talker):
        def __init__(self, bundle: Any, **options: Any) -> None:
            asked[options["timings"]] = options["graphs"]
            super().__init__(bundle, **options)

    monkeypatch.setattr("edgetalker.cli.options.Talker", Noted)
    assert main([command, str(folder), "--frames", "2", "--schedule", "one"]) == 0
    assert asked == {False: graphs, True: graphs}
