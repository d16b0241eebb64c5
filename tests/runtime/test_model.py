"""A model and its talkers: shared weights, independent state, any order of closing, threads, snapshots, errors."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgetalker
from edgetalker.engines import errors
from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.errors import InputError, OptionError, UserError
from edgetalker.engines.host import HostDevice
from edgetalker.engines.ort import OrtEngine
from edgetalker.runtime.clock import Pace
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.loop import Loop, Observer, Options, drive
from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker
from tests.support import toy as toys
from tests.support.chunk import slow_model
from tests.support.talk import Collect, Live

pytest.importorskip("onnxruntime")


def sound(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def motions(frames: Any) -> NDArray[np.float32]:
    return np.array([frame.motion for frame in frames])


def test_ten_talkers_load_each_stage_once(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost their state, not the weights: ONNX Runtime opens four stages, however many talkers there are."""
    opened: list[str] = []
    start = OrtEngine.__init__

    def counted(self: OrtEngine, name: str, *rest: Any, **more: Any) -> None:
        opened.append(name)
        start(self, name, *rest, **more)

    monkeypatch.setattr(OrtEngine, "__init__", counted)
    with Model(toy) as model:
        device = model.device
        assert isinstance(device, HostDevice)
        talkers = [model.talker(seed=k) for k in range(10)]
        assert sorted(opened) == sorted(toy.manifest.stages)
        assert device.allocated < 10 * 2 * talkers[0].nbytes
        plays = [talker.accept(sound(0.5)) for talker in talkers]
    for k, frames in enumerate(plays):
        assert np.array_equal(motions(frames), motions(Talker(toy, seed=k).accept(sound(0.5))))


def test_talkers_of_one_model_play_side_by_side_in_threads(toy: Bundle) -> None:
    expected = [motions(Talker(toy, seed=k).accept(sound(1.0, k))) for k in range(4)]
    found: dict[int, NDArray[np.float32]] = {}
    with Model(toy) as model:
        talkers = [model.talker(seed=k, graphs="eager" if k % 2 else "step") for k in range(4)]

        def play(k: int) -> None:
            for _ in range(5):
                talkers[k].reset()
                found[k] = motions(talkers[k].accept(sound(1.0, k)))
                model.talker(seed=k).close()  # captures while the others play

        threads = [threading.Thread(target=play, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(found[k], expected[k]) for k in range(4))


@pytest.mark.parametrize("order", ["model first", "talkers first", "mixed"])
def test_closing_order_never_matters(toy: Bundle, order: str) -> None:
    model = Model(toy)
    one, two = model.talker(), model.talker()
    frames = one.accept(sound(0.2))
    kept, last = motions(frames), one.make(window=np.zeros(1600, np.float32)).motion
    before = last.copy()
    orders: dict[str, list[Model | Talker]] = {
        "model first": [model, one, two],
        "talkers first": [one, two, model],
        "mixed": [one, model, two],
    }
    for closed in orders[order]:
        closed.close()
        closed.close()
    assert np.array_equal(motions(frames), kept)
    assert np.array_equal(last, before), "motion that was handed out stays"
    with pytest.raises(OptionError, match="closed"):
        two.make()
    with pytest.raises(OptionError, match="the model is closed"):
        model.talker()


def test_a_talker_of_its_own_closes_its_model(toy: Bundle) -> None:
    with Talker(toy) as talker:
        assert not talker.model.closed
    assert talker.model.closed
    with Model(toy) as model, model.talker():
        pass
    assert model.closed


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 30000), second=st.integers(0, 12000), schedule=st.sampled_from(["full", "one"]))
def test_a_snapshot_goes_on_as_the_talker_does(toy: Bundle, first: int, second: int, schedule: str) -> None:
    """Saved anywhere, between any two packets; into the talker itself, a clone, and a talker of another model."""
    random = sound(3.0, 5)
    with Model(toy) as model, Talker(toy, seed=7) as other:
        talker = model.talker(seed=7)
        talker.set("setting", {"north": 1.0})
        talker.accept(random[:first], schedule)
        snapshot, clone = talker.save(), talker.clone()
        rest = random[first : first + second]
        expected = motions(talker.accept(rest, schedule) + talker.flush(schedule))
        talker.restore(snapshot)
        other.restore(snapshot)
        for again in (talker, clone, other):
            assert np.array_equal(motions(again.accept(rest, schedule) + again.flush(schedule)), expected)


