"""Adds a precision to a bundle: converted stages beside the FP32 ones, and a report of what that costs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.calibration.eightbit import EIGHT_BITS, Narrowing
from edgetalker.calibration.onestep import OneStep, half_error
from edgetalker.calibration.report import GOAL, ConvertReport
from edgetalker.calibration.rollout import Divergence, Inputs, compare_rollouts, record_inputs
from edgetalker.calibration.sound import HEARD, mixed, recordings, sound_of
from edgetalker.calibration.stage import ConvertedStage, convert_stage
from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.errors import (
    InputError,
    MissingPackageError,
    OptionError,
    Progress,
    nearest,
    unheard,
    unknown,
)
from edgetalker.engines.files import sha256_of, try_folder, write_whole

__all__ = ["PRECISIONS", "ConvertOptions", "add_precision", "convert"]

_EMULATED = "emulated"
_HOST = "-host"
PRECISIONS = ("fp16", *EIGHT_BITS)
_LEAST_SECONDS, _LONGEST = 5.0, 600.0  # of sound, for ranges
_SILENCE = 1e-4
_TRIES = 3
_SMALL, _OBSERVED, _FITTED = 64 << 20, 4000, 1500  # bytes of a bundle that many frames are observed of, and kept


@dataclass(frozen=True)
class ConvertOptions:
    """precision: `fp16`, `int8`, `w8` or `fp8`. audio: folder of recordings (None: made-up voices). seconds: length of
    the closed-loop comparison. goal: drift that it may have. limit: relative error that one run of a stage may have in
    FP16; what is beyond is held in FP32. hold: stages that stay FP32; `auto` finds those that have to. seed: of the
    noise. observed: frames that ranges are observed over, for each schedule. kept: frames of them that are recorded (8
    bits take more of both for a small bundle, unless they were given). budget: seconds that trying layers alone may
    take."""

    precision: str = "fp16"
    audio: Path | None = None
    seconds: float = 600.0
    goal: float = GOAL
    limit: float = 2e-3
    hold: tuple[str, ...] = ()
    seed: int = 0
    observed: int = 300
    kept: int = 24
    budget: float = 120.0


def convert(
    bundle: Bundle, options: ConvertOptions, *, output: Path | None = None, progress: Progress = unheard
) -> ConvertReport:
    """Convert every stage, compare ten minutes of motion, write stages and report into the bundle, or into a copy.

    A bundle appears whole: an interrupt leaves it as it was. Raises InputError when the sound or the place to write
    does not serve, NothingQuantisedError when nothing would be in 8 bits, MissingPackageError without onnx,
    onnxruntime or matplotlib.
    """
    _check_options(bundle, options)
    _check_place(bundle, output)
    narrow_ = options.precision in EIGHT_BITS
    rate = bundle.manifest.audio.rate
    # A made-up voice is as long as weights need it, however short the closed loop.
    seconds = _LONGEST if narrow_ and options.audio is None else min(max(options.seconds, 30.0), _LONGEST)
    sound = sound_of(options.audio, rate, seconds)
    _check_sound(sound, rate, options)
    heard = sound[: round(HEARD * len(sound))] if narrow_ else sound
    observed, kept = _frames(bundle, options, len(heard) / rate)
    recorded = record_inputs(bundle, heard, observed, kept, seed=options.seed, progress=progress)
    conversion = _Conversion(bundle, options, sound, recorded, output, progress)
    return conversion.to_half() if options.precision == "fp16" else conversion.to_eight_bits()


def _frames(bundle: Bundle, options: ConvertOptions, seconds: float) -> tuple[int, int]:
    """Return how many frames to observe and to keep. Weights are fitted to inputs: from too few of them they learn what
    only these have in common, and err where others come."""
    size = sum(bundle.onnx(stage).stat().st_size for stage in bundle.manifest.stages)
    plain = (options.observed, options.kept) == (ConvertOptions.observed, ConvertOptions.kept)
    if options.precision == "fp16" or size >= _SMALL or not plain:
        return options.observed, options.kept
    observed = max(options.observed, min(_OBSERVED, round(seconds * bundle.manifest.motion.fps)))
    return observed, min(observed, _FITTED)


@dataclass(frozen=True)
class _Conversion:
    """One conversion at work. recorded: stage -> what it read. output: where a copy goes, None: into the bundle."""

    bundle: Bundle
    options: ConvertOptions
    sound: NDArray[np.float32]
    recorded: Mapping[str, list[Inputs]]
    output: Path | None
    progress: Progress

    def to_half(self) -> ConvertReport:
        """Convert to FP16, with stages held in FP32 as long as `auto` finds one that has to be."""
        bundle, options = self.bundle, self.options
        stages = []
        for place, (name, inputs) in enumerate(self.recorded.items()):
            self.progress(f"converting {name}", place / len(self.recorded))
            if name not in options.hold:
                stages.append(convert_stage(name, bundle.onnx(name), inputs, options.limit))
        rounded = {stage.name: error for stage in stages for error in self._rounded(stage)}
        held: dict[str, float] = {}
        while True:
            files = {
                "fp16": {stage.name: stage.onnx for stage in stages if stage.onnx},
                _EMULATED: {stage.name: stage.emulated for stage in stages if stage.onnx},
            }
            with _draft(bundle, "fp16", files) as draft:
                report = self._report(stages, self._loops(draft, [_EMULATED])[_EMULATED], rounded, held=held)
                drifts = {} if report.met or not stages else self._by_stage(draft)
                report = replace(report, harm=drifts)
                if drifts and "auto" in options.hold:
                    worst = max(drifts, key=drifts.__getitem__)
                    held[worst] = drifts[worst]
                    stages = [stage for stage in stages if stage.name != worst]
                    continue
                self._finish(draft, report)
                return report

    def to_eight_bits(self) -> ConvertReport:
        """Convert to 8 bits, with fewer layers narrow where the long closed loop misses the goal."""
        bundle, options = self.bundle, self.options
        pass_ = Narrowing(
            bundle=bundle,
            precision=options.precision,
            recorded=self.recorded,
            sound=mixed(self.sound[round(HEARD * len(self.sound)) :], bundle.manifest.audio.rate, 2),
            goal=options.goal,
            hold=[name for name in options.hold if name != "auto"],
            limit=options.limit,
            seed=options.seed,
            budget=options.budget,
            progress=self.progress,
        )
        pass_.prepare()
        for trial in range(_TRIES):
            pass_.write()
            stages = pass_.found.stages
            files = {
                options.precision: {stage.name: stage.gpu for stage in stages if stage.gpu},
                _EMULATED: {stage.name: stage.emulated for stage in stages if stage.emulated},
            }
            if options.precision != "fp8":  # without a stage too: a CPU must not play the GPU's form
                files[options.precision + _HOST] = {stage.name: stage.host for stage in stages if stage.host}
            with _draft(bundle, options.precision, files) as draft:
                loops = self._loops(draft, [name for name in files if name != options.precision])
                host_loop = loops.get(options.precision + _HOST, [])
                report = self._report([], loops[_EMULATED], {}, narrow=pass_.found, host_loop=host_loop)
                missed = max(loop.error for found in loops.values() for loop in found) / options.goal
                if missed < 1.0 or trial + 1 == _TRIES or pass_.found.taken == 1:
                    self._finish(draft, report)
                    return report
            pass_.tighten(missed)
        raise AssertionError("the last try returns")

    def _report(
        self, stages: list[ConvertedStage], loops: list[Divergence], rounded: Mapping[str, OneStep], **more: Any
    ) -> ConvertReport:
        name, options = self.bundle.manifest.name, self.options
        heard = str(options.audio or "a made-up voice and a clip in many voices")
        return ConvertReport(name, options.precision, heard, stages, loops, rounded, options.goal, **more)

    def _rounded(self, stage: ConvertedStage) -> Iterator[OneStep]:
        """Yield the pessimistic error where PyTorch is there to compute it."""
        if not stage.onnx:
            return
        self.progress(f"rounding every node of {stage.name}", 0.0)
        inputs = self.recorded[stage.name]
        full = self.bundle.onnx(stage.name).read_bytes()
        with suppress(MissingPackageError):
            yield half_error(full, stage.onnx, inputs[:: max(1, len(inputs) // 3)][:3])

    def _by_stage(self, draft: Bundle) -> dict[str, float]:
        """Return stage -> the worst schedule's drift with that stage alone in the precision."""
        found = {}
        for stage in draft.manifest.precisions[_EMULATED]:
            alone = {"fp16": {}, _EMULATED: {stage: draft.onnx(stage, _EMULATED).read_bytes()}}
            with _draft(self.bundle, "fp16", alone) as single:
                loops = self._loops(single, [_EMULATED], min(self.options.seconds, 20.0))
            found[stage] = max(loop.error for loop in loops[_EMULATED])
        return found

    def _loops(
        self, draft: Bundle, precisions: Sequence[str], seconds: float | None = None
    ) -> dict[str, list[Divergence]]:
        """Compare precisions of a draft with FP32 in every schedule, over the options' seconds or these."""
        frames = max(1, round((seconds or self.options.seconds) * draft.manifest.motion.fps))
        seed, sound = self.options.seed, self.sound
        if self.options.precision in EIGHT_BITS:
            # Its last third is of another kind, which growth must not be read from.
            sound = mixed(sound, draft.manifest.audio.rate)
        return compare_rollouts(draft, precisions, sound, frames, seed=seed, progress=self.progress)

    def _finish(self, draft: Bundle, report: ConvertReport) -> None:
        name = report.precision
        _add_files(draft.path, {f"{name}/report.json": report.to_json(), f"{name}/report.png": report.to_png()})
        _forget(draft.path, _EMULATED)
        Bundle.open(draft.path)
        _install(draft.path, self.output or self.bundle.path, name, new=self.output is not None)


