"""Queue, other rates and smoothing: counted and computed on numbers, not on a clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.runtime.clock import Durations
from edgetalker.runtime.sinks.net.pump import FrameQueue, Pump, Resampler, Slot, Smoother, Stamp, Ticker
from edgetalker.runtime.sinks.sink import SinkStatistics
from tests.runtime.sinks_net.tools import LAYOUT, frame

SECOND = 10**9
rates = st.one_of(
    st.sampled_from([Fraction(60), Fraction(72), Fraction(90), Fraction(60000, 1001)]), st.fractions(1, 240)
)


class Recorder:
    """An encoder that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.stamps: list[Stamp] = []

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytes]:
        self.values.append(float(values[0]))
        self.stamps.append(stamp)
        return (b"packet",)


def pump(rate: Fraction | None, smooth: float = 0.0, capacity: int = 8) -> tuple[Pump, Recorder]:
    recorder = Recorder()
    return Pump(LAYOUT, recorder, SinkStatistics(), rate=rate, smooth=smooth, capacity=capacity), recorder


def run(target: Pump, arrivals: Sequence[int], until_ns: int) -> list[int]:
    """Drive a pump as a perfect sender would: at every arrival and tick. Return the times of its packets."""
    sent, now, coming = [], 0, list(enumerate(arrivals))
    while now <= until_ns:
        while coming and coming[0][1] <= now:
            target.accept(frame(coming[0][0]), now)
            coming.pop(0)
        while target.step(now):
            target.settle(True, now)
            sent.append(now)
        times = [arrival for _, arrival in coming[:1]] + [due for due in [target.wake_ns()] if due is not None]
        if not times:
            break
        now = max(min(times), now + 1)
    return sent


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_the_queue_keeps_the_newest_in_order_and_counts_the_rest(capacity: int, puts: list[bool]) -> None:
    queue, model, slot = FrameQueue((55,), capacity), deque[int](), Slot(np.zeros(55, np.float32))
    for index, put in enumerate(puts):
        if put:
            full = len(model) == capacity
            assert queue.put(frame(index), 0) == full
            if full:
                model.popleft()
            model.append(index)
        else:
            assert queue.get(slot) == bool(model)
            if model:
                assert slot.index == slot.motion[0] == model.popleft()
        assert len(queue) == len(model)
    assert queue.clear(keep=1) == max(len(model) - 1, 0)
    assert len(queue) == min(len(model), 1)
    assert not model or (queue.get(slot) and slot.index == model[-1])


def test_the_queue_copies() -> None:
    queue, slot = FrameQueue((55,), 2), Slot(np.zeros(55, np.float32))
    values = np.ones(55, np.float32)
    queue.put(frame(0, values), 0)
    values[:] = 9
    assert queue.get(slot)
    assert slot.motion.tolist() == [1.0] * 55


@given(rates, st.integers(0, 2**60), st.integers(0, 10**6))
def test_ticks_never_drift(rate: Fraction, start: int, tick: int) -> None:
    ticker = Ticker(rate)
    ticker.begin(start)
    assert ticker.due_ns(tick) == start + math.floor(tick * SECOND / rate)


@given(rates, st.lists(st.integers(0, 3 * SECOND), max_size=20))
def test_every_tick_passes_once(rate: Fraction, steps: list[int]) -> None:
    ticker, now, passed = Ticker(rate), 5, 0
    ticker.begin(now)
    for step in steps:
        now += step
        passed += ticker.pass_until(now)
        assert ticker.due_ns(passed - 1) <= now if passed else ticker.next_ns > now
        assert ticker.due_ns(passed) > now


