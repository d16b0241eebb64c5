"""Neutral faces from every kind of file that labs have them in."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.export.streamingtalker.template import read_template

FACE = np.random.default_rng(0).normal(size=(4, 3))
PLY = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n{}end_header\n"


def obj() -> str:
    lines = [f"v {x} {y} {z}" for x, y, z in FACE]
    return "\n".join([*lines, "f 1 2 3", "f 2 3 4"]) + "\n"


def ply() -> str:
    lines = [f"{x} {y} {z}" for x, y, z in FACE]
    header = PLY.format("element face 2\nproperty list uchar int vertex_indices\n")
    return header + "\n".join([*lines, "3 0 1 2", "3 1 2 3"]) + "\n"


def write(folder: Path, kind: str) -> tuple[Path, str | None]:
    path = folder / f"template.{kind.partition(' ')[0]}"
    subject = None
    if kind == "npy":
        np.save(path, FACE)
    elif kind == "npy flat":
        np.save(path, FACE.reshape(-1).astype(np.float32))
    elif kind == "npz":
        np.savez(path, F1=np.zeros((4, 3)), F2=FACE)
        subject = "F2"
    elif kind in ("obj", "ply"):
        path.write_text({"obj": obj(), "ply": ply()}[kind])
    else:
        protocol = int(kind[-1])
        path.write_bytes(pickle.dumps({"F1": np.zeros((4, 3)), "F2": FACE}, protocol=protocol))
        subject = "F2"
    return path, subject


@pytest.mark.parametrize("kind", ["npy", "npy flat", "npz", "obj", "ply", "pkl 2", "pkl 4", "pkl 5"])
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    path, subject = write(tmp_path, kind)
    points, triangles = read_template(path, 4, subject)
    np.testing.assert_allclose(points[0], FACE, atol=1e-6)
    assert (triangles is not None) == (kind in ("obj", "ply"))


def test_a_subject_must_be_chosen_and_be_there(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "pkl 2")
    with pytest.raises(OptionError, match="holds 2 faces") as caught:
        read_template(path, 4)
    assert "--subject: F1, F2" in str(caught.value)
    with pytest.raises(OptionError, match="holds no `F3`"):
        read_template(path, 4, "F3")
    np.save(tmp_path / "one.npy", FACE)
    with pytest.raises(OptionError, match="is one face"):
        read_template(tmp_path / "one.npy", 4, "F1")


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"F1": Payload(tmp_path / "ran")}))
    with pytest.raises(InputError):
        read_template(tmp_path / "evil.pkl", 4, "F1")
    assert not (tmp_path / "ran").exists()


def test_faces_that_do_not_fit(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "npy")
    with pytest.raises(InputError, match=r"floats of \(5, 3\) were wanted"):
        read_template(path, 5)
    np.save(path, np.full((4, 3), np.nan))
    with pytest.raises(InputError, match="NaN"):
        read_template(path, 4)
    path.write_bytes(b"no array")
    with pytest.raises(InputError, match="no array file"):
        read_template(path, 4)
    with pytest.raises(InputError):
        read_template(tmp_path / "absent.npy", 4)
