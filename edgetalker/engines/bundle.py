"""A bundle on disk: the manifest, its files, their digests; read by `Bundle.open`, written by `pack`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.engine import Array, TensorSpec
from edgetalker.engines.errors import BundleError, InputError, unknown
from edgetalker.engines.files import read_regular, sha256_of
from edgetalker.engines.kinds import kind_of_file
from edgetalker.engines.manifest import FORMAT, VERSION, Manifest, parse
from edgetalker.engines.verify import contradictions

__all__ = ["MANIFEST", "Bundle", "check_target", "pack"]

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 26


@dataclass(frozen=True)
class Bundle:
    """A folder whose manifest is sound and whose files are what the manifest says they are."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read and check a bundle: form, contradictions, files, digests, shapes of the arrays.

        Raises BundleError listing every fault found.
        """
        return cls._opened(Path(path))

    @classmethod
    def _opened(cls, folder: Path, known: Mapping[str, str] | None = None) -> Bundle:
        """Read and check a bundle. known: digests of its files that have just been computed, instead of computing
        them again, which takes seconds a gigabyte."""
        manifest = parse(_read_manifest(folder), str(folder))
        faults = contradictions(manifest)
        faults += _digest_faults(folder, manifest, known or {})
        bundle = cls(folder, manifest)
        if not faults:
            faults = list(bundle._array_faults())
        if faults:
            raise BundleError(str(folder), faults, hint="export the bundle again, or copy it again whole")
        return bundle

    @property
    def digest(self) -> str:
        """SHA-256 of what the bundle computes: everything but its further precisions and its notes."""
        manifest = self.manifest
        further = {file for stages in manifest.precisions.values() for file in stages.values()}
        files = {name: digest for name, digest in manifest.files.items() if name not in further}
        text = repr((manifest.name, manifest.program, manifest.tensors, manifest.motion, manifest.audio, files))
        return hashlib.sha256(text.encode()).hexdigest()

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        return self.path / name

    def onnx(self, stage: str, precision: str = "fp32", *, host: bool = False) -> Path:
        """Return the ONNX file of a stage in a precision; `fp32` is the stage's own.

        host: in the form that ONNX Runtime's CPU plays fastest, where the bundle has one (`int8-host` beside `int8`).
        Raises OptionError when the bundle has no such precision.
        """
        form = f"{precision}-host"
        return self.path / self.onnx_name(stage, form if host and form in self.manifest.precisions else precision)

    def onnx_name(self, stage: str, precision: str = "fp32") -> str:
        """Return the file name of a stage in a precision. Raises OptionError as `onnx` does."""
        if precision == "fp32":
            return self.manifest.stages[stage].file
        if precision not in self.manifest.precisions:
            known = ["fp32", *self.manifest.precisions]
            hint = f"edgetalker convert {self.path} --precision {precision}"
            raise unknown("precision", precision, known, f"{self.path} has", hint=hint)
        return self.manifest.precisions[precision].get(stage, self.manifest.stages[stage].file)

    def array(self, file: str) -> Array:
        """Load an array file of the bundle. Never unpickles. Raises InputError."""
        values = read_arrays(self.path / file)
        if isinstance(values, dict):
            raise InputError(f"{self.path / file} holds several arrays; one (.npy) was wanted")
        return values

    def table(self, schedule: str) -> Array:
        """Return a schedule's table, float32 (rows, width); (0, 0) when the schedule has none."""
        file = self.manifest.schedules[schedule].file
        return self.array(file) if file else np.zeros((0, 0), np.float32)

    def _array_faults(self) -> Iterator[str]:
        for tensor in self.manifest.tensors.values():
            if tensor.file:
                yield from self._shape_faults(tensor.file, tensor.spec, f"tensor `{tensor.name}`")
        for schedule in self.manifest.schedules.values():
            if schedule.file:
                yield from self._table_faults(schedule.file, schedule.name)

    def _shape_faults(self, file: str, wanted: TensorSpec, what: str) -> Iterator[str]:
        values = self._loaded(file)
        if values is None:
            yield f"{what}: `{file}` is no array file (.npy)"
        elif (found := TensorSpec(str(values.dtype), values.shape)) != wanted:
            yield f"{what} is {wanted}, but `{file}` holds {found}"
        elif values.dtype.kind == "f" and not np.isfinite(values).all():
            yield f"{what}: `{file}` holds NaN or Inf"

    def _table_faults(self, file: str, name: str) -> Iterator[str]:
        values = self._loaded(file)
        if values is None or values.dtype != np.float32 or values.ndim != 2 or not len(values):
            yield f"schedule `{name}`: `{file}` is no float32 table (rows, width) with at least one row"
            return
        for step in self.manifest.program:
            for given, text in getattr(step, "inputs", {}).items():
                takes_part = not step.schedules or name in step.schedules
                wanted = self.manifest.stages[step.stage].inputs[given] if text == "@row" else None  # type: ignore[union-attr]
                if takes_part and wanted is not None and wanted != TensorSpec("float32", (1, values.shape[1])):
                    yield f"schedule `{name}` has rows of {values.shape[1]}, input `{given}` wants {wanted}"

    def _loaded(self, file: str) -> Array | None:
        try:
            return self.array(file)
        except InputError:
            return None


