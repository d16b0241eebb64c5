"""Animated glTF: read back with a reader of our own, and checked by Khronos's validator where it is at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.face.glb import write_glb
from edgetalker.face.head import head
from edgetalker.face.names import ARKIT_SHAPES, MOTION_NAMES, SHAPE_INDEX
from edgetalker.face.turn import quaternions, rotation_matrix
from edgetalker.face.vertexmotion import components_of, write_vertex_glb
from tests.face.glb_reader import Glb


def some_motion(frames: int = 30, seed: int = 0) -> NDArray[np.float32]:
    motion = np.random.default_rng(seed).uniform(0, 1, (frames, 55)).astype(np.float32)
    motion[:, 52:] -= 0.5
    return motion


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    path, motion = tmp_path_factory.mktemp("glb") / "face.glb", some_motion()
    write_glb(path, motion, Fraction(30000, 1001), MOTION_NAMES)
    return path, motion


def test_targets_carry_the_arkit_names_on_every_primitive(written: tuple[Path, NDArray[np.float32]]) -> None:
    mesh = Glb(written[0]).json["meshes"][0]
    assert mesh["extras"]["targetNames"] == list(ARKIT_SHAPES)
    assert {len(primitive["targets"]) for primitive in mesh["primitives"]} == {52}
    assert len(mesh["weights"]) == 52


def test_positions_and_targets_read_back_as_built(written: tuple[Path, NDArray[np.float32]]) -> None:
    glb, face = Glb(written[0]), head()
    moving = [part for part in face.parts if part.moves and part.deltas]
    for part, primitive in zip(moving, glb.json["meshes"][0]["primitives"], strict=True):
        positions = glb.read(primitive["attributes"]["POSITION"])
        assert np.allclose(positions, part.positions - face.pivot, atol=1e-7)
        assert np.array_equal(glb.read(primitive["indices"]).reshape(-1, 3), part.triangles)
        for name, target in zip(ARKIT_SHAPES, primitive["targets"], strict=True):
            wanted = part.deltas.get(name, np.zeros_like(part.positions))
            assert np.allclose(glb.read(target["POSITION"]), wanted, atol=3e-6)


def test_normals_have_length_one(written: tuple[Path, NDArray[np.float32]]) -> None:
    glb = Glb(written[0])
    for mesh in glb.json["meshes"]:
        for primitive in mesh["primitives"]:
            normals = glb.read(primitive["attributes"]["NORMAL"])
            assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_animation_gives_weights_turns_and_exact_times_back(written: tuple[Path, NDArray[np.float32]]) -> None:
    glb, motion = Glb(written[0]), written[1]
    animation = glb.json["animations"][0]
    by_path = {c["target"]["path"]: animation["samplers"][c["sampler"]] for c in animation["channels"]}
    times = glb.read(by_path["weights"]["input"]).ravel()
    assert np.allclose(times, np.arange(30) * 1001 / 30000, rtol=1e-6)
    assert np.array_equal(glb.read(by_path["weights"]["output"]).reshape(30, 52), motion[:, :52])
    assert np.array_equal(glb.read(by_path["rotation"]["output"]), quaternions(motion[:, 52:]))


def test_columns_are_matched_by_name_not_by_place(tmp_path: Path) -> None:
    motion = np.array([[0.25, 0.75, 0.1]], np.float32)
    write_glb(tmp_path / "a.glb", motion, 25, ("MouthPucker", "JawOpen", "HeadPitch"))
    glb = Glb(tmp_path / "a.glb")
    sampler = glb.json["animations"][0]["samplers"][0]
    weights = glb.read(sampler["output"]).ravel()
    assert weights[SHAPE_INDEX["JawOpen"]] == 0.75
    assert weights[SHAPE_INDEX["MouthPucker"]] == 0.25
    assert np.count_nonzero(weights) == 2


@pytest.mark.parametrize(
    ("motion", "names", "said"),
    [
        (np.zeros((0, 55)), MOTION_NAMES, "at least one frame"),
        (np.zeros((3, 54)), MOTION_NAMES, "(3, 54)"),
        (np.full((1, 55), np.nan), MOTION_NAMES, "not finite"),
        (np.zeros((1, 2)), ("jawOpen", "other"), "52 ARKit shapes"),
    ],
)
def test_motion_that_does_not_fit_is_refused_and_no_file_is_left(
    motion: NDArray[np.float64], names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(").replace(")", r"\)")):
        write_glb(tmp_path / "a.glb", motion, 25, names)
    assert list(tmp_path.iterdir()) == []


def test_quaternion_and_matrix_turn_alike() -> None:
    angles = np.array([[0.3, -0.2, 0.5], [1.0, 0.4, -0.7]])
    for (x, y, z, w), (yaw, pitch, roll) in zip(quaternions(angles).astype(float), angles, strict=True):
        turned = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        assert np.allclose(turned, rotation_matrix(yaw, pitch, roll), atol=1e-6)


def a_mesh() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    part = head().part("brows")
    return part.positions * 1000, part.triangles  # in millimetres, as many data sets are


def talking(frames: int, modes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rest, triangles = a_mesh()
    rng = np.random.default_rng(1)
    shapes = rng.normal(0, 1, (modes, *rest.shape))
    return rest + np.einsum("tk,kvx->tvx", rng.normal(0, 1, (frames, modes)), shapes), triangles


def test_few_components_carry_a_motion_of_few_freedoms_exactly() -> None:
    motion, _ = talking(80, 5)
    parts = components_of(motion, tolerance=1e-6)
    assert len(parts.targets) == 5
    again = parts.mean + np.einsum("tk,kvx->tvx", parts.weights, parts.targets)
    assert np.allclose(again, motion, atol=1e-6)
    assert np.abs(parts.weights).max() <= 1 + 1e-9


def test_the_error_that_is_told_is_the_error_there_is() -> None:
    motion, _ = talking(60, 20)
    parts = components_of(motion, tolerance=0.0, most=7)
    again = parts.mean + np.einsum("tk,kvx->tvx", parts.weights, parts.targets)
    assert len(parts.targets) == 7
    assert parts.error == pytest.approx(np.linalg.norm(again - motion, axis=2).max())
    assert parts.error > 0.1


def test_mesh_motion_reads_back_in_metres(tmp_path: Path) -> None:
    motion, triangles = talking(25, 3)
    parts = write_vertex_glb(tmp_path / "m.glb", motion, triangles, 25, metres=0.001, tolerance=1e-3)
    glb = Glb(tmp_path / "m.glb")
    primitive = glb.json["meshes"][0]["primitives"][0]
    weights = glb.read(glb.json["animations"][0]["samplers"][0]["output"]).reshape(25, -1)
    targets = np.stack([glb.read(target["POSITION"]) for target in primitive["targets"]])
    again = glb.read(primitive["attributes"]["POSITION"]) + np.einsum("tk,kvx->tvx", weights, targets)
    assert np.allclose(again * 1000, motion, atol=parts.error + 1e-3)


def test_a_mesh_that_stands_still_has_no_targets(tmp_path: Path) -> None:
    rest, triangles = a_mesh()
    parts = write_vertex_glb(tmp_path / "m.glb", np.stack([rest] * 4), triangles, 25)
    assert len(parts.targets) == 0
    assert parts.error < 1e-9
    assert "animations" not in Glb(tmp_path / "m.glb").json


@pytest.mark.parametrize(
    ("motion", "triangles"),
    [
        (np.zeros((2, 4)), np.array([[0, 1, 2]])),
        (np.zeros((2, 3, 3)), np.array([[0, 1, 3]])),
        (np.zeros((2, 3, 3)), np.array([[0.0, 1.0, 2.0]])),
        (np.full((2, 3, 3), np.inf), np.array([[0, 1, 2]])),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    motion: NDArray[np.float64], triangles: NDArray[np.int64], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        write_vertex_glb(tmp_path / "m.glb", motion, triangles, 25)


def validator_script() -> list[str]:
    """Return the command that validates a file, or skip with the reason."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: glTF files are not validated")
    found = subprocess.run(
        [node, "-e", "require.resolve('gltf-validator')"], capture_output=True, check=False, env=os.environ
    )
    if found.returncode != 0:
        pytest.skip("the npm package gltf-validator is not on NODE_PATH: glTF files are not validated")
    return [
        node,
        "-e",
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
        ".then(r => console.log(JSON.stringify(r.issues)))",
    ]


@pytest.mark.parametrize("kind", ["face", "mesh"])
def test_khronos_validator_finds_nothing(kind: str, tmp_path: Path) -> None:
    command = validator_script()
    path = tmp_path / "x.glb"
    if kind == "face":
        write_glb(path, some_motion(5), 25, MOTION_NAMES)
    else:
        motion, triangles = talking(10, 3)
        write_vertex_glb(path, motion, triangles, 25)
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
