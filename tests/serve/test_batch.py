"""Many talkers in one batch: each one's frames are those that it would have had alone."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgetalker
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.runtime.frame import Outcome
from edgetalker.runtime.model import Model
from edgetalker.serve.batch import Batch, BatchOptions
from edgetalker.serve.seat import Command, Event, Flush, Playing, Reset, Seat, SeatOptions, Set, Sound, Start
from tests.support.clock import FakeClock

pytest.importorskip("onnx", reason="stages are widened with the package onnx")
pytest.importorskip("onnxruntime", reason="stages run on ONNX Runtime")

VOCA = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"
SPEECH = Path(edgetalker.__file__).parent / "data" / "speech.wav"


def speech() -> NDArray[np.int16]:
    with wave.open(str(SPEECH)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def opened(bundle: Path | Bundle | None, talkers: int, *widths: int, schedule: str | None = None) -> Batch:
    """A batch whose ticks the test makes."""
    model = Model(bundle)
    options = BatchOptions(talkers=talkers, widths=widths, schedule=schedule)
    return Batch(model, options=options, clock=FakeClock()).open()


class Run:
    """One talker of a batch and all that it handed out."""

    def __init__(self, batch: Batch, **options: object) -> None:
        self.events: list[Event] = []
        self.seat: Seat = batch.join(self.events.append, SeatOptions(**{"paced": False, **options}))  # type: ignore[arg-type]

    @property
    def motions(self) -> NDArray[np.float32]:
        return np.array([event.frame.motion for event in self.events if event.frame is not None], np.float32)


def exhaust(batch: Batch) -> None:
    """Tick until nothing more can be made."""
    while batch.tick():
        pass


@pytest.fixture(scope="module")
def talker4() -> Iterator[Batch]:
    """The shipped talker at width 4 alone."""
    batch = opened(None, 4, 4, schedule="one")
    yield batch
    batch.close()
    batch.model.close()


@pytest.fixture(scope="module")
def voca() -> Iterator[Batch]:
    """A bundle whose encoder runs once in six frames, at width 3 alone."""
    batch = opened(VOCA, 3, 3, schedule="fast")
    yield batch
    batch.close()
    batch.model.close()


@pytest.fixture(autouse=True)
def everybody_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"talker4", "voca"} & set(request.fixturenames):
        batch: Batch = request.getfixturevalue(name)
        for seat in batch.talking:
            batch.leave(seat)


def test_every_stage_of_the_shipped_bundles_can_be_widened(talker4: Batch, voca: Batch) -> None:
    assert talker4.widths.reasons == {}
    assert voca.widths.reasons == {}


@pytest.mark.parametrize("bundle", [None, VOCA], ids=["talker", "tiny_voca"])
def test_frames_at_every_width_are_a_single_talkers_within_1e_5(bundle: Path | None) -> None:
    sound = speech()[: 16000 * 3 // 4]
    with Model(bundle) as model:
        batch = Batch(
            model, options=BatchOptions(talkers=5, schedule=model.bundle.manifest.ladder[-1]), clock=FakeClock()
        )
        batch.open()
        assert batch.widths.widths == (1, 2, 4, 5)
        for count in (1, 2, 3, 5):
            runs = [Run(batch, stream=place) for place in range(count)]
            for place, run in enumerate(runs):
                run.seat.send(Sound(np.roll(sound, 999 * place), 16000, 0))
                run.seat.send(Flush())
            exhaust(batch)
            for place, run in enumerate(runs):
                with model.talker(stream=place) as alone:
                    schedule = batch.schedules[0]
                    frames = alone.accept(np.roll(sound, 999 * place), schedule) + alone.flush(schedule)
                wanted = np.array([frame.motion for frame in frames])
                assert len(run.motions) == len(wanted)
                largest = max(1.0, float(np.abs(wanted).max()))  # shapes lie in [0, 1], vertices in any units
                np.testing.assert_allclose(run.motions, wanted, rtol=0, atol=1e-5 * largest)
                assert run.events[-1].kind == "end"
                batch.leave(run.seat)
        batch.close()


Step = tuple[int, str, int]
Script = tuple[int, list[Step], int]
"""(tick, what, how much)"""
STEPS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["sound", "sound", "sound", "flush", "reset", "set", "start", "rate"]),
        st.integers(1, 12000),
    ),
    min_size=3,
    max_size=8,
)
SCRIPTS = st.lists(st.tuples(st.integers(0, 6), STEPS, st.integers(7, 16)), min_size=2, max_size=3)
"""For each talker: the tick at which it joins, what it does, and the tick at which it leaves."""
BUSY: list[Script] = [
    (place, [(tick, "sound", 3000) for tick in range(place, 12)] + [(7 + place, what, 6000)], 16)
    for place, what in enumerate(("reset", "set", "rate"))
]
"""Tried first: three that hear enough, so that however the search falls, frames enough are compared."""


def commands(what: str, amount: int, place: int, batch: Batch) -> Command:
    random = np.random.default_rng([place, amount])
    if what == "set" and batch.controls:
        name, tensor = next(iter(batch.controls.items()))
        return Set(name, tuple(float(v) for v in np.full(len(tensor.default), amount / 12000)))
    plain: dict[str, Command] = {"flush": Flush(), "reset": Reset(amount), "start": Start(str(amount))}
    rate = 24000 if what == "rate" else batch.rate
    sound = Sound((random.standard_normal(amount) * 3000).astype(np.int16), rate, 0)
    return plain.get(what, sound)


def played(batch: Batch, scripts: Sequence[Script], places: Sequence[int]) -> list[Run]:
    """Play some of the scripts together, tick by tick, and return what each talker got."""
    runs: dict[int, Run] = {}
    for tick in range(18):
        for place in places:
            join, steps, leave = scripts[place]
            if tick == join:
                runs[place] = Run(batch, stream=place)
            if join <= tick < leave:
                for at, what, amount in sorted(steps):
                    if at == tick:
                        runs[place].seat.send(commands(what, amount, place, batch))
            if tick == leave:
                batch.leave(runs[place].seat)
        batch.tick()
    for run in runs.values():
        batch.leave(run.seat)
    return [runs[place] for place in places]


def same_as_alone(batch: Batch, scripts: Sequence[Script]) -> int:
    everybody = range(len(scripts))
    together = played(batch, scripts, everybody)
    for place in everybody:
        alone = played(batch, scripts, [place])[0]
        assert [event.kind for event in together[place].events] == [event.kind for event in alone.events]
        assert together[place].motions.tobytes() == alone.motions.tobytes(), f"talker {place}"
        assert together[place].seat.tally.balanced
    return sum(len(run.motions) for run in together)


def search(batch: Batch, examples: int) -> int:
    """Try scripts, and return how many frames of the busy one were compared."""
    compared = []

    @example(scripts=BUSY)
    @given(scripts=SCRIPTS)
    @settings(max_examples=examples)
    def tried(scripts: list[Script]) -> None:
        compared.append(same_as_alone(batch, scripts))

    tried()
    return compared[0]


def test_whatever_others_do_a_talkers_frames_are_the_same_bit_for_bit(voca: Batch) -> None:
    assert search(voca, 15) > 30


@pytest.mark.slow
def test_whatever_others_do_the_shipped_talkers_frames_are_the_same(talker4: Batch) -> None:
    assert search(talker4, 60) > 30


def test_frames_do_not_depend_on_how_sound_was_cut(talker4: Batch) -> None:
    sound = speech()[:12000]
    whole, cut = Run(talker4), Run(talker4)
    whole.seat.send(Sound(sound, 16000, 0))
    for piece in np.array_split(sound, 37):
        cut.seat.send(Sound(piece, 16000, 0))
        talker4.tick()
    for run in (whole, cut):
        run.seat.send(Flush())
    exhaust(talker4)
    assert whole.motions.tobytes() == cut.motions.tobytes()
    assert len(whole.motions) == -(-12000 * 30 // 16000)


def run_for(batch: Batch, seconds: float, every: Callable[[int], None] = lambda tick: None) -> None:
    """Tick on the fake clock's grid."""
    clock = batch.clock
    assert isinstance(clock, FakeClock)
    for tick in range(int(seconds * 60)):
        every(tick)
        batch.tick()
        clock.advance(1_000_000_000 // 60)


def test_a_burst_is_played_at_the_playout_clocks_pace(talker4: Batch) -> None:
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[:32000], 16000, talker4.clock.now_ns()))
    run_for(talker4, 1.0)
    assert 29 <= len(run.motions) <= 31
    assert run.seat.tally.outcomes[Outcome.ON_TIME] == len(run.motions)


