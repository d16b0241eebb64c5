"""Synthesizers as they are installed: every phone has a name of ours, lies in the sound, and moves with its speed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgetalker.models.online.data.phones import PHONES, VOWELS
from edgetalker.models.online.data.synths import RATE, Voice, available, faster, speak
from edgetalker.models.online.data.text import practice

FESTIVAL = Path("/usr/share/festival/voices")


def here(voice: Voice) -> bool:
    return available(voice.engine) and (voice.engine != "festival" or any(FESTIVAL.glob(f"*/{voice.name}")))


VOICES = [
    Voice("espeak", "en-us"), Voice("flite", "slt"), Voice("festival", "kal_diphone"),
    Voice("festival", "hindi_NSK_diphone", "hi"), Voice("festival", "telugu_NSK_diphone", "te"),
]  # fmt: skip


@pytest.mark.parametrize("voice", VOICES, ids=[voice.name for voice in VOICES])
def test_every_phone_is_known_and_lies_in_the_sound(voice: Voice) -> None:
    if not here(voice):
        pytest.skip(f"{voice.engine}'s voice {voice.name} is not installed")
    dice = random.Random(2)
    spoken = speak(voice, [practice(dice, voice.language) for _ in range(6)], 1.0, 50)
    assert len(spoken) == 6
    names = [segment.phone for utterance in spoken for segment in utterance.segments]
    assert set(names) <= set(PHONES)
    assert len(set(names) & VOWELS) >= 4
    for utterance in spoken:
        starts = [segment.start for segment in utterance.segments]
        assert starts == sorted(starts)
        assert utterance.segments[-1].end <= utterance.samples.size / RATE + 0.06
        assert np.abs(utterance.samples).max() > 0.01


@pytest.mark.skipif(not available("flite"), reason="flite is not installed")
def test_a_faster_voice_is_shorter_higher_and_its_phones_move_along() -> None:
    (spoken,) = speak(Voice("flite", "slt"), ["my mother made a map"], 1.0, 50)
    quick = faster(spoken, 1.15)
    assert quick.samples.size == pytest.approx(spoken.samples.size / 1.15, rel=0.01)
    assert [s.phone for s in quick.segments] == [s.phone for s in spoken.segments]
    assert quick.segments[-1].end == pytest.approx(spoken.segments[-1].end / 1.15)
    centre = [_centre(utterance.samples) for utterance in (spoken, quick)]
    assert centre[1] == pytest.approx(1.15 * centre[0], rel=0.05)


def _centre(samples: np.ndarray) -> float:
    """Return the spectrum's centre below 3 kHz, Hz."""
    power, hertz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(samples.size, 1 / RATE)
    return float((power * hertz)[hertz < 3000].sum() / power[hertz < 3000].sum())
