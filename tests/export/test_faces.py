"""FLAME's numbers to vertices and vertices to ARKit's shapes: files of the user's own, and what the stages compute."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.export.faces.arkit import ArkitStage, Fit, fit_of
from edgetalker.export.faces.attach import FaceOptions, attach
from edgetalker.export.faces.flame import Flame, FlameStage, read_flame
from edgetalker.export.faces.pickled import PickleError, array_of
from edgetalker.export.faces.shapes import Shapes, read_shapes, shape_named
from edgetalker.export.streamingtalker import ExportOptions, export_model
from edgetalker.face.head import head
from edgetalker.face.turn import rotation_matrix
from edgetalker.models.streamingtalker import load_checkpoint
from edgetalker.models.weights.pickled import describe
from edgetalker.outputs import sink_for
from edgetalker.runtime.loop import Loop
from edgetalker.runtime.sinks.names import ARKIT_SHAPES
from edgetalker.runtime.talker import Talker
from tests.models.streamingtalker.conftest import TINY, TINY_UNTOLD
from tests.support.artalk import TOY_BUNDLE
from tests.support.talk import Pieces

Array = NDArray[Any]
VERTICES, EXPRESSIONS = 40, 100
ST_OPTIONS = ExportOptions(untold=TINY_UNTOLD, features_input=True, history=6, decode_window=5)


def flame_arrays(seed: int = 1) -> dict[str, Array]:
    """Return random arrays of FLAME's layout."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(5), VERTICES)
    regressor = random.dirichlet(np.ones(VERTICES), 5) * (random.random((5, VERTICES)) > 0.5)
    return {
        "v_template": random.normal(0, 0.1, (VERTICES, 3)),
        "shapedirs": random.normal(0, 0.003, (VERTICES, 3, 400)),
        "posedirs": random.normal(0, 0.003, (VERTICES, 3, 36)),
        "J_regressor": regressor,
        "weights": weights,
        "f": random.integers(0, VERTICES, (70, 3)).astype(np.uint32),
        "kintree_table": np.array([[0xFFFFFFFF, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


class Ch:
    """Stands for chumpy's arrays, which FLAME 2020 is full of."""

    def __init__(self, x: Array) -> None:
        self.x, self._dirty = x, True


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Array], Ch]:
    module: Any = types.ModuleType("chumpy.ch")
    module.Ch = Ch
    monkeypatch.setattr(Ch, "__module__", "chumpy.ch")
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    return Ch


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_flame_pickle_is_read_without_running_it(
    tmp_path: Path, chumpy: Callable[[Array], Ch], protocol: int
) -> None:
    arrays = flame_arrays()
    content: dict[str, Any] = {
        **arrays,
        "bs_type": "lrotmin",
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
    }
    content["shapedirs"] = chumpy(np.asfortranarray(arrays["shapedirs"]))
    (tmp_path / "flame.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    save(tmp_path / "flame.npz", arrays)
    ours, plain = (read_flame(tmp_path / name, EXPRESSIONS) for name in ("flame.pkl", "flame.npz"))
    for key in ("template", "expression", "pose", "joints", "weights", "triangles"):
        np.testing.assert_array_equal(getattr(ours, key), getattr(plain, key), err_msg=key)
    np.testing.assert_array_equal(ours.expression, arrays["shapedirs"][:, :, 300:])


def test_an_array_that_python_2_wrote() -> None:
    values = np.arange(6, dtype="<f8").reshape(2, 3)
    raw = values.tobytes()
    text = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tb."
    )
    np.testing.assert_array_equal(array_of(describe(text)), values)
    np.testing.assert_array_equal(pickle.loads(text, encoding="latin1"), values)  # what we wrote is what Python reads


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_code_in_a_flame_file_does_not_run(tmp_path: Path) -> None:
    for key in ("v_template", "harmless"):
        content = {**flame_arrays(), key: Payload(tmp_path / "ran")}
        (tmp_path / "flame.pkl").write_bytes(pickle.dumps(content))
        if key == "harmless":
            read_flame(tmp_path / "flame.pkl", EXPRESSIONS)  # what is not needed is passed over
        else:
            with pytest.raises(InputError, match=r"v_template`: holds a .*mkdir"):
                read_flame(tmp_path / "flame.pkl", EXPRESSIONS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02.", b"\x80\x02}q\x00(U\x01xK\x01u", b"\x80\x02R."])
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "flame.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"flame\.pkl"):
        read_flame(tmp_path / "flame.pkl", EXPRESSIONS)


@pytest.mark.parametrize("cut", range(0, 2400, 97))
def test_a_pickle_cut_anywhere_is_an_error(cut: int) -> None:
    data = pickle.dumps({"a": np.zeros(7), "b": scipy.sparse.csr_matrix(np.eye(3)), "c": [1, (2, 3), "x", None, True]})
    if cut < len(data) - 1:
        with pytest.raises(ValueError):
            describe(data[:cut])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["text"]), "numbers were wanted"),
        (np.array([None]), "content is no bytes"),
        ("text", "a value of type str"),
        (types.SimpleNamespace(x=1), "SimpleNamespace"),
    ],
)
def test_what_is_no_array(value: Any, message: str) -> None:
    with pytest.raises(PickleError, match=message):
        array_of(describe(pickle.dumps(value)))


