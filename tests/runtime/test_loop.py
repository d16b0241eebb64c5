"""The loop: packets never matter, deadlines are kept by the ladder, every due frame is accounted for."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError
from edgetalker.engines.host import HostDevice
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.loop import Loop, Observer, Options, Tally
from edgetalker.runtime.program import Part
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.talker import Talker
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Live, Pieces, slow_talker

pytest.importorskip("onnxruntime")

PERIOD = 1 / 30


def speech(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(int(16000 * seconds)).astype(np.float32)


def play(bundle: Bundle, source: Any, **options: Any) -> tuple[Tally, Collect]:
    sink = Collect()
    tally = Loop(Talker(bundle, poison=True), source, [sink], options=Options(**options)).run()
    assert tally.balanced
    assert sink.closes == 1
    return tally, sink


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 3000), max_size=60))
def test_how_the_sound_is_cut_never_changes_a_bit(toy: Bundle, sizes: list[int]) -> None:
    sound = speech(0.8)
    _, whole = play(toy, Pieces(sound))
    _, cut = play(toy, Pieces(sound, sizes))
    assert np.array_equal(np.array(whole.motion), np.array(cut.motion))


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (533, 1), (534, 2), (16000, 30), (16001, 31), (15999, 30)])
def test_every_frame_that_starts_within_the_sound_is_made(toy: Bundle, samples: int, frames: int) -> None:
    tally, sink = play(toy, Pieces(speech(2)[:samples]))
    assert tally.due == tally.outcomes[Outcome.ON_TIME] == frames
    assert [index for index, _, _ in sink.frames] == list(range(frames))


def test_a_limit_ends_the_run(toy: Bundle) -> None:
    tally, _ = play(toy, Pieces(speech(2)), limit=7)
    assert tally.due == 7


class Stopper(Observer):
    """Does something at one frame."""

    def __init__(self, at: int, act: Any) -> None:
        self.at, self.act = at, act

    def frame(self, frame: Frame, start_ns: int) -> None:
        if frame.index == self.at:
            self.act()


def test_stop_keeps_what_was_made(toy: Bundle) -> None:
    sink = Collect()
    acts: list[Any] = []
    loop = Loop(Talker(toy), Pieces(speech(2)), [sink], observers=[Stopper(9, lambda: acts[0]())])
    acts.append(loop.stop)
    tally = loop.run()
    assert tally.interrupted
    assert len(sink.frames) == tally.due == 10
    assert sink.closes == 1


class Broken(Collect):
    """A sink whose disk is full from frame 3 on."""

    def send(self, frame: Frame) -> None:
        if frame.index == 3:
            raise OSError("disk full")
        super().send(frame)


def test_a_sink_that_fails_costs_itself_alone(toy: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    sinks = [Collect(), Broken(), Collect()]
    loop = Loop(Talker(toy), Pieces(speech(1)), sinks)
    loop.run()
    assert [len(sink.frames) for sink in sinks] == [30, 3, 30]
    assert [sink.closes for sink in sinks] == [1, 1, 1]
    ((failed, error),) = loop.failed
    assert failed is sinks[1]
    assert str(error) == "disk full"
    assert caplog.text.count("disk full") == 1


def test_the_run_ends_when_no_sink_is_left(toy: Bundle) -> None:
    sink = Broken()
    with pytest.raises(OSError, match="disk full"):
        Loop(Talker(toy), Pieces(speech(1)), [sink]).run()
    assert sink.closes == 1


def test_reset_begins_anew(toy: Bundle) -> None:
    sink = Collect()
    talker = Talker(toy)
    acts: list[Any] = [lambda: None]
    loop = Loop(talker, Pieces(speech(1)), [sink], observers=[Stopper(9, lambda: acts.pop()())])
    acts.append(loop.reset)
    tally = loop.run()
    assert tally.resets == 1
    assert [index for index, _, _ in sink.frames][:13] == [*range(10), 0, 1, 2]
    assert sink.times == [Fraction(slot, 30) for slot in range(len(sink.frames))]


def on_clock(
    bundle: Bundle, cost: Any, *, seconds: float = 4.0, live: dict[str, Any] | None = None, **options: Any
) -> tuple[Tally, Collect]:
    clock, sink = FakeClock(), Collect()
    talker = slow_talker(bundle, clock, cost)
    source = Live(clock, seconds, **(live or {}))
    tally = Loop(talker, source, [sink], clock=clock, options=Options(realtime=True, **options)).run()
    assert tally.balanced, tally
    assert all(after > before for before, after in itertools.pairwise(sink.times)), "two frames have one time"
    assert all((time * 30).denominator == 1 for time in sink.times)
    return tally, sink


def test_a_fast_talker_is_always_on_time_and_uses_the_full_schedule(toy: Bundle) -> None:
    tally, _ = on_clock(toy, lambda i, schedule: 0.010)
    assert tally.outcomes[Outcome.ON_TIME] == tally.due == 120
    assert tally.schedules == {"full": 120}


def test_a_step_longer_than_a_frame_settles_on_the_shorter_schedule(toy: Bundle) -> None:
    tally, _ = on_clock(toy, lambda i, schedule: 0.050 if schedule == "full" else 0.008, seconds=10)
    assert tally.outcomes[Outcome.ON_TIME] == tally.due
    assert tally.schedules == {"one": 300}


def test_a_step_that_grows_too_long_settles_on_the_shorter_schedule(toy: Bundle) -> None:
    """Only `full` slows down, which the load cannot explain: it is barred, for longer each time."""
    _, sink = on_clock(toy, lambda i, s: (0.010 if i < 30 else 0.050) if s == "full" else 0.008, seconds=60)
    bad = [n for n, (_, outcome, _) in enumerate(sink.frames) if outcome is not Outcome.ON_TIME]
    assert bad, "a 50 ms step cannot be on time at 30 fps"
    assert len(bad) < 25, f"frames {bad} were not on time: the ladder did not settle"
    assert sum(n > 900 for n in bad) <= 2


def test_the_full_schedule_comes_back_after_a_burst_of_load(toy: Bundle) -> None:
    def cost(i: int, schedule: str) -> float:
        return (0.015 if schedule == "full" else 0.003) * (4 if 60 <= i < 120 else 1)

    tally, sink = on_clock(toy, cost, seconds=12)
    assert {schedule for i, _, schedule in sink.frames if 70 <= i < 118} == {"one"}
    assert {schedule for i, _, schedule in sink.frames if i > 250} == {"full"}
    assert tally.outcomes[Outcome.ON_TIME] > tally.due - 6


@pytest.mark.parametrize("late", ["hold", "skip", "send"])
def test_when_even_the_cheapest_is_too_slow_the_policy_decides(toy: Bundle, late: str) -> None:
    tally, sink = on_clock(toy, lambda i, schedule: 0.045, seconds=6, late=late)
    held, skipped = tally.outcomes[Outcome.HELD], tally.outcomes[Outcome.SKIPPED]
    assert (held > 30) == (late == "hold")
    assert (skipped > 30) == (late == "skip")
    assert len(sink.frames) == tally.due - skipped
    if late != "send":
        assert tally.latest_ns < 3 * PERIOD * 1e9, "the lateness must not grow"
    else:
        assert tally.outcomes[Outcome.LATE] > 150


def test_a_machine_far_too_slow_still_makes_frames_and_recovers(toy: Bundle) -> None:
    """A cost of several frames must not hold the face for good: some frames are made, and all once it is fast."""
    tally, _ = on_clock(toy, lambda i, schedule: 0.2, seconds=10)
    assert tally.made >= 40
    tally, sink = on_clock(toy, lambda i, schedule: 0.2 if i < 90 else 0.002, seconds=20)
    assert {outcome for _, outcome, _ in sink.frames[-100:]} == {Outcome.ON_TIME}


def test_a_held_frame_repeats_the_motion_before(toy: Bundle) -> None:
    _, sink = on_clock(toy, lambda i, schedule: 0.2 if i == 20 else 0.001)
    held = [n for n, (_, outcome, _) in enumerate(sink.frames) if outcome is Outcome.HELD]
    assert held
    for n in held:
        assert np.array_equal(sink.motion[n], sink.motion[n - 1])


def test_late_sound_starves_frames_and_the_talker_catches_up(toy: Bundle) -> None:
    tally, sink = on_clock(toy, lambda i, schedule: 0.002, seconds=6, live={"gaps": [(2.0, 2.5)]})
    assert 10 <= tally.outcomes[Outcome.STARVED] <= 20
    assert tally.outcomes[Outcome.HELD] >= 1, "the sound came late and all at once; old frames are passed over"
    assert sink.frames[-1][0] == 179, "the sound's last frame is still made"
    assert {outcome for _, outcome, _ in sink.frames[-30:]} == {Outcome.ON_TIME}
    assert sink.times[-1] == Fraction(179, 30), "what was caught up is in step with the sound again"


def test_lost_sound_starves_frames_and_nothing_is_passed_over(toy: Bundle) -> None:
    tally, sink = on_clock(toy, lambda i, schedule: 0.002, seconds=4, live={"gaps": [(2.0, 2.5)], "lost": True})
    assert 10 <= tally.outcomes[Outcome.STARVED] <= 20
    assert tally.outcomes[Outcome.HELD] == 0
    assert sink.times == [Fraction(slot, 30) for slot in range(tally.due)], "a slot that starved takes its time"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    costs=st.lists(st.floats(0.0, 0.15), min_size=1, max_size=20),
    gap=st.floats(0.0, 1.0),
    late=st.sampled_from(["hold", "skip", "send"]),
    packet=st.sampled_from([80, 160, 441, 1600]),
)
def test_whatever_happens_the_tally_adds_up(
    toy: Bundle, costs: list[float], gap: float, late: str, packet: int
) -> None:
    tally, sink = on_clock(
        toy,
        lambda i, schedule: costs[i % len(costs)],
        seconds=2.5,
        late=late,
        live={"packet": packet, "gaps": [(0.7, 0.7 + gap)]},
    )
    given = int(2.5 * 16000) // packet * packet
    starved = tally.outcomes[Outcome.STARVED]
    assert tally.due - starved == -(-given * 30 // 16000), "each frame of the sound, once"
    shown = [outcome for _, outcome, _ in sink.frames]
    assert all(shown.count(outcome) == tally.outcomes[outcome] for outcome in (Outcome.ON_TIME, Outcome.STARVED))
    # A slot that had starved is not shown a second time when its sound comes after all.
    unseen = tally.due - tally.outcomes[Outcome.SKIPPED] - len(sink.frames)
    assert 0 <= unseen <= min(starved, tally.outcomes[Outcome.HELD] + tally.outcomes[Outcome.LATE])
    assert unseen == 0 or late != "send"


class Timed(Collect):
    """Notes when each frame came, in seconds."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.at = clock, list[float]()

    def send(self, frame: Frame) -> None:
        super().send(frame)
        self.at.append(self.clock.now_ns() * 1e-9)


