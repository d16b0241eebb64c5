"""Music by rules: whole MIDI files without a singing program, and a sound from them where FluidSynth is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgetalker.models.online.data import band, noises
from edgetalker.models.online.data.band import _composed, _excerpt, _Tune


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


def test_a_lead_in_two_glides_to_its_notes_and_swells() -> None:
    held, glided = 0, 0
    for seed in range(60):
        found = events(_composed(16, np.random.default_rng(seed)).file(0.5))
        bends = [(m[1] | m[2] << 7) - 8192 for _, m in found if m[0] == 0xE0]
        swells = {m[2] for _, m in found if m[:2] == b"\xb0\x0b"}
        assert bool(bends) == bool(swells)
        held += bool(bends) and len(swells) > 5
        glided += max(map(abs, bends), default=0) > 3000  # three quarters of a semitone: no trembling
    assert 15 < held < 40
    assert 5 < glided < held


def piece(*tracks: bytes) -> bytes:
    """Return a MIDI file of format 1, 96 ticks a beat."""
    whole = b"".join(b"MTrk" + struct.pack(">I", len(track)) + track for track in tracks)
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), 96) + whole


CHOIR = piece(
    b"\x00\xff\x03\x02hi" + b"\x00\xff\x51\x03\x07\xa1\x20" + b"\x00\xff\x2f\x00",
    b"\x00\xc0\x34" + b"\x00\xb0\x07\x50" + b"\x00\x90" + b"".join(
        bytes((key, 90, 0x60, key, 0, 0)) for key in range(40, 72)  # a beat each, with running status
    ) + b"\xff\x2f\x00",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_a_part_of_a_piece_begins_as_the_piece_is_set_there_and_ends_in_silence(seed: int) -> None:
    tune = _excerpt(CHOIR, 8, np.random.default_rng(seed))
    assert tune is not None
    found = events(tune.file(0.5))
    assert (0, bytes((0xC0, 48))) in found, "strings, no choir"
    assert (0, b"\xb0\x07\x50") in found
    notes = [(tick, m) for tick, m in found if m[0] == 0x90 and m[2]]
    assert 7 <= len(notes) <= 8
    assert [b[0] - a[0] for a, b in pairwise(notes)] == [480] * (len(notes) - 1)
    assert [b[1][1] - a[1][1] for a, b in pairwise(notes)] == [1] * (len(notes) - 1)
    assert found[-2][1][1:] == b"\x78\x00", "all sound off"
    begun = set()
    for _, message in found:
        if message[0] == 0x90 and message[2]:
            begun.add(message[1])
        assert message[0] != 0x90 or message[1] in begun, "no end of a note that did not begin"


def test_a_part_with_hardly_a_note_is_no_music() -> None:
    assert _excerpt(CHOIR, 2, np.random.default_rng(0)) is None


def test_pieces_are_found_where_a_collection_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lumps = [b"\x00" * 9, CHOIR, b"MUS\x1a...", CHOIR + b"\x00"]
    wad, places = b"", []
    for lump in lumps:
        places.append((12 + len(wad), len(lump)))
        wad += lump
    table = b"".join(struct.pack("<II8s", *place, b"D_X") for place in places)
    (tmp_path / "a.wad").write_bytes(b"IWAD" + struct.pack("<II", len(lumps), 12 + len(wad)) + wad + table)
    monkeypatch.setattr(band, "COLLECTIONS", (tmp_path / "a.wad", tmp_path / "none.wad"))
    band.pieces.cache_clear()
    assert band.pieces() == (CHOIR, CHOIR + b"\x00")
    played: list[bytes] = []

    def kept(self: _Tune, beat: float) -> bytes:
        played.append(bytes(self.events[-1][2]))
        raise RuntimeError

    monkeypatch.setattr(_Tune, "file", kept)
    for seed in range(30):
        with pytest.raises(RuntimeError):
            band.band(8 * 16000, np.random.default_rng(seed))
    band.pieces.cache_clear()
    assert 3 < sum(message[1] == 120 for message in played) < 20, "one in three"


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


@pytest.mark.parametrize("seed", range(4))
def test_held_notes_last_and_have_a_pitch(seed: int) -> None:
    sound = noises._held(4 * 16000, np.random.default_rng(seed))
    assert sound.std() == pytest.approx(1.0, abs=0.02)
    assert np.isfinite(sound).all()
    loud = sound.reshape(-1, 800).std(1)
    assert np.mean(loud > 0.1) > 0.6
    lines = np.abs(np.fft.rfft(sound[16000:32000] * np.hanning(16000))) ** 2
    assert np.sort(lines)[-160:].sum() > 0.7 * lines.sum(), "lines, not noise"


def test_one_session_of_nobody_in_three_is_music_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def named(name: str) -> Callable[[int, np.random.Generator], np.ndarray]:
        def make(count: int, rng: np.random.Generator) -> np.ndarray:
            made.append(name)
            return np.ones(count, np.float32)

        return make

    noises_ = [(named(make.__name__), seconds, levels) for make, seconds, levels in noises.NOISES]
    monkeypatch.setattr(noises, "NOISES", tuple(noises_))
    alone = 0
    for seed in range(60):
        made.clear()
        noises.stretches(60 * 16000, np.random.default_rng(seed), np.zeros(0, np.float32))
        alone += set(made) == {"music"}
    assert 10 < alone < 30


def test_one_piece_of_music_in_three_is_worn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(band, "available", lambda: False)
    monkeypatch.setattr(noises, "degrade", lambda sound, rng: np.sign(sound))
    worn = [np.unique(np.abs(noises.music(800, np.random.default_rng(seed)))).size < 3 for seed in range(60)]
    assert 10 < sum(worn) < 30
