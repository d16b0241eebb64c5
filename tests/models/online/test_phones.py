"""Folding the synthesizers' symbols into one inventory; sentences; espeak's late stops."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgetalker.models.online.data.espeak import move_bursts
from edgetalker.models.online.data.phones import PHONES, Segment, fold, fold_ipa
from edgetalker.models.online.data.text import LANGUAGES, sentence
from edgetalker.models.online.data.voices import HELD_OUT, training_voice


@pytest.mark.parametrize(
    ("name", "language", "phones"),
    [
        ("pau", "en", ["sil"]),
        ("ey", "en", ["eh", "iy"]),
        ("ch", "en", ["t", "sh"]),
        ("ch", "cs", ["x"]),
        ("a:", "cs", ["aa"]),
        ("n*", "cs", ["n"]),
        ("y", "fi", ["ue"]),
        ("y", "ru", ["ix"]),
        ("a1", "it", ["aa"]),
        ("tS", "it", ["t", "sh"]),
        ("m", "en", ["m"]),
    ],
)
def test_names_fold_into_the_inventory(name: str, language: str, phones: list[str]) -> None:
    assert fold(name, language) == phones
    assert set(phones) <= set(PHONES)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="%%"):
        fold("%%")


def test_ipa_is_read_letter_by_letter() -> None:
    assert fold_ipa("tʃ") == ["t", "sh"]
    assert fold_ipa("aɪ") == ["aa", "ih"]
    assert fold_ipa("ˈɔː") == ["ao"]
    assert fold_ipa("") == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_sentences_are_seeded_and_speakable(language: str) -> None:
    one, same = sentence(random.Random(3), language), sentence(random.Random(3), language)
    assert one == same
    assert len(one) > 5
    assert not set("{}-") & set(one)


def test_held_out_voices_are_never_drawn() -> None:
    rng = random.Random(1)
    drawn = {training_voice(rng) for _ in range(3000)}
    kept = {voice for voices in HELD_OUT.values() for voice in voices}
    assert not drawn & kept
    assert "it" not in {voice.language for voice in drawn}
    assert len(drawn) > 40


def test_stops_get_the_silence_before_their_burst() -> None:
    samples = np.ones(16000, np.float32) * 0.3
    samples[4000:4800] = 0.0  # 0.25 s to 0.30 s: the hold
    segments = [Segment("aa", 0.0, 0.3), Segment("p", 0.3, 0.34), Segment("aa", 0.34, 1.0)]
    moved = move_bursts(samples, segments)
    assert moved[1].start == pytest.approx(0.25, abs=0.006)
    assert moved[0].end == moved[1].start
    unvoiced = [Segment("aa", 0.0, 0.3), Segment("s", 0.3, 0.34)]
    assert move_bursts(samples, unvoiced) == tuple(unvoiced)
