"""What every export of a published checkpoint shares: stages as they pass their checks, then one bundle or none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle, check_target, pack
from edgetalker.engines.errors import Say
from edgetalker.engines.files import sha256_of, try_folder
from edgetalker.export.faces.attach import Face, FaceOptions
from edgetalker.export.onnx_stage import OPSET, Check, ExportError, StageFile

__all__ = ["CommonOptions", "Draft", "ExportReport", "origin_of", "try_target"]


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Choices of every export. tolerance: allowed error of a stage against PyTorch, relative to the largest value.
    face: what turns the model's motion into vertices and ARKit shapes."""

    tolerance: float = 2e-4
    face: FaceOptions = field(default_factory=FaceOptions)


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: the opened bundle, one check a stage, and how long it took in seconds."""

    bundle: Bundle
    checks: tuple[Check, ...]
    seconds: float


class Draft:
    """One export under way. `say` gets one line a stage."""

    def __init__(self, say: Say) -> None:
        self.stages: list[StageFile] = []
        self._checks: list[Check] = []
        self._face = Face({})
        self._say, self._begun = say, time.monotonic()

    def add(self, stage: StageFile, check: Check) -> StageFile:
        """Take a stage, and what it is told to be apart from PyTorch; returns the stage."""
        self.stages.append(stage)
        self._checks.append(check)
        self._say(str(check))
        return stage

    def attach(self, face: Face) -> None:
        """Take what the user's face adds: its stages run after all of the model's."""
        self._face = face
        for line in [*map(str, face.checks), *face.said]:
            self._say(line)

    def passed(self) -> None:
        """Raise ExportError unless every stage computes what PyTorch computes; names those that do not."""
        failed = [str(check) for check in [*self._checks, *self._face.checks] if not check.passed]
        if failed:
            raise ExportError("the exported stages differ from PyTorch; no bundle was written\n" + "\n".join(failed))

    def write(
        self,
        out: Path | str,
        description: Mapping[str, Any],
        notes: Mapping[str, Any],
        files: Mapping[str, Any],
        *,
        replace: bool,
    ) -> ExportReport:
        """Write the bundle: `description` (a manifest but for its notes), `notes` and arrays by file name.

        Raises ExportError as `passed` does, InputError when `out` exists already.
        """
        self.passed()
        checks = (*self._checks, *self._face.checks)
        said = {"face": self._face.said} if self._face.said else {}
        errors = {check.stage: check.error for check in checks}
        manifest = {**self._face.merged(description), "notes": {**notes, "opset": OPSET, "errors": errors, **said}}
        stages = {f"{stage.name}.onnx": stage.content for stage in [*self.stages, *self._face.stages]}
        bundle = pack(out, manifest, {**stages, **self._face.files, **files}, replace=replace)
        return ExportReport(bundle, checks, time.monotonic() - self._begun)


def origin_of(paths: Sequence[Path]) -> str:
    """Return the names of the files that a bundle was made of, and the beginnings of their digests."""
    return ", ".join(f"{path.name} (SHA-256 {sha256_of(path)[:16]})" for path in paths)


def try_target(out: Path, *, replace: bool) -> None:
    """Say before the minutes that an export of full size takes what would go wrong after them.

    Raises InputError when `out` exists already, OutputError when it cannot be written.
    """
    check_target(out, replace=replace)
    try_folder(out.absolute().parent)
