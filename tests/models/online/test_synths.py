"""Synthesizers as they are installed: every phone has a name of ours, lies in the sound, and moves with its speed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgetalker.models.online.data import jtalk
from edgetalker.models.online.data.phones import PHONES, VOWELS, fold_sampa
from edgetalker.models.online.data.synths import available, speak
from edgetalker.models.online.data.text import practice
from edgetalker.models.online.data.utterance import RATE, Voice, faster
from tests.models.online.conftest import here

VOICES = [
    Voice("espeak", "en-us"), Voice("flite", "slt"), Voice("festival", "kal_diphone"),
    Voice("festival", "hindi_NSK_diphone", "hi"), Voice("festival", "telugu_NSK_diphone", "te"),
    Voice("rhvoice", "bdl"), Voice("rhvoice", "anna", "ru"), Voice("pico", "en-GB"), Voice("pico", "de-DE", "de"),
    Voice("jtalk", "nitech", "ja"), Voice("mbrola", "us1"), Voice("mbrola", "br1", "pt"),
    Voice("kokoro", "60 0 40 0 0"), Voice("piper", "en_US-joe-medium"),
]  # fmt: skip


@pytest.mark.parametrize("voice", VOICES, ids=[voice.name for voice in VOICES])
def test_every_phone_is_known_and_lies_in_the_sound(voice: Voice) -> None:
    if not here(voice):
        pytest.skip(f"{voice.engine}'s voice {voice.name} is not installed")
    dice = random.Random(2)
    spoken = list(speak(voice, [practice(dice, voice.language) for _ in range(6)], 1.0, 50))
    # Invented words are in no dictionary: the aligner leaves their sentences out.
    assert len(spoken) >= 3 if voice.engine in ("rhvoice", "pico") else len(spoken) == 6
    names = [segment.phone for utterance in spoken for segment in utterance.segments]
    assert set(names) <= set(PHONES)
    assert len(set(names) & VOWELS) >= 4
    for utterance in spoken:
        starts = [segment.start for segment in utterance.segments]
        assert starts == sorted(starts)
        assert utterance.segments[-1].end <= utterance.samples.size / RATE + 0.06
        assert np.abs(utterance.samples).max() > 0.01


@pytest.mark.parametrize("voice", [Voice("rhvoice", "clb"), Voice("pico", "en-US")], ids=["clb", "en-US"])
def test_a_voice_without_phone_times_is_timed_by_alignment(voice: Voice) -> None:
    if not here(voice):
        pytest.skip(f"{voice.engine} with its English voices, or pocketsphinx, is not installed")
    spoken = list(speak(voice, ["my mother made a map", "the zzyxq is a map"], 1.0, 50))
    assert len(spoken) == 1  # nobody's dictionary has the other sentence
    names = [segment.phone for segment in spoken[0].segments if segment.phone != "sil"]
    assert [name for name in names if name in "mp"] == ["m", "m", "m", "m", "p"]
    hold = next(segment for segment in spoken[0].segments if segment.phone == "p")
    level = np.sqrt(np.mean(spoken[0].samples[int(hold.start * RATE) + 160 : int(hold.start * RATE) + 480] ** 2))
    assert level < 0.3 * np.sqrt(np.mean(spoken[0].samples ** 2))  # lips shut: nearly silent


@pytest.mark.skipif(not available("rhvoice"), reason="RHVoice or pocketsphinx is not installed")
def test_rhvoice_never_speaks_with_another_voice_than_asked() -> None:
    with pytest.raises(RuntimeError, match="no voice nobody"):
        next(speak(Voice("rhvoice", "nobody"), ["hello"], 1.0, 50))


@pytest.mark.parametrize(
    ("names", "heard"),
    [
        (["s", "a", "N", "p", "o"], "m"), (["g", "a", "N", "b", "a"], "m"), (["a", "N", "m", "a"], "m"),
        (["k", "a", "N", "k", "i"], "ng"), (["k", "a", "N", "t", "a"], "n"), (["h", "o", "N"], "n"),
        (["h", "o", "N", "pau"], "n"),
        (["k", "a", "cl", "p", "a"], "p"), (["m", "a", "cl", "ch", "a"], "t"), (["z", "a", "cl", "sh", "i"], "s"),
        (["a", "cl"], "q"), (["a", "cl", "pau"], "q"),
    ],
)  # fmt: skip
def test_japanese_nasals_and_long_stops_take_the_place_of_what_follows(names: list[str], heard: str) -> None:
    at = next(index for index, name in enumerate(names) if name in ("N", "cl"))
    assert jtalk.heard(names, at) == heard


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


@pytest.mark.skipif(not here(Voice("mbrola", "us1")), reason="mbrola with mbrola-us1 is not installed")
def test_mbrola_shuts_its_lips_when_it_says_so() -> None:
    voice = Voice("mbrola", "us1")
    (once,), (again,), (fast,) = (speak(voice, ["papa happily pays apples"], rate, 50) for rate in (1.0, 1.0, 1.4))
    assert once.segments == again.segments
    assert np.array_equal(once.samples, again.samples)
    assert fast.samples.size < 0.85 * once.samples.size
    stops = [s for s in once.segments if s.phone == "p" and s.start > 0.1]
    assert len(stops) >= 4
    whole = np.sqrt(np.mean(once.samples**2))
    for stop in stops:  # the middle is the hold, between the sound before and the burst
        first, last = (int((stop.start + share * (stop.end - stop.start)) * RATE) for share in (0.4, 0.6))
        assert np.sqrt(np.mean(once.samples[first:last] ** 2)) < 0.15 * whole
    with pytest.raises(RuntimeError, match="MBROLA has no voice xx1"):
        next(speak(Voice("mbrola", "xx1"), ["no"], 1.0, 50))


@pytest.mark.parametrize(
    ("symbol", "speaker", "phones"),
    [
        ("_", "en1", "sil"), ("p_h", "en1", "p"), ("@U", "en1", "ax uh"), ("r=", "en1", "r"), ("l/", "en1", "l"),
        ("2:", "de1", "oe"), ("E2", "it1", "eh"), ("9~", "fr1", "oe"), ("R", "fr1", "x"), ("am", "br1", "aa"),
        ("um", "br1", "uw"), ("kh", "sw1", "k"), ("rs", "sw1", "sh"), ("n'", "pl1", "ny"), ("ts'", "pl1", "t sh"),
        ("y", "br1", "y"), ("j", "br1", "zh"), ("j", "pt1", "y"), ("y:", "sw1", "ue"),
        ("h\\", "cz1", "h"), ("?U", "de1", "q uh"), ("tS", "en1", "t sh"),
    ],
)  # fmt: skip
def test_sampa_is_folded_into_our_phones(symbol: str, speaker: str, phones: str) -> None:
    assert " ".join(fold_sampa(symbol, speaker)) == phones


def test_a_sound_that_nobody_knows_is_not_guessed() -> None:
    with pytest.raises(KeyError):
        fold_sampa(";")
