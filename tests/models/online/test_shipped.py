"""The talker that ships: its size and origin, rest in silence, blinks, emotions, style; no synthesizer needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import edgetalker
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.metrics import lip_gap, mouth_of
from edgetalker.runtime.talker import Talker

BUNDLE = Path(edgetalker.__file__).parent / "bundles" / "talker"
INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


def play(
    sound: np.ndarray, schedule: str = "one", seed: int = 1, wishes: Mapping[str, Mapping[str, float]] | None = None
) -> np.ndarray:
    """Play 16 kHz sound on the shipped talker and return its motion (T, 55)."""
    session = Talker(BUNDLE, seed=seed, schedules=[schedule])
    for control, values in (wishes or {}).items():
        session.set(control, values)
    session.reset()
    size = session.manifest.audio.window
    padded = np.concatenate([np.zeros(size), sound, np.zeros(4000)]).astype(np.float32)
    frames = sound.size * 30 // 16000
    motion = np.stack(
        [session.make(window=padded[session.end(i) : session.end(i) + size]).motion.copy() for i in range(frames)]
    )
    session.close()
    return motion


def hiss(seconds: float, decibels: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 10 ** (decibels / 20) * rng.standard_normal(int(seconds * 16000))


def voice(seconds: float) -> np.ndarray:
    """Return a crude vowel that swells and fades four times a second: a pulse train through two resonances."""
    from scipy.signal import lfilter

    pulses = np.zeros(int(seconds * 16000))
    pulses[::133] = 1.0
    for hertz, width in ((700, 90), (1200, 110)):
        radius = np.exp(-np.pi * width / 16000)
        pulses = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * hertz / 16000), radius**2], pulses)
    time = np.arange(pulses.size) / 16000
    loud: np.ndarray = 0.3 * pulses / np.abs(pulses).max() * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * time))
    return loud


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) < 10e6
    session = Talker(BUNDLE)
    assert "synthetic speech" in session.manifest.origin
    assert session.schedules == ("full", "fast", "one")
    session.close()


@pytest.mark.parametrize("schedule", ["full", "one"])
@pytest.mark.parametrize("level", [None, -50.0])
def test_the_mouth_rests_without_a_voice(schedule: str, level: float | None) -> None:
    sound = np.zeros(16000 * 8) if level is None else hiss(8.0, level)
    mouth = mouth_of(play(sound, schedule))[15:]
    assert mouth[:, 0].mean() < 0.03
    assert np.mean(lip_gap(mouth) > 0.1) < 0.03


@pytest.mark.slow
def test_blinks_go_on_in_silence() -> None:
    lid = play(np.zeros(16000 * 90))[:, INDEX["EyeBlinkLeft"]]
    blinks = int(((lid[1:] >= 0.5) & (lid[:-1] < 0.5)).sum())
    assert 6 <= blinks <= 45, f"{blinks} in a minute and a half"


def test_a_voice_opens_the_mouth_and_its_end_closes_it() -> None:
    sound = np.concatenate([voice(3.0), np.zeros(16000 * 2)])
    mouth = mouth_of(play(sound))
    assert mouth[15:80, 0].mean() > 0.1
    assert mouth[97:, 0].max() < 0.1, "at rest 200 ms after the voice, and from then on"


@pytest.mark.parametrize(
    ("emotion", "shape"),
    [("joy", "MouthSmileLeft"), ("sadness", "BrowInnerUp"), ("anger", "BrowDownLeft"), ("surprise", "EyeWideLeft")],
)
def test_emotions_show_and_are_off_by_default(emotion: str, shape: str) -> None:
    sound = voice(6.0)
    off = play(sound)[60:, INDEX[shape]].mean()
    on = play(sound, wishes={"emotion": {emotion: 1.0}})[60:, INDEX[shape]].mean()
    assert on > off + 0.2
    assert play(np.zeros(16000 * 6))[60:, INDEX[shape]].mean() < 0.2


def test_styles_scale_the_mouth_and_the_head() -> None:
    sound = voice(20.0)
    small = play(sound, wishes={"style": {"articulation": 0.5, "head": 0.3}})
    large = play(sound, wishes={"style": {"articulation": 1.4, "head": 1.7}})
    assert small[60:, INDEX["JawOpen"]].mean() < 0.7 * large[60:, INDEX["JawOpen"]].mean()
    assert small[:, -3:].std(0).mean() < 0.7 * large[:, -3:].std(0).mean()


@pytest.mark.slow
def test_nothing_wanders_over_a_quarter_of_an_hour() -> None:
    import soundfile

    clip, rate = soundfile.read(Path(edgetalker.__file__).parent / "data" / "speech.wav")
    assert rate == 16000
    motion = play(np.tile(clip, 15 * 60 * rate // clip.size + 1)[: 15 * 60 * rate])
    minutes = motion[:, [INDEX["BrowInnerUp"], *range(52, 55)]].reshape(15, 1800, 4).mean(1)
    early, late = minutes[1:4].mean(0), minutes[-3:].mean(0)
    assert abs(late[0] - early[0]) < 0.03, "brows"
    assert np.abs(late[1:] - early[1:]).max() < 0.04, "head, radians"


def test_the_seed_decides_and_the_student_stays_near_its_teacher() -> None:
    sound = voice(5.0)
    np.testing.assert_array_equal(play(sound, seed=4), play(sound, seed=4))
    assert np.abs(play(sound, seed=4) - play(sound, seed=5)).max() > 0.05
    near = np.abs(mouth_of(play(sound, "one")) - mouth_of(play(sound, "full"))).mean()
    assert near < 0.03
