"""The head: closed where it must be closed, even, and moving the right way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.face.grid import GRID
from edgetalker.face.head import head
from edgetalker.face.names import ARKIT_SHAPES, mirrored_name
from edgetalker.face.part import Part, normals_of
from edgetalker.face.sculpt import EYE_CENTRE, EYE_RADIUS
from edgetalker.face.skin import skin_at_rest

MM = 1e-3
FLIP = np.array([-1.0, 1.0, 1.0])
PARTING = {  # the shapes that may part closed lips
    "JawOpen", "MouthClose", "MouthFunnel", "MouthLowerDownLeft", "MouthLowerDownRight", "MouthUpperUpLeft",
    "MouthUpperUpRight", "NoseSneerLeft", "NoseSneerRight", "TongueOut",
}  # fmt: skip


def skin() -> Part:
    return head().part("skin")


def lip_gap(weights: dict[str, float]) -> float:
    p = skin().posed(weights)
    return float(np.linalg.norm(p[GRID.mouth.above] - p[GRID.mouth.below], axis=1).max())


def lid_gap(weights: dict[str, float], eye: int = 0) -> float:
    p = skin().posed(weights)
    return float(np.linalg.norm(p[GRID.eyes[eye].above] - p[GRID.eyes[eye].below], axis=1).max())


def test_has_a_few_thousand_finite_vertices_and_all_52_shapes() -> None:
    face = head()
    assert face.names == ARKIT_SHAPES
    assert 5_000 < sum(len(part.positions) for part in face.parts) < 30_000
    for part in face.parts:
        assert np.isfinite(part.positions).all()
        assert part.triangles.min() >= 0
        assert part.triangles.max() < len(part.positions)
        assert ((part.colours >= 0) & (part.colours <= 1)).all()


@pytest.mark.parametrize("name", ARKIT_SHAPES)
def test_each_shape_moves_something_by_millimetres(name: str) -> None:
    most = max(float(np.linalg.norm(p.deltas[name], axis=1).max()) for p in head().parts if name in p.deltas)
    assert 1 * MM < most < 60 * MM


def test_built_twice_it_is_the_same() -> None:
    first = head()
    head.cache_clear()
    skin_at_rest.cache_clear()
    for a, b in zip(first.parts, head().parts, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert all(np.array_equal(a.deltas[name], b.deltas[name]) for name in a.deltas)


def test_rest_is_its_own_mirror_image_exactly() -> None:
    p = skin().positions
    assert np.array_equal(p[skin_at_rest().mirror] * FLIP, p)


@pytest.mark.parametrize("name", ARKIT_SHAPES)
def test_left_and_right_are_exact_mirror_images(name: str) -> None:
    part, mirror = skin(), skin_at_rest().mirror
    zero = np.zeros_like(part.positions)
    mine, other = part.deltas.get(name, zero), part.deltas.get(mirrored_name(name), zero)
    assert np.array_equal(mine[mirror] * FLIP, other)


@pytest.mark.parametrize("name", [n for n in ARKIT_SHAPES if n.endswith("Left") and n not in ("JawLeft", "MouthLeft")])
def test_left_means_the_faces_own_left(name: str) -> None:
    """The face looks along +Z, so its own left is +X."""
    weight, side = 0.0, 0.0
    for part in head().parts:
        if name in part.deltas:
            moved = np.linalg.norm(part.deltas[name], axis=1)
            weight += float(moved.sum())
            side += float((moved * np.sign(part.positions[:, 0])).sum())
    assert side / weight > 0.75


@pytest.mark.parametrize("name", ["JawLeft", "MouthLeft"])
def test_jaw_and_mouth_left_shift_towards_plus_x(name: str) -> None:
    assert skin().deltas[name][:, 0].sum() > 0


def test_lips_are_shut_at_rest() -> None:
    assert lip_gap({}) == 0.0


@pytest.mark.parametrize("name", sorted(set(ARKIT_SHAPES) - PARTING))
def test_shapes_that_do_not_open_the_mouth_keep_the_lips_shut(name: str) -> None:
    assert lip_gap({name: 1.0}) < 0.001 * MM


def test_jaw_open_opens_by_centimetres() -> None:
    assert 20 * MM < lip_gap({"JawOpen": 1.0}) < 50 * MM


@given(st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_mouth_close_shuts_the_lips_over_an_equally_open_jaw(amount: float) -> None:
    assert lip_gap({"JawOpen": amount, "MouthClose": amount}) < 1e-6 * MM


def test_blinking_shuts_each_eye_and_no_other() -> None:
    assert 8 * MM < lid_gap({}, 0) < 16 * MM
    assert lid_gap({"EyeBlinkLeft": 1.0}, 0) < 0.01 * MM
    assert lid_gap({"EyeBlinkLeft": 1.0}, 1) == lid_gap({}, 1)
    assert lid_gap({"EyeBlinkRight": 1.0}, 1) < 0.01 * MM


@given(st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_lids_stay_in_front_of_the_eyeball_on_their_way(amount: float) -> None:
    p = skin().posed({"EyeBlinkLeft": amount})[np.concatenate([GRID.eyes[0].above, GRID.eyes[0].below])]
    away = np.linalg.norm(p * 100 - EYE_CENTRE, axis=1)
    assert away.min() > EYE_RADIUS


def test_the_skin_is_closed_but_for_the_end_of_the_neck() -> None:
    triangles = skin().triangles
    edges = np.sort(np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() == 2
    border = np.unique(unique[count == 1])
    throat = skin_at_rest().depth == 1.0  # the innermost rings of lids and mouth end in the dark
    low = skin().positions[:, 1] < -0.16
    assert (throat | low)[border].all()


def test_the_outside_faces_outwards() -> None:
    part = skin()
    n = normals_of(part.positions, part.triangles)[: skin_at_rest().grid]
    p = part.positions[: skin_at_rest().grid]
    forehead = (p[:, 2] > 0.06) & (p[:, 1] > 0.03)
    back = p[:, 2] < -0.07
    assert (n[forehead, 2] > 0).all()
    assert (n[back, 2] < 0).all()


def corner_rise(weights: dict[str, float]) -> float:
    corner = GRID.mouth.above[-1]
    return float(skin().posed(weights)[corner, 1] - skin().positions[corner, 1])


def test_smile_lifts_and_frown_lowers_the_corner() -> None:
    assert corner_rise({"MouthSmileLeft": 1.0}) > 4 * MM
    assert corner_rise({"MouthFrownLeft": 1.0}) < -4 * MM


def brow_rise(name: str, inner: bool) -> float:
    part = head().part("brows")
    left = part.positions[:, 0] > 0
    x = part.positions[left, 0]
    chosen = x < np.quantile(x, 0.3) if inner else x > np.quantile(x, 0.6)
    return float(part.deltas[name][left][chosen, 1].mean())


def test_brows_move_as_named() -> None:
    assert brow_rise("BrowInnerUp", inner=True) > 4 * MM
    assert brow_rise("BrowOuterUpLeft", inner=False) > 3 * MM
    assert brow_rise("BrowDownLeft", inner=True) < -2 * MM


GAZES = [("EyeLookInLeft", 0, -1), ("EyeLookOutLeft", 0, 1), ("EyeLookUpLeft", 1, 1), ("EyeLookDownLeft", 1, -1)]


@pytest.mark.parametrize(("name", "axis", "sign"), GAZES)
def test_gaze_turns_the_pupil_as_named(name: str, axis: int, sign: int) -> None:
    """In is towards the nose: for the left eye towards -X."""
    part = head().part("eyes")
    half = len(part.positions) // 2
    pupil = int(np.argmax(part.positions[:half, 2]))
    moved: NDArray[np.float64] = part.deltas[name]
    assert sign * moved[pupil, axis] > 3 * MM
    assert not moved[half:].any()


def test_lower_teeth_and_tongue_follow_the_jaw_and_upper_teeth_stay() -> None:
    part = head().part("mouth")
    moved = np.linalg.norm(part.deltas["JawOpen"], axis=1) > 5 * MM
    assert moved.any()
    assert not moved.all()
    assert part.deltas["TongueOut"][:, 2].max() > 20 * MM


def test_unknown_part_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        head().part("hat")