def test_frames_starve_and_go_on_with_late_sound(talker4: Batch) -> None:
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[:8000], 16000, talker4.clock.now_ns()))
    run_for(talker4, 1.0)
    starved = run.seat.tally.outcomes[Outcome.STARVED]
    assert starved > 10
    run.seat.send(Sound(speech()[8000:16000], 16000, talker4.clock.now_ns()))
    run.seat.send(Flush())
    run_for(talker4, 1.0)
    tally = run.seat.tally
    assert tally.balanced
    assert tally.outcomes[Outcome.ON_TIME] == 30
    made = [event for event in run.events if event.frame and event.frame.outcome is Outcome.ON_TIME]
    assert [int(event.time * 30) for event in made] == list(range(30))
    before = len(run.events)
    run_for(talker4, 0.5)
    assert len(run.events) == before, "after the end of an utterance nothing is due"


def test_an_utterance_has_its_own_clock_and_timed_controls(talker4: Batch) -> None:
    run = Run(talker4)
    for name in ("first", "second"):
        run.seat.send(Start(name))
        run.seat.send(Set("emotion", {"joy": 1.0 if name == "second" else 0.0}, time=0.2))
        run.seat.send(Sound(speech()[:8000], 16000, 0))
    run.seat.send(Flush())
    exhaust(talker4)
    ends = [event.utterance for event in run.events if event.kind == "end"]
    assert ends == ["first", "second"]
    for name in ends:
        times = [float(event.time) for event in run.events if event.kind == "frame" and event.utterance == name]
        assert -0.07 < times[0] <= 0.0
        np.testing.assert_allclose(np.diff(times), 1 / 30)
    assert run.seat.talker.controls["emotion"].target[0] == 1.0