def test_a_snapshot_of_another_bundle_is_refused(toy: Bundle, tmp_path: Path) -> None:
    other = Talker(toys.toy_bundle(tmp_path / "b", name="other"))
    with pytest.raises(InputError, match="another bundle"):
        other.restore(Talker(toy).save())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"devise": "cuda"}, "did you mean `device`"),
        ({"shedule": "full"}, "did you mean `schedule`"),
        ({"device": "cdua"}, "did you mean `cuda`"),
        ({"wait": "block"}, "`wait` is for a GPU"),
        ({"graphs": "steps"}, "did you mean `step`"),
        ({"schedule": "ful"}, "did you mean `full`"),
        ({"precision": "fp61"}, "no precision `fp61`"),
        ({"engine": "rtx"}, "on the host there are"),
        ({"threads": 100_000}, "1 to "),
        ({"threads": 0}, "0 threads"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 64}, "was wanted"),
        ({"rate": 10**12}, "a rate of 1000000000000"),
    ],
)
def test_mistakes_of_the_python_interface_are_told_as_the_command_lines(
    toy: Bundle, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError) as caught:
        Talker(toy, **options)
    assert text in str(caught.value)


def test_what_is_public_is_what_there_is() -> None:
    """`__all__`, the names that are imported lazily and those that type checkers see are the same."""
    tree = ast.parse(Path(edgetalker.__file__).read_text())
    checked = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("edgetalker.")
        for alias in line.names
    }
    assert checked | {"__version__"} == set(edgetalker.__all__)
    for name in edgetalker.__all__:
        value = getattr(edgetalker, name)
        assert name == "__version__" or value.__doc__, name
    ours = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, UserError)}
    assert ours <= set(edgetalker.__all__)
    with pytest.raises(AttributeError, match="no attribute `Talkr`"):
        edgetalker.Talkr  # noqa: B018


def test_sound_that_nobody_makes_frames_of_is_refused_and_not_lost(toy: Bundle) -> None:
    talker = Talker(toy)
    talker.hear(sound(1.9))
    with pytest.raises(InputError, match="would push out sound that frame 0 has not heard"):
        talker.hear(sound(1.9))
    while talker.ready():
        talker.make()
    talker.hear(sound(1.0))
    with pytest.raises(InputError, match="hears"):
        Talker(toy).make()
    quiet = np.zeros(1600, np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="NaN or Inf"):
            Talker(toy).make(window=np.append(quiet[1:], np.float32(bad)))
    Talker(toy).make(window=np.append(quiet[1:], np.finfo(np.float32).max))


def test_the_motion_on_the_device_is_the_frames(toy: Bundle) -> None:
    talker = Talker(toy)
    before = talker.motion_buffer.address
    for window in np.split(sound(1.0), 10):
        frame = talker.make(window=window)
        assert np.array_equal(talker.device.read(talker.motion_buffer)[0], frame.motion)
    assert talker.motion_buffer.address == before


def test_many_loops_in_one_thread_each_keep_their_time(toy: Bundle) -> None:
    """Five talkers of one model on one fake clock: each plays as alone, and none is late for another."""
    from edgetalker.runtime.frame import Outcome
    from tests.support.clock import FakeClock

    clock, sinks = FakeClock(), [Collect() for _ in range(5)]
    with slow_model(toy, {"decode": lambda: clock.advance(1_000_000)}) as model:
        loops = [
            Loop(
                model.talker(seed=k), Live(clock, 2.0 + k / 10), [sinks[k]], clock=clock, options=Options(realtime=True)
            )
            for k in range(5)
        ]
        tallies = drive(loops)
    for k, tally in enumerate(tallies):
        assert tally.balanced
        assert tally.outcomes[Outcome.ON_TIME] == tally.due == 60 + 3 * k
        alone = Talker(toy, seed=k)
        expected = motions(alone.accept(np.full(32000 + 1600 * k, 0.1, np.float32)) + alone.flush())
        assert np.array_equal(np.array(sinks[k].motion), expected)


