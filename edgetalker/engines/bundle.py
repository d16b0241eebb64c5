"""A bundle on disk: the manifest, its files, their digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edgetalker.engines.engine import DTYPES, Array, TensorSpec
from edgetalker.engines.errors import BundleError, OptionError, nearest
from edgetalker.engines.files import sha256_of
from edgetalker.engines.manifest import Manifest, parse
from edgetalker.engines.verify import contradictions

__all__ = ["MANIFEST", "Bundle"]

MANIFEST = "manifest.json"


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
        folder = Path(path)
        manifest = parse(_read_manifest(folder), str(folder))
        faults = contradictions(manifest)
        faults += _digest_faults(folder, manifest)
        bundle = cls(folder, manifest)
        if not faults:
            faults = list(bundle._array_faults())
        if faults:
            raise BundleError(str(folder), faults, hint="export the bundle again, or copy it again whole")
        return bundle

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        return self.path / name

    def onnx(self, stage: str, precision: str = "fp32") -> Path:
        """Return the ONNX file of a stage in a precision; `fp32` is the stage's own.

        Raises OptionError when the bundle has no such precision.
        """
        return self.path / self.onnx_name(stage, precision)

    def onnx_name(self, stage: str, precision: str = "fp32") -> str:
        """Return the file name of a stage in a precision. Raises OptionError as `onnx` does."""
        if precision == "fp32":
            return self.manifest.stages[stage].file
        if precision not in self.manifest.precisions:
            known = ["fp32", *self.manifest.precisions]
            raise OptionError(
                f"{self.path}: no precision `{precision}`; it has {', '.join(known)}{nearest(precision, known)}",
                hint=f"edgetalker convert {self.path} --precision {precision}",
            )
        return self.manifest.precisions[precision].get(stage, self.manifest.stages[stage].file)

    def array(self, file: str) -> Array:
        """Load an array file of the bundle. Never unpickles."""
        values: Array = np.load(self.path / file, allow_pickle=False)
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
        elif values.shape != wanted.shape or values.dtype != DTYPES[wanted.dtype]:
            found = f"{values.dtype}[{','.join(map(str, values.shape))}]"
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
        except (ValueError, OSError, EOFError):
            return None


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        what = "it holds no manifest.json" if folder.is_dir() else "there is no such folder"
        raise BundleError(str(folder), [what], hint="a bundle is the folder that `edgetalker export` writes") from None
    except OSError as error:
        raise BundleError(str(folder), [f"manifest.json cannot be read: {error.strerror}"]) from None


def _digest_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, digest in manifest.files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            yield f"file `{name}` lies outside the bundle"
            continue
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            yield f"file `{name}` cannot be read: {error.strerror}"
            continue
        if found != digest:
            yield f"file `{name}` has SHA-256 {found[:12]}…, the manifest says {digest[:12]}…"
