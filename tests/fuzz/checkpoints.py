"""Changed checkpoints: whatever came of them is a network or a UserError, soon and in little memory."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from edgetalker.models.streamingtalker import load_checkpoint, read_tensors
from tests.fuzz.trying import NUMBERS, Random, cut, flip, splice, tries
from tests.models.streamingtalker.conftest import TINY, TINY_UNTOLD

Mutation = Callable[[bytes, Random], bytes]


def small_tensors() -> dict[str, torch.Tensor]:
    """The tiny checkpoint with short position tables, so that an example is small."""
    tensors = read_tensors(TINY)
    for key in [key for key in tensors if key.endswith(".pe")]:
        table = tensors[key]
        tensors[key] = (table[:, :60] if table.shape[0] == 1 else table[:64]).clone()
    return {key: value.clone() for key, value in tensors.items()}


def saved(tensors: dict[str, torch.Tensor], **options: object) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": tensors, "epoch": 3}, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def head_bytes(content: bytes, random: Random) -> bytes:
    """Change bytes where a file's structure is: its first and its last 4 kB."""
    changed = bytearray(content)
    ends = [*range(min(4096, len(changed))), *range(max(0, len(changed) - 4096), len(changed))]
    for place in random.choice(ends, size=int(random.integers(1, 6))):
        changed[int(place)] = int(random.integers(256))
    return bytes(changed)


def in_pickle(content: bytes, random: Random) -> bytes:
    """Change the pickle inside the ZIP; the checksums are made anew, so that the change is read."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                mutations: tuple[Mutation, ...] = (flip, splice, numbers, numbers, names, cut)
                data = mutations[int(random.integers(len(mutations)))](data, random)
            new.writestr(info, data)
    return result.getvalue()


def numbers(content: bytes, random: Random) -> bytes:
    """Replace whole numbers of a pickle by others, small and huge: sizes, strides, offsets, counts."""
    changed = bytearray(content)
    places = [place for place, byte in enumerate(changed) if byte in b"KMJ"]
    for place in random.choice(places, size=int(random.integers(1, 4))):
        number = NUMBERS[int(random.integers(len(NUMBERS)))]
        if changed[place : place + 1] == b"J":
            changed[place + 1 : place + 5] = struct.pack("<i", max(min(number, (1 << 31) - 1), -(1 << 31)))
        elif changed[place : place + 1] == b"M":
            changed[place + 1 : place + 3] = struct.pack("<H", number & 0xFFFF)
        else:
            packed = number.to_bytes(9, "little", signed=True)
            changed[place : place + 2] = b"\x8a\x09" + packed  # LONG1
    return bytes(changed)


def names(content: bytes, random: Random) -> bytes:
    """Exchange names: types of storages, keys, layer numbers."""
    pairs = (
        (b"FloatStorage", b"HalfStorage"),
        (b"FloatStorage", b"DoubleStorage"),
        (b"_rebuild_tensor_v2", b"_rebuild_qtensor"),
        (b"layers.1.", b"layers.9."),
        (b"diff_ar_network", b"diff_ar_networks"),
        (b"collections\nOrderedDict", b"os\nsystem"),
    )
    old, new = pairs[int(random.integers(len(pairs)))]
    return content.replace(old, new, int(random.integers(1, 5)))


def in_header(content: bytes, random: Random) -> bytes:
    """Change the JSON header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    key = list(header)[int(random.integers(len(header)))]
    number = NUMBERS[int(random.integers(len(NUMBERS)))]
    entry = header[key]
    what = int(random.integers(4))
    if what == 0:
        entry["shape"] = [number, *entry["shape"][1:]]
    elif what == 1:
        entry["data_offsets"] = [0, number]
    elif what == 2:
        entry["dtype"] = "F64"
    else:
        header[key + ".layers.99"] = header.pop(key)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def run(examples: int | None, seconds: float | None, seed: int) -> int:
    """Try so many examples, or for so long; return how many were tried. Raises Wrong for the first that is wrong."""
    tensors = small_tensors()
    whole, old = saved(tensors), saved(tensors, _use_new_zipfile_serialization=False)
    safe = save(tensors)
    kinds: list[tuple[bytes, Mutation]] = [
        *((whole, mutation) for mutation in (flip, cut, splice, head_bytes, in_pickle, in_pickle, in_pickle)),
        *((old, mutation) for mutation in (flip, cut, head_bytes)),
        *((safe, mutation) for mutation in (cut, head_bytes, in_header)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.ckpt"

        def make(random: Random, count: int) -> tuple[str, Path]:
            content, mutation = kinds[count % len(kinds)]
            path.write_bytes(mutation(content, random))
            return mutation.__name__, path

        return tries(make, lambda path: load_checkpoint(path, untold=TINY_UNTOLD), examples, seconds, seed)
