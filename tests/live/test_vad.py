"""Voice activity: found in noise, not found in noise alone, and the mouth that rests by it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.rest import MouthRest, NoiseFloor, VoiceActivity, speech_shapes
from tests.live.meter import tone
from tests.runtime.sinks_net.tools import LAYOUT, NAMES

RATE = 16000


def noise(seconds: float, level: float, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, level, int(seconds * RATE)).astype(np.float32)


def decisions(activity: VoiceActivity, sound: NDArray[np.float32], hang: float = 0.0) -> NDArray[np.bool_]:
    """The decision after every 10 ms."""
    found = []
    for start in range(0, len(sound), activity.hop):
        activity.hear(sound[start : start + activity.hop])
        found.append(activity.speaking(activity.total, hang))
    return np.array(found)


@pytest.mark.parametrize("level", [0.02, 0.2])
@pytest.mark.parametrize("background", [0.0, 0.001])
def test_a_voice_is_found_within_50_ms_and_ends_within_50_ms(level: float, background: float) -> None:
    sound = np.concatenate([np.zeros(RATE, np.float32), tone(1.0, level), np.zeros(RATE, np.float32)])
    found = decisions(VoiceActivity(RATE), sound + noise(3.0, background))
    assert not found[30:100].any()
    assert found[105:199].all()
    assert not found[206:].any()


@pytest.mark.parametrize("level", [0.0, 0.0001, 0.003, 0.03])
def test_steady_noise_is_no_voice(level: float) -> None:
    found = decisions(VoiceActivity(RATE), noise(8.0, level))
    assert found[60:].mean() < 0.02


def test_a_fan_that_starts_is_learned() -> None:
    found = decisions(VoiceActivity(RATE), np.concatenate([noise(4.0, 0.0005), noise(6.0, 0.02)]))
    assert found[650:].mean() < 0.02


@pytest.mark.parametrize("length", [1, 8, 32])
@pytest.mark.parametrize("background", [0.0, 0.001])
def test_a_click_is_no_voice(length: int, background: float) -> None:
    """Wherever it falls in a hop, and however loud it is over the room."""
    for offset in range(0, 160, 23):
        sound = noise(2.0, background)
        sound[RATE + offset : RATE + offset + length] = 0.9
        assert not decisions(VoiceActivity(RATE), sound)[60:].any(), f"offset {offset}"


def test_one_loud_hop_alone_is_no_voice() -> None:
    """A burst so faint that only one window, the one it lies in the middle of, stands out of the room."""
    found = []
    for level in np.geomspace(0.002, 0.1, 80):
        sound = noise(2.0, 0.004)
        sound[RATE : RATE + 160] += tone(0.01, level)
        activity, loud = VoiceActivity(RATE), []
        for start in range(0, len(sound), activity.hop):
            activity.hear(sound[start : start + activity.hop])
            above = activity.level - activity.floor
            stands_out = above > activity.clear or (above > activity.near and activity.flatness < 0.25)
            loud.append(stands_out and activity.level > activity.quiet)
        if sum(loud[60:]) == 1:
            found.append(decisions(VoiceActivity(RATE), sound)[60:].any())
    assert len(found) >= 2, "no burst stood out once; the test tests nothing"
    assert not any(found)


def test_speech_that_starts_at_once_is_found() -> None:
    found = decisions(VoiceActivity(RATE), tone(1.0) + noise(1.0, 0.001))
    assert found[5:45].all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=30))
def test_how_the_sound_is_cut_changes_nothing(cuts: list[int]) -> None:
    sound = np.concatenate([noise(0.2, 0.001), tone(0.2), noise(0.2, 0.001)])
    whole, cut = VoiceActivity(RATE), VoiceActivity(RATE)
    whole.hear(sound)
    at = 0
    for size in cuts:
        cut.hear(sound[at : at + size])
        at = min(at + size, len(sound))
    cut.hear(sound[at:])
    assert (whole.total, whole.last_voice, whole.level) == (cut.total, cut.last_voice, cut.level)


def test_a_reset_counts_from_zero_and_keeps_the_room() -> None:
    activity = VoiceActivity(RATE)
    activity.hear(noise(3.0, 0.01))
    floor = activity.floor
    activity.reset()
    assert (activity.total, activity.floor) == (0, floor)
    assert not activity.speaking(0, 1.0)


def test_the_floor_is_the_least_of_the_last_two_seconds() -> None:
    floor = NoiseFloor(-50.0)
    for _ in range(100):
        floor.add(-40.0)
    assert floor.add(-70.0) == -70.0
    for _ in range(174):
        assert floor.add(-40.0) == -70.0
    for _ in range(40):
        value = floor.add(-40.0)
    assert value == -40.0


def test_too_low_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="8000"):
        VoiceActivity(4000)


def frame(index: int, motion: NDArray[np.float32], outcome: Outcome = Outcome.ON_TIME) -> Frame:
    return Frame(index, (index + 1) * RATE // 30, Fraction(index, 30), motion, outcome)


def played(rest: MouthRest, sound: NDArray[np.float32], frames: int) -> list[NDArray[np.float32]]:
    """Motions after the stage, from a talker whose every value is 1."""
    motions, heard = [], 0
    for index in range(frames):
        end = (index + 1) * RATE // 30
        rest.hear(sound[heard:end])
        heard = end
        motions.append(rest.apply(frame(index, np.ones(55, np.float32))).motion.copy())
    return motions


def test_silence_rests_the_mouth_and_nothing_else() -> None:
    sound = np.concatenate([np.zeros(RATE, np.float32), tone(1.0), np.zeros(2 * RATE, np.float32)])
    motions = np.array(played(MouthRest(LAYOUT, RATE), sound, 120))
    mouth = speech_shapes(LAYOUT)
    others = np.setdiff1d(np.arange(55), mouth)
    assert {NAMES[place] for place in mouth} >= {"JawOpen", "MouthClose", "MouthPucker", "TongueOut"}
    assert {NAMES[place] for place in others} >= {"EyeBlinkLeft", "BrowInnerUp", "MouthSmileLeft", "HeadYaw"}
    assert (motions[:, others] == 1).all()
    assert (motions[2:29][:, mouth] == 0).all()
    assert (motions[34:60][:, mouth] == 1).all()  # open within 100 ms
    assert (motions[75:][:, mouth] == 0).all()  # at rest 0.5 s after the last sound
    assert (np.abs(np.diff(motions[60:80, mouth[0]])) < 0.3).all()  # without a jump


def test_short_pauses_do_not_close_the_mouth() -> None:
    sound = np.concatenate([np.concatenate([tone(0.3), np.zeros(RATE // 5, np.float32)]) for _ in range(6)])
    motions = np.array(played(MouthRest(LAYOUT, RATE), sound, 85))
    assert (motions[5:, NAMES.index("JawOpen")] == 1).all()


def test_sound_that_does_not_come_counts_as_silence() -> None:
    rest = MouthRest(LAYOUT, RATE)
    rest.hear(tone(1.0))
    ones = np.ones(55, np.float32)
    for index in range(30):
        rest.apply(frame(index, ones))
    for _ in range(20):
        starved = rest.apply(frame(30, ones, Outcome.STARVED))
    assert starved.motion[NAMES.index("JawOpen")] == 0
    assert starved.motion[NAMES.index("EyeBlinkLeft")] == 1
    assert starved.outcome is Outcome.STARVED


def test_motion_without_names_passes_untouched() -> None:
    rest = MouthRest(MotionLayout("vertices", (4, 3), Fraction(30)), RATE)
    still = frame(0, np.ones((4, 3), np.float32))
    assert rest.apply(still) is still
