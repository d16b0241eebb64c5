"""Reads the tensors of a checkpoint file: what `torch.save` writes, and safetensors. None of the file's code runs."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetalker.engines.files import open_regular
from edgetalker.engines.kinds import HEAD, kind_of
from edgetalker.models.weights.errors import CheckpointError
from edgetalker.models.weights.pickled import Made, Name, Stored, describe

__all__ = ["Found", "WeightsFile", "read_tensors", "read_weights"]

_AGAIN = "copy or download the file again, and compare its size and its digest with the source's"
_SAVE = "where it was trained, save the weights alone: torch.save({'state_dict': module.state_dict()}, FILE)"
_HINTS = {
    "a Git LFS pointer": "fetch the file itself: git lfs pull",
    "a web page": "the download gave a page (a login, a licence, an error) in place of the file; fetch it again",
    "an XML document": "the download gave an answer of the server in place of the file; fetch it again",
    "an empty file": _AGAIN,
    "nothing but zeros": _AGAIN,
}
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save wrote before it wrote ZIP
_DEEPEST = 4
_MOST_VALUES = 10_000  # entries looked through for a dict of tensors
_SPREAD = 1 << 20  # values; a view may repeat a smaller storage up to here
_REBUILD = "torch._utils._rebuild_"


@dataclass(frozen=True)
class Found:
    """One dict of tensors in a file. place: the keys that lead to it; others: its keys that hold no tensor."""

    place: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightsFile:
    """Every dict of tensors of one file, the outermost first, and what was noticed while it was read."""

    found: tuple[Found, ...]
    notes: tuple[str, ...] = ()


def read_weights(path: Path | str) -> WeightsFile:
    """Return every dict of tensors that a checkpoint file holds.

    Objects beside the weights are passed over whatever their classes are. The checksums of the file are compared.
    Tensors are views of the mapped file where that is possible.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or one without a dict of tensors.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
            if head.startswith(b"PK\3\4"):
                content = _Archive(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)).content()
            elif _is_safetensors(head):
                content = _safetensors(path)
            elif head.startswith(_LEGACY):
                content = _legacy(path)
            else:
                raise _no_checkpoint(path, head)
    except FileNotFoundError:
        raise CheckpointError(str(path), ["no such file"]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(str(path), [f"cannot be read: {reason or error}"], hint=_other_hint(path)) from None
    found = tuple(_tensor_dicts(content.value))
    if not found:
        raise CheckpointError(str(path), ["holds no state_dict of tensors"], hint=_SAVE)
    return WeightsFile(found, content.notes)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return the largest dict of tensors in a file, names of old weight norm made new ones; see `read_weights`."""
    found = max(read_weights(path).found, key=lambda one: len(one.tensors))
    return {with_new_weight_norm(key): value for key, value in found.tensors.items()}


def with_new_weight_norm(key: str) -> str:
    """Return the key with an old weight-norm name (weight_g, weight_v) made a new one."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        if key.endswith(f".{old}"):
            return f"{key.removesuffix(old)}parametrizations.weight.{new}"
    return key


@dataclass(frozen=True)
class _Content:
    value: Any
    notes: tuple[str, ...] = ()


def _other_hint(path: Path) -> str | None:
    if path.is_file():
        return None
    if not path.is_dir():
        return "weights are mapped into memory, not read in turn: write them into a file first"
    inside = sorted(file.name for file in path.iterdir() if file.suffix in (".ckpt", ".pt", ".pth", ".safetensors"))
    return f"name the file in it: {', '.join(inside[:5])}" if inside else None


def _no_checkpoint(path: Path, head: bytes) -> CheckpointError:
    kind = kind_of(head) or ("a plain pickle" if head[:1] == b"\x80" else "of no kind that is known here")
    hint = next((text for beginning, text in _HINTS.items() if kind.startswith(beginning)), None)
    what = "a checkpoint is what torch.save writes, or a safetensors file"
    return CheckpointError(str(path), [f"is {kind}; not a checkpoint ({what})"], hint=hint)


# -- dicts of tensors ---------------------------------------------------------------------------------------------


def _tensor_dicts(content: Any) -> Iterator[Found]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    looked = 0
    while waiting and looked < _MOST_VALUES:
        place, value = waiting.pop(0)
        items = value.items if isinstance(value, Made) else value
        if not isinstance(items, Mapping):
            continue
        looked += len(items)
        tensors = {str(key): entry for key, entry in items.items() if isinstance(entry, Tensor)}
        if tensors:
            yield Found(place, tensors, tuple(str(key) for key in items if str(key) not in tensors))
        if len(place) < _DEEPEST:
            waiting += [((*place, str(key)), entry) for key, entry in items.items() if not isinstance(entry, Tensor)]


# -- torch.save's ZIP ---------------------------------------------------------------------------------------------


class _Archive:
    """The ZIP that torch.save writes: `NAME/data.pkl`, and `NAME/data/KEY` for every storage, uncompressed."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        try:
            with zipfile.ZipFile(path) as archive:
                self.members = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise self._damaged(f"its ZIP directory cannot be read ({error})") from None
        self.notes: list[str] = []

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(str(self.path), [f"is damaged or cut off: {what}"], hint=_AGAIN)

    def content(self) -> _Content:
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in self.members):
            raise self._another()
        self.prefix = pickles[0].removesuffix("data.pkl")
        self._check()
        order = f"{self.prefix}byteorder"
        if order in self.members and bytes(self._bytes(order)) != b"little":
            raise CheckpointError(str(self.path), ["was written on a big-endian machine, which is not read"])
        try:
            value = self._with_tensors(describe(bytes(self._bytes(pickles[0]))))
        except ValueError as error:
            raise CheckpointError(str(self.path), [f"is damaged or no checkpoint: {error}"], hint=_SAVE) from None
        return _Content(value, tuple(self.notes))

    def _another(self) -> CheckpointError:
        names = sorted(self.members)
        kind, hint = "a ZIP archive without a checkpoint's data.pkl", None
        if any(name.endswith("/constants.pkl") for name in names):
            kind, hint = "a TorchScript program, not a checkpoint", _SAVE
        elif names and all(name.endswith(".npy") for name in names):
            kind = "an archive of arrays (.npz), not a checkpoint"
        elif any(name.rpartition("/")[2] == "manifest.json" for name in names):
            kind, hint = "a packed bundle, not a checkpoint", "unpack it and give the folder as BUNDLE"
        elif inside := [name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".safetensors"))]:
            kind, hint = "a ZIP archive with checkpoints in it", f"unpack it and name one: {', '.join(inside[:5])}"
        return CheckpointError(str(self.path), [f"is {kind}"], hint=hint)

    def _bytes(self, name: str) -> memoryview:
        """Return a member's bytes in the mapped file."""
        info = self.members.get(name)
        if info is None:
            raise self._damaged(f"`{name}` is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(
                str(self.path),
                [f"`{name}` is compressed or encrypted, which torch.save never does"],
                hint="unpack the archive and pack it again without compression (zip -0), or save it again",
            )
        header = self.data[info.header_offset : info.header_offset + 30]
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise self._damaged(f"the header of `{name}` is not where the directory says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        if start + info.file_size > len(self.data):
            raise self._damaged(f"`{name}` reaches beyond the end of the file")
        return memoryview(self.data)[start : start + info.file_size]

    def _check(self) -> None:
        """Compare the checksum of every member: a flipped bit in a weight is seen nowhere else."""
        bad = []
        for name, info in self.members.items():
            content = self._bytes(name)
            found = 0
            for at in range(0, len(content), 1 << 22):
                found = zlib.crc32(content[at : at + (1 << 22)], found)
            if found != info.CRC:
                bad.append(name)
        # torch.serialization.set_crc32_options(False) writes something else in their place; then all differ.
        if len(bad) > 2 and len(bad) == sum(info.file_size > 0 for info in self.members.values()):
            self.notes.append("saved without checksums: damage to its weights cannot be seen")
            bad = []
        if bad:
            some = ", ".join(f"`{name}`" for name in bad[:3])
            raise self._damaged(f"the checksum of {some}{' and others' if len(bad) > 3 else ''} differs")

    def _with_tensors(self, value: Any) -> Any:
        """Replace descriptions of tensors by tensors in the dicts that `_tensor_dicts` looks through."""
        waiting, depth = [value], 0
        looked = 0
        while waiting and depth <= _DEEPEST and looked < _MOST_VALUES:
            below = []
            for holder in waiting:
                items = holder.items if isinstance(holder, Made) else holder
                if not isinstance(items, dict):
                    continue
                looked += len(items)
                for key, entry in items.items():
                    tensor = self._tensor(entry, str(key)) if _is_tensor(entry) else None
                    if tensor is not None:
                        items[key] = tensor
                    else:
                        below.append(entry)
            waiting, depth = below, depth + 1
        return value

    def _tensor(self, made: Made, key: str) -> Tensor | None:
        """Return the tensor, None for one of a kind that no network here has. Raises ValueError when it cannot be."""
        made = _unwrapped(made)
        version = made.of.full.removeprefix(_REBUILD)
        if version not in ("tensor", "tensor_v2", "tensor_v3") or len(made.given) < 4:
            return None
        stored, offset, size, stride = made.given[:4]
        kind, storage_key = _storage(stored, key)
        if version == "tensor_v3":
            kind = made.given[6] if len(made.given) > 6 else None
        dtype = _DTYPES.get(kind.full.rpartition(".")[2]) if isinstance(kind, Name) else None
        if dtype is None:
            return None
        content = self._bytes(f"{self.prefix}data/{storage_key}")
        if not _fits(offset, size, stride, len(content) // dtype.itemsize):
            raise ValueError(f"`{key}` of size {_short(size)} does not fit its storage of {len(content)} bytes")
        if not all(size):
            return torch.empty(tuple(size), dtype=dtype)
        values = torch.frombuffer(content, dtype=torch.uint8)
        if values.data_ptr() % dtype.itemsize:
            values = values.clone()
        values = values[: len(values) // dtype.itemsize * dtype.itemsize].view(dtype)
        return torch.as_strided(values, tuple(size), tuple(stride), offset)


def _is_tensor(entry: Any) -> bool:
    if not isinstance(entry, Made) or not isinstance(entry.of, Name):
        return False
    return entry.of.full.startswith(_REBUILD) or entry.of.full == "torch._tensor._rebuild_from_type_v2"


def _unwrapped(made: Any) -> Made:
    """Return the tensor's own description out of those of a parameter or a tensor with attributes."""
    for _ in range(8):
        if not _is_tensor(made):
            break
        if made.of.full == "torch._tensor._rebuild_from_type_v2" and len(made.given) > 2:
            function, arguments = made.given[0], made.given[2]
            made = Made(function, arguments if isinstance(arguments, tuple) else ())
        elif made.of.full.startswith(f"{_REBUILD}parameter") and made.given:
            made = made.given[0]
        else:
            return made  # type: ignore[no-any-return]
    raise ValueError("a parameter that holds no tensor")


_DTYPES = {
    **{str(dtype).removeprefix("torch."): dtype for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8)},
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


def _storage(stored: Any, key: str) -> tuple[Any, str]:
    """Return what a storage is of, and its key, from ("storage", type, key, place, values)."""
    identity = stored.identity if isinstance(stored, Stored) else None
    if not isinstance(identity, tuple) or len(identity) != 5 or not isinstance(identity[2], str):
        raise ValueError(f"`{key}` is a tensor without a storage")
    return identity[1], identity[2]


def _fits(offset: Any, size: Any, stride: Any, held: int) -> bool:
    """Whether a view stays within its storage and is no larger than it: a few bytes cannot be spread over terabytes."""
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8):
        return False
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        return False
    if not all(size):
        return bool(max(size) < 1 << 40)
    last, values = offset, 1
    for length, step in zip(size, stride, strict=True):
        last += (length - 1) * step
        values *= length
    return bool(last < held and values <= max(held, _SPREAD))


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, tuple) and len(value) <= 8 else "?"
    return text if len(text) <= 80 else f"{text[:80]}…"


# -- the other two forms ------------------------------------------------------------------------------------------


def _is_safetensors(head: bytes) -> bool:
    """A safetensors file begins with the length of its header, which is JSON."""
    return len(head) > 8 and int.from_bytes(head[:8], "little") < 1 << 27 and head[8:9] == b"{"


def _safetensors(path: Path) -> _Content:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _Content(load_file(path), ("safetensors: holds no checksums",))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(str(path), [f"is a damaged safetensors file: {reason}"], hint=_AGAIN) from None


def _legacy(path: Path) -> _Content:
    """Read what torch.save wrote before version 1.6."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file goes wrong in every way that Python has
        raise CheckpointError(
            str(path),
            [f"is of torch.save's old form and damaged, or holds more than tensors ({type(error).__name__})"],
            hint=_SAVE,
        ) from None
    return _Content(value, ("of torch.save's old form: holds no checksums",))
