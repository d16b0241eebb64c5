"""The benchmark of recorded people: what `label` keeps comes back, and rows of sound keep the times of their phones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_people
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.utterance import RATE, Utterance


def _phrase(seconds: float, pitch: float) -> Utterance:
    """A tone in the second half of a phrase, which its `b` says."""
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.where(time >= seconds / 2, 0.2 * np.sin(2 * np.pi * pitch * time), 0.0).astype(np.float32)
    return Utterance(tone, (Segment("sil", 0.0, seconds / 2), Segment("b", seconds / 2, seconds)))


def test_phrases_come_back_from_the_file_that_label_writes(tmp_path: Path) -> None:
    phrases = [_phrase(1.0, 200.0), _phrase(2.0, 300.0)]
    real_people._write(tmp_path / "g.npz", phrases)
    back = real_people.load(tmp_path / "g.npz")
    assert [phrase.segments for phrase in back] == [phrase.segments for phrase in phrases]
    for a, b in zip(back, phrases, strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)


def test_rows_hold_whole_phrases_whose_phones_lie_on_their_sound() -> None:
    rows = real_people.lines([_phrase(4.0, 200.0)] * 20, 3)
    assert len(rows) == 3
    for row in rows:
        assert 20 < row.samples.size / RATE <= real_people.SECONDS
        loud = np.abs(row.samples) > 0.02
        marked = np.zeros(loud.size, bool)
        for segment in row.segments:
            if segment.phone == "b":
                marked[int(segment.start * RATE) : int(segment.end * RATE)] = True
        assert loud[marked].mean() > 0.5
        assert not loud[~marked].any()


def test_wear_keeps_lengths_and_changes_every_sound() -> None:
    sounds = [row.samples for row in real_people.lines([_phrase(3.0, 220.0)] * 8, 2)]
    music = real_people._tune(5, np.random.default_rng(1))
    worn = dict(real_people.wear(sounds, music))
    assert len(worn) == 6
    for name, row in worn.items():
        assert [sound.size for sound in row] == [sound.size for sound in sounds], name
        assert all(np.abs(a - b).max() > 0.01 for a, b in zip(row, sounds, strict=True)), name
    softer = 20 * np.log10(np.std(worn["30 dB softer"][0]) / np.std(sounds[0]))
    assert softer == pytest.approx(-30.0, abs=0.1)


def test_halves_share_no_group() -> None:
    names = ("asterisk-en", "librivox", "fillets-cs", "asterisk-es")
    halves = {half: {name for name in names if real_people._wanted(name, half)} for half in ("decisions", "untouched")}
    assert halves == {"decisions": {"asterisk-en", "librivox"}, "untouched": {"fillets-cs", "asterisk-es"}}


def test_a_folder_without_groups_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `label` first"):
        real_people.evaluate(None, tmp_path, None, 1)  # type: ignore[arg-type]