def test_every_array_that_does_not_fit_is_named(tmp_path: Path) -> None:
    arrays = flame_arrays()
    arrays["shapedirs"], arrays["weights"] = arrays["shapedirs"][:, :, :350], arrays["weights"][:, :4]
    arrays["f"] = arrays["f"] + np.uint32(VERTICES)
    save(tmp_path / "flame.npz", arrays)
    with pytest.raises(InputError) as caught:
        read_flame(tmp_path / "flame.npz", EXPRESSIONS)
    assert str(caught.value).count("\n  - ") == 3
    np.savez(tmp_path / "flame.npz", v_template=arrays["v_template"])
    with pytest.raises(InputError) as caught:
        read_flame(tmp_path / "flame.npz", EXPRESSIONS)
    assert str(caught.value).count("is missing") == 5


def posed(flame: Flame, expression: Array, head_turn: Array, jaw_turn: Array) -> Array:
    """Return FLAME's vertices as its paper tells them: 4x4 transforms down the tree of joints, joint by joint."""
    turns = [np.eye(3), Rotation.from_rotvec(head_turn).as_matrix(), Rotation.from_rotvec(jaw_turn).as_matrix()]
    turns += [np.eye(3), np.eye(3)]
    shaped = flame.template + flame.expression @ expression
    joints = flame.joints @ shaped
    corrective = flame.pose @ np.concatenate([(turn - np.eye(3)).reshape(-1) for turn in turns[1:]])
    world: list[Array] = []
    for joint, parent in enumerate((-1, 0, 1, 1, 1)):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if joint else 0)
        world.append(world[parent] @ local if joint else local)
    result = np.zeros_like(shaped)
    for joint, transform in enumerate(world):
        back = np.eye(4)
        back[:3, 3] = -joints[joint]
        points = np.concatenate([shaped + corrective, np.ones((len(shaped), 1))], axis=1)
        result += flame.weights[:, joint, None] * (points @ (transform @ back).T)[:, :3]
    return result


def random_flame(tmp_path: Path) -> Flame:
    save(tmp_path / "flame.npz", flame_arrays())
    return read_flame(tmp_path / "flame.npz", EXPRESSIONS)


