"""The sample clock is exact for ever, and the window does not care how the sound was cut."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.runtime.clock import AudioWindow, SampleClock

NTSC = Fraction(30000, 1001)
clocks = st.builds(
    SampleClock,
    rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]) | st.integers(1, 100_000),
    fps=st.sampled_from([NTSC, Fraction(25), Fraction(30), Fraction(60)])
    | st.fractions(Fraction(1, 7), 200, max_denominator=1001),
    lookahead=st.integers(0, 5000),
    block=st.integers(1, 7),
)


@settings(deadline=None)
@given(clock=clocks, frame=st.integers(0, 10**9))
def test_end_is_the_floor_of_the_exact_block_boundary(clock: SampleClock, frame: int) -> None:
    last = (frame // clock.block + 1) * clock.block
    exact = Fraction(last) * clock.rate / clock.fps
    assert clock.end(frame) == exact.__floor__() + clock.lookahead
    assert 0 <= exact - (clock.end(frame) - clock.lookahead) < 1
    assert clock.end(frame + 1) >= clock.end(frame)


@settings(deadline=None)
@given(clock=clocks, samples=st.integers(0, 10**9))
def test_frames_spanned_counts_the_frames_that_start_inside_the_sound(clock: SampleClock, samples: int) -> None:
    spanned = clock.frames_spanned(samples)
    assert clock.frame_time(spanned) * clock.rate >= samples
    assert spanned == 0 or clock.frame_time(spanned - 1) * clock.rate < samples


def test_ntsc_frame_rate_has_not_drifted_after_a_week() -> None:
    clock = SampleClock(16000, NTSC)
    week = 7 * 24 * 3600
    # A float step of 533.8666... samples would be off by then; the exact count is floor(week * 30000 / 1001).
    frames = week * 30000 // 1001
    assert clock.end(frames - 1) <= week * 16000 < clock.end(frames)
    assert clock.end(30000 - 1) == 1001 * 16000
    assert clock.end(30000 * 600 - 1) == 1001 * 600 * 16000
    steps = {clock.end(i + 1) - clock.end(i) for i in range(frames - 40_000, frames)}
    assert steps == {533, 534}


def test_blocks_become_ready_together_after_their_lookahead() -> None:
    clock = SampleClock(16000, Fraction(25), lookahead=100, block=4)
    assert [clock.end(i) for i in range(5)] == [2660] * 4 + [5220]
    assert clock.frame_time(3) == Fraction(3, 25)


@pytest.mark.parametrize("bad", [{"rate": 0}, {"fps": Fraction(0)}, {"lookahead": -1}, {"block": 0}])
def test_an_impossible_clock_is_refused(bad: dict[str, object]) -> None:
    arguments: dict[str, object] = {"rate": 16000, "fps": Fraction(30), **bad}
    with pytest.raises(ValueError, match="no sample clock"):
        SampleClock(**arguments)  # type: ignore[arg-type]


def reference(sound: NDArray[np.float32], end: int, size: int) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(size, np.float32), sound[:end]])[-size:]


@settings(deadline=None)
@given(
    size=st.integers(1, 40),
    backlog=st.integers(0, 40),
    packets=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 40)), max_size=20),
)
def test_packets_of_any_size_give_the_same_windows_bit_for_bit(
    size: int, backlog: int, packets: list[tuple[int, int]]
) -> None:
    sound = np.random.default_rng(size).standard_normal(400).astype(np.float32)
    window, into = AudioWindow(size, backlog), np.full(size, np.nan, np.float32)
    for packet, back in [*packets, (len(sound), backlog)]:
        window.append(sound[window.total : window.total + packet])
        end = max(0, window.total - min(back, backlog))
        assert window.read(end, into) == min(end, size)
        assert into.tobytes() == reference(sound, end, size).tobytes()


def test_silence_follows_the_end_of_the_sound() -> None:
    window, into = AudioWindow(4, 2), np.empty(4, np.float32)
    window.append(np.arange(1, 4, dtype=np.float32))
    window.append(np.zeros(100, np.float32))
    window.append(np.ones(1, np.float32))
    assert window.total == 104
    assert window.read(104, into) == 4
    assert into.tolist() == [0, 0, 0, 1]


def test_samples_that_are_not_there_are_an_error_not_a_guess() -> None:
    window, into = AudioWindow(4, 2), np.empty(4, np.float32)
    window.append(np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"up to 4 were asked for; 3 have come"):
        window.read(4, into)
    window.append(np.ones(97, np.float32))
    assert window.read(window.oldest + 4, into) == 4
    with pytest.raises(ValueError, match="the oldest kept is"):
        window.read(5, into)
    with pytest.raises(ValueError, match="holds 5 samples"):
        window.read(100, np.empty(5, np.float32))
    with pytest.raises(ValueError, match="no window"):
        AudioWindow(0)


def test_reset_starts_a_stream_that_knows_nothing_of_the_last() -> None:
    window, into = AudioWindow(4, 2), np.empty(4, np.float32)
    window.append(np.full(50, 7, np.float32))
    window.reset()
    assert window.total == 0
    assert window.read(0, into) == 0
    window.append(np.ones(2, np.float32))
    assert window.read(2, into) == 2
    assert into.tolist() == [0, 0, 1, 1]


def test_ten_minutes_of_sound_allocate_nothing_that_stays() -> None:
    clock = SampleClock(16000, NTSC)
    window, into = AudioWindow(32000), np.empty(32000, np.float32)
    packet = np.ones(160, np.float32)

    def play(frames: range) -> None:
        for i in frames:
            while window.total < clock.end(i):
                window.append(packet)
            window.read(clock.end(i), into)

    play(range(200))
    tracemalloc.start()
    try:
        play(range(200, 1000))
        before = tracemalloc.get_traced_memory()[0]
        play(range(1000, 18_000))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
    assert peak - before < 4096
