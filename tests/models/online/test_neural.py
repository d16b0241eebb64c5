"""Neural voices' phone times from their graphs' durations, and the sounds that nobody's mouth answers."""

from __future__ import annotations

import random
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.models.online.data import align, noises, sessions
from edgetalker.models.online.data import neural as neural_voices
from edgetalker.models.online.data.degrade import add_sound, at_level
from edgetalker.models.online.data.espeak import espeak_library, ipa
from edgetalker.models.online.data.generate import orders
from edgetalker.models.online.data.neural import STYLES, segments_of, speak
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.utterance import RATE, Voice
from edgetalker.models.online.data.voices import NOBODY, mixed_voice
from tests.models.online.conftest import here

needs_espeak = pytest.mark.skipif(espeak_library() is None, reason="espeak-ng is not installed")
KOKORO, PIPER = Voice("kokoro", "60 0 40 0 0"), Voice("piper", "en_US-joe-medium")


def test_stress_and_pads_go_forward_length_goes_back_and_quiet_gaps_are_silent() -> None:
    sound = np.full(RATE, 0.1, np.float32)
    sound[int(0.6 * RATE) : int(0.8 * RATE)] = 0.0
    symbols = ["^", "", "m", "", "ˈ", "", "ɑ", "ː", " ", "ʤ", ",", " ", "p", "$"]
    ends = np.array([0.1, 0.12, 0.2, 0.22, 0.24, 0.26, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0])
    got = [(s.phone, round(s.start, 3), round(s.end, 3)) for s in segments_of(sound, symbols, ends)]
    assert got == [
        ("sil", 0.0, 0.1), ("m", 0.1, 0.2), ("aa", 0.2, 0.4), ("d", 0.4, 0.5), ("zh", 0.5, 0.6), ("sil", 0.6, 0.8),
        ("p", 0.8, 0.9), ("sil", 0.9, 1.0),
    ]  # fmt: skip


def test_a_phone_is_not_held_over_the_silence_of_a_full_stop() -> None:
    sound = np.full(RATE, 0.1, np.float32)
    sound[int(0.4 * RATE) :] = 0.0
    ends = np.array([0.1, 0.2, 0.3, 0.9, 1.0])
    got = [(s.phone, round(s.start, 3), round(s.end, 3)) for s in segments_of(sound, ["^", "m", "ɑ", ".", "$"], ends)]
    assert got == [("sil", 0.0, 0.1), ("m", 0.1, 0.2), ("aa", 0.2, 0.4), ("sil", 0.4, 1.0)]


@needs_espeak
def test_punctuation_stays_between_the_clauses() -> None:
    said = ipa("en-us", "the map, the map!")
    assert said.index(",") < said.index("!") == len(said) - 1
    assert said.count("m") == said.count("p") == 2
    with pytest.raises(RuntimeError, match="no voice nowhere"):
        ipa("nowhere", "map")


class Graph:
    """Kokoro's graph as it looks from outside: 100 ms of sound for each symbol."""

    def run(self, _: None, feeds: dict[str, Any]) -> list[np.ndarray]:
        self.fed = feeds
        count = feeds["tokens"].shape[1]
        return [np.full(count * 2400, 0.1, np.float32), np.full((1, count), 4.0, np.float32)]


@needs_espeak
def test_kokoro_is_fed_its_own_letters_and_a_mix_of_its_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph()
    letters = {letter: number for number, letter in enumerate(" ˈ,AIOmpʤʌ", 1)}
    styles = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((5, 510, 1, 256), np.float32)
    monkeypatch.setattr(neural_voices, "_kokoro_parts", lambda: (graph, letters, styles))
    (spoken,) = speak(Voice("kokoro", "50 0 0 0 50"), ["judge, may"], 1.0)
    fed = graph.fed["tokens"][0].tolist()
    assert fed == [0, *(letters[letter] for letter in "ʤˈʌʤ, mˈA"), 0]
    assert graph.fed["style"].shape == (1, 256)
    np.testing.assert_allclose(graph.fed["style"], 2.0)
    early = sum(neural_voices._EARLY["kokoro"])
    first, *_, may = [s for s in spoken.segments if s.phone == "d" or s.phone == "eh"]
    assert first.start == pytest.approx(0.1 - early)
    assert may.end > may.start
    assert spoken.samples.size == len(fed) * 1600


