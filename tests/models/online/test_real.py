"""Scoring recordings of people: clips with what is said in them, from the command line of the recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.models.online import real
from edgetalker.models.online.data import align
from edgetalker.models.online.data.phones import PHONE_INDEX
from edgetalker.models.online.data.synths import available
from edgetalker.models.online.data.utterance import RATE
from tests.models.online.conftest import clip

soundfile = pytest.importorskip("soundfile")

needs_tools = pytest.mark.skipif(
    not (align.available() and available("flite")), reason="pocketsphinx or flite is not installed"
)


@needs_tools
def test_a_folder_is_one_speaker_with_its_clips_one_after_another(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    first = clip(folder, "1", "my mother made a map")
    second = clip(folder, "2", "bob picked up a pipe")
    found = real.recordings(None, None, [folder])["anna"]
    assert found.clips == 2
    assert found.seconds == pytest.approx(first + second, abs=0.001)
    assert found.session.phone.size == pytest.approx(30 * (first + 0.5 + second), abs=2)
    starts = [start for phone, start, _ in found.session.times if phone == PHONE_INDEX["b"]]
    assert starts
    assert min(starts) > first + 0.4, "the only b are in the second clip"
    assert float(found.session.touch[:, 0].max()) == pytest.approx(1.0, abs=0.01)


@needs_tools
def test_one_clip_and_a_folder_go_together(tmp_path: Path) -> None:
    clip(tmp_path / "anna", "1", "my mother made a map")
    clip(tmp_path / "more", "b", "bob picked up a pipe")
    found = real.recordings(tmp_path / "more" / "b.wav", "bob picked up a pipe", [tmp_path / "anna"])
    assert set(found) == {"anna", "b.wav"}


def test_a_clip_without_words_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600, np.float32), RATE)
    with pytest.raises(InputError, match=r"no \.txt beside a\.wav, b\.wav"):
        real.recordings(None, None, [tmp_path])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \.wav or \.flac"):
        real.recordings(None, None, [tmp_path])


@pytest.mark.parametrize(("audio", "transcript"), [(Path("a.wav"), None), (None, "what is said")])
def test_a_sound_and_its_transcript_go_together(audio: Path | None, transcript: str | None) -> None:
    with pytest.raises(OptionError, match="--transcript go together"):
        real.recordings(audio, transcript, [])


def test_two_speakers_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two speakers are called clips"):
        real.recordings(None, None, [tmp_path / "anna" / "clips", tmp_path / "berta" / "clips"])


def test_what_is_no_sound_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"a\.wav"):
        real.recordings(tmp_path / "a.wav", "no sound", [])


@needs_tools
def test_every_clip_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    for name, said in (("a", "bob met the zzyx"), ("b", "my mother"), ("c", "the qqph of bob")):
        clip(tmp_path / "anna", name, "bob")
        (tmp_path / "anna" / f"{name}.txt").write_text(said)
    (tmp_path / "anna" / "b.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"(?s)3 files.*a\.wav: .*`zzyx`.*b\.wav.*c\.wav: .*`qqph`") as caught:
        real.recordings(None, None, [tmp_path / "anna"])
    assert str(caught.value).count("spell it in words it has") == 1, "a hint once"


def test_words_that_cannot_be_read_or_are_none_are_named_at_once(tmp_path: Path) -> None:
    for name, words in (("a", b"caf\xe9"), ("b", b" \n"), ("c", b"my mother")):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600, np.float32), RATE)
        (tmp_path / f"{name}.txt").write_bytes(words)
    with pytest.raises(InputError, match=r"(?s)2 files.*a\.txt cannot be read as text.*b\.txt is empty"):
        real.dealt(tmp_path, 2)


def test_what_is_wrong_with_every_clip_alike_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "available", lambda: False)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600, np.float32), RATE)
        (tmp_path / f"{name}.txt").write_text("my mother")
    with pytest.raises(InputError, match=r"^pocketsphinx or its English model is not installed \(2 files\)"):
        real.dealt(tmp_path, 2)