def _check_options(bundle: Bundle, options: ConvertOptions) -> None:
    if options.precision not in PRECISIONS:
        raise unknown("precision", options.precision, PRECISIONS)
    known = [*bundle.manifest.stages, "auto"]
    faults = [f"no stage `{name}`{nearest(name, known)}" for name in options.hold if name not in known]
    if faults:
        raise OptionError(f"{'; '.join(faults)}; the bundle has {', '.join(bundle.manifest.stages)}")


def _check_sound(sound: NDArray[np.float32], rate: int, options: ConvertOptions) -> None:
    """Ranges that were taken from silence would cut off all speech."""
    if options.audio is None:
        return
    loud = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    if loud < _SILENCE:
        raise InputError(
            f"{options.audio} is silent (RMS {loud:.1g}); ranges are taken from speech",
            hint=f"give recordings of at least {_LEAST_SECONDS:g} seconds of speech, or leave --audio out",
        )
    seconds = sum(len(voice) for voice in recordings(options.audio, rate)) / rate
    if seconds < _LEAST_SECONDS:
        raise InputError(
            f"{options.audio} holds {seconds:.1f} s of sound; at least {_LEAST_SECONDS:g} s are wanted for ranges",
            hint="add recordings, or leave --audio out for a made-up voice",
        )