@pytest.mark.parametrize("late", ["hold", "skip", "send"])
@pytest.mark.parametrize("leap", [12, 120, 8 * 3600])
@pytest.mark.parametrize(
    ("kind", "when"),
    [("microphone", "shown"), ("microphone", "made")]
    + [(kind, when) for kind in ("paced",) for when in ("shown", "made", "asleep")],
)
def test_a_clock_that_leaps_is_one_pause_and_no_burst(
    toy: Bundle, kind: str, when: str, leap: int, late: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows' clock counts sleep, and every clock counts a program that was stopped."""
    clock, gaps, ends = FakeClock(), list[tuple[float, float]](), list[float]()

    def act() -> None:
        now = clock.now_ns() * 1e-9
        gaps.append((now, now + leap))
        ends.append(now + leap)
        if when == "asleep":
            clock.leap_ns = leap * 10**9
        else:
            clock.advance(leap * 10**9)

    def cost(index: int, schedule: str) -> float:
        if when == "made" and index == 60 and not gaps:
            act()
        return 0.005

    sources: dict[str, Any] = {
        "microphone": Live(clock, 5.0, gaps=gaps, lost=True),
        "paced": PacedSource(Pieces(speech(5.0)), clock),
    }
    loop = Loop(
        slow_talker(toy, clock, cost), sources[kind], [sink := Timed(clock)], clock=clock,
        options=Options(realtime=True, late=late), observers=[Stopper(60, act)] if when != "made" else [],
    )  # fmt: skip
    tally = loop.run()
    shown = [(outcome, at - ends[0]) for (_, outcome, _), at in zip(sink.frames, sink.at, strict=True) if at >= ends[0]]
    assert next(at for outcome, at in shown if outcome is Outcome.ON_TIME) < 0.2
    assert sum(at < 1.0 for _, at in shown) <= 33, "a burst"
    assert all(outcome is Outcome.ON_TIME for outcome, at in shown if at > 0.2)
    assert tally.balanced
    assert tally.pauses == caplog.text.count("the clock leapt by") == 1
    assert tally.due == pytest.approx(150, abs=3), "a frame for each of the sound, and the pause apart"
    assert tally.paused == pytest.approx(30 * leap, abs=3)
    assert f"1 pause as long as {tally.paused} frames" in tally.summary()


def test_after_a_stop_what_waited_in_a_pipe_is_passed_over(toy: Bundle) -> None:
    clock, gaps = FakeClock(), list[tuple[float, float]]()

    def stopped() -> None:
        gaps.append((clock.now_ns() * 1e-9, clock.now_ns() * 1e-9 + 5.0))
        clock.advance(5 * 10**9)

    source = Live(clock, 9.0, gaps=gaps)
    loop = Loop(
        slow_talker(toy, clock, lambda i, schedule: 0.005), source, [sink := Timed(clock)], clock=clock,
        options=Options(realtime=True), observers=[Stopper(60, stopped)],
    )  # fmt: skip
    tally = loop.run()
    ((_, end),) = gaps
    assert tally.balanced
    assert tally.outcomes[Outcome.HELD] > 140
    assert tally.pauses <= 1
    assert tally.outcomes[Outcome.STARVED] <= 3
    assert {outcome for (_, outcome, _), at in zip(sink.frames, sink.at, strict=True) if at > end + 0.5} == {
        Outcome.ON_TIME
    }


def test_the_watchdog_counts_a_hanging_step(toy: Bundle) -> None:
    tally, _ = on_clock(toy, lambda i, schedule: 1.5 if i == 30 else 0.001)
    assert tally.stalls == 1


def test_options_that_do_not_fit_are_refused(toy: Bundle) -> None:
    talker = Talker(toy)
    for source, options, text in (
        (Pieces(speech(1), rate=8000), Options(), "8000 samples a second; the bundle hears 16000"),
        (Pieces(speech(1)), Options(late="hodl"), "late policy"),  # type: ignore[arg-type]
        (Pieces(speech(1)), Options(schedule="fast"), "no schedule `fast`"),
    ):
        with pytest.raises(OptionError, match=text):
            Loop(talker, source, [], options=options)


def test_ten_minutes_cost_what_one_minute_costs(toy: Bundle) -> None:
    """Work is counted, not timed: what a frame replays is the same at the end as at the start."""
    calls = 0
    talker = Talker(toy)

    def counted(part: Part) -> None:
        nonlocal calls
        calls += part.graph.nodes if part.graph else 0
        part.call()

    talker.watch(counted)
    device = talker.device
    assert isinstance(device, HostDevice)
    totals: list[int] = []

    class Count(Observer):
        def frame(self, frame: Frame, start_ns: int) -> None:
            totals.append(calls)

    allocated = device.allocated
    loop = Loop(talker, Pieces(np.zeros(16000 * 600, np.float32)), [], observers=[Count()])
    window = talker.window._buffer.nbytes
    loop.run()
    work = np.diff(totals)
    assert len(totals) == 18000
    assert set(work[:100]) == set(work[-100:])
    assert work[:1000].sum() == work[-1000:].sum() > 8000, "a frame replays at least its eight pieces"
    assert device.allocated == allocated
    assert talker.window._buffer.nbytes == window, "the window must not grow with the sound"


@pytest.mark.parametrize("wrong", [(np.nan,), (np.inf, -np.inf)])
def test_a_frame_that_is_no_number_is_held_and_the_talker_heals(
    toy: Bundle, caplog: pytest.LogCaptureFixture, wrong: tuple[float, ...]
) -> None:
    """Sources never give NaN; a model may make one. It must not reach a receiver, nor stay in the history."""
    talker, sink = Talker(toy), Collect()
    make = talker.make

    def poisoned(schedule: str | None = None) -> Frame:
        if talker.index == 10:
            memory = talker._memory.buffer("memory")
            talker.device.write(memory, np.resize(np.array(wrong, np.float32), memory.spec.shape))
        return make(schedule)

    talker.make = poisoned  # type: ignore[method-assign, assignment]
    tally = Loop(talker, Pieces(speech(1)), [sink]).run()
    assert tally.balanced
    assert tally.broken == 1
    assert tally.outcomes[Outcome.HELD] == 1
    assert sink.frames[10][1] is Outcome.HELD
    assert np.array_equal(sink.motion[10], sink.motion[9])
    assert np.isfinite(np.array(sink.motion)).all()
    assert "frame 10 came out as NaN" in caplog.text
