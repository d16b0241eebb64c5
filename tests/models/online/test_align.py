"""Alignment of speech by an independent recognizer, against phone times that a synthesizer gives."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data import align
from edgetalker.models.online.data.synths import available as installed
from edgetalker.models.online.data.synths import speak
from edgetalker.models.online.data.text import sentence
from edgetalker.models.online.data.utterance import Voice
from tests.models.online.conftest import here

needs = pytest.mark.skipif(not align.available(), reason="pocketsphinx with its English model is not installed")


@needs
@pytest.mark.skipif(not installed("flite"), reason="flite is not installed")
def test_an_alignment_finds_the_closures_of_a_synthesizer_within_a_frame() -> None:
    text = "my brother met the people from the big company"
    (spoken,) = speak(Voice("flite", "slt"), [text], 1.0, 50)
    found = [s for s in align.align(spoken.samples, text) if s.phone in "pbm"]
    wanted = [s for s in spoken.segments if s.phone in "pbm"]
    assert [s.phone for s in found] == [s.phone for s in wanted]
    assert np.median([abs(a.start - b.start) for a, b in zip(found, wanted, strict=True)]) < 1 / 30


KNOWN = [Voice("festival", "kal_diphone"), Voice("festival", "hindi_NSK_diphone", "hi")]


@needs
@pytest.mark.parametrize("voice", KNOWN, ids=[voice.name for voice in KNOWN])
def test_known_phones_of_any_language_are_found_within_a_frame(voice: Voice) -> None:
    if not here(voice):
        pytest.skip(f"Festival's voice {voice.name} is not installed")
    dice = random.Random(7)
    apart = []
    for spoken in speak(voice, [sentence(dice, voice.language) for _ in range(4)], 1.0, 50):
        wanted = [s for s in spoken.segments if s.phone != "sil"]
        found = [s for s in align.align_phones(spoken.samples, [[s.phone for s in wanted]]) if s.phone != "sil"]
        assert [s.phone for s in found] == [s.phone for s in wanted]
        apart += [abs(a.start - b.start) for a, b in zip(found, wanted, strict=True) if b.phone in "pbm"]
    assert len(apart) > 10
    assert np.median(apart) < 1 / 30


@needs
def test_a_word_that_nobody_knows_is_named() -> None:
    with pytest.raises(InputError, match="xyzzyq"):
        align.align(np.zeros(16000, np.float32), "hello xyzzyq")


def test_without_the_recognizer_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "available", lambda: False)
    with pytest.raises(InputError, match="pocketsphinx") as raised:
        align.align(np.zeros(16000, np.float32), "hello")
    assert "apt-get install" in str(raised.value.hint)
