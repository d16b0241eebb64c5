"""The live run: reset, flush, lost sound, delay in parts. On a fake clock, so that a busy machine changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.live import Live
from edgetalker.runtime.loop import Observer, Options
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.sources.file import LoopedSource
from edgetalker.runtime.sources.live import LiveSource, PacedSource, SaidSource, SoundQueue
from edgetalker.runtime.talker import Talker
from tests.live.meter import RATE, jaw, lid, meter_bundle, tone
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Pieces, slow_talker

pytest.importorskip("onnxruntime")
MS = 1_000_000


class Script(Pieces):
    """A live source on a fake clock: packets of 10 ms of a sound, each when it has been spoken; gaps are lost."""

    live = True

    def __init__(self, clock: FakeClock, sound: NDArray[np.float32], gap: tuple[float, float] = (0, 0)) -> None:
        super().__init__(sound, rate=RATE)
        self._clock, self._gap, self._start = clock, gap, clock.now_ns()

    def _spoken(self) -> int:
        seconds = (self._clock.now_ns() - self._start) * 1e-9
        if seconds > self._gap[0]:
            seconds -= min(seconds, self._gap[1]) - self._gap[0]
        return min(int(seconds * RATE + 1e-6) // 160 * 160, len(self._sound))

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        deadline = self._clock.now_ns() + int(timeout * 1e9)
        while self._spoken() <= self._at and self._clock.now_ns() < deadline:
            self._clock.advance(MS)
        taken = self._sound[self._at : min(self._spoken(), self._at + samples)]
        self._at += len(taken)
        return taken


class Kept(Collect):
    """Keeps whole frames, with their own motion."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[Frame] = []

    def send(self, frame: Frame) -> None:
        super().send(frame)
        self.whole.append(frame)


class At(Observer):
    """Does something once, after so many frames."""

    def __init__(self, count: int, act: object) -> None:
        self._left, self._act = count, act

    def frame(self, frame: Frame, start_ns: int) -> None:
        self._left -= 1
        if self._left == 0:
            assert callable(self._act)
            self._act()


def live(bundle: Bundle, sound: NDArray[np.float32], **options: object) -> tuple[Live, Kept, FakeClock]:
    clock, sink = FakeClock(10 * MS), Kept()
    gap = options.pop("gap", (0, 0))
    cost = options.pop("cost", 0.002)
    assert isinstance(cost, float)
    talker = slow_talker(bundle, clock, lambda index, schedule: cost)
    source = Script(clock, sound, gap)  # type: ignore[arg-type]
    return Live(talker, source, [sink], clock=clock, **options), sink, clock  # type: ignore[arg-type]


def test_every_frame_is_on_time_and_the_mouth_follows_the_voice(meter: Bundle) -> None:
    quiet = np.zeros(RATE, np.float32)
    run, sink, _ = live(meter, np.concatenate([quiet, tone(1.0), quiet]))
    report = run.run()
    assert report.tally.balanced
    assert report.tally.outcomes[Outcome.ON_TIME] == report.tally.due == 90
    jaws = [jaw(motion) for motion in sink.motion]
    assert max(jaws[:29]) == 0
    assert min(jaws[34:59]) > 0.7
    assert max(jaws[75:]) == 0
    assert {lid(motion) for motion in sink.motion} == {0.25}


