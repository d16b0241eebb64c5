"""Silero's detector: no voice in music, typing, coughs and fans, voice in speech; the mouth that rests for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgetalker
from edgetalker.cli import live as live_cli
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime import voice
from edgetalker.runtime.rest import VoiceActivity
from edgetalker.runtime.sinks.names import ARKIT_SHAPES
from edgetalker.runtime.sources.file import read_whole
from edgetalker.runtime.talker import Talker
from edgetalker.runtime.voice import SileroVoice, detector
from tests.support.negatives import NEGATIVES, RATE, negative

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra `cpu`)")

Sound = NDArray[np.float32]
JAW, CLOSE = (ARKIT_SHAPES.index(name) for name in ("JawOpen", "MouthClose"))
PARTS = [ARKIT_SHAPES.index(name) for name in ("MouthLowerDownLeft", "MouthUpperUpLeft")]


def speech() -> Sound:
    """The clip that ships: 0.2 s of silence, then a sentence without a pause that is worth the word."""
    return read_whole(Path(edgetalker.__file__).parent / "data" / "speech.wav", RATE)


def gap(sound: Sound, **options: Any) -> NDArray[np.float32]:
    """Play sound on the shipped talker and return how far its lips are apart, frame by frame."""
    with Talker(seed=1, schedules=["one"], **options) as talker:
        shown = []
        for start in range(0, len(sound), RATE // 10):
            for frame in talker.accept(sound[start : start + RATE // 10]):
                motion = frame.motion
                shown.append(motion[JAW] - motion[CLOSE] + 0.5 * motion[PARTS].sum())
    return np.array(shown)


def openings(apart: NDArray[np.float32]) -> tuple[float, float]:
    """Return the share of frames with open lips, and openings a minute."""
    opened = (apart[1:] >= 0.1) & (apart[:-1] < 0.1)
    return float(np.mean(apart >= 0.1)), float(opened.sum() / (len(apart) / 1800))


@pytest.mark.parametrize("name", NEGATIVES)
def test_no_voice_where_nobody_speaks(name: str) -> None:
    found = SileroVoice(RATE)
    found.hear(negative(name, 6.0, seed=3))
    assert not found.speaking(found.total, 100.0)


def test_a_voice_is_heard_soon_and_to_its_end() -> None:
    found, sound, heard = SileroVoice(RATE), speech(), []
    for start in range(0, len(sound), 160):
        found.hear(sound[start : start + 160])
        heard.append(found.speaking(found.total, found.hang))
    first = heard.index(True) / 100
    assert 0.3 < first < 0.5, "the first phone begins at 0.35 s"
    assert all(heard[heard.index(True) :]), "and no hole until the end"


def test_the_cuts_of_the_sound_change_nothing() -> None:
    whole, cut, sound = SileroVoice(RATE), SileroVoice(RATE), speech()
    whole.hear(sound)
    dice = np.random.default_rng(2)
    at = 0
    while at < len(sound):
        size = int(dice.integers(0, 1200))
        cut.hear(sound[at : at + size])
        at += size
    assert (cut.last_voice, cut.probability, cut.total) == (whole.last_voice, whole.probability, whole.total)
    whole.reset()
    assert not whole.speaking(0, 100.0)
    whole.hear(sound)
    assert whole.last_voice == cut.last_voice, "the second time is as the first"


def test_music_alone_leaves_the_mouth_shut_and_speech_opens_it() -> None:
    assert openings(gap(negative("chords", 6.0)))[0] < 0.05, "the talker's own veto"
    sound = negative("melody", 8.0)
    share, often = openings(gap(sound))
    assert share > 0.01 and often > 1, "without a detector"
    assert openings(gap(sound, rest=True, voice="silero")) == (0.0, 0.0)
    spoken, rested = gap(speech()), gap(speech(), rest=True, voice="silero")
    assert np.mean(rested[15:] > 0.1) > 0.95 * np.mean(spoken[15:] > 0.1)


def test_a_click_before_the_speech_opens_nothing() -> None:
    quiet = np.zeros(RATE, np.float32)
    quiet[8000:8040] = 0.5 * np.random.default_rng(1).standard_normal(40)
    apart = gap(np.concatenate([quiet, speech()]), rest=True, voice="silero")
    assert apart[: 30 + 8].max() < 0.05
    assert apart.max() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", NEGATIVES)
def test_the_mouth_rests_where_nobody_speaks(name: str) -> None:
    share, often = openings(gap(negative(name, 20.0, seed=1), rest=True, voice="silero"))
    assert share <= 0.05 and often <= 5


def test_what_it_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="16000 samples a second, not 48000"):
        detector("silero", 48000)
    with pytest.raises(OptionError, match="did you mean `silero`"):
        detector("silerow", RATE)
    with pytest.raises(OptionError, match="8000 are wanted"):
        detector("energy", 4000)
    assert isinstance(detector("energy", 48000), VoiceActivity)
    (tmp_path / "other.onnx").write_bytes(voice.MODEL.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(voice, "MODEL", tmp_path / "other.onnx")
    voice._network.cache_clear()
    try:
        with pytest.raises(InputError, match="is not the file that ships"):
            SileroVoice(RATE)
    finally:
        voice._network.cache_clear()


@pytest.mark.parametrize(
    ("mic", "rest", "chosen", "there", "wanted"),
    [
        (True, True, None, True, "silero"),
        (True, True, None, False, "energy"),
        (True, False, None, True, "energy"),
        (False, True, None, True, "energy"),
        (False, True, "silero", True, "silero"),
        (True, True, "energy", True, "energy"),
    ],
)
def test_a_microphone_gets_the_better_one(
    monkeypatch: pytest.MonkeyPatch, mic: bool, rest: bool, chosen: str | None, there: bool, wanted: str
) -> None:
    monkeypatch.setattr(voice, "find_spec", lambda name: object() if there else None)
    assert live_cli._voice(argparse.Namespace(mic=mic, rest=rest, voice=chosen)) == wanted