@pytest.mark.parametrize("paced", [True, False])
def test_an_utterance_without_sound_ends_when_it_is_flushed(talker4: Batch, paced: bool) -> None:
    run = Run(talker4, paced=paced)

    def ends(*commands: Command) -> list[tuple[str, float]]:
        before = len(run.events)
        for command in commands:
            run.seat.send(command)
        run_for(talker4, 1.0)
        return [(event.utterance, float(event.time)) for event in run.events[before:] if event.kind == "end"]

    assert ends(Flush()) == [], "nothing was started"
    assert ends(Start("empty"), Flush()) == [("empty", 0.0)]
    assert ends(Flush()) == [], "it has ended"
    assert ends(Start("replaced"), Start("empty"), Flush()) == [("empty", 0.0)]
    assert ends(Start("forgotten"), Reset(1), Flush()) == []
    spoken = Sound(speech()[:3200], 16000, talker4.clock.now_ns())
    assert [name for name, _ in ends(Start("spoken"), spoken, Flush(), Flush())] == ["spoken"]
    ((name, time),) = ends(Start("empty"), Flush())
    assert name == "empty"
    assert -0.07 < time <= 0.0
    assert len(run.motions) == 6


def test_a_timed_control_acts_in_its_utterance_and_late_ones_at_the_next_begin(talker4: Batch) -> None:
    run, told = Run(talker4), list[tuple[str, float, float]]()
    deliver = run.seat.deliver

    def note(event: Event) -> None:
        if event.frame is not None:
            told.append((event.utterance, float(event.time), float(event.frame.inputs["emotion"][0])))
        deliver(event)

    run.seat.deliver = note
    for name, joy in (("first", ((0.2, 0.5), (5.0, 1.0))), ("second", ((0.3, 0.0),))):
        run.seat.send(Start(name))
        for time, wanted in joy:
            run.seat.send(Set("emotion", {"joy": wanted}, time=time))
        run.seat.send(Sound(speech()[:8000], 16000, 0))
    run.seat.send(Flush())
    exhaust(talker4)
    first = [joy for name, time, joy in told if name == "first" and time < 0.2]
    later = [joy for name, time, joy in told if name == "first" and time >= 0.2]
    assert not any(first) and later[0] > 0.0 and later[-1] == 0.5
    before = [joy for name, time, joy in told if name == "second" and time < 0.3]
    after = [joy for name, time, joy in told if name == "second" and time >= 0.3]
    assert before[0] > 0.5 and before[-1] == 1.0, "what the first did not reach acts at the next begin"
    assert after[0] < 1.0 and after[-1] < 0.5


def test_a_reset_overtakes_what_waits(talker4: Batch) -> None:
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[:32000], 16000, talker4.clock.now_ns()))
    run_for(talker4, 0.2)
    run.seat.send(Reset(1))
    run.seat.send(Sound(speech()[:3200], 16000, talker4.clock.now_ns()))
    run.seat.send(Flush())
    run_for(talker4, 0.5)
    fresh = [event for event in run.events if event.serial == 1 and event.frame]
    assert [event.frame.index for event in fresh if event.frame] == list(range(6))
    assert run.seat.waiting == 0


def test_the_listeners_place_moves_the_slots(talker4: Batch) -> None:
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[:48000], 16000, talker4.clock.now_ns()))
    run_for(talker4, 0.2)
    made = len(run.motions)
    run.seat.send(Playing(0.0, talker4.clock.now_ns()))  # playing has only just begun: what was made is ahead
    run_for(talker4, 0.1)
    assert len(run.motions) == made
    run_for(talker4, 0.4)
    assert len(run.motions) > made