def test_a_mixed_voice_is_convex_and_seeded() -> None:
    one, same, other = (mixed_voice(random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other
    for seed in range(50):
        shares = [int(share) for share in mixed_voice(random.Random(seed)).name.split()]
        assert len(shares) == len(STYLES)
        assert min(shares) >= 0
        assert sum(shares) == pytest.approx(100, abs=3)


@pytest.mark.parametrize("voice", [KOKORO, PIPER], ids=["kokoro", "piper"])
@pytest.mark.slow
def test_a_neural_voices_own_times_agree_with_an_aligner(voice: Voice) -> None:
    if not here(voice) or not align.available():
        pytest.skip(f"{voice.engine}'s packages or pocketsphinx are not installed")
    late: list[float] = []
    for text in ("my mother made a map", "the people bring a big number", "no mountain may be warm"):
        (spoken,) = speak(voice, [text], 1.0)
        own, theirs = spoken.segments, align.align(spoken.samples, text)
        matcher = SequenceMatcher(None, [s.phone for s in own], [s.phone for s in theirs], autojunk=False)
        for at, there, count in matcher.get_matching_blocks():
            pairs = zip(own[at : at + count], theirs[there : there + count], strict=True)
            late += [edge for mine, other in pairs for edge in (mine.start - other.start, mine.end - other.end)]
    assert len(late) > 60
    assert abs(np.median(late)) < 0.01, np.median(late)


SOUNDS = [noises.music, noises.keys, noises.breath, noises.cough, noises.machine]


@pytest.mark.parametrize("make", SOUNDS, ids=[make.__name__ for make in SOUNDS])
def test_noises_are_seeded_and_of_unit_power(make: Any) -> None:
    one, same, other = (make(2 * RATE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (2 * RATE,)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    assert 0.5 < np.sqrt(np.mean(one**2)) < 1.01


def test_talk_from_afar_has_more_room_than_voice() -> None:
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    heard = noises.afar(click, np.random.default_rng(0))
    direct = float(np.sum(heard[1000:1032] ** 2))
    assert direct < 0.6 * float(np.sum(heard**2))
    power = np.abs(np.fft.rfft(heard)) ** 2
    assert power[6000:].sum() < 0.02 * power.sum()  # above 6 kHz


def test_nobodys_session_is_sound_over_a_face_at_rest() -> None:
    made = sessions.make(NOBODY, 3, keep_sound=True)
    assert made.samples.size == sessions.SECONDS * RATE
    level = np.sqrt(np.mean(made.samples.reshape(60, -1) ** 2, axis=1))
    assert np.median(level) > 10 ** (-65 / 20), "there is something to hear"
    for track in (made.mouth, made.touch, made.speech, made.phone, made.times):
        assert not track.any()
    blinks = made.motion[0][:, 0:52].max(0)
    assert blinks.max() > 0.9, "the eyes live on"


def test_nobody_is_in_the_training_alone() -> None:
    plan = orders(Path("x"), 400, 5, 1)
    where = [order.path.parent.name for order in plan if order.voice == NOBODY]
    assert 15 < len(where) < 60
    assert set(where) == {"train"}
    kokoro = sum(order.voice.engine == "kokoro" for order in plan) / len(plan)
    assert 0.08 < kokoro < 0.22
    assert {order.path.parent.name for order in plan if order.voice.engine == "piper"} == {"joe"}


def test_breaths_lie_in_long_pauses_alone() -> None:
    segments = [
        Segment("aa", 0.0, 1.0), Segment("sil", 1.0, 2.5), Segment("m", 2.5, 3.0), Segment("sil", 3.0, 3.3),
        Segment("aa", 3.3, 4.0),
    ]  # fmt: skip
    heard = 0
    for seed in range(20):
        sound = sessions._breaths(segments, 4 * RATE, -20.0, np.random.default_rng(seed))
        pause = sound[RATE : int(2.5 * RATE)]
        heard += bool(pause.any())
        assert not sound[:RATE].any()
        assert not sound[int(2.5 * RATE) :].any()
        assert np.sqrt(np.mean(pause**2)) < 10 ** (-35 / 20)
    assert 2 <= heard <= 14


def test_a_sound_is_laid_under_speech_at_the_level_asked_for() -> None:
    rng = np.random.default_rng(0)
    speech = at_level(rng.standard_normal(RATE).astype(np.float32), -20.0)
    under = add_sound(speech, noises.music(RATE, rng), 15.0) - speech
    assert 20 * np.log10(np.sqrt(np.mean(under**2))) == pytest.approx(-35.0, abs=1.0)