def _check_place(bundle: Bundle, output: Path | None) -> None:
    if output is not None and output.exists():
        raise InputError(f"{output} exists already", hint="name another folder")
    if output is None:
        try_folder(bundle.path, hint="add --output FOLDER to write a copy of the bundle")
    else:
        try_folder(output.absolute().parent)


@contextmanager
def _draft(bundle: Bundle, precision: str, files: Mapping[str, dict[str, bytes]]) -> Iterator[Bundle]:
    """A copy of the bundle with converted stages (precision -> stage -> ONNX); gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="edgetalker-convert-") as folder:
        path = Path(folder) / "bundle"
        for name in [MANIFEST, *bundle.manifest.files]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, path / name)
        for old in (precision, precision + _HOST):
            _forget(path, old)
        for added, stages in files.items():
            add_precision(path, added, stages)
        yield Bundle.open(path)


def _forget(path: Path, precision: str) -> None:
    """Drop a precision from a draft."""
    with _manifest(path) as document:
        if document.get("precisions", {}).pop(precision, None) is None:
            return
        document["files"] = {name: d for name, d in document["files"].items() if not name.startswith(f"{precision}/")}
        shutil.rmtree(path / precision, ignore_errors=True)


def add_precision(path: Path, precision: str, stages: dict[str, bytes]) -> None:
    """Put converted stages (name -> ONNX) into a bundle's folder and its manifest, which is replaced last."""
    _add_files(path, {f"{precision}/{name}.onnx": data for name, data in stages.items()})
    with _manifest(path) as document:
        document.setdefault("precisions", {})[precision] = {name: f"{precision}/{name}.onnx" for name in stages}


def _add_files(path: Path, files: dict[str, bytes]) -> None:
    with _manifest(path) as document:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
            document["files"][name] = sha256_of(path / name)
        document["files"] = dict(sorted(document["files"].items()))


@contextmanager
def _manifest(path: Path) -> Iterator[dict[str, Any]]:
    """Lend a bundle's manifest to be changed, and write it."""
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    yield document
    with write_whole(path / MANIFEST) as file:
        file.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _install(draft: Path, target: Path, precision: str, *, new: bool) -> None:
    """Put a draft's precision into the bundle, its manifest last; or the whole draft into a new place.

    Folders are exchanged by renaming, and put back when anything goes wrong before the manifest is there.
    """
    if new:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            shutil.copytree(draft, Path(folder) / "bundle").rename(target)
        return
    with tempfile.TemporaryDirectory(dir=target, prefix=".convert.") as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        old.mkdir()
        names = [precision, precision + _HOST]
        for name in names:
            if (draft / name).is_dir():
                shutil.copytree(draft / name, fresh / name)
        done: list[str] = []
        try:
            for name in names:
                done.append(name)
                if (target / name).is_dir():
                    (target / name).rename(old / name)
                if (fresh / name).is_dir():
                    (fresh / name).rename(target / name)
            with write_whole(target / MANIFEST) as file:
                file.write((draft / MANIFEST).read_bytes())
        except BaseException:
            for name in done:
                if (old / name).is_dir():
                    shutil.rmtree(target / name, ignore_errors=True)
                    (old / name).rename(target / name)
            raise
