"""The mouth's procedural animation: what must close closes, what must touch touches, silence rests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetalker.models.online.data.phones import BILABIALS, PHONES, Segment
from edgetalker.models.online.data.visemes import FPS, MOUTH, blend, compose, contacts, phone_track
from edgetalker.models.online.metrics import CLOSED, lip_gap, told_apart

ONES = np.ones(90, np.float32)


def spoken(*phones: str, length: float = 0.12, start: float = 0.5) -> list[Segment]:
    found = [Segment("sil", 0.0, start)]
    for index, phone in enumerate(phones):
        found.append(Segment(phone, start + index * length, start + (index + 1) * length))
    return found


def mouth(segments: list[Segment], frames: int = 90, articulation: float = 1.0) -> np.ndarray:
    return compose(blend(segments, frames, ONES[:frames]), contacts(segments, frames), articulation)


@settings(max_examples=60, deadline=None)
@given(
    phone=st.sampled_from(sorted(BILABIALS)),
    length=st.floats(0.02, 0.15),
    start=st.floats(0.3, 1.5),
    neighbours=st.sampled_from(["aa", "iy", "ao", "s", "ae"]),
    articulation=st.floats(0.4, 1.5),
)
def test_every_bilabial_closes_at_30_frames_a_second(
    phone: str, length: float, start: float, neighbours: str, articulation: float
) -> None:
    segments = [
        Segment(neighbours, start - 0.15, start),
        Segment(phone, start, start + length),
        Segment(neighbours, start + length, start + length + 0.15),
    ]
    gap = lip_gap(mouth(segments, articulation=articulation))
    near = slice(int(start * FPS) - 1, int((start + length) * FPS) + 2)
    assert gap[near].min() < CLOSED / 2


@pytest.mark.parametrize("phone", sorted(set(PHONES) - BILABIALS - {"sil"}))
def test_no_other_phone_shuts_the_lips(phone: str) -> None:
    gap = lip_gap(mouth(spoken("aa", phone, "aa", length=0.15)))
    middle = int((0.5 + 1.5 * 0.15) * FPS)
    assert gap[middle] > 2 * CLOSED


@pytest.mark.parametrize("phone", ["f", "v"])
def test_labiodentals_bring_the_lower_lip_to_the_teeth(phone: str) -> None:
    segments = spoken("aa", phone, "aa")
    roll = mouth(segments)[:, 4]
    frame = int((0.5 + 1.5 * 0.12) * FPS)
    assert roll[frame] > 0.4
    assert mouth(spoken("aa", "t", "aa"))[frame, 4] < 0.1


@pytest.mark.parametrize("phone", ["s", "z", "sh", "zh"])
def test_sibilants_narrow_the_jaw(phone: str) -> None:
    frame = int((0.5 + 1.5 * 0.12) * FPS)
    narrow, usual = (mouth(spoken("aa", name, "aa"))[frame, 0] for name in (phone, "k"))
    assert narrow < 0.7 * usual


def test_stress_opens_vowels_and_rounding_comes_before_its_vowel() -> None:
    segments = spoken("t", "aa", "t")
    loud = compose(blend(segments, 90, 1.3 * ONES), contacts(segments, 90))
    soft = compose(blend(segments, 90, 0.7 * ONES), contacts(segments, 90))
    assert loud[:, 0].max() > soft[:, 0].max() + 0.1
    rounding = mouth(spoken("s", "t", "uw"))[:, 2]
    assert rounding[int((0.5 + 1.5 * 0.12) * FPS)] > 0.1, "coarticulation: lips round during the consonant before"


def test_silence_rests_and_speech_dies_away_within_200_ms() -> None:
    track = mouth(spoken("aa", "iy"))
    end = 0.5 + 2 * 0.12
    assert np.abs(track[int((end + 0.2) * FPS) :]).max() < CLOSED
    assert np.abs(mouth([Segment("sil", 0.0, 3.0)])).max() == 0.0


def test_articulation_scales_movement() -> None:
    segments = spoken("k", "aa", "k")
    assert mouth(segments, articulation=0.5)[:, 0].max() == pytest.approx(0.5 * mouth(segments)[:, 0].max(), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(PHONES), min_size=1, max_size=12), st.floats(0.03, 0.2))
def test_values_stay_in_range(phones: list[str], length: float) -> None:
    track = mouth(spoken(*phones, length=length))
    assert track.shape == (90, len(MOUTH))
    assert track.min() >= 0.0
    assert track.max() <= 1.0
    assert lip_gap(track).min() > -1e-6


def test_phone_track_reads_the_middle_of_each_frame() -> None:
    track = phone_track([Segment("m", 0.05, 0.1), Segment("aa", 0.1, 1.0)], 6)
    names = [PHONES[index] for index in track]
    assert names == ["sil", "m", "m", "aa", "aa", "aa"]


def test_phones_are_told_apart_where_mouths_differ_and_by_chance_where_they_do_not() -> None:
    rng = np.random.default_rng(5)
    names = [PHONES.index(name) for name in ("aa", "ao", "f")]
    times = np.array(
        [(names[i % 2], 0.2 * i, 0.2 * i + 0.2) for i in range(400)] + [(names[2], 80.0, 80.2)], np.float32
    )
    mouths = rng.normal(0.3, 0.05, (int(81 * FPS), len(MOUTH))).astype(np.float32)
    assert told_apart([mouths], [times])["aa/ao"] == pytest.approx(0.5, abs=0.12), (
        "fitted and scored on the same phones"
    )
    middles = [int((a + b) / 2 * FPS) for phone, a, b in times if int(phone) == names[1]]
    mouths[middles, 1] += 0.3
    assert told_apart([mouths], [times]) == {"aa/ao": pytest.approx(1.0, abs=1e-3)}, "one f alone says nothing"