def test_vertices_are_flames(tmp_path: Path) -> None:
    flame, random = random_flame(tmp_path), np.random.default_rng(5)
    stage = FlameStage(flame, apart=False)
    for scale in (0.0, 0.3, 1.0):
        motion = random.normal(0, 1, EXPRESSIONS + 6) * np.r_[np.ones(EXPRESSIONS), np.full(6, scale)]
        found = stage(torch.from_numpy(motion[None].astype(np.float32)))[0][0].numpy()
        wanted = posed(flame, motion[:-6], motion[-6:-3], motion[-3:])
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_the_heads_rotation_comes_out_as_angles(tmp_path: Path) -> None:
    flame = random_flame(tmp_path)
    angles = np.array([0.4, -0.2, 0.3])
    motion = np.zeros((1, EXPRESSIONS + 6), np.float32)
    motion[0, EXPRESSIONS : EXPRESSIONS + 3] = Rotation.from_matrix(rotation_matrix(*angles)).as_rotvec()
    motion[0, -3] = 0.1
    still, found = FlameStage(flame, apart=True)(torch.from_numpy(motion))
    np.testing.assert_allclose(found[0], angles, atol=1e-5)
    wanted = posed(flame, np.zeros(EXPRESSIONS), np.zeros(3), motion[0, -3:])
    np.testing.assert_allclose(still[0], wanted, atol=2e-6)


def test_an_identity_has_a_shape(tmp_path: Path) -> None:
    arrays = flame_arrays()
    save(tmp_path / "flame.npz", arrays)
    shape = np.array([0.5, -1.0])
    flame = read_flame(tmp_path / "flame.npz", EXPRESSIONS, shape)
    np.testing.assert_allclose(flame.template, arrays["v_template"] + arrays["shapedirs"][:, :, :2] @ shape)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("jawOpen", "JawOpen"),
        ("JAWOPEN", "JawOpen"),
        ("eyeBlink_L", "EyeBlinkLeft"),
        ("eyeBlink_R.001", "EyeBlinkRight"),
        ("mouth smile left", "MouthSmileLeft"),
        ("MouthLeft_geo", "MouthLeft"),
        ("mouthLowerDownLeft", "MouthLowerDownLeft"),
        ("browInnerUp-v2", "BrowInnerUp"),
        ("cube", None),
    ],
)
def test_names_in_any_dress(text: str, name: str | None) -> None:
    assert shape_named(text) == name


def our_head() -> Shapes:
    """Return the head that the project makes by code, all parts as one mesh."""
    parts = head().parts
    neutral = np.concatenate([part.positions for part in parts])
    still = [np.zeros_like(part.positions) for part in parts]
    deltas = {
        name: np.concatenate([part.deltas.get(name, zero) for part, zero in zip(parts, still, strict=True)])
        for name in ARKIT_SHAPES
    }
    return Shapes(neutral, deltas, ())


@pytest.fixture(scope="module")
def talking() -> tuple[Fit, Array, Array]:
    """Return the problem of our own head, weights (T, 52) of a lively face, and the faces (T, 3 V) that they make.

    Jaw and mouth go to one side at a time: their two sides are opposites, and only the difference can be seen.
    """
    shapes, random = our_head(), np.random.default_rng(7)
    window = np.hanning(11) / np.hanning(11).sum()
    noise = np.abs(random.normal(0, 1.2, (60 + 10, 52)))
    weights = np.stack([np.convolve(column, window, "valid") for column in noise.T], axis=1)
    weights = np.clip(1.5 * (weights - 0.8), 0, 1)
    for part in ("Jaw", "Mouth"):
        left, right = ARKIT_SHAPES.index(f"{part}Left"), ARKIT_SHAPES.index(f"{part}Right")
        side = weights[:, left] - weights[:, right]
        weights[:, left], weights[:, right] = np.clip(side, 0, 1), np.clip(-side, 0, 1)
    fit = fit_of(shapes, shapes.neutral, len(shapes.neutral), 1e-4)
    assert fit.names == ARKIT_SHAPES
    return fit, weights, fit.rest + weights @ fit.deltas


def fitted(fit: Fit, faces: Array, steps: int = 20) -> Array:
    stage, before, found = ArkitStage(fit, steps), torch.zeros(1, 2, len(fit.names)), []
    for face in faces:
        weights, before = stage(torch.from_numpy(face.reshape(1, -1, 3).astype(np.float32)), before)
        found.append(weights[0].numpy())
    return np.stack(found)


def jitter(weights: Array) -> float:
    return float(np.sqrt(np.square(np.diff(weights, 2, axis=0)).mean()))


