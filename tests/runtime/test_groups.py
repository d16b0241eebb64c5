"""Groups of steps that are due together, moves on their own, parts of tensors, and work spread over frames."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.errors import BundleError, OptionError
from edgetalker.engines.host import HostDevice, HostGraph
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.loop import Loop, Observer, Options
from edgetalker.runtime.program import GRANULARITIES
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.spread import Plan
from edgetalker.runtime.talker import Talker
from tests.support import toy as toys
from tests.support.chunk import chunk_bundle, costs, on_fake_time, slow_model
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Live, Pieces

pytest.importorskip("onnxruntime")

MS = 1_000_000


def speech(seconds: float, seed: int = 1) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def by_hand(sound: NDArray[np.float32], frames: int, block: int, scales: int) -> NDArray[np.float32]:
    """What a chunk bundle shows: `scales` times the mean of the window that ends with the frame's block."""
    found = []
    for i in range(frames):
        end = (i // block + 1) * block * 16000 // 30
        window = np.zeros(1600, np.float32)
        heard = np.concatenate([sound, np.zeros(max(end - len(sound), 0), np.float32)])[max(end - 1600, 0) : end]
        window[len(window) - len(heard) :] = heard
        found.append(np.full(4, scales * window.mean(), np.float32))
    return np.array(found)


@pytest.mark.parametrize("graphs", GRANULARITIES)
@pytest.mark.parametrize(("block", "scales", "per_frame"), [(4, 1, False), (4, 3, True), (20, 2, True)])
def test_a_block_shows_its_rows(tmp_path: Path, graphs: Any, block: int, scales: int, per_frame: bool) -> None:
    """Blocks of 4 bind their rows, blocks of 20 copy them out; without a stage a frame consists of a move alone."""
    bundle = chunk_bundle(tmp_path / "b", block=block, scales=scales, per_frame=per_frame)
    sound = speech(2.0)
    talker = Talker(bundle, graphs=graphs)
    frames = talker.accept(sound) + talker.flush()
    assert len(frames) == 60
    np.testing.assert_allclose(
        np.array([frame.motion for frame in frames]), by_hand(sound, 60, block, scales), atol=1e-6
    )


def test_a_chunk_of_a_hundred_frames_and_nine_stages_captures_each_piece_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants are a sum: 9 pieces of the group and 100 rows copied out, where combinations were 50,689."""
    names: Counter[str] = Counter()
    capture = HostDevice.capture

    def counted(self: HostDevice, name: str, work: Callable[[], Any]) -> HostGraph:
        names[name] += 1
        return capture(self, name, work)

    monkeypatch.setattr(HostDevice, "capture", counted)
    talker = Talker(chunk_bundle(tmp_path / "b", block=100, scales=9))
    assert {name: names[name] for name in names if name.startswith("s")} == {f"s{k}": 1 for k in range(9)}
    assert names["id"] == 100
    assert len(talker.replays) == 9 * 0 + 1 + 100, "one for the group, one for each row"


def test_a_carry_of_a_group_moves_once_a_block(tmp_path: Path) -> None:
    description: dict[str, Any] = toys.description()
    files: dict[str, Any] = {**toys.stages(), **toys.tables()}
    description["tensors"]["kept"] = {"role": "state", **toys.spec(1, 3 * toys.BLOCK, toys.SIZE)}
    description["tensors"]["wide"] = {"role": "value", **toys.spec(1, toys.BLOCK, toys.SIZE)}
    program = description["program"]
    program.insert(1, {"carry": "copy", "from": "features", "to": "wide", "every": toys.BLOCK})
    program.insert(2, {"carry": "shift", "from": "wide", "to": "kept", "every": toys.BLOCK})
    talker = Talker(pack(tmp_path / "b", description, files))
    windows = [np.full(1600, value, np.float32) for value in (1.0, 2.0, 3.0, 4.0)]
    for window in np.repeat(windows, toys.BLOCK, axis=0)[: 4 * toys.BLOCK - 1]:
        talker.make(window=window)
    kept = talker.read("kept")[0].reshape(3, toys.BLOCK, toys.SIZE)
    heards = [min((block + 1) * toys.BLOCK * 16000 // 30 + 160, 1600) for block in (1, 2, 3)]
    for row, (value, heard) in zip(kept, zip((2.0, 3.0, 4.0), heards, strict=True), strict=True):
        np.testing.assert_allclose(row[0], value + heard, rtol=1e-6)


def cached_bundle(path: Path, widths: tuple[int, ...], size: int) -> Bundle:
    """Stages that each write their rows of one cache, read the rows before, and rows of a schedule inside a group."""
    from onnx import helper

    node, total = helper.make_node, sum(widths)
    files: dict[str, Any] = {"full.npy": np.array([[1.0], [2.0], [4.0]], np.float32)}
    stages: dict[str, Any] = {}
    program: list[dict[str, Any]] = []
    at = 0
    for k, width in enumerate(widths):
        inputs: dict[str, tuple[int, ...]] = {"wav": (1, 1600)}
        reads = {"wav": "wav"}
        nodes = [node("ReduceMean", ["wav", "axis"], ["m"], keepdims=1)]
        weights: dict[str, Any] = {"axis": np.array([1], np.int64), "ones": np.ones((1, width, size), np.float32)}
        if at:
            inputs["past"], reads["past"] = (1, at, size), f"cache[0:{at}]"
            weights["axes"] = np.array([1, 2], np.int64)
            nodes += [node("ReduceSum", ["past", "axes"], ["p"], keepdims=0), node("Add", ["m", "p"], ["s"])]
        nodes.append(node("Mul", ["s" if at else "m", "ones"], ["rows"]))
        files[f"k{k}.onnx"] = toys.network(nodes, inputs, {"rows": (1, width, size)}, weights)
        stages[f"k{k}"] = {
            "file": f"k{k}.onnx",
            "inputs": {name: toys.spec(*shape) for name, shape in inputs.items()},
            "outputs": {"rows": toys.spec(1, width, size)},
        }
        program.append(
            {"stage": f"k{k}", "inputs": reads, "outputs": {"rows": f"cache[{at}:{at + width}]"}, "every": 4}
        )
        at += width
    files["mix.onnx"] = toys.network(
        [node("Mul", ["x", "row"], ["y"])], {"x": (1, size), "row": (1, 1)}, {"y": (1, size)}, {}
    )
    stages["mix"] = {
        "file": "mix.onnx",
        "inputs": {"x": toys.spec(1, size), "row": toys.spec(1, 1)},
        "outputs": {"y": toys.spec(1, size)},
    }
    program += [
        {"carry": "copy", "from": f"cache[{total - 1}:{total}]", "to": "start", "every": 4},
        {
            "stage": "mix", "rows": True, "inputs": {"x": "start", "row": "@row"}, "outputs": {"y": "mixed"},
            "carry": {"y": "x"}, "every": 4,
        },
        {"carry": "copy", "from": "mixed", "to": "motion"},
    ]  # fmt: skip
    tensors = {
        "wav": {"role": "audio", **toys.spec(1, 1600)},
        "cache": {"role": "value", **toys.spec(1, total, size)},
        "start": {"role": "value", **toys.spec(1, size)},
        "mixed": {"role": "value", **toys.spec(1, size)},
        "motion": {"role": "value", **toys.spec(1, size)},
    }
    return pack(
        path,
        {
            "name": "cached", "family": "test", "origin": "made by a test",
            "audio": {"rate": 16000, "window": 1600, "block": 4},
            "motion": {"tensor": "motion", "kind": "other", "fps": 30},
            "tensors": tensors, "stages": stages, "program": program,
            "schedules": {"full": {"rank": 0, "file": "full.npy"}}, "skipped": "freeze",
        },
        files,
    )  # fmt: skip


@pytest.mark.parametrize("size", [64, 3])
def test_stages_write_and_read_parts_of_one_cache_and_rows_run_inside_a_group(tmp_path: Path, size: int) -> None:
    """64 numbers a row suit every engine's alignment; 3 do not, so that parts are copied in and out."""
    talker = Talker(cached_bundle(tmp_path / "b", (1, 2, 3), size), poison=True)
    motion = talker.make(window=np.full(1600, 0.5, np.float32)).motion
    cache = talker.read("cache")[0]
    first, second = 0.5, 0.5 + size * 0.5
    third = 0.5 + size * (first + 2 * second)
    np.testing.assert_allclose(cache, np.repeat([[first], [second], [second], [third], [third], [third]], size, axis=1))
    np.testing.assert_allclose(motion, np.full(size, third * 8), rtol=1e-6)
    assert talker.labels() == ("k0", "k1", "k2", "mix[0]", "mix[1]", "mix[2]", "move")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d["audio"].update(spread=4), "less than the block of 4 was wanted"),
        (lambda d: d["program"].reverse(), "put it first"),
        (lambda d: [s.pop("every", None) for s in d["program"]] and d["audio"].update(spread=2), "no step runs once"),
        (lambda d: d["program"][0]["inputs"].update(wav="wav[0:9]"), "input `wav` is float32[1,1600]"),
        (lambda d: d["program"][-1].update({"from": "y0[0:1]"}), "`y0[0:1]` is no part of float32[4,4]"),
        (lambda d: d["program"][-1].update({"from": "y0[1"}), "is none of `name`"),
        (lambda d: d["program"][0].update(every=3), "does not divide the audio block of 4"),
    ],
)
def test_contradictions_of_groups_are_found_at_load(tmp_path: Path, change: Callable[[Any], Any], text: str) -> None:
    import json

    bundle = chunk_bundle(tmp_path / "b", block=4, per_frame=False)
    document = json.loads((bundle.path / "manifest.json").read_text())
    change(document)
    (bundle.path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle.path)
    assert text in str(caught.value)


