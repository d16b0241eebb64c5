"""Reading checkpoint files: kinds, damage, and that nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.engines.kinds import kind_of
from edgetalker.models.weights import CheckpointError, read_weights
from edgetalker.models.weights.pickled import Made, Name, describe
from tests.models.streamingtalker.conftest import TINY


def read(path: Path) -> dict[str, torch.Tensor]:
    (found,) = read_weights(path).found
    return dict(found.tensors)


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(bytes(3200))
    return file.getvalue()


def packed(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return file.getvalue()


WRONG = {
    "is a web page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
    "is an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "is a WAV sound": wav(),
    "is an MP3 sound": b"ID3\x04\x00\x00\x00",
    "is JSON text": b'{"format": "edgetalker-bundle"}',
    "is an array file": b"\x93NUMPY\x01\x00",
    "is an ONNX network": b"\x08\x0a\x12\x07pytorch",
    "is a gzip archive": b"\x1f\x8b\x08\x00",
    "is an empty file": b"",
    "is nothing but zeros": bytes(4096),
    "is text": "Zürich, not weights\n".encode(),
    "is a plain pickle": pickle.dumps({"weights": [1.0]}),
    "is of no kind": b"\x01\x02\xfe\xff" * 50,
    "packed bundle": packed(b__manifest_dot_json=b"{}"),
    "archive of arrays": packed(a_dot_npy=b"", b_dot_npy=b""),
    "with checkpoints in it": packed(weights__a_dot_ckpt=b"x"),
    "TorchScript": packed(a__data_dot_pkl=b"", a__constants_dot_pkl=b""),
    "without a checkpoint's data.pkl": packed(readme_dot_txt=b""),
}


@pytest.mark.parametrize("text", WRONG)
def test_files_of_another_kind_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.ckpt").write_bytes(WRONG[text])
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "own.ckpt")
    assert text in caught.value.message
    assert len(caught.value.faults) == 1
    assert "weights_only" not in str(caught.value)


def test_a_folder_names_the_checkpoints_in_it(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"best\.ckpt"):
        read_weights(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX only")
def test_weights_from_a_pipe_are_refused_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="a device or a pipe") as caught:
            read_weights(path)
        assert caught.value.hint is not None and "into a file first" in caught.value.hint


def test_text_may_be_cut_within_a_character() -> None:
    assert kind_of("ü".encode() * 512 + "ü".encode()[:1]) == "text"
    assert kind_of(b"\xff" * 100) == ""


def test_every_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0), "b": torch.ones(10)}, tmp_path / "whole.ckpt")
    content = bytearray((tmp_path / "whole.ckpt").read_bytes())
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    start = content.index(np.arange(1000, dtype=np.float32).tobytes())
    for place in (0, 1, member.file_size // 2, member.file_size - 1):
        damaged = bytearray(content)
        damaged[start + place] ^= 0x10
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"the checksum of `.*data/0` differs") as caught:
            read_weights(tmp_path / "damaged.ckpt")
        assert "download the file again" in str(caught.value)


def test_files_without_checksums_are_read_and_told(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3), "b": torch.zeros(2)}, tmp_path / "plain.ckpt")
    finally:
        torch.serialization.set_crc32_options(before)
    file = read_weights(tmp_path / "plain.ckpt")
    assert torch.equal(file.found[0].tensors["a"], torch.ones(3))
    assert "without checksums" in file.notes[0]


def test_tensors_are_what_torch_reads(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    tensors = {
        "float": base.reshape(4, 6),
        "view": base.reshape(4, 6).T[1:, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "long": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "float8": base.to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(base),
        "expanded": torch.ones(1).expand(4, 4),
    }
    torch.save(tensors, tmp_path / "all.ckpt")
    ours, theirs = read(tmp_path / "all.ckpt"), torch.load(tmp_path / "all.ckpt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        assert torch.equal(ours[key].float(), value.detach().float()), key


def test_the_reference_checkpoint_is_what_torch_reads() -> None:
    theirs = torch.load(TINY, weights_only=True)["state_dict"]
    ours = read(TINY)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_pickle_is_described_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    for protocol in range(2, 6):
        described = describe(pickle.dumps({"a": Payload(), "b": [1, (2, None)], "c": {3}}, protocol=protocol))
        assert described["b"] == [1, (2, None)]
        assert isinstance(described["a"], Made)
    assert not (tmp_path / "ran").exists()
    assert describe(b"cos\nsystem\n.") == Name("os.system")


@pytest.mark.parametrize(
    "content", [b"", b"}", b".", b"(", b"}(K\x01u.", b"h\x07.", b"\x80\x04\x95" + b"\xff" * 8 + b".", bytes(5 << 20)]
)
def test_pickles_that_are_none(content: bytes) -> None:
    with pytest.raises(ValueError):
        describe(content)


def test_a_deep_pickle_does_no_harm() -> None:
    """A tuple in tuples as a key would be hashed, which overflows the stack of the process."""
    assert describe(b"}]" + b"\x85" * 100_000 + b"K\x01s.") == {}
    with pytest.raises(ValueError, match="more than 1000000 steps"):
        describe(b"N0" * 600_000 + b".")
