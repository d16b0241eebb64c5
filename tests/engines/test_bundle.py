"""A bundle on disk is what its manifest says, or it is refused with every fault."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.errors import BundleError, InputError, OptionError, OutputError
from edgetalker.engines.files import reported, sha256_of
from tests.support.toy import description, stages, tables, toy_bundle


@pytest.fixture
def folder(toy: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(toy.path, tmp_path / "copy")
    return tmp_path / "copy"


def faults_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    return "\n".join(caught.value.faults)


def hint_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    return caught.value.hint or ""


def test_a_flipped_byte_is_found(folder: Path) -> None:
    data = bytearray((folder / "decode.onnx").read_bytes())
    data[40] ^= 1
    (folder / "decode.onnx").write_bytes(data)
    assert "`decode.onnx` has SHA-256" in faults_of(folder)


def test_missing_and_changed_files_are_reported_together(folder: Path) -> None:
    (folder / "audio.onnx").unlink()
    (folder / "one.npy").write_bytes(b"")
    found = faults_of(folder)
    assert "`audio.onnx` cannot be read" in found
    assert "`one.npy` has SHA-256" in found


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a\\b"])
def test_a_file_outside_the_bundle_is_refused(folder: Path, name: str) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][name] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(document))
    assert "lies outside the bundle" in faults_of(folder)


def test_no_folder_and_no_manifest_say_so(tmp_path: Path) -> None:
    assert "no such folder" in faults_of(tmp_path / "nowhere")
    assert "holds no manifest" in faults_of(tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("manifest.json", "a bundle's manifest"), ("mix.onnx", "an ONNX network")])
def test_a_file_of_a_bundle_names_its_folder(toy: Bundle, name: str, kind: str) -> None:
    file = next(path for path in toy.path.iterdir() if path.name == name or path.suffix == Path(name).suffix)
    assert f"is {kind}; a bundle's folder was wanted" in faults_of(file)
    assert hint_of(file) == f"give the folder of the bundle: {toy.path}"


def test_a_zip_and_a_folder_around_a_bundle(toy: Bundle, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "packed"), "zip", toy.path)
    assert "is a ZIP archive; a bundle's folder was wanted" in faults_of(tmp_path / "packed.zip")
    assert "unpack it" in hint_of(tmp_path / "packed.zip")
    shutil.copytree(toy.path, tmp_path / "around" / "toy")
    assert f"a bundle lies in it: {tmp_path / 'around' / 'toy'}" in hint_of(tmp_path / "around")


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("history.npy", np.zeros((1, 2, 4), np.float32), "holds float32[1,2,4]"),
        ("history.npy", np.full((1, 3, 4), np.nan, np.float32), "NaN or Inf"),
        ("full.npy", np.zeros((5, 3), np.float32), "rows of 3"),
        ("full.npy", np.zeros((0, 2), np.float32), "at least one row"),
        ("full.npy", np.array([{}]), "no float32 table"),
        ("full.npy", b"nonsense", "no float32 table"),
    ],
)
def test_arrays_are_checked(tmp_path: Path, name: str, values: object, text: str) -> None:
    raw = values if isinstance(values, bytes) else _npy(tmp_path, values)
    with pytest.raises(BundleError, match="fault") as caught:
        pack(tmp_path / "b", description(), {**stages(), **tables(), name: raw})
    assert text in "\n".join(caught.value.faults)
    assert not (tmp_path / "b").exists(), "a faulty bundle must not appear"


def _npy(folder: Path, values: object) -> bytes:
    np.save(folder / "x.npy", values, allow_pickle=True)  # type: ignore[arg-type]
    return (folder / "x.npy").read_bytes()


def test_pack_never_replaces_what_is_there_unless_told(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "b")
    with pytest.raises(InputError, match="exists already"):
        toy_bundle(bundle.path)
    pack(bundle.path, description(), {**stages(), **tables()}, replace=True)
    (tmp_path / "home").mkdir()
    with pytest.raises(InputError, match="not a bundle"):
        pack(tmp_path / "home", description(), {}, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "home"], "drafts were left behind"


def test_pack_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("edgetalker.engines.bundle.sha256_of", counted)
    bundle = toy_bundle(tmp_path / "b")
    assert sorted(read) == sorted(Path(name).name for name in bundle.manifest.files)
    assert Bundle.open(tmp_path / "b") == bundle


def test_an_unknown_precision_names_the_command_that_makes_it(toy: Bundle) -> None:
    assert toy.onnx("audio") == toy.path / "audio.onnx"
    with pytest.raises(OptionError) as caught:
        toy.onnx("audio", "fp16")
    assert "edgetalker convert" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a\0b", "null"), ("dev", "a folder, a device or a pipe"), ("/dev/zero", "lies outside the bundle")],
)
def test_files_that_cannot_be_read(name: str, text: str, tmp_path: Path) -> None:
    folder = toy_bundle(tmp_path / "b").path
    (folder / "dev").symlink_to("/dev/zero")  # its end never comes
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][name] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=text):
        Bundle.open(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX only")
def test_a_pipe_is_no_bundle_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="a bundle's folder was wanted"):
        Bundle.open(tmp_path / "pipe")


def test_a_folder_that_could_not_be_copied_is_told_by_its_first_file() -> None:
    faults = [("a", "b", "No space left on device"), ("c", "d", "No space left on device")]
    with pytest.raises(OutputError, match=r"out cannot be written: No space left on device$"), reported(Path("out")):
        raise shutil.Error(faults)
