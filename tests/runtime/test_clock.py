"""Clocks never return early, and the fake one takes no time."""

from __future__ import annotations

import time

import pytest

from edgetalker.runtime.clock import Clock, SystemClock
from tests.support.clock import FakeClock


@pytest.mark.parametrize("spin_ns", [0, 200_000, 5_000_000])
def test_the_system_clock_never_wakes_early(spin_ns: int) -> None:
    clock = SystemClock(spin_ns)
    for wait in (-1_000_000, 0, 50_000, 2_000_000):
        when = clock.now_ns() + wait
        clock.sleep_until_ns(when)
        assert clock.now_ns() >= when


def test_the_system_clock_is_the_performance_counter() -> None:
    before = time.perf_counter_ns()
    assert before <= SystemClock().now_ns() <= time.perf_counter_ns()


def test_the_fake_clock_moves_by_sleeping_and_by_hand() -> None:
    fake = FakeClock(100)
    clock: Clock = fake
    clock.sleep_until_ns(10**15)
    assert clock.now_ns() == 10**15
    clock.sleep_until_ns(5)
    assert clock.now_ns() == 10**15
    fake.advance(7)
    assert (clock.now_ns(), fake.slept_ns) == (10**15 + 7, 10**15 - 100)
    with pytest.raises(ValueError, match="cannot go back"):
        fake.advance(-1)