def test_a_spread_group_must_not_meet_what_frames_write(tmp_path: Path) -> None:
    program_from = chunk_bundle(tmp_path / "a", block=4, per_frame=False)
    import json

    document = json.loads((program_from.path / "manifest.json").read_text())
    document["tensors"]["seen"] = {"role": "state", **toys.spec(4, 4)}
    document["tensors"]["wav2"] = document["tensors"]["wav"] | {"role": "state"}
    document["program"][0]["inputs"]["wav"] = "wav2"
    document["program"].append({"carry": "copy", "from": "wav", "to": "wav2"})
    document["audio"]["spread"] = 2
    (program_from.path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="`wav2` is written while a group that is spread over the frames uses it"):
        Bundle.open(program_from.path)


# Spread


def spread_bundle(path: Path, scales: int = 3, **changes: Any) -> Bundle:
    return chunk_bundle(path, block=20, scales=scales, spread=8, **changes)


@pytest.mark.parametrize("shape", [{}, {"frames_hear": True}, {"remembers": True}])
def test_spread_changes_no_bit(tmp_path: Path, shape: dict[str, Any]) -> None:
    """Also where the frames fill the window that the next block's pieces read, and where a block remembers the last."""
    sound = speech(4)
    plain = Talker(chunk_bundle(tmp_path / "a", block=20, scales=3, **shape)).accept(sound)
    bundle = spread_bundle(tmp_path / "b", **shape)
    clock, sink = FakeClock(), Collect()
    works = costs(clock, {f"s{k}": 0.02 for k in range(3)})  # a slot each, so that frames lie between the pieces
    talker = slow_model(bundle, works).talker()
    on_fake_time(talker, clock)
    Loop(talker, PacedSource(Pieces(sound), clock), [sink], clock=clock, options=Options(realtime=True)).run()
    assert len(plain) == 120
    for frames in (Talker(bundle).accept(sound), Talker(bundle, graphs="frame").accept(sound)):
        assert np.array_equal(np.array([f.motion for f in plain]), np.array([f.motion for f in frames]))
    assert np.array_equal(np.array([f.motion for f in plain]), np.array(sink.motion)[:120])