def test_weights_that_made_a_face_come_back(talking: tuple[Fit, Array, Array]) -> None:
    fit, weights, faces = talking
    found = fitted(fit, faces)
    assert np.abs(found - weights)[1:].max() < 0.03  # the first frame begins from nothing
    assert np.abs(fitted(fit, faces[:1], steps=400) - weights[:1]).max() < 0.03
    assert jitter(found) < 1.02 * jitter(weights)
    assert found.min() >= 0 and found.max() <= 1


def test_noise_on_the_vertices_does_not_become_jitter(talking: tuple[Fit, Array, Array]) -> None:
    fit, weights, _ = talking
    noise = np.random.default_rng(8).normal(0, 1e-4, (40, len(fit.rest)))  # a tenth of a millimetre, every vertex alone
    found = fitted(fit, fit.rest + weights[:1] @ fit.deltas + noise)[10:]
    assert jitter(found @ fit.deltas) < 0.1 * jitter(noise)
    assert jitter(found) < 0.03


@pytest.mark.slow
def test_a_warm_start_is_what_makes_few_steps_enough(talking: tuple[Fit, Array, Array]) -> None:
    fit, weights, faces = talking
    warm = fitted(fit, faces, steps=10) - weights
    cold = np.concatenate([fitted(fit, face[None], steps=10) for face in faces]) - weights
    assert np.abs(cold[10:]).mean() > 2 * np.abs(warm[10:]).mean()


@pytest.mark.slow
def test_what_the_shapes_cannot_tell_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    neutral = random.normal(0, 1, (50, 3))
    deltas = {name: random.normal(0, 0.1, (50, 3)) for name in ARKIT_SHAPES[:6]}
    deltas[ARKIT_SHAPES[3]] = 2 * deltas[ARKIT_SHAPES[2]]
    deltas[ARKIT_SHAPES[5]] = np.zeros((50, 3))
    save(
        tmp_path / "shapes.npz",
        {"neutral": neutral, "cube": neutral, **{name: neutral + delta for name, delta in deltas.items()}},
    )
    face = attach(
        FaceOptions(arkit=tmp_path / "shapes.npz"), vertices=50, rest=neutral, basis=random.normal(size=(150, 9))
    )
    text = "\n".join(face.said)
    assert f"{ARKIT_SHAPES[2]} cannot be told from a blend of others, nearest {ARKIT_SHAPES[3]}" in text
    assert f"move nothing, held at 0: {ARKIT_SHAPES[5]}" in text
    assert f"missing, held at 0: {ARKIT_SHAPES[6]}" in text
    assert "no shape has the name of: cube" in text
    assert "condition number" in text and "% of the model's motion" in text
    assert all(check.passed for check in face.checks)


def test_the_residual_is_the_share_that_no_blend_makes() -> None:
    one, two = np.eye(6)[:2]
    shapes = Shapes(np.zeros((2, 3)), {"JawOpen": one.reshape(2, 3)}, ())
    fit = fit_of(shapes, None, 2, 1e-4)
    assert fit.residual(one[:, None]) == pytest.approx(0, abs=1e-12)
    assert fit.residual(np.stack([one, two], axis=1)) == pytest.approx(0.5)


def test_shapes_in_millimetres_are_brought_to_size() -> None:
    random = np.random.default_rng(10)
    rest, delta = random.normal(0, 0.1, (30, 3)), random.normal(0, 0.01, (30, 3))
    fit = fit_of(Shapes(1000 * rest, {"JawOpen": 1000 * delta}, ()), rest, 30, 1e-4)
    assert fit.scale == pytest.approx(1e-3)
    np.testing.assert_allclose(fit.deltas[0].reshape(30, 3), delta, rtol=1e-6)


def write_obj(path: Path, vertices: Array) -> None:
    lines = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in vertices] + ["f 1 2 3", "f 1/1 2/2 3/3 4/4"]
    path.write_text("\n".join(lines))


