"""Changed checkpoints: whatever came of them is a network or a UserError, soon and in little memory."""

from __future__ import annotations

import io
import itertools
import json
import resource
import signal
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from safetensors.torch import save

from edgetalker.engines.errors import UserError
from edgetalker.models.streamingtalker import load_checkpoint, read_tensors
from tests.models.streamingtalker.conftest import TINY, TINY_UNTOLD

MOST_MEMORY = 1 << 30
HANG_SECONDS = 120  # far beyond what any example takes on a busy machine
NUMBERS = (0, 1, -1, 2, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1)

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]


class Wrong(AssertionError):  # noqa: N818 - a finding, not an error of the code that finds it
    """What came of one example; names the seed that makes it again."""


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


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content)))]


def splice(content: bytes, random: Random) -> bytes:
    first, second = sorted(int(place) for place in random.integers(len(content), size=2))
    piece = content[first : min(second, first + 512)]
    at = int(random.integers(len(content)))
    return content[:at] + piece + content[at:]


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
    before, started = peak_bytes(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.ckpt"
        for count in itertools.count():
            if count == examples or (seconds is not None and time.monotonic() - started > seconds):
                return count
            content, mutation = kinds[count % len(kinds)]
            path.write_bytes(mutation(content, np.random.default_rng(seed + count)))
            try:
                with watched():
                    load_checkpoint(path, untold=TINY_UNTOLD)
            except Exception as error:
                path.rename(Path(tempfile.gettempdir()) / f"fuzz-{seed + count}.ckpt")
                raise Wrong(f"seed {seed + count}, {mutation.__name__}: {type(error).__name__}: {error}") from error
            if peak_bytes() - before > MOST_MEMORY:
                raise Wrong(f"seed {seed + count}, {mutation.__name__}: took {peak_bytes() - before} bytes more")
    return 0


class watched(suppress):  # noqa: N801 - a context manager, named as its base is
    """Passes over UserError; interrupts what hangs."""

    def __init__(self) -> None:
        super().__init__(UserError)

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, hang)
        signal.alarm(HANG_SECONDS)

    def __exit__(self, *exception: object) -> bool:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)
        return bool(super().__exit__(*exception))  # type: ignore[arg-type]


def hang(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {HANG_SECONDS} s")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
