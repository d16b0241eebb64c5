"""Music by rules: whole MIDI files without a singing program, and a sound from them where FluidSynth is."""

from __future__ import annotations

import numpy as np
import pytest

from edgetalker.models.online.data import band, noises
from edgetalker.models.online.data.band import _composed


def events(score: bytes) -> list[tuple[int, bytes]]:
    """Return (tick, message) of a MIDI file with one track: three bytes for notes, two for programs, metas apart."""
    assert score[:14] == b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0"
    assert score[14:18] == b"MTrk"
    assert int.from_bytes(score[18:22], "big") == len(score) - 22
    found, at, tick = [], 22, 0
    while at < len(score):
        step = 0
        while True:
            step, at = step << 7 | score[at] & 0x7F, at + 1
            if score[at - 1] < 0x80:
                break
        tick += step
        kind = score[at]
        size = 3 + score[at + 2] if kind == 0xFF else 2 if kind >> 4 == 0xC else 3
        found.append((tick, score[at : at + size]))
        at += size
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_note_ends_and_nothing_sings(seed: int) -> None:
    found = events(_composed(32, np.random.default_rng(seed)).file(0.5))
    assert found[-1][1] == b"\xff\x2f\x00"
    programs = {message[1] for _, message in found if message[0] >> 4 == 0xC}
    assert programs
    assert not programs & {52, 53, 54, 85, 91}
    sounding: dict[tuple[int, int], int] = {}
    for _, message in found:
        if message[0] >> 4 in (8, 9):
            key = (message[0] & 15, message[1])
            sounding[key] = sounding.get(key, 0) + (1 if message[0] >> 4 == 9 else -1)
    assert sounding
    assert not any(sounding.values())


def test_one_tune_in_four_is_a_melody_alone_and_never_two_notes_at_once() -> None:
    alone = 0
    for seed in range(60):
        notes = [m for _, m in events(_composed(16, np.random.default_rng(seed)).file(0.5)) if m[0] >> 4 in (8, 9)]
        if {message[0] & 15 for message in notes} == {0}:
            assert all(message[0] >> 4 == (9, 8)[n % 2] for n, message in enumerate(notes))
            alone += 1
    assert 9 < alone < 28


@pytest.mark.skipif(not band.available(), reason="fluidsynth or fluid-soundfont-gm is not installed")
def test_a_band_is_heard_and_is_the_same_for_a_seed() -> None:
    one, same = (band.band(3 * 16000, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one.size == 3 * 16000
    assert float(np.sqrt(np.mean(one**2))) > 1e-3


@pytest.mark.parametrize("there", [True, False])
def test_music_is_played_where_there_is_a_band_and_made_of_tones_elsewhere(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    asked = []

    def played(count: int, rng: np.random.Generator) -> np.ndarray:
        asked.append(count)
        return np.ones(count, np.float32)

    monkeypatch.setattr(band, "available", lambda: there)
    monkeypatch.setattr(band, "band", played)
    sounds = [noises.music(8000, np.random.default_rng(seed)) for seed in range(12)]
    assert bool(asked) is there
    assert all(sound.size == 8000 for sound in sounds)
    assert any(sound.std() > 0.5 for sound in sounds), "some are made of tones"