def _read_manifest(folder: Path) -> bytes:
    try:
        return read_regular(folder / MANIFEST, _LARGEST_MANIFEST)
    except FileNotFoundError:
        what = "it holds no manifest.json" if folder.is_dir() else "there is no such folder"
        below = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
        hint = f"a bundle lies in it: {folder / below[0]}" if below else _WHAT_A_BUNDLE_IS
        raise BundleError(str(folder), [what], hint=hint) from None
    except NotADirectoryError:
        raise _file_for_a_bundle(folder) from None
    except OSError as error:
        raise BundleError(str(folder), [f"manifest.json cannot be read: {error.strerror}"]) from None


_WHAT_A_BUNDLE_IS = "a bundle is the folder that `edgetalker export` writes"


def _file_for_a_bundle(path: Path) -> BundleError:
    """Say what a file is that was given in place of a bundle's folder, and which folder was meant."""
    kind = "a bundle's manifest" if path.name == MANIFEST else ""
    hint = _WHAT_A_BUNDLE_IS
    with suppress(OSError):
        kind = kind or kind_of_file(path)
    around = next((folder for folder in path.absolute().parents[:2] if (folder / MANIFEST).is_file()), None)
    if around is not None:
        hint = f"give the folder of the bundle: {around}"
    elif kind == "a ZIP archive":
        hint = "unpack it and give the folder in it (a checkpoint becomes a bundle by `edgetalker export`)"
    return BundleError(str(path), [f"is {kind or 'a file'}; a bundle's folder was wanted"], hint=hint)


def _digest_faults(folder: Path, manifest: Manifest, known: Mapping[str, str]) -> Iterator[str]:
    for name, digest in manifest.files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            yield f"file `{name}` lies outside the bundle"
            continue
        try:
            found = known.get(name) or sha256_of(folder / name)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL, or one that no file system can spell
            shown = name if name.isprintable() else ascii(name)[1:-1]
            yield f"file `{shown}` cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        if found != digest:
            yield f"file `{name}` has SHA-256 {found[:12]}…, the manifest says {digest[:12]}…"


# Writing


def pack(
    path: Path | str,
    description: Mapping[str, Any],
    files: Mapping[str, bytes | Path | Array],
    *,
    replace: bool = False,
) -> Bundle:
    """Write a bundle folder and return it opened.

    description: the manifest without `format`, `version` and `files`, which are filled in here. files: name ->
    content, a path to copy, or an array that is stored as .npy. The folder is made beside `path` and renamed,
    so that it appears whole. Raises BundleError when the manifest contradicts itself or its files, InputError
    when `path` exists and `replace` is not set or it is not a bundle.
    """
    target = Path(path)
    check_target(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        draft.chmod(0o755)
        for name, content in files.items():
            _write(draft / name, content)
        digests = {name: sha256_of(draft / name) for name in sorted(files)}
        document = {"format": FORMAT, "version": VERSION, **description, "files": digests}
        (draft / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        bundle = Bundle._opened(draft, digests)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle(target, bundle.manifest)


def check_target(target: Path, *, replace: bool) -> None:
    """Raise InputError when `pack` would refuse to write there."""
    if not target.exists():
        return
    if not replace:
        raise InputError(f"{target} exists already", hint="name another folder, or add --force to replace it")
    if not (target / MANIFEST).is_file():
        raise InputError(f"{target} exists and is not a bundle, so it is not replaced", hint="name another folder")


def _write(path: Path, content: bytes | Path | Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        np.save(path, content, allow_pickle=False)


def _swap(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    os.replace(target, old / "bundle")  # noqa: PTH105 - a rename, never a copy
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