class Recorder(Script):
    """A device at another rate: its packets of 10 ms come when they were recorded, and go through a Converter."""

    def __init__(self, clock: FakeClock, device_rate: int, seconds: float) -> None:
        super().__init__(clock, np.zeros(0, np.float32))
        self._packet = np.zeros(device_rate // 100, np.float32)
        self._packets, self._device_rate = int(seconds * 100), device_rate
        self._converter, self._queue, self._came = Converter(device_rate, RATE), SoundQueue(10 * RATE), 0

    @property
    def ended(self) -> bool:
        return self._came == self._packets

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        deadline = self._clock.now_ns() + int(timeout * 1e9)
        while not len(taken := self._queue.read(samples, 0.0)) and self._clock.now_ns() < deadline and not self.ended:
            due = self._start + (self._came + 1) * len(self._packet) * 10**9 // self._device_rate
            self._clock.sleep_until_ns(min(due, deadline))
            if self._clock.now_ns() >= due:
                self._came += 1
                self._queue.put(self._converter.convert(self._packet))
        return taken


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_a_microphone_at_any_rate_is_as_good_as_at_the_bundles_own(meter: Bundle, rate: int) -> None:
    """No frame starves or is late: the resampler keeps pace with what it is given."""
    clock, sink = FakeClock(10 * MS), Kept()
    talker = slow_talker(meter, clock, lambda index, schedule: 0.005)
    source = Recorder(clock, rate, 10.0)
    report = Live(talker, source, [sink], clock=clock).run()
    assert report.tally.balanced
    assert report.tally.outcomes[Outcome.ON_TIME] == report.tally.due
    assert report.tally.due >= 299
    delays = report.delays[""]
    assert delays is not None
    assert delays.capture <= 10


def test_the_first_frame_comes_soon(meter: Bundle) -> None:
    report = live(meter, tone(0.5))[0].run()
    assert report.first_frame_ms is not None
    assert report.first_frame_ms < 150


def test_the_delay_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """Look-ahead 50 ms, packets of 10 ms, a step of 4 ms: all of it known beforehand."""
    run, _, _ = live(meter_bundle(tmp_path / "b", lookahead=800), tone(4.0), cost=0.004)
    delays = run.run().delays[""]
    assert delays is not None
    assert delays.frame == pytest.approx(16.67, abs=0.01)
    assert delays.lookahead == 50
    assert delays.compute == pytest.approx(4, abs=0.1)
    assert 0 <= delays.capture <= 10
    assert delays.wait <= 1
    assert delays.send == 0
    assert delays.total == pytest.approx(16.67 + 50 + delays.capture + delays.wait + 4, abs=0.1)
    assert delays.total <= delays.p95 <= 16.67 + 50 + 10 + 4 + 1.5
    assert "look-ahead 50.0" in str(delays)


def test_barge_in_begins_anew_and_forgets_what_waits(meter: Bundle) -> None:
    clock = FakeClock(10 * MS)
    old, new = tone(1.0), np.zeros(RATE, np.float32)
    source = Script(clock, np.concatenate([old, new]))
    sink = Kept()
    run: Live = Live(Talker(meter), source, [sink], clock=clock, observers=[At(15, lambda: run.reset())])
    report = run.run()
    indices = [frame.index for frame in sink.whole]
    assert indices[:15] == list(range(15))
    assert indices[15:] == list(range(len(indices) - 15))
    assert report.tally.resets == 1
    assert report.tally.balanced


def test_a_sink_that_steers_gets_the_session_and_the_run(meter: Bundle) -> None:
    class Steering(Collect):
        def attach(self, talker: object, running: object) -> None:
            self.talker, self.loop = talker, running

    sink = Steering()
    run: Live = Live(talker := Talker(meter), Pieces(tone(0.1)), [sink], clock=FakeClock())
    assert sink.talker is talker
    assert sink.loop is run


def test_a_reset_throws_away_sound_that_was_not_read() -> None:
    clock = FakeClock()
    source = LiveSource(Pieces(np.arange(1, 5001, dtype=np.float32)), clock)
    assert source.read(10, 0)[-1] == 10
    source.forget()
    source.read(10, 0)
    assert source.discarded == 4990


def test_what_is_said_right_after_a_reset_is_heard() -> None:
    clock, said = FakeClock(), SaidSource(16_000)
    source = LiveSource(said, clock, paced=True)
    said.say(np.ones(8000, np.float32), 16_000)
    source.forget()
    said.say(np.full(1600, 0.5, np.float32), 16_000)
    assert source.read(16_000, 0.02).tolist() == [0.5] * 160
    assert source.discarded == 8000


def test_what_waits_below_a_pace_is_forgotten_too_but_a_file_is_not() -> None:
    clock = FakeClock()

    class Burst(Pieces):
        live = True

    source = LiveSource(Burst(np.ones(32_000, np.float32)), clock, paced=True)
    assert len(source.read(16_000, 0.02)) == 160
    source.forget()
    source.read(16_000, 0.02)
    assert source.discarded == 31_840
    piped = LiveSource(PacedSource(Burst(np.ones(32_000, np.float32)), clock), clock)
    piped.forget()
    piped.read(16_000, 0.02)
    assert piped.discarded == 32_000
    file = LiveSource(PacedSource(Pieces(np.ones(32_000, np.float32)), clock), clock)
    assert len(file.read(16_000, 0.02)) == 160
    file.forget()
    file.read(16_000, 0.02)
    assert file.discarded == 0


def test_a_finished_utterance_makes_the_next_pause_no_shorter() -> None:
    """`finish` counts for one utterance: after new sound came, a pause is waited for as long as before."""
    clock = FakeClock()

    class Scripted(Pieces):
        def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
            if talking:
                return super().read(160, timeout)
            clock.advance(int(timeout * 1e9))
            return np.zeros(0, np.float32)

    source = LiveSource(Scripted(np.ones(16_000, np.float32)), clock, patience=0.25)
    talking = True
    assert len(source.read(160, 0.1)) == 160
    source.finish()
    talking = False
    begun = clock.now_ns()
    while not source.filled:
        source.read(160, 0.005)
    assert clock.now_ns() - begun < 40 * MS, "the utterance was finished: silence follows at once"
    talking = True
    assert source.read(160, 0.1).all()
    talking, filled, begun = False, source.filled, clock.now_ns()
    while source.filled == filled:
        source.read(160, 0.005)
    assert clock.now_ns() - begun >= 250 * MS


def test_flush_makes_the_last_frames_of_an_utterance(tmp_path: Path) -> None:
    """With 200 ms of look-ahead and no more sound, the last frames would wait for ever; flush brings them in time."""
    bundle = meter_bundle(tmp_path / "b", lookahead=3200)
    clock = FakeClock(10 * MS)
    source = Script(clock, np.concatenate([tone(0.5), np.zeros(10 * RATE, np.float32)]), gap=(0.5, 5.0))
    sink = Kept()
    run: Live = Live(Talker(bundle), source, [sink], clock=clock, patience=60, observers=[At(8, lambda: run.flush())])
    run.loop.options = Options(realtime=True, limit=20)
    run.run()
    assert [frame.index for frame in sink.whole if frame.outcome is Outcome.ON_TIME] == list(range(20))
    assert jaw(sink.motion[8]) > 0.3


def test_lost_sound_becomes_silence_and_the_face_goes_on(meter: Bundle) -> None:
    """Two seconds of sound are lost: the mouth rests, frames go on being made, and speech comes back."""
    run, sink, _ = live(meter, tone(3.0), gap=(1.0, 3.0))
    report = run.run()
    assert report.tally.balanced
    assert report.tally.outcomes[Outcome.STARVED] < 12  # only until patience ends
    assert report.tally.due >= 145
    jaws = [jaw(motion) for motion in sink.motion]
    assert max(jaws[50:85]) == 0
    assert min(jaws[100:140]) > 0.7
    assert sum("silence took its place" in text for text in run.source.warnings()) == 1


@pytest.mark.parametrize("asleep", [True, False])
def test_a_leap_of_the_clock_is_no_credit_for_sound_nor_for_silence(asleep: bool) -> None:
    """The machine slept for a night, while the source waited for a packet or while nobody read."""
    clock, night = FakeClock(10 * MS), 8 * 3600 * 1000 * MS

    def leap() -> None:
        if asleep:
            clock.leap_ns = night
        else:
            clock.advance(night)

    file = PacedSource(Pieces(np.ones(64_000, np.float32)), clock)
    said = LiveSource(SaidSource(16_000), clock, paced=True, patience=0.02)
    for source in (file, said):
        while not len(source.read(16_000, 0.02)):
            clock.advance(10 * MS)
        leap()
        begun, given = clock.now_ns(), sum(len(source.read(16_000, 0.02)) for _ in range(50))
        passed = (clock.now_ns() - begun) % night
        assert 0 < given <= passed * 16_000 // 10**9 + 320
        assert given >= passed * 16_000 // 10**9 - 960


def test_who_does_not_read_while_a_chunk_plays_gets_all_that_came() -> None:
    clock = FakeClock()
    source = PacedSource(Pieces(np.ones(96_000, np.float32)), clock)
    assert len(source.read(160, 0.02)) == 160
    clock.advance(4000 * MS)
    assert sum(len(source.read(16_000, 0.0)) for _ in range(5)) == 64_000


def test_sound_that_comes_too_fast_is_held_back() -> None:
    """A synthesizer writes 2 s at once, pauses, writes 2 s more: each second takes a second."""
    clock = FakeClock()

    class Bursts(Pieces):
        def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
            if self._at < 32000 or clock.now_ns() > 5e9:
                return super().read(min(samples, 32000 - self._at % 32000), timeout)
            clock.advance(int(timeout * 1e9))
            return np.zeros(0, np.float32)

    source = LiveSource(Bursts(np.ones(64000, np.float32)), clock, paced=True, patience=60)
    times: list[float] = []
    while not source.ended:
        taken = source.read(16000, 0.02)
        if not len(taken):
            clock.advance(MS)
        times += [clock.now_ns() * 1e-9] * len(taken)
    assert len(times) == 64000
    assert times[16000] == pytest.approx(1.0, abs=0.02)
    assert times[31999] == pytest.approx(2.0, abs=0.02)
    assert times[48000] - times[32000] == pytest.approx(1.0, abs=0.02)
    assert times[32000] == pytest.approx(5.0, abs=0.05)


def test_a_looped_file_goes_on() -> None:
    source = LoopedSource(lambda: Pieces(np.arange(100, dtype=np.float32)))
    taken = np.concatenate([source.read(60, 0) for _ in range(10)])
    assert not source.ended
    assert source.rounds == 5
    np.testing.assert_array_equal(taken, np.tile(np.arange(100, dtype=np.float32), 5))


def test_ten_minutes_of_a_looped_file_drift_nowhere(meter: Bundle) -> None:
    clock, sink = FakeClock(10 * MS), Kept()
    sound = tone(0.7)[: 11111 % 11200]
    source = PacedSource(LoopedSource(lambda: Pieces(sound)), clock)
    run = Live(Talker(meter), source, [sink], clock=clock, options=Options(realtime=True, limit=3000), rest=False)
    start = clock.now_ns()
    report = run.run()
    assert report.tally.outcomes[Outcome.ON_TIME] == report.tally.due == 3000
    assert (clock.now_ns() - start) * 1e-9 == pytest.approx(100, abs=0.1)


def test_sinks_are_closed_and_named_in_the_report(meter: Bundle) -> None:
    from edgetalker.runtime.sinks.net import livelink
    from tests.runtime.sinks_net.tools import receiver

    with receiver() as bound:
        url = f"livelink://127.0.0.1:{bound.getsockname()[1]}?queue=64"
        sink = livelink.from_url(url)
        clock = FakeClock(10 * MS)
        report = Live(Talker(meter), Script(clock, tone(1.0)), [sink], clock=clock).run()
    assert list(report.sinks) == list(report.delays) == [url]
    assert report.sinks[url].frames == report.sinks[url].accounted == report.tally.due == 30
    delays = report.delays[url]
    assert delays is not None
    assert delays.send > 0