def test_a_slow_talker_is_late_alone_and_every_frame_counts(talker4: Batch) -> None:
    clock = talker4.clock
    assert isinstance(clock, FakeClock)
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[:48000], 16000, clock.now_ns()))
    run.seat.send(Flush())
    run_for(talker4, 0.2)
    clock.advance(500_000_000)
    run_for(talker4, 3.5)
    tally = run.seat.tally
    assert tally.due == 90
    assert tally.balanced
    assert tally.outcomes[Outcome.HELD] > 0, "half a second is caught up by passing over frames"
    assert tally.made + tally.outcomes[Outcome.HELD] == 90


@pytest.mark.parametrize("burst", [True, False])
def test_a_clock_that_leaps_is_one_pause(talker4: Batch, burst: bool) -> None:
    """The machine slept for a night, in the middle of an utterance whose sound waits or has not come."""
    clock, pauses = talker4.clock, talker4.figures.pauses
    assert isinstance(clock, FakeClock)
    run = Run(talker4, paced=True)
    run.seat.send(Sound(speech()[: 48000 if burst else 8000], 16000, clock.now_ns()))
    run_for(talker4, 0.2)
    clock.advance(8 * 3600 * 10**9)
    before = run.seat.tally.due
    if not burst:
        run.seat.send(Sound(speech()[8000:48000], 16000, clock.now_ns()))
    run_for(talker4, 1.0)
    tally = run.seat.tally
    assert tally.outcomes[Outcome.ON_TIME] == tally.due == pytest.approx(before + 30, abs=1)
    assert (tally.pauses, talker4.figures.pauses) == (1, pauses + 1)
    assert tally.paused == pytest.approx(8 * 3600 * 30, abs=2)
    assert f"{pauses + 1} times paused" in talker4.figures.summary()


def test_what_a_talker_asks_wrongly_is_told_to_it_alone(talker4: Batch) -> None:
    run, other = Run(talker4), Run(talker4)
    run.seat.send(Set("emotion", {"joyful": 1.0}))
    run.seat.send(Set("mood", {"joy": 1.0}))
    run.seat.send(Sound(np.zeros((4, 4, 4), np.int16), 16000, 0))
    run.seat.send(Sound(np.zeros(4, np.int16), 3, 0))
    talker4.tick()
    assert [event.kind for event in run.events] == ["fault"] * 4
    assert "joyful" in str(run.events[0].error)
    assert other.events == []


def test_seats_are_taken_and_given_back(talker4: Batch) -> None:
    runs = [Run(talker4) for _ in range(4)]
    with pytest.raises(DeviceError, match="all 4 talkers are taken"):
        Run(talker4)
    talker4.leave(runs[0].seat)
    talker4.leave(runs[0].seat)
    runs[0] = Run(talker4)
    for run in runs:
        talker4.leave(run.seat)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="0 talkers"):
        Batch(options=BatchOptions(talkers=0))
    with pytest.raises(OptionError, match="no schedule `ful`"):
        Batch(options=BatchOptions(talkers=1, schedule="ful")).open()
    with pytest.raises(OptionError, match="widths"):
        Batch(options=BatchOptions(talkers=1, widths=(0,))).open()


def test_the_batch_in_a_thread_of_its_own(talker4: Batch) -> None:
    events: list[Event] = []
    with suppress(KeyboardInterrupt), Batch(talker4.model, options=BatchOptions(talkers=2, schedule="one")) as batch:
        seat = batch.join(events.append, SeatOptions(paced=False))
        seat.send(Sound(speech()[:8000], 16000, batch.clock.now_ns()))
        seat.send(Flush())
        batch.wake()
        while not events or events[-1].kind != "end":
            batch.wake()
    assert sum(event.kind == "frame" for event in events) == 15
    assert batch.figures.outcomes[Outcome.ON_TIME] == 15


def test_a_batch_that_breaks_tells_everybody(talker4: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the GPU fell off the bus")

    events: list[Event] = []
    with Batch(talker4.model, options=BatchOptions(talkers=2, schedule="one")) as batch:
        monkeypatch.setattr(batch.widths, "make", broken)
        batch.join(events.append).send(Sound(speech()[:8000], 16000, batch.clock.now_ns()))
        while batch.fault is None or not events:
            batch.wake()
        assert "fell off the bus" in str(events[-1].error)
        with pytest.raises(DeviceError, match="the batch ended"):
            batch.join(events.append)