@pytest.mark.parametrize("rate", [60, 72, 90])
def test_packets_leave_on_exact_ticks(rate: int) -> None:
    target, recorder = pump(Fraction(rate))
    sent = run(target, [index * SECOND // 30 for index in range(31)], SECOND)
    assert sent == [tick * SECOND // rate for tick in range(rate + 1)]
    assert [stamp.number for stamp in recorder.stamps] == list(range(rate + 1))


@pytest.mark.parametrize("rate", [60, 72, 90])
def test_values_lie_between_frames_one_model_frame_late(rate: int) -> None:
    """Frame n's value is n and it arrives at n / 30 s: the output at time t must be 30 t - 1."""
    target, recorder = pump(Fraction(rate))
    run(target, [index * SECOND // 30 for index in range(61)], 2 * SECOND)
    seconds = np.arange(len(recorder.values)) / rate
    np.testing.assert_allclose(recorder.values, np.maximum(30 * seconds - 1, 0), atol=1e-4)


@settings(max_examples=25)
@given(st.lists(st.integers(-12_000_000, 12_000_000), min_size=30, max_size=60), st.sampled_from([60, 72, 90]))
def test_jitter_of_arrival_is_bounded_in_the_output(jitter: list[int], rate: int) -> None:
    """Arrivals off by up to 12 ms: never more than one frame behind the newest, never backwards, no jump of 2."""
    arrivals = [index * SECOND // 30 + shift + 20_000_000 for index, shift in enumerate(jitter)]
    target, recorder = pump(Fraction(rate))
    run(target, arrivals, arrivals[-1])
    steps = np.diff(recorder.values)
    assert (steps >= -1e-5).all()
    assert (steps <= 30 / rate + 1).all()
    newest = [stamp.index for stamp in recorder.stamps]
    assert all(n - 1 - 1e-5 <= value <= n for n, value in zip(newest, recorder.values, strict=True) if n)


def test_late_frames_hold_the_motion_and_never_go_beyond_it() -> None:
    resampler = Resampler((55,), Fraction(30))
    for index in range(3):
        resampler.push(frame(index).motion, index, index * SECOND // 30)
    assert float(resampler.at(10 * SECOND)[0]) == 2.0
    assert float(resampler.at(0)[0]) == 1.0


def test_a_reset_starts_the_count_again_without_a_stall() -> None:
    resampler = Resampler((55,), Fraction(30))
    for place, index in enumerate([0, 1, 2, 0, 1]):
        resampler.push(frame(index).motion, index, place * SECOND // 30)
    assert resampler.phase(4 * SECOND // 30) == pytest.approx(0, abs=1e-6)
    assert float(resampler.at(5 * SECOND // 30)[0]) == pytest.approx(1.0)


def test_a_pause_starts_the_time_line_anew() -> None:
    resampler = Resampler((55,), Fraction(30))
    resampler.push(frame(0).motion, 0, 0)
    resampler.push(frame(1).motion, 1, 5 * SECOND)
    assert resampler.phase(5 * SECOND) == 0
    assert resampler.phase(5 * SECOND + SECOND // 60) == pytest.approx(0.5)


def test_ticks_that_passed_in_a_stall_are_counted_not_sent() -> None:
    target, recorder = pump(Fraction(60))
    target.accept(frame(0), 0)
    assert target.step(0)
    assert target.step(SECOND) is not None
    assert target.step(SECOND) is None
    assert len(recorder.values) == 2
    assert target.statistics.ticks_missed == 59
    assert recorder.stamps[-1].number == 60


def test_without_a_rate_every_frame_is_a_packet() -> None:
    target, recorder = pump(None)
    run(target, [index * SECOND // 30 for index in range(10)], SECOND)
    assert recorder.values == list(range(10))
    assert target.wake_ns() is None
    assert (target.statistics.sent, target.statistics.frames) == (10, 10)


@given(st.lists(st.sampled_from(["frame", "good", "bad", "discard"]), max_size=80), st.sampled_from([None, 60]))
def test_every_frame_is_accounted_for(events: list[str], rate: int | None) -> None:
    target, _ = pump(Fraction(rate) if rate else None, capacity=3)
    now = 0
    for index, event in enumerate(events):
        now += SECOND // 40
        if event == "frame":
            target.accept(frame(index), now)
        elif event == "discard":
            target.discard(keep=1)
        elif target.step(now) is not None:
            target.settle(event == "good", now)
    target.settle(True, now)
    target.discard()
    assert target.statistics.accounted == target.statistics.frames == events.count("frame")


def test_smoothing_follows_its_time_constant() -> None:
    smoother = Smoother((1,), 0.1)
    smoother.apply(np.zeros(1, np.float32), 0)
    for _ in range(10):
        value = smoother.apply(np.ones(1, np.float32), 0.01)
    assert float(value[0]) == pytest.approx(1 - math.exp(-1), abs=1e-5)


def test_smoothing_does_not_depend_on_the_rate() -> None:
    results = []
    for steps in (3, 30):
        smoother = Smoother((1,), 0.05)
        smoother.apply(np.zeros(1, np.float32), 0)
        for _ in range(steps):
            value = smoother.apply(np.ones(1, np.float32), 0.3 / steps)
        results.append(float(value[0]))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_no_smoothing_passes_everything() -> None:
    smoother = Smoother((1,), 0.0)
    assert [float(smoother.apply(np.array([x], np.float32), 0.01)[0]) for x in (1, 5, 2)] == [1, 5, 2]


def test_durations_keep_the_last_values() -> None:
    durations = Durations(4)
    assert math.isnan(durations.percentile_ms(50))
    for value in range(6):
        durations.add(value * 1_000_000)
    assert sorted(durations.values.tolist()) == [2_000_000, 3_000_000, 4_000_000, 5_000_000]
    assert durations.percentile_ms(100) == 5.0
