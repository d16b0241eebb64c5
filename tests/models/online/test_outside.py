"""Eyes from outside: what a tracker tells is shown, softly taken over and given back, and brows and cheeks answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetalker.export.online.stages import DecodeStage
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.head import HISTORY
from edgetalker.models.online.layout import CHANCE, HELD, MADE, Decoder
from edgetalker.runtime.talker import Talker

INDEX = {name: index for index, name in enumerate(MOTION_NAMES)}


def a_decoder() -> Decoder:
    dice = torch.Generator().manual_seed(5)
    mean, spread, scale = (0.05 + 0.2 * torch.rand(size, generator=dice) for size in (32, 32, MADE))
    return Decoder(mean, spread, scale)


@torch.no_grad()
def test_the_stage_computes_what_the_decoder_says() -> None:
    decoder, dice = a_decoder(), torch.Generator().manual_seed(1)
    stage = DecodeStage(decoder)
    history, held, blinks, shut = decoder.rest().repeat(1, HISTORY, 1), decoder.begin(1), 0, 0
    for frame in range(600):
        clean, mouth = torch.randn(1, MADE, generator=dice), 0.3 * torch.rand(1, 14, generator=dice)
        logits = 3.0 * torch.randn(1, 3, generator=dice) + torch.tensor([[-1.0, -1.0, 2.0]])
        chance = torch.randn(1, CHANCE, generator=dice).abs()
        gaze, lids = 2.0 * torch.rand(1, 5, generator=dice) - 1.0, torch.rand(1, 3, generator=dice)
        gaze[:, 4], lids[:, 2] = float(frame // 90 % 2), float(frame // 60 % 2)
        emotion = torch.tensor([[0.6, 0.0, 0.0, 0.0]])
        base = decoder.base(mouth, logits, history[:, -1])
        wanted = decoder(clean, logits, base, history, chance, held, gaze, lids, emotion[:, :1])
        found = stage(clean, logits, mouth, history, chance, held, gaze, lids, emotion)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=3e-5, rtol=1e-5)
        blinks += bool(wanted[0][0, INDEX["EyeBlinkLeft"]] > 0.5)
        shut += bool(wanted[2][0, 0] > 0.9)
        history, held = torch.cat([history[:, 1:], wanted[1][:, None]], 1), wanted[2]
    assert held.shape == (1, HELD) and blinks > 20 and shut > 20


def played(feeds: dict[int, dict[str, list[float]]], frames: int = 60) -> np.ndarray:
    """Return the shipped talker's motion in silence; feeds: by frame, what each input is fed from then on."""
    with Talker(seed=3, schedules=["one"]) as talker:
        shown, now = [], dict[str, list[float]]()
        for frame in range(frames):
            now = {name: values for name, values in {**now, **feeds.get(frame, {})}.items() if values}
            for name, values in now.items():
                talker.feed(name, values)
            talker.pad()
            shown.append(talker.make().motion.copy())
        assert not [text for track in talker.inputs.values() for text in track.warnings() if "nobody" in text]
    return np.array(shown)


def test_gaze_and_lids_follow_the_tracker_within_a_frame() -> None:
    right, left = [0.8, 0.5, 0.6, 0.5], [-0.7, -0.4, -0.9, -0.4]
    shown = played({0: {"gaze": right, "lids": [0.75, 0.0]}, 40: {"gaze": left, "lids": [0.0, 1.0]}})
    at = {name: shown[:, INDEX[name]] for name in MOTION_NAMES}
    for frame, values in ((39, (0.8, 0.0, 0.6, 0.0)), (40, (0.0, 0.7, 0.0, 0.9))):
        names = ("EyeLookInLeft", "EyeLookOutLeft", "EyeLookOutRight", "EyeLookInRight")
        assert [at[name][frame] for name in names] == pytest.approx(values, abs=1e-5), frame
    assert at["EyeLookUpLeft"][39] == pytest.approx(0.5) and at["EyeLookDownRight"][40] == pytest.approx(0.4)
    assert [at["EyeBlinkLeft"][39], at["EyeBlinkRight"][39]] == pytest.approx([0.0, 1.0], abs=1e-5)
    assert [at["EyeBlinkLeft"][40], at["EyeBlinkRight"][40]] == pytest.approx([1.0, 0.0], abs=1e-5)
    assert at["EyeWideRight"][40] >= 1.0 - 1e-5
    without = played({})
    answers = shown - without
    assert answers[39, INDEX["BrowOuterUpLeft"]] > 0.05, "brows follow a look up"
    assert answers[40, INDEX["CheekSquintLeft"]] > 0.1 > abs(answers[40, INDEX["CheekSquintRight"]])
    assert answers[40, INDEX["BrowOuterUpRight"]] > 0.2
    moved = np.abs(answers).max(0) > 1e-4
    assert not moved[[INDEX[n] for n in ("JawOpen", "MouthClose", "HeadYaw", "MouthSmileLeft")]].any()


def test_a_tracker_that_comes_and_goes_is_taken_over_softly() -> None:
    shown = played({20: {"gaze": [0.9, 0.0, 0.9, 0.0]}, 40: {"gaze": []}})[:, INDEX["EyeLookOutRight"]]
    made = played({})[:, INDEX["EyeLookOutRight"]]
    np.testing.assert_allclose(shown[:20], made[:20], atol=1e-6)
    rising, falling = np.diff(shown[19:27]), np.diff(shown[40:60])
    assert shown[30] == pytest.approx(0.9, abs=1e-5)
    assert 0.0 < rising.max() < 0.25 and falling.min() > -0.25
    np.testing.assert_allclose(shown[57:], made[57:], atol=1e-5)


def test_the_made_eyes_go_on_unseen() -> None:
    lids = played({0: {"lids": [0.75, 0.75]}, 60: {"lids": []}}, 140)[:, INDEX["EyeBlinkLeft"]]
    made = played({}, 140)[:, INDEX["EyeBlinkLeft"]]
    assert lids[10:60].max() < 1e-5
    np.testing.assert_allclose(lids[80:], made[80:], atol=1e-5)
    assert made.max() > 0.9


def test_values_by_name_need_no_presence_and_absence_can_be_said() -> None:
    with Talker(seed=3, schedules=["one"]) as talker:
        talker.feed("gaze", {"EyeLeftX": 1.0}, time=0.0)
        talker.feed("gaze", [1.0, 0.0, 1.0, 0.0, 0.0], time=0.1)
        seen = []
        for _ in range(5):
            talker.pad()
            talker.make()
            seen.append(talker.read("gaze")[0].tolist())
    assert seen[0] == [1.0, 0.0, 0.0, 0.0, 1.0] and seen[4] == [1.0, 0.0, 1.0, 0.0, 0.0]
