"""Plans and their records: written, found, judged, read. A plan counts by its fingerprint, never because a file exists.

The record beside a plan holds everything that decides where the plan is valid, and what was measured on the way.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.files import open_regular, read_regular, sha256_of, write_whole
from edgetalker.engines.machine import Gpu, Machine
from edgetalker.engines.manifest import Stage, specs
from edgetalker.engines.reader import Reader
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.build import RECIPE

__all__ = [
    "Found",
    "PlanRecord",
    "State",
    "Verdict",
    "cache_folder",
    "choose",
    "default_precision",
    "find",
    "judge",
    "plan_folders",
    "read_plan",
    "read_record",
    "rebuild_command",
    "store",
    "write_record",
]

_FORMAT = "edgetalker-plan"
_VERSION = 1
_LARGEST_RECORD, _LARGEST_PLAN = 1 << 24, 1 << 36


@dataclass(frozen=True)
class PlanRecord:
    """One plan's fingerprint.

    device, processors: name and multiprocessors of the GPU it was measured on, for full TensorRT; empty and 0 for
    TensorRT-RTX, whose kernels are compiled where they run (0 also in records from before they were counted).
    driver: CUDA version of the driver there; told, not compared, because TensorRT's plans do not depend on it.
    flags: see `tensorrt.build.flags_of`. seconds, peak_memory: what the build took (bytes of host memory; 0 where the
    system does not tell). types: element type -> tensors that have it.
    """

    stage: str
    precision: str
    flavour: str
    version: str
    capabilities: tuple[str, ...]
    platform: str
    device: str
    driver: str
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    flags: Mapping[str, int | bool]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    types: Mapping[str, int]
    seconds: float
    peak_memory: int
    processors: int = 0

    @property
    def target(self) -> Target:
        """What the plan was built for."""
        return Target(self.flavour, self.capabilities)

    def same_build(self, other: PlanRecord) -> bool:
        """Return whether `other` came from the same input by the same rules, whatever it took."""
        measured = {"seconds": 0.0, "peak_memory": 0, "plan_sha256": "", "plan_bytes": 0, "driver": "", "types": {}}
        if not (self.processors and other.processors):
            measured["processors"] = 0
        return replace(self, **measured) == replace(other, **measured)  # type: ignore[arg-type]


def write_record(path: Path, record: PlanRecord) -> None:
    """Write a record, whole."""
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "plan": asdict(record)}, indent=1)
    with write_whole(path) as file:
        file.write(text.encode() + b"\n")


def read_record(path: Path) -> PlanRecord:
    """Read a record. Raises EngineError listing every fault of form."""
    faults: list[str] = []
    try:
        root = Reader(json.loads(read_regular(path, _LARGEST_RECORD)), "", faults)
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read: {error}", hint=_HINT) from None
    if (root.take("format", str), root.take("version", int)) != (_FORMAT, _VERSION):
        root.fault(f"wanted format `{_FORMAT}` version {_VERSION}")
    record = _record(root.child("plan"))
    root.finish()
    if faults:
        raise EngineError(f"{path}: " + "; ".join(faults), hint=_HINT)
    return record


_HINT = "build the plan again: `edgetalker build BUNDLE --target auto --force`"


def _record(reader: Reader) -> PlanRecord:
    """Read every field by its declared type."""
    known = [field for field in fields(PlanRecord) if field.default is MISSING or reader.has(field.name)]
    record = PlanRecord(**{field.name: _READS[str(field.type)](reader, field.name) for field in known})
    if not record.capabilities:
        reader.fault("`capabilities` is empty")
    return record


def _flags(reader: Reader, key: str) -> dict[str, int | bool]:
    flags = reader.take(key, dict)
    for name, value in flags.items():
        if not isinstance(value, int):
            reader.fault(f"flag `{name}` is {value!r}; a whole number, true or false was wanted")
    return dict(sorted(flags.items()))


def _counts(reader: Reader, key: str) -> dict[str, int]:
    child = reader.child(key)
    return {name: child.take(name, int) for name in reader.take(key, dict)}


_READS: Mapping[str, Callable[[Reader, str], Any]] = {
    "str": lambda reader, key: reader.take(key, str),
    "int": lambda reader, key: reader.take(key, int),
    "float": Reader.number,
    "tuple[str, ...]": Reader.strings,
    "Mapping[str, int | bool]": _flags,
    "Mapping[str, int]": _counts,
    "Mapping[str, TensorSpec]": specs,
}
"""Declared type of a record's field -> what reads it."""


