"""Array files that are none: one InputError, whatever library objected."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.arrays import fits, read_arrays
from edgetalker.engines.errors import InputError


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def archive(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in entries.items():
            made.writestr(name.replace("_", "."), content)
    return file.getvalue()


def test_an_array_and_several(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.arange(4))
    one, two, chosen = (
        read_arrays(tmp_path / "one.npy"),
        read_arrays(tmp_path / "two.npz"),
        read_arrays(tmp_path / "two.npz", ("b", "c")),
    )
    assert isinstance(one, np.ndarray) and one.tolist() == [0, 1, 2]
    assert isinstance(two, dict) and sorted(two) == ["a", "b"]
    assert isinstance(chosen, dict) and sorted(chosen) == ["b"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        npy(np.arange(9))[:-1],
        npy(np.arange(9)).replace(b"(9,)", b"(9" + b"9" * 18 + b",)")[:118] + b"\n",
        npy(np.array([Path()], dtype=object)),
        archive(a_npy=npy(np.arange(3)), b=b"text"),
        archive(a_npy=b"text"),
        archive(a_npy=npy(np.arange(3)))[:-30],
        archive(a_npy=npy(np.arange(3))).replace(b"PK\x03\x04", b"PK\x03\x05"),
    ],
)
def test_what_is_no_array(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"no\.npz is no array file"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!doctype html>", "it is a web page"),
        (b"\x80\x04N.", "it is of no kind that is known here"),
        (npy(np.array([Path()], dtype=object)), "it holds Python objects"),
    ],
)
def test_advice_to_unpickle_is_never_passed_on(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=kind) as caught:
        read_arrays(tmp_path / "a.npy")
    assert "allow_pickle" not in str(caught.value)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (tmp_path, tmp_path / "pipe.npy", Path("/dev/zero")):
        with pytest.raises(InputError, match="a folder, a device or a pipe"):
            read_arrays(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_arrays(tmp_path / "absent.npy")


def test_numbers_that_a_float32_holds() -> None:
    assert fits(np.array([1.0, -3e38])) and fits(np.arange(3)) and fits(np.zeros(2, np.float16))
    for values in (np.array([1e39]), np.array([np.nan], np.float32), np.array([1j]), np.array(["1"])):
        assert not fits(values)
