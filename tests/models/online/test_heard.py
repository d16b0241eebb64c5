"""Speech without words: where hama and pocketsphinx agree on a closure, and sessions made of what they agree on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data import align, heard, people
from edgetalker.models.online.data.heard import FRAME, LATE, Heard, Spike, join
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.synths import available as installed
from edgetalker.models.online.data.synths import speak
from edgetalker.models.online.data.utterance import RATE, Utterance, Voice

pocketsphinx = pytest.mark.skipif(not align.available(), reason="pocketsphinx with its English model is not installed")
SPOKEN = [Segment("sil", 0.0, 0.5), Segment("aa", 0.5, 0.7), Segment("b", 0.7, 0.8), Segment("aa", 0.8, 1.0)]


WAV_WITHOUT_SOUND = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\0\0\0"


def _closing(times: dict[float, float]) -> np.ndarray:
    closing = np.zeros(60, np.float32)
    for time, chance in times.items():
        closing[int((time + LATE) / FRAME)] = chance
    return closing


def _joined(sure: float = 0.95, time: float = 0.75, pick: str = "B", extra: dict[float, float] | None = None) -> Heard:
    spikes = [Spike("aa", 0.6, True, 0.9), Spike("b", time, False, sure), Spike("aa", 0.9, False, 0.9)]
    closing = _closing({time: sure, **(extra or {})})
    return join(spikes, closing, SPOKEN, ["SIL", "AA", pick, "AA"])


def test_a_closure_that_both_hear_at_one_time_counts() -> None:
    assert _joined().doubts == ()
    assert _joined().segments == tuple(SPOKEN)


@pytest.mark.parametrize(
    "doubted",
    [{"time": 0.95}, {"sure": 0.6}, {"sure": 0.8, "pick": "D"}, {"extra": {0.3: 0.5}}],
    ids=["elsewhere", "hardly heard", "a rival fits better", "another that hama leaves out"],
)
def test_a_closure_that_one_of_them_does_not_hear_is_in_doubt(doubted: dict[str, object]) -> None:
    assert _joined(**doubted).doubts  # type: ignore[arg-type]


def test_an_open_phone_that_sounds_shut_to_both_is_in_doubt() -> None:
    spikes = [Spike("aa", 0.6, True, 0.9), Spike("d", 0.75, False, 0.6), Spike("aa", 0.9, False, 0.9)]
    segments = [Segment("d", s.start, s.end) if s.phone == "b" else s for s in SPOKEN]
    for pick, chance, doubts in (("B", 0.25, 1), ("B", 0.05, 0), ("D", 0.25, 0)):
        assert len(join(spikes, _closing({0.75: chance}), segments, ["SIL", "AA", pick, "AA"]).doubts) == doubts


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (WAV_WITHOUT_SOUND, "no sound"), (b"text", "")])
def test_a_clip_without_sound_is_told_of_and_not_the_end_of_the_folder(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    told = people.label(path)
    assert isinstance(told, str)
    assert said in told


def test_phones_that_the_aligner_lost_are_an_error() -> None:
    spikes = [Spike("aa", 0.6, True, 0.9), Spike("b", 0.75, False, 0.9)]
    with pytest.raises(InputError, match="placed 3 of 2 phones"):
        join(spikes, _closing({}), SPOKEN, ["SIL", "AA", "B", "AA"])


def test_without_hama_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hama", None)
    heard._teacher.cache_clear()
    with pytest.raises(InputError, match="hama cannot be used") as caught:
        heard.hear(np.zeros(RATE, np.float32))
    assert "pip install hama" in str(caught.value.hint)


@pocketsphinx
@pytest.mark.skipif(not installed("flite"), reason="flite is not installed")
def test_the_aligner_tells_which_sound_fits_whatever_it_is_told() -> None:
    (spoken,) = speak(Voice("flite", "slt"), ["my brother met the people from the big company"], 1.0, 50)
    told = [s.phone for s in spoken.segments if s.phone != "sil"]
    lies = [{"p": "k", "b": "d", "m": "n"}.get(phone, phone) for phone in told]
    shut = [phone in "pbm" for phone in told]
    for words in (told, lies):
        segments, picks = align.weigh(spoken.samples, [words], heard.RIVALS)
        heard_shut = [pick in "PBM" for s, pick in zip(segments, picks, strict=True) if s.phone != "sil"]
        assert np.mean([a for a, b in zip(heard_shut, shut, strict=True) if b]) > 0.6
        assert np.mean([a for a, b in zip(heard_shut, shut, strict=True) if not b]) < 0.1


def _speech(seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return np.asarray(0.3 * np.sin(2 * np.pi * 200 * time), np.float32)


def test_phrases_in_doubt_are_left_out_and_pauses_give_the_rooms_tone() -> None:
    rng = np.random.default_rng(1)
    noise = (0.01 * rng.standard_normal(RATE)).astype(np.float32)
    sound = np.concatenate([_speech(1.0), noise, _speech(1.0)])
    segments = (Segment("aa", 0, 0.5), Segment("b", 0.5, 1), Segment("sil", 1, 2), Segment("aa", 2, 3))
    sure = people.phrases(sound, Heard(segments, ()))
    assert [len(phrase.samples) / RATE for phrase in sure.phrases] == [1.5, 1.5]
    assert [s.phone for s in sure.phrases[1].segments] == ["sil", "aa"]
    assert sure.phrases[1].segments[1].start == 0.5
    (quiet,) = sure.quiet
    tone = people.Room([quiet], rng)(2 * RATE)
    assert tone.shape == (2 * RATE,)
    assert tone.std() == pytest.approx(0.01, rel=0.1)
    doubted = people.phrases(sound, Heard(segments, (0.7,)))
    assert [s.phone for s in doubted.phrases[0].segments] == ["sil", "aa"]
    assert doubted.lost == 1.5


def test_a_pause_with_a_breath_is_no_room_tone() -> None:
    sound = np.zeros(RATE, np.float32) + 0.001
    sound[6000:9000] = 0.1
    found = people.phrases(sound, Heard((Segment("aa", 0, 0.1), Segment("sil", 0.1, 1.0)), ()))
    assert found.quiet == ()


def test_sessions_use_every_phrase_once_a_round_and_fill_pauses_with_the_room() -> None:
    rng = np.random.default_rng(2)
    phrase = Utterance(_speech(3.0), (Segment("sil", 0, 0.2), Segment("aa", 0.2, 2.8), Segment("sil", 2.8, 3.0)))
    noise = (0.01 * rng.standard_normal(RATE)).astype(np.float32)
    clips = [people.Labelled((phrase,) * 14, (noise,), 0.0)]
    (made,) = people.sessions(clips, 3, rounds=1, worn=0.0)
    assert made.speech.mean() > 0.4
    pauses = np.exp(made.mel.reshape(-1, 4, 80)[made.speech < 0.5]).sum((1, 2))
    assert np.median(pauses) > 1e3 * np.exp(made.mel.min())
    assert len(list(people.sessions(clips, 3, rounds=2, worn=0.0))) == 2


def test_a_folder_without_sounds_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \.wav"):
        people.fill(tmp_path / "out", [tmp_path], 1, 1, 1)