class State(enum.Enum):
    """What a plan is to this machine and this bundle.

    valid: it runs here. stale: it was made from other ONNX, by other rules or by another library version.
    foreign: it was made for another kind of machine, or for a library that is not here. damaged: its bytes are
    not those that were built.
    """

    VALID = "valid"
    STALE = "stale"
    FOREIGN = "foreign"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Verdict:
    """A state and every reason for it; no reasons when valid."""

    state: State
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.state.value + (f" ({'; '.join(self.reasons)})" if self.reasons else "")


@dataclass(frozen=True)
class Found:
    """A plan file and its record; no record when it cannot be read, and then `fault` says why."""

    path: Path
    record: PlanRecord | None
    fault: str = ""


def cache_folder() -> Path:
    """Return the user's cache folder for this program: `$XDG_CACHE_HOME`, `%LOCALAPPDATA%` or `~/.cache`.

    A user without any of these has none: the path that is returned then cannot exist, nothing is found there, and
    writing there is an error.
    """
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = os.environ.get(variable, "")
    if Path(given).is_absolute():
        return Path(given) / "edgetalker"
    try:
        return Path.home() / ".cache" / "edgetalker"
    except RuntimeError:  # no HOME, and no entry for the user in the system's list
        return Path(os.devnull) / "no-home-folder" / "edgetalker"


def plan_folders(bundle: Bundle) -> tuple[Path, Path]:
    """Return the folders in which a bundle's plans may lie: the bundle's own, then the user's cache."""
    digest = sha256_of(bundle.path / MANIFEST)[:16]
    return bundle.path / "plans", cache_folder() / "plans" / f"{bundle.manifest.name}-{digest}"


def find(bundle: Bundle, stage: str | None = None, precision: str | None = None) -> Iterator[Found]:
    """Yield every plan beside the bundle and in the cache, those whose record is broken included."""
    for folder in plan_folders(bundle):
        for path in sorted(folder.rglob("*.plan")):
            try:
                record = read_record(path.with_suffix(".json"))
            except EngineError as error:
                yield Found(path, None, f"its record: {error.message}")
                continue
            if stage in (None, record.stage) and precision in (None, record.precision):
                yield Found(path, record)


def judge(found: Found, bundle: Bundle, machine: Machine) -> Verdict:
    """Compare a plan's record with the bundle and the machine. Reads no plan bytes beyond their count."""
    record = found.record
    if record is None:
        return Verdict(State.DAMAGED, (found.fault,))
    try:
        with open_regular(found.path) as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return Verdict(State.DAMAGED, (f"it cannot be read: {error.strerror}",))
    if size != record.plan_bytes:
        return Verdict(State.DAMAGED, (f"{size} bytes, {record.plan_bytes} were built",))
    stale, foreign = tuple(_stale(record, bundle, machine)), tuple(_foreign(record, machine))
    if stale:
        return Verdict(State.STALE, stale + foreign)
    return Verdict(State.FOREIGN, foreign) if foreign else Verdict(State.VALID)


def choose(bundle: Bundle, stage: str, precision: str, flavour: str, machine: Machine) -> Found:
    """Return the valid plan of a stage with the fewest targets.

    Raises EngineError that says of each plan why it is not valid, and which command builds one.
    """
    only = replace(machine, versions={name: machine.versions[name] for name in (flavour,) if name in machine.versions})
    builds = "tensorrt" if flavour == "lean" else flavour  # the lean runtime runs plans that full TensorRT built for it
    refused = []
    valid: list[tuple[int, str, Found]] = []
    for found in find(bundle, stage, precision):
        verdict = judge(found, bundle, only)
        if found.record and found.record.flavour != builds:
            continue
        if verdict.state is State.VALID and found.record:
            valid.append((len(found.record.capabilities), str(found.path), found))
        elif found.record or found.path.stem == stage:
            refused.append(f"{found.path.name} in {found.path.parent}: {verdict}")
    if valid:
        return min(valid)[2]
    listed = "".join(f"\n  - {text}" for text in refused)
    raise EngineError(
        f"stage `{stage}` has no valid {precision} plan for `{flavour}` on this machine"
        + (f"; refused:{listed}" if refused else ", none was built"),
        hint=rebuild_command(bundle, builds, precision),
    )


def rebuild_command(bundle: Bundle, target: str, precision: str) -> str:
    """Return the command that builds a bundle's plans."""
    return f"edgetalker build {bundle.path} --target {target} --precision {precision}"