class Ran(Observer):
    """Notes which stages ran before each frame was handed over."""

    def __init__(self, said: list[str]) -> None:
        self._said, self.by_frame = said, list[tuple[int, list[str]]]()

    def frame(self, frame: Frame, start_ns: int) -> None:
        self.by_frame.append((frame.index, [*self._said]))
        self._said.clear()


@pytest.mark.parametrize("scales", [9, 1])
@pytest.mark.parametrize("spread", [0, 30])
def test_three_hundred_ms_every_hundred_frames(tmp_path: Path, scales: int, spread: int) -> None:
    """Nine pieces of 33 ms do not fit beside frames of 33 ms, and one of 300 ms does so even less: they run aside.
    Without a spread the block's first frame is late, once a block."""
    clock, sink = FakeClock(), Collect()
    bundle = chunk_bundle(tmp_path / "b", block=100, scales=scales, spread=spread)
    works = costs(clock, {f"s{k}": 0.3 / scales for k in range(scales)} | {"id": 0.0002})
    talker = slow_model(bundle, works).talker()
    if spread:
        on_fake_time(talker, clock)
    tally = Loop(talker, Live(clock, 40.0), [sink], clock=clock, options=Options(realtime=True)).run()
    assert tally.balanced
    assert tally.due == 1200
    late = tally.due - tally.outcomes[Outcome.ON_TIME]
    assert late == 0 if spread else late >= 12


