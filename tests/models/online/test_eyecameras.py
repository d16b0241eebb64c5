"""Eyes from eye cameras: pictures of our own head, the encoder, and the stages that a bundle gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError
from edgetalker.export.online.eyecameras import PICTURES, add_eye_cameras, play, report
from edgetalker.face.eyecamera import SIZE, EyeViews, Light, Mounted
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.eyecameras import (
    FEATURES,
    VALUES,
    Encoder,
    Follow,
    Session,
    fit_follow,
    shapes_of,
    train_encoder,
)
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.talker import Talker

pytest.importorskip("onnxscript")

TOLD = [place for place, name in enumerate(MOTION_NAMES) if name in [shape for pair in VALUES for shape in pair]]
CAMERA, LIGHT = Mounted(np.zeros(3), np.zeros(3)), Light(np.array([[0.4, 0.3, 1.0]]), np.array([0.8]))


@pytest.fixture(scope="module")
def views() -> EyeViews:
    return EyeViews()


@pytest.fixture(scope="module")
def bundle(views: EyeViews, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped talker with cameras: a tiny encoder, hardly trained, and layers that follow it."""
    sessions = [Session.render(views, seed, 8, moving=False) for seed in range(3)]
    encoder = train_encoder(sessions, 5, width=2)
    source = Bundle.open(find_bundle(None))
    return add_eye_cameras(source, encoder, fit_follow(encoder, sessions), tmp_path_factory.mktemp("eyes") / "talker")


def test_the_pictures_show_what_the_face_does(views: EyeViews) -> None:
    """Each value changes its own eye's picture; light and fit do, too; the right eye is the left one in a mirror."""

    def seen(**shapes: float) -> np.ndarray:
        return views.both(shapes, (CAMERA, CAMERA), Light(np.array([[0.0, 0.3, 1.0]]), np.array([0.8]))).astype(float)

    rest = seen()
    assert rest.shape == (2, SIZE, SIZE) and rest.std() > 20
    np.testing.assert_allclose(rest[0], rest[1][:, ::-1], atol=2)
    for pair in VALUES:
        for name in filter(None, pair):
            change = np.abs(seen(**{name: 1.0}) - rest).mean((1, 2))
            own, other = (change[0], change[1]) if name.endswith("Left") else (change[1], change[0])
            assert own > 0.5, name
            assert other < 0.2 * own or name == "BrowInnerUp", name
    left = views.left({}, CAMERA, LIGHT).astype(float)
    for other_camera, light in (
        (CAMERA, Light(np.array([[-1.0, 0.3, 0.3]]), np.array([0.8]))),
        (Mounted(np.array([0.003, 0.0, 0.0]), np.zeros(3)), LIGHT),
    ):
        assert np.abs(views.left({}, other_camera, light) - left).mean() > 2.0


def test_layers_that_start_at_zero_leave_the_face_and_learn_to_take_it_back() -> None:
    dice = torch.Generator().manual_seed(1)
    made = torch.rand(4, len(MOTION_NAMES), generator=dice)
    for pair in VALUES:  # an eye looks one way
        made[:, [MOTION_NAMES.index(name) for name in pair[1:] if name]] = 0.0
    features, held = torch.randn(4, FEATURES, generator=dice), torch.zeros(4, 1 + len(VALUES))
    held[:, 0] = 1.0
    motion, _ = Follow()(made, features, torch.ones(4, 1), held)
    torch.testing.assert_close(motion, made)
    follow = Follow()
    with torch.no_grad():
        follow.layer.weight[:, FEATURES:] = -torch.eye(len(VALUES))
        follow.layer.bias[0] = 0.5
    motion, _ = follow(made, features, torch.ones(4, 1), held)
    wanted = shapes_of(np.eye(len(VALUES), dtype=np.float32)[0] * 0.5)
    np.testing.assert_allclose(motion[:, TOLD].detach().numpy(), np.tile(wanted[TOLD], (4, 1)), atol=1e-6)


