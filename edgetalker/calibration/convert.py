"""Adds a precision to a bundle: converted stages beside the FP32 ones, and a report of what that costs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.calibration.half import half_error
from edgetalker.calibration.onestep import OneStep
from edgetalker.calibration.report import Report
from edgetalker.calibration.rollout import Divergence, Inputs, compare_rollouts, record_inputs
from edgetalker.calibration.sound import sound_of
from edgetalker.calibration.stage import ConvertedStage, convert_stage
from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.errors import InputError, MissingPackageError, OptionError, nearest
from edgetalker.engines.files import sha256_of, write_whole

__all__ = ["ConvertOptions", "Said", "add_precision", "convert"]

Said = Callable[[str, float], None]
"""Told what is being done and the share of it that is done."""

PRECISION = "fp16"
_EMULATED = "fp16_emulated"


@dataclass(frozen=True)
class ConvertOptions:
    """audio: folder of recordings (None: a made-up voice). seconds: length of the closed-loop comparison.
    limit: relative error that one run of a stage may have; what is beyond is held in FP32. seed: of the noise.
    hold: stages that stay FP32.
    observed: frames that ranges are observed over, for each schedule. kept: frames of them that are recorded."""

    audio: Path | None = None
    seconds: float = 600.0
    limit: float = 2e-3
    hold: tuple[str, ...] = ()
    seed: int = 0
    observed: int = 300
    kept: int = 24


def convert(bundle: Bundle, options: ConvertOptions, *, output: Path | None = None, said: Said | None = None) -> Report:
    """Convert every stage, compare ten minutes of motion, write stages and report into the bundle, or into a copy.

    A bundle appears whole: the manifest is replaced last. Raises InputError when the sound or the place to write
    does not serve, MissingPackageError without onnx, onnxruntime or matplotlib.
    """
    tell = said or (lambda what, share: None)
    for name in options.hold:
        if name not in bundle.manifest.stages:
            known = bundle.manifest.stages
            raise OptionError(f"no stage `{name}`; the bundle has {', '.join(known)}{nearest(name, known)}")
    _check_place(bundle, output)
    rate = bundle.manifest.audio.rate
    sound = sound_of(options.audio, rate, min(options.seconds, 600.0))
    recorded = record_inputs(
        bundle, sound, options.observed, options.kept, seed=options.seed, tick=_ticker(tell, "observing ranges")
    )
    stages = []
    for place, (name, inputs) in enumerate(recorded.items()):
        tell(f"converting {name}", place / len(recorded))
        if name not in options.hold:
            stages.append(convert_stage(name, bundle.onnx(name), inputs, options.limit))
    rounded = {stage.name: error for stage in stages for error in _rounded(bundle, stage, recorded[stage.name], tell)}
    heard = f"{options.audio}" if options.audio else "a made-up voice"
    with _draft(bundle, stages) as draft:
        loops = [_divergence(draft, name, sound, options, tell) for name in bundle.manifest.ladder]
        report = Report(bundle.manifest.name, PRECISION, heard, stages, loops, rounded)
        files = {"report.json": report.to_json(), "report.png": report.to_png()}
        _add_files(draft.path, {f"{PRECISION}/{name}": data for name, data in files.items()})
        _forget(draft.path, _EMULATED)
        Bundle.open(draft.path)
        _install(draft.path, output or bundle.path, new=output is not None)
    return report


def _check_place(bundle: Bundle, output: Path | None) -> None:
    if output is not None and output.exists():
        raise InputError(f"{output} exists already", hint="name another folder")
    place = bundle.path if output is None else output.parent
    if not os.access(place, os.W_OK):
        raise InputError(f"{place} cannot be written", hint="add --output FOLDER to write a copy of the bundle")


def _ticker(tell: Said, what: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(what, done / max(1, total))


def _rounded(bundle: Bundle, stage: ConvertedStage, inputs: list[Inputs], tell: Said) -> Iterator[OneStep]:
    """Yield the pessimistic error where PyTorch is there to compute it."""
    if not stage.onnx:
        return
    tell(f"rounding every node of {stage.name}", 0.0)
    try:
        yield half_error(bundle.onnx(stage.name).read_bytes(), stage.onnx, inputs[:: max(1, len(inputs) // 3)][:3])
    except MissingPackageError:
        return


def _divergence(
    draft: Bundle, schedule: str, sound: NDArray[np.float32], options: ConvertOptions, tell: Said
) -> Divergence:
    frames = max(1, round(options.seconds * draft.manifest.motion.fps))
    tick = _ticker(tell, f"closed loop, schedule {schedule}")
    return compare_rollouts(draft, _EMULATED, sound, frames, schedule, seed=options.seed, tick=tick)


@contextmanager
def _draft(bundle: Bundle, stages: list[ConvertedStage]) -> Iterator[Bundle]:
    """A copy of the bundle with the converted stages and their emulations; gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="edgetalker-convert-") as folder:
        path = Path(folder) / "bundle"
        for name in [MANIFEST, *bundle.manifest.files]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, path / name)
        _forget(path, PRECISION)
        for precision, files in (
            (PRECISION, {stage.name: stage.onnx for stage in stages if stage.onnx}),
            (_EMULATED, {stage.name: stage.emulated for stage in stages if stage.onnx}),
        ):
            add_precision(path, precision, files)
        yield Bundle.open(path)


def _forget(path: Path, precision: str) -> None:
    """Drop a precision from a draft."""
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    document.get("precisions", {}).pop(precision, None)
    document["files"] = {name: d for name, d in document["files"].items() if not name.startswith(f"{precision}/")}
    shutil.rmtree(path / precision, ignore_errors=True)
    _write_manifest(path, document)


def add_precision(path: Path, precision: str, stages: dict[str, bytes]) -> None:
    """Put converted stages (name -> ONNX) into a bundle's folder and its manifest, which is replaced last."""
    _add_files(path, {f"{precision}/{name}.onnx": data for name, data in stages.items()})
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    document.setdefault("precisions", {})[precision] = {name: f"{precision}/{name}.onnx" for name in stages}
    _write_manifest(path, document)


def _add_files(path: Path, files: dict[str, bytes]) -> None:
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        document["files"][name] = sha256_of(path / name)
    document["files"] = dict(sorted(document["files"].items()))
    _write_manifest(path, document)


def _write_manifest(path: Path, document: object) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    with write_whole(path / MANIFEST) as file:
        file.write(text.encode())


def _install(draft: Path, target: Path, *, new: bool) -> None:
    """Copy a draft's new files into the bundle, its manifest last; or the whole draft to a new place."""
    if new:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            shutil.copytree(draft, Path(folder) / "bundle").rename(target)
        return
    for source in sorted((draft / PRECISION).iterdir()):
        (target / PRECISION).mkdir(exist_ok=True)
        with write_whole(target / PRECISION / source.name) as file:
            file.write(source.read_bytes())
    with write_whole(target / MANIFEST) as file:
        file.write((draft / MANIFEST).read_bytes())
