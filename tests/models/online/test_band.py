"""Music by rules: whole MIDI files without a singing program, and a sound from them where FluidSynth is."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np
import pytest

from edgetalker.models.online.data import band, noises
from edgetalker.models.online.data.band import _composed, _excerpt, _Tune


def events(tune: _Tune) -> list[tuple[int, mido.Message]]:
    """Return (tick, message) of a tune's file as a reader of MIDI finds them."""
    whole = io.BytesIO()
    tune.file(0.5).save(file=whole)
    file = mido.MidiFile(file=io.BytesIO(whole.getvalue()))
    (track,), tick, found = file.tracks, 0, []
    assert file.ticks_per_beat == 480
    assert file.length > 3
    for message in track:
        tick += message.time
        found.append((tick, message))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_note_ends_and_nothing_sings(seed: int) -> None:
    found = events(_composed(32, np.random.default_rng(seed)))
    assert found[-1][1].type == "end_of_track"
    programs = {message.program for _, message in found if message.type == "program_change"}
    assert programs
    assert not programs & {52, 53, 54, 85, 91}
    sounding: dict[tuple[int, int], int] = {}
    for _, message in found:
        if message.type in ("note_on", "note_off"):
            key = (message.channel, message.note)
            sounding[key] = sounding.get(key, 0) + (1 if message.type == "note_on" else -1)
    assert sounding
    assert not any(sounding.values())


def test_one_tune_in_four_is_a_melody_alone_and_never_two_notes_at_once() -> None:
    alone = 0
    for seed in range(60):
        found = events(_composed(16, np.random.default_rng(seed)))
        notes = [m for _, m in found if m.type in ("note_on", "note_off")]
        if {message.channel for message in notes} == {0}:
            assert all(message.type == ("note_on", "note_off")[n % 2] for n, message in enumerate(notes))
            alone += 1
    assert 9 < alone < 28


def test_a_lead_in_two_glides_to_its_notes_and_swells() -> None:
    held, glided = 0, 0
    for seed in range(60):
        found = events(_composed(16, np.random.default_rng(seed)))
        bends = [m.pitch for _, m in found if m.type == "pitchwheel"]
        swells = {m.value for _, m in found if m.is_cc(11)}
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
    found = events(tune)
    set_up = {(m.type, getattr(m, "program", getattr(m, "value", 0))) for tick, m in found if tick == 0}
    assert {("program_change", 48), ("control_change", 80)} <= set_up, "strings, no choir; as loud as the piece"
    notes = [(tick, m) for tick, m in found if m.type == "note_on" and m.velocity]
    assert 7 <= len(notes) <= 8
    assert [b[0] - a[0] for a, b in pairwise(notes)] == [480] * (len(notes) - 1)
    assert [b[1].note - a[1].note for a, b in pairwise(notes)] == [1] * (len(notes) - 1)
    assert found[-2][1].is_cc(120), "all sound off"
    begun = set()
    for _, message in found:
        if message.type == "note_on" and message.velocity:
            begun.add(message.note)
        assert message.type != "note_on" or message.note in begun, "no end of a note that did not begin"


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
    played: list[mido.Message] = []

    def kept(self: _Tune, beat: float) -> mido.MidiFile:
        played.append(self.events[-1][2])
        raise RuntimeError

    monkeypatch.setattr(_Tune, "file", kept)
    for seed in range(30):
        with pytest.raises(RuntimeError):
            band.band(8 * 16000, np.random.default_rng(seed))
    band.pieces.cache_clear()
    assert 3 < sum(message.is_cc(120) for message in played) < 20, "one in three"


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