def test_pieces_that_fit_run_in_the_slots_that_the_plan_gives_them(tmp_path: Path) -> None:
    """Eight slots of 30 ms, ten pieces of 10 ms: two slots hold two, all frames are on time, none runs aside."""
    clock, said = FakeClock(), list[str]()
    bundle = spread_bundle(tmp_path / "b", scales=10)
    works = costs(clock, {f"s{k}": 0.01 for k in range(10)})

    def noted(name: str) -> None:
        said.append(name)
        works[name]()

    talker = slow_model(bundle, {name: partial(noted, name) for name in works}).talker()
    aside, ran = on_fake_time(talker, clock), Ran(said)
    ladder = rehearse(talker, clock=clock)
    said.clear()
    loop = Loop(
        talker,
        Live(clock, 6.0),
        [Collect()],
        clock=clock,
        ladder=ladder,
        options=Options(realtime=True),
        observers=[ran],
    )
    tally = loop.run()
    assert tally.outcomes[Outcome.ON_TIME] == tally.due == 180
    assert aside.started == 0
    assert talker.spread is not None
    plan = talker.spread.plan["full"]
    assert plan.fits
    by_slot = [sum(1 for slot in plan.slots if slot == k) for k in range(8)]
    assert sum(by_slot) == 10
    assert max(by_slot) == 2
    # The work of slot k is done after frame 12 + k of a block, so it shows with the frame after it.
    second = {index - 32 - 1: names for index, names in ran.by_frame if 32 < index <= 40}
    assert [len(second[k]) for k in range(8)] == by_slot
    assert plan.lines()[0].startswith("slot 0: s0 10.0 ms")


def test_a_reset_throws_the_block_that_was_begun_away(tmp_path: Path) -> None:
    clock, sink = FakeClock(), Collect()
    talker = slow_model(spread_bundle(tmp_path / "b", scales=4), costs(clock, {"s0": 0.2})).talker()
    on_fake_time(talker, clock)

    class BargeIn(Observer):
        def frame(self, frame: Frame, start_ns: int) -> None:
            if len(sink.frames) == 34:  # the block that follows is being made
                loop.reset()

    loop = Loop(talker, Live(clock, 6.0), [sink], clock=clock, options=Options(realtime=True), observers=[BargeIn()])
    tally = loop.run()
    assert tally.resets == 1
    assert [index for index, _, _ in sink.frames[34:36]] == [0, 1], "the next frame is the first of the new utterance"
    after = [frame for frame in sink.frames[34:] if frame[1] is not Outcome.STARVED]
    assert {outcome for _, outcome, _ in after} == {Outcome.ON_TIME}