def test_a_frame_that_hangs_is_told_of_while_it_hangs(toy: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """The watchdog is a thread with the machine's clock: it speaks while the frame is still in hand."""
    go_on, calm = threading.Event(), threading.Event()
    told_while_hanging: list[str] = []

    def hang() -> None:
        if calm.is_set():
            calm.clear()
            for _ in range(200):
                if "not back" in caplog.text or go_on.wait(0.05):
                    break
            told_while_hanging.append(caplog.text)

    class Arm(Observer):
        def frame(self, frame: Any, start_ns: int) -> None:
            if frame.index == 5:
                calm.set()

    with slow_model(toy, {"decode": hang}) as model:
        from tests.support.clock import FakeClock

        clock = FakeClock()
        loop = Loop(
            model.talker(), Live(clock, 1.0), [Collect()], clock=clock, observers=[Arm()],
            options=Options(realtime=True, stall=0.2),
        )  # fmt: skip
        tally = loop.run()
    assert "not back" in told_while_hanging[0]
    assert tally.stalls == 1
    assert "came back after" in caplog.text


# What an outside review broke and no test noticed


def test_a_skip_repeats_the_shifts_of_the_schedule_that_ran(tmp_path: Path) -> None:
    """`full` shifts x, `one` shifts the condition: a skipped frame repeats that of the frame before."""
    description = toys.description()
    program = description["program"]
    shift = next(step for step in program if step.get("carry") == "shift")
    shift["schedules"] = ["full"]
    program.insert(program.index(shift), {"carry": "shift", "from": "cond", "to": "history", "schedules": ["one"]})
    bundle = pack(tmp_path / "b", description, {**toys.stages(), **toys.tables()})
    talker = Talker(bundle)
    for schedule, name in (("full", "x"), ("one", "cond")):
        talker.make(schedule, window=sound(0.1))
        newest = talker.read(name)[0]
        talker.skip()
        rows = talker.read("history")[0]
        assert np.array_equal(rows[-1], newest)
        assert np.array_equal(rows[-2], newest)


def test_a_control_glides_down_as_it_glides_up(toy: Bundle) -> None:
    talker, seen = Talker(toy), []
    talker.set("setting", {"north": 1.0})
    for k in range(10):
        if k == 5:
            talker.set("setting", {"north": 0.0})
        talker.make(window=sound(0.1))
        seen.append(float(talker.read("setting")[0, 0]))
    assert seen == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0])


def test_noise_of_later_frames_is_what_it_always_was() -> None:
    """Frames other than 0, another stream and another tensor, as numbers: a change of the counter's words shows."""
    from edgetalker.runtime.inputs import NormalNoise

    into = np.empty(3, np.float32)
    found = []
    for maker, frame in (
        (NormalNoise(1), 1),
        (NormalNoise(1), 1000),
        (NormalNoise(1, 2), 7),
        (NormalNoise(1, 2, 3), 7),
    ):
        maker.fill(frame, into)
        found.append(into.copy())
    np.testing.assert_array_equal(np.array(found), GOLDEN)


GOLDEN: NDArray[np.float32] = np.array(
    [
        [0.43183237314224243, 0.8609647750854492, -1.5227233171463013],
        [0.03985122963786125, 0.6126011610031128, 0.4503898322582245],
        [0.5118534564971924, -1.1398723125457764, 0.651229739189148],
        [-0.4144309461116791, 0.599141538143158, 0.20994126796722412],
    ],
    np.float32,
)
"""As the first release made them."""


def test_the_ladder_believes_no_load_below_one() -> None:
    """A machine that was once fast must not be expected to be faster than usual: the cost is never below the usual."""
    ladder = Ladder(["full", "one"])
    for _ in range(200):
        ladder.learn("full", 10_000_000)
    for _ in range(5):
        ladder.learn("full", 5_000_000)
    usual = ladder._usual["full", 0].value
    assert usual is not None
    assert ladder.predict("full") >= usual
    assert ladder.predict("full") >= 7_500_000


def test_lateness_is_forgiven_after_three_hundred_good_frames() -> None:
    ladder = Ladder(["full", "one"])
    for late in range(5):
        ladder.learn("full", 1, late=True)
        assert ladder._patience["full"] == min(15 * 2 ** (late + 1), 1800)
    for _ in range(299):
        ladder.learn("full", 1)
    assert ladder._patience["full"] == 480
    ladder.learn("full", 1)
    assert ladder._patience["full"] == 15


def test_the_pace_follows_a_sound_card_that_runs_slow() -> None:
    """A crystal 100 ppm slow: after ten minutes its sound comes 60 ms late by the wall; the slots follow it."""
    from fractions import Fraction

    pace = Pace(16000, Fraction(30), 0, 1, 33_000_000)
    for k in range(60_001):
        pace.hear(k * 160, int(k * 10_000_000 * (1 + 100e-6)))
    late = pace.slot_ns(18_000) - (18_001 * 1_000_000_000 // 30)
    assert late == pytest.approx(60_000_000, abs=3_000_000)
    assert pace.sound_time(int(600e9 * (1 + 100e-6))) == pytest.approx(600.0, abs=0.002)


def test_what_means_the_same_is_taken(toy: Bundle) -> None:
    with Talker(toy, rate=np.float64(16000.0), seed=np.int64(3), rest=np.bool_(False), schedules=("one",)) as talker:
        assert (talker.rate, talker.options.seed, talker.schedules) == (16000, 3, ("one",))
    with pytest.raises(OptionError, match="did you mean `silero`"):
        Talker(toy, voice="sliero")