def motions(bundle: Bundle | Path | None, feeds: dict[int, Any], frames: int = 60) -> np.ndarray:
    """feeds: pictures by the frame from which they come on, None: none come."""
    shown, now = [], None
    with Talker(bundle, seed=3, schedules=["one"]) as talker:
        for frame in range(frames):
            now = feeds.get(frame, now)
            if now is not None:
                talker.feed(PICTURES, now)
            talker.pad()
            shown.append(talker.make().motion.copy())
    return np.array(shown)


def test_nobody_before_the_cameras_is_the_talker_as_it_was_bit_for_bit(bundle: Bundle) -> None:
    before = motions(None, {})
    assert before[:, TOLD].any()
    assert motions(bundle, {}).tobytes() == before.tobytes()
    assert motions(bundle, {5: np.zeros((2, SIZE, SIZE))}).tobytes() == before.tobytes(), "black is nobody"


def test_cameras_that_come_and_go_are_taken_over_softly(bundle: Bundle, views: EyeViews) -> None:
    pictures = views.both({"EyeBlinkLeft": 1.0}, (CAMERA, CAMERA), LIGHT) / 255.0
    before, shown = motions(None, {}), motions(bundle, {20: pictures, 40: np.zeros_like(pictures)})
    other = [place for place in range(len(MOTION_NAMES)) if place not in TOLD]
    assert shown[:, other].tobytes() == before[:, other].tobytes(), "mouth and head are not the cameras'"
    np.testing.assert_array_equal(shown[:20], before[:20])
    np.testing.assert_array_equal(shown[46:], before[46:])
    change = np.abs(shown - before).max(1)
    assert change[30] > 0.1 and change[20] == pytest.approx(change[30] / 6, rel=0.6)
    steps = np.abs(np.diff(shown - before, axis=0)).max(1)
    assert steps[19:46].max() < 0.5 * change.max()


def test_a_second_pair_of_cameras_and_other_bundles_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`{PICTURES}` already"):
        add_eye_cameras(bundle, Encoder(2), Follow(), tmp_path / "again")


@pytest.mark.slow
def test_what_is_shown_is_nearer_to_what_was_rendered_than_the_mean(views: EyeViews, tmp_path: Path) -> None:
    """An encoder of 40 wearings and 300 steps, on a wearing that it never saw, through the runtime."""
    torch.set_num_threads(1)
    sessions = [Session.render(views, seed, 10, moving=False) for seed in range(40)]
    encoder = train_encoder(sessions, 300)
    made = add_eye_cameras(Bundle.open(find_bundle(None)), encoder, fit_follow(encoder, sessions), tmp_path / "talker")
    held_out = [Session.render(views, 1_000_003, 90, moving=True)]
    shown, blind = ([play(made, s, blind=alone) for s in held_out] for alone in (False, True))
    errors = report(held_out, shown, blind)
    assert errors["cameras"]["gaze"] < 0.6 * errors["mean"]["gaze"]
    assert errors["cameras"]["EyeBlink"] < 0.7 * errors["mean"]["EyeBlink"]


def test_what_cannot_be_written_is_said_before_the_training(
    toy: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "render", None)
    command = ["export", "eye-cameras", "-o", str(tmp_path / "out"), "--report"]
    assert main([*command, str(tmp_path / "nowhere" / "r.json")]) == 74
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main([*command, str(tmp_path / "r.json")]) == 65
    assert "exists" in capsys.readouterr().err
    assert main(["export", "eye-cameras", "-o", str(tmp_path / "new"), "--bundle", str(toy.path)]) == 65
    assert f"{toy.path} cannot be given eye cameras: its motion is not this project's" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_command_writes_bundle_report_and_picture(tmp_path: Path) -> None:
    out, report, picture = tmp_path / "out", tmp_path / "r.json", tmp_path / "seen.png"
    command = ["export", "eye-cameras", "-o", str(out), "--sessions", "4", "--steps", "3"]
    assert main([*command, "--report", str(report), "--picture", str(picture)]) == 0
    assert PICTURES in Bundle.open(out).manifest.tensors
    assert set(json.loads(report.read_text())) == {"cameras", "mean", "talker alone"}
    assert picture.read_bytes().startswith(b"\x89PNG")