def test_a_folder_a_glb_and_an_npz_hold_the_same_shapes(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    neutral = random.normal(0, 1, (12, 3)).astype(np.float32)
    meshes = {name: neutral + random.normal(0, 1, (12, 3)).astype(np.float32) for name in ("jawOpen", "eyeBlink_L")}
    (tmp_path / "objs").mkdir()
    write_obj(tmp_path / "objs" / "Neutral.obj", neutral)
    for name, mesh in meshes.items():
        write_obj(tmp_path / "objs" / f"{name}.OBJ", mesh)
    save(tmp_path / "shapes.npz", {"neutral": neutral, **meshes})
    write_glb(tmp_path / "shapes.glb", neutral, {name: mesh - neutral for name, mesh in meshes.items()})
    for path in ("objs", "shapes.npz", "shapes.glb"):
        shapes = read_shapes(tmp_path / path)
        assert sorted(shapes.deltas) == ["EyeBlinkLeft", "JawOpen"], path
        np.testing.assert_allclose(shapes.neutral, neutral, atol=1e-6)
        np.testing.assert_allclose(shapes.deltas["JawOpen"], meshes["jawOpen"] - neutral, atol=1e-5)


def write_glb(path: Path, neutral: Array, targets: dict[str, Array]) -> None:
    """Write a small glTF; the last target is sparse."""
    import json

    blobs = [neutral.astype("<f4").tobytes(), *(values.astype("<f4").tobytes() for values in targets.values())]
    accessors: list[dict[str, Any]] = [
        {"bufferView": place, "componentType": 5126, "count": len(neutral), "type": "VEC3"}
        for place in range(len(blobs))
    ]
    blobs.append(np.arange(len(neutral), dtype="<u2").tobytes())
    accessors[-1] = {
        "componentType": 5126, "count": len(neutral), "type": "VEC3", "sparse": {
            "count": len(neutral), "indices": {"bufferView": len(blobs) - 1, "componentType": 5123},
            "values": {"bufferView": len(blobs) - 2},
        },
    }  # fmt: skip
    starts = np.cumsum([0, *(len(blob) for blob in blobs)])
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": int(starts[-1])}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": int(start), "byteLength": len(blob)}
            for start, blob in zip(starts, blobs, strict=False)
        ],
        "accessors": accessors,
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0}, "targets": [{"POSITION": 1 + n} for n in range(len(targets))]}
                ],
                "extras": {"targetNames": list(targets)},
            }
        ],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(blobs)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"jawOpen.obj": "v 0 0 0"}, "no neutral mesh"),
        ({"neutral.obj": "v 0 0 0"}, "no mesh has the name"),
        ({"neutral.obj": "v 0 0 0", "jawOpen.obj": "v 0 0 0\nv 1 1 1"}, "`jawOpen` has 2 vertices, the neutral 1"),
        ({"neutral.obj": "v 0 0 0", "jawOpen.obj": "v 0 0 1", "JawOpen_2.obj": "v 0 0 1"}, "both mean JawOpen"),
        ({"neutral.obj": "v 0 0"}, "line 1: a vertex of 2 numbers"),
        ({"neutral.obj": "v 0 0 0\nf 1 2 3"}, "names a vertex that is not there"),
        ({"neutral.obj": "# nothing"}, "holds no vertices"),
    ],
)
def test_shapes_that_cannot_be_used(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_shapes(tmp_path)


@pytest.mark.parametrize("content", [b"", b"glTF", b"glTF\x02\0\0\0\xff\0\0\0\xff\0\0\0JSON{"])
def test_damaged_glbs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shapes.glb").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_shapes(tmp_path / "shapes.glb")


def test_another_topology() -> None:
    with pytest.raises(InputError, match="the shapes have 2 vertices, the model 3"):
        fit_of(Shapes(np.zeros((2, 3)), {"JawOpen": np.ones((2, 3))}, ()), None, 3, 1e-4)


def test_choices_that_a_model_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vertices already"):
        attach(FaceOptions(flame=tmp_path / "flame.pkl"), vertices=3)
    with pytest.raises(OptionError, match="by way of vertices") as caught:
        attach(FaceOptions(arkit=tmp_path / "shapes.npz"), width=106)
    assert "--flame" in str(caught.value)


@pytest.mark.slow
def test_a_streamingtalker_gives_arkit_shapes(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    rest, count = random.normal(0, 0.1, (60, 3)), 60
    with (tmp_path / "rest.obj").open("w") as file:
        file.write("\n".join([*(f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in rest), "f 1 2 3"]))
    names = ARKIT_SHAPES[:-1]  # no tongue
    save(
        tmp_path / "shapes.npz",
        {"neutral": rest, **{name: rest + random.normal(0, 0.02, (count, 3)) for name in names}},
    )
    options = dataclasses.replace(
        ST_OPTIONS, template=tmp_path / "rest.obj", face=FaceOptions(arkit=tmp_path / "shapes.npz")
    )
    report = export_model(load_checkpoint(TINY, untold=TINY_UNTOLD), tmp_path / "bundle", options, name="tiny")
    motion = report.bundle.manifest.motion
    assert (motion.kind, motion.names, motion.tensor) == ("arkit", ARKIT_SHAPES, "shapes")
    assert any("TongueOut" in line for line in report.bundle.manifest.notes["face"])
    assert report.bundle.array("triangles.npy").tolist() == [[0, 1, 2]]
    talker = Talker(report.bundle)
    talker.feed("features", np.ones((1, 32), np.float32))
    frames = np.stack([talker.make().motion.copy() for _ in range(6)])
    assert frames.shape == (6, 52)
    assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0
    assert not frames[:, -1].any()


def with_face(folder: Path, options: FaceOptions) -> Bundle:
    """Return the toy ARTalk with what the options add."""
    toy = Bundle.open(TOY_BUNDLE)
    document = json.loads((TOY_BUNDLE / "manifest.json").read_text())
    face = attach(options, width=106)
    assert all(check.passed for check in face.checks), [str(check) for check in face.checks]
    files: dict[str, Any] = {name: TOY_BUNDLE / name for name in toy.manifest.files}
    files |= {f"{stage.name}.onnx": stage.content for stage in face.stages} | face.files
    description = {key: value for key, value in document.items() if key not in ("format", "version", "files")}
    return pack(folder, face.merged(description), files)


@pytest.mark.slow
def test_artalk_gives_vertices_a_glb_and_arkit_shapes(tmp_path: Path) -> None:
    flame, random = random_flame(tmp_path), np.random.default_rng(13)
    names = ARKIT_SHAPES[:40]
    shapes = {name: flame.template + flame.expression @ random.normal(0, 1, EXPRESSIONS) for name in names}
    save(tmp_path / "shapes.npz", {"neutral": flame.template, **shapes})
    sound = (0.1 * random.standard_normal(32000)).astype(np.float32)
    plain = np.stack([frame.motion for frame in Talker(TOY_BUNDLE).accept(sound)])

    bundle = with_face(tmp_path / "vertices", FaceOptions(flame=tmp_path / "flame.npz"))
    talker = Talker(bundle)
    found = np.stack([frame.motion for frame in talker.accept(sound)])
    wanted = np.stack([posed(flame, row[:100], row[100:103], row[103:]) for row in plain])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(talker.layout.extra["triangles"], flame.triangles)
    sink = sink_for(tmp_path / "face.glb")
    Loop(Talker(bundle), Pieces(sound), [sink]).run()
    assert (tmp_path / "face.glb").read_bytes()[:4] == b"glTF"

    bundle = with_face(tmp_path / "arkit", FaceOptions(flame=tmp_path / "flame.npz", arkit=tmp_path / "shapes.npz"))
    talker = Talker(bundle)
    assert talker.layout.names == (*ARKIT_SHAPES, "HeadYaw", "HeadPitch", "HeadRoll")
    found = np.stack([frame.motion for frame in talker.accept(sound)])
    assert found[:, :52].min() >= 0 and found[:, :52].max() <= 1 and found[:, :40].std() > 0.01
    assert not found[:, 40:52].any()
    turned = np.stack([rotation_matrix(*angles) for angles in found[:, 52:].astype(float)])
    np.testing.assert_allclose(turned, Rotation.from_rotvec(plain[:, 100:103]).as_matrix(), atol=1e-4)