def test_a_reset_while_a_piece_runs_aside_waits_for_nothing(tmp_path: Path) -> None:
    """In real time: the piece sleeps; reset comes back at once, and the frames after it are those of a new talker."""
    entered, go_on = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        go_on.wait(10)

    calm, bundle = threading.Event(), spread_bundle(tmp_path / "b", scales=2, remembers=True)
    talker = slow_model(bundle, {"s1": lambda: block() if calm.is_set() else None}).talker()
    assert talker.spread is not None
    talker.spread.plan = {"full": Plan(("s0", "s1"), (1, 10**9), (0, 0), frozenset([1]), True)}
    sound = speech(3)
    talker.take(sound[: talker.end(0)])
    for _ in range(13):
        talker.make()
    talker.take(sound[talker.window.total : talker.end(20)])
    calm.set()
    talker.work()
    assert entered.wait(5)
    begun = time.monotonic()
    talker.reset()
    assert time.monotonic() - begun < 5, "reset waited for the piece"
    assert talker.spread.aside.busy()
    calm.clear()
    go_on.set()
    fresh = Talker(bundle)
    assert np.array_equal(
        [frame.motion for frame in talker.accept(sound)], [frame.motion for frame in fresh.accept(sound)]
    )


def test_a_piece_that_fails_aside_fails_the_frame_that_needs_it(tmp_path: Path) -> None:
    calm = threading.Event()

    def fail() -> None:
        if calm.is_set():
            raise OptionError("no memory left")

    talker = slow_model(spread_bundle(tmp_path / "b", scales=1), {"s0": fail}).talker()
    assert talker.spread is not None
    talker.spread.plan = {"full": Plan(("s0",), (10**9,), (0,), frozenset([0]), True)}
    sound = speech(3)
    talker.take(sound[: talker.end(20)])
    for _ in range(13):
        talker.make()
    calm.set()
    talker.work()
    for _ in range(7):
        talker.make()
    with pytest.raises(OptionError, match="no memory left"):
        talker.make()


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(1, 40 * MS), min_size=1, max_size=30),
    slots=st.integers(1, 40),
    slack=st.integers(0, 33 * MS),
)
def test_a_plan_keeps_the_order_and_fills_no_slot_beyond_its_slack(costs: list[int], slots: int, slack: int) -> None:
    plan = Plan.of([f"p{i}" for i in range(len(costs))], costs, slots, slack, 33 * MS)
    assert list(plan.slots) == sorted(plan.slots)
    assert all(0 <= slot < slots for slot in plan.slots)
    assert plan.until(slots - 1) == len(costs)
    beside = [{i for i, cost in enumerate(costs) if margin * cost > slack} for margin in (8, 2)]
    assert plan.long in (beside if plan.fits else beside[1:])
    if plan.fits:
        for slot in set(plan.slots):
            short = [cost for i, cost in enumerate(costs) if plan.slots[i] == slot and i not in plan.long]
            assert sum(short) <= slack


def test_the_ladder_knows_the_cost_of_a_frame_that_begins_a_block(tmp_path: Path) -> None:
    """A block's first frame costs 25 ms, the others 1: with a budget of 40 ms none is late, and none is barred."""
    clock = FakeClock()
    bundle = chunk_bundle(tmp_path / "b", block=100, scales=1)
    talker = slow_model(bundle, costs(clock, {"s0": 0.1, "id": 0.001})).talker()
    ladder = rehearse(talker, clock=clock)
    assert ladder.predict("full", 1) / ladder.predict("full", 0) == pytest.approx(101, rel=0.02)
    tally = Loop(
        talker, Live(clock, 20.0), [Collect()], clock=clock, ladder=ladder, options=Options(realtime=True, budget=0.5)
    ).run()
    assert tally.outcomes[Outcome.ON_TIME] == tally.due == 600


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 9000), max_size=30))
def test_packets_never_matter_to_a_spread_block(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    bundle = spread_bundle(tmp_path_factory.mktemp("b") / "b", scales=2)
    sound, clock, sink = speech(2.0), FakeClock(), Collect()
    source = PacedSource(Pieces(sound, sizes), clock)
    Loop(Talker(bundle), source, [sink], clock=clock, options=Options(realtime=True)).run()
    alone = Talker(bundle)
    expected = np.array([frame.motion for frame in alone.accept(sound) + alone.flush()])
    assert np.array_equal(np.array(sink.motion), expected)