def read_plan(found: Found) -> bytes:
    """Return the plan's bytes. Raises EngineError when a single one is not as it was built."""
    if found.record is None:
        raise EngineError(f"{found.path}: {found.fault}")
    try:
        data = read_regular(found.path, _LARGEST_PLAN)
    except OSError as error:
        raise EngineError(f"{found.path} cannot be read: {error.strerror}", hint=_HINT) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest == found.record.plan_sha256:
        return data
    raise EngineError(
        f"{found.path} is damaged: SHA-256 {digest[:12]}…, its record says {found.record.plan_sha256[:12]}…",
        hint=f"build it again: `edgetalker build BUNDLE --target {found.record.target} --force`",
    )


def store(folder: Path, plan: bytes, record: PlanRecord) -> Path:
    """Write plan and record; the record last, so that a plan without one is an interrupted build."""
    path = folder / plan_name(record.target, record.version, record.precision, record.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    with write_whole(path) as file:
        file.write(plan)
    write_record(path.with_suffix(".json"), record)
    return path


def plan_name(target: Target, version: str, precision: str, stage: str) -> Path:
    """Return where a plan lies below a plan folder; one place for each target, library and precision."""
    return Path(f"{target.flavour}-{version}") / target.slug / precision / f"{stage}.plan"


def _foreign(record: PlanRecord, machine: Machine) -> Iterator[str]:
    gpu = machine.gpu
    if _place(record.flavour, record.platform) != _place(record.flavour, machine.platform):
        yield f"made on {record.platform}, this is {machine.platform}"
    if not isinstance(gpu, Gpu):
        yield gpu.reason
    elif not record.target.covers(gpu.capability):
        yield f"made for {', '.join(record.capabilities)}, this GPU is {gpu.capability}"
    elif record.device and record.device != gpu.name:
        yield f"measured on {record.device}, this GPU is {gpu.name}"
    elif record.processors and gpu.processors and record.processors != gpu.processors:
        yield f"measured on {record.processors} multiprocessors, this {gpu.name} has {gpu.processors}"
    if not machine.versions.keys() & _runners(record):
        here = ", ".join(f"`{name}`" for name in machine.versions) or "no TensorRT"
        yield f"made by `{record.flavour}` for {' or '.join(sorted(_runners(record)))}; here is {here}"


def _place(flavour: str, platform: str) -> str:
    """Return what of a platform a plan belongs to: NVIDIA calls TensorRT-RTX's portable between Linux and Windows."""
    if flavour != "rtx":
        return platform
    cpu = platform.partition("-")[2]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(cpu, cpu)  # Windows' names for them


def default_precision(bundle: Bundle) -> str:
    """Return the precision that plans are built in where none is named."""
    return "fp16" if "fp16" in bundle.manifest.precisions else "fp32"


def _runners(record: PlanRecord) -> set[str]:
    compatible = record.flavour == "tensorrt" and record.flags.get("version_compatible")
    return {record.flavour, "lean"} if compatible else {record.flavour}


def _stale(record: PlanRecord, bundle: Bundle, machine: Machine) -> Iterator[str]:
    stage = bundle.manifest.stages.get(record.stage)
    if stage is None:
        yield f"the bundle has no stage `{record.stage}`"
        return
    yield from _network_changes(record, stage, bundle)
    versions = [machine.versions[name] for name in _runners(record) if name in machine.versions]
    if versions and not any(_reads(record, version) for version in versions):
        yield f"made by {record.flavour} {record.version}, here is {', '.join(versions)}"
    if record.flags.get("recipe") != RECIPE:
        yield f"built by rules {record.flags.get('recipe')}, now they are {RECIPE}"


def _network_changes(record: PlanRecord, stage: Stage, bundle: Bundle) -> Iterator[str]:
    precisions = ("fp32", *bundle.manifest.precisions)
    if record.precision not in precisions:
        yield f"the bundle has no precision `{record.precision}`"
        return
    digest = bundle.manifest.files[bundle.onnx_name(record.stage, record.precision)]
    if record.onnx_sha256 != digest:
        yield f"built from ONNX {record.onnx_sha256[:12]}…, the bundle now holds {digest[:12]}…"
    if (dict(record.inputs), dict(record.outputs)) != (dict(stage.inputs), dict(stage.outputs)):
        yield "its tensors are not those of the manifest"


def _reads(record: PlanRecord, version: str) -> bool:
    """A plan belongs to one version; a version-compatible one also to later ones of the same major number."""
    if version == record.version:
        return True
    if not record.flags.get("version_compatible"):
        return False
    made, here = (tuple(int(part) for part in text.split(".") if part.isdigit()) for text in (record.version, version))
    return made[:1] == here[:1] and here >= made
