"""Head, brows, gaze, blinks and emotions of the procedural animator."""

from __future__ import annotations

import numpy as np
import pytest

from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.upper import EMOTIONS, Mood, Prosody, animate, blink_track
from edgetalker.models.online.layout import CHANNELS, expansion, reduction

FRAMES = 9000
INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


def mood(frames: int = FRAMES, head: float = 1.0, **emotion: float) -> Mood:
    values = np.zeros((frames, 4), np.float32)
    for name, value in emotion.items():
        values[:, EMOTIONS.index(name)] = value
    return Mood(values, np.ones(frames, np.float32), np.full(frames, head, np.float32))


def prosody(frames: int = FRAMES) -> Prosody:
    speech = (np.arange(frames) // 90 % 2).astype(np.float32)
    accent = speech * (np.arange(frames) % 20 < 3)
    return Prosody(accent.astype(np.float32), speech)


def face(seed: int = 1, feeling: Mood | None = None, lips: float = 0.0) -> np.ndarray:
    mouth = np.zeros((FRAMES, 14), np.float32)
    contact = np.full(FRAMES, lips, np.float32)
    return animate(mouth, contact, prosody(), feeling or mood(), np.random.default_rng(seed))


def test_blinks_come_at_a_natural_rate_and_go_on_in_silence() -> None:
    for speech in (np.ones(FRAMES, np.float32), np.zeros(FRAMES, np.float32), prosody().speech):
        lid = blink_track(speech, np.random.default_rng(3))
        onsets = np.flatnonzero((lid[1:] >= 0.5) & (lid[:-1] < 0.5))
        assert 10 <= onsets.size / (FRAMES / 1800) <= 30
        assert np.diff(onsets).min() >= 12, "no fluttering"
        assert lid.max() == 1.0
        assert np.mean(lid > 0.1) < 0.15


def test_left_and_right_agree_but_for_gaze() -> None:
    motion = face(feeling=mood(joy=0.5, anger=0.3))
    for name in MOTION_NAMES:
        if name.endswith("Left") and f"{name[:-4]}Right" in INDEX and "LookIn" not in name and "LookOut" not in name:
            np.testing.assert_array_equal(motion[:, INDEX[name]], motion[:, INDEX[f"{name[:-4]}Right"]])
    np.testing.assert_array_equal(motion[:, INDEX["EyeLookOutLeft"]], motion[:, INDEX["EyeLookInRight"]])


def test_the_32_channels_hold_the_whole_face() -> None:
    motion = face(feeling=mood(joy=0.3, sadness=0.3, anger=0.3, surprise=0.3))
    again = motion[:, reduction()] @ expansion().numpy()
    np.testing.assert_allclose(again, motion, atol=1e-6)
    assert len({name for names in CHANNELS for name in names}) == sum(len(names) for names in CHANNELS)


@pytest.mark.parametrize(
    ("emotion", "shape"),
    [("joy", "MouthSmileLeft"), ("sadness", "MouthFrownLeft"), ("anger", "BrowDownLeft"), ("surprise", "EyeWideLeft")],
)
def test_emotions_move_their_shapes_in_proportion(emotion: str, shape: str) -> None:
    def mean(amount: float) -> float:
        return float(face(feeling=mood(FRAMES, 1.0, **{emotion: amount}))[:, INDEX[shape]].mean())

    assert mean(0.0) < 0.05
    assert mean(1.0) > 0.3
    assert mean(0.5) == pytest.approx(0.5 * (mean(0.0) + mean(1.0)), abs=0.03)


def test_no_emotion_opens_closed_lips() -> None:
    motion = face(feeling=mood(surprise=1.0, anger=1.0), lips=1.0)
    assert motion[:, INDEX["JawOpen"]].max() == 0.0
    assert motion[:, INDEX["MouthUpperUpLeft"]].max() == 0.0


def test_the_head_moves_smoothly_with_the_voice_and_by_its_style() -> None:
    spread = [face(feeling=mood(head=size))[:, -3:].std() for size in (0.2, 1.0, 1.8)]
    assert spread[0] < 0.4 * spread[1] < spread[1] < spread[2]
    angles = face()[:, -3:]
    assert np.abs(angles).max() < 0.6
    assert np.abs(np.diff(angles, axis=0)).max() < 0.06, "no jumps"
    speed = np.abs(np.diff(angles, axis=0)).mean(1)
    voice = prosody().speech[1:] > 0.5
    assert speed[voice].mean() > 1.2 * speed[~voice].mean()


def test_the_same_seed_gives_the_same_face() -> None:
    np.testing.assert_array_equal(face(seed=4), face(seed=4))
    assert np.abs(face(seed=4) - face(seed=5)).max() > 0.1
