"""The record beside a plan: everything that decides where the plan is valid, and what was measured on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgetalker.engines.driver import Gpu, NoGpu
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.files import write_whole
from edgetalker.engines.reader import Reader
from edgetalker.engines.targets import Target

__all__ = ["Machine", "PlanRecord", "read_record", "write_record"]

_FORMAT = "edgetalker-plan"
_VERSION = 1


@dataclass(frozen=True)
class Machine:
    """Where plans shall run: library version of each flavour that loads, platform, GPU or why there is none."""

    versions: Mapping[str, str]
    platform: str
    gpu: Gpu | NoGpu


@dataclass(frozen=True)
class PlanRecord:
    """One plan's fingerprint.

    device: name of the GPU it was measured on, for full TensorRT; empty for TensorRT-RTX, whose kernels are
    compiled where they run. driver: CUDA version of the driver there; told, not compared, because TensorRT's
    plans do not depend on it. flags: see `tensorrt.build.flags_of`. seconds, peak_memory: what the build took
    (bytes of host memory; 0 where the system does not tell). types: element type -> tensors that have it.
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

    @property
    def target(self) -> Target:
        """What the plan was built for."""
        return Target(self.flavour, self.capabilities)

    def same_build(self, other: PlanRecord) -> bool:
        """Return whether `other` came from the same input by the same rules, whatever it took."""
        measured = {"seconds": 0.0, "peak_memory": 0, "plan_sha256": "", "plan_bytes": 0, "driver": "", "types": {}}
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
        root = Reader(json.loads(path.read_bytes()), "", faults)
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
    record = PlanRecord(
        **{name: reader.take(name, str) for name in ("stage", "precision", "flavour", "version")},
        capabilities=reader.strings("capabilities"),
        **{name: reader.take(name, str) for name in ("platform", "device", "driver", "onnx_sha256", "plan_sha256")},
        plan_bytes=reader.take("plan_bytes", int),
        flags=_flags(reader),
        inputs=_specs(reader, "inputs"),
        outputs=_specs(reader, "outputs"),
        types=_counts(reader),
        seconds=reader.number("seconds"),
        peak_memory=reader.take("peak_memory", int),
    )
    reader.finish()
    if not record.capabilities:
        reader.fault("`capabilities` is empty")
    return record


def _flags(reader: Reader) -> dict[str, int | bool]:
    flags = reader.take("flags", dict)
    for name, value in flags.items():
        if not isinstance(value, int):
            reader.fault(f"flag `{name}` is {value!r}; a whole number, true or false was wanted")
    return dict(sorted(flags.items()))


def _counts(reader: Reader) -> dict[str, int]:
    child = reader.child("types")
    return {name: child.take(name, int) for name in reader.take("types", dict)}


def _specs(reader: Reader, key: str) -> dict[str, TensorSpec]:
    specs = {}
    for name, below in reader.objects(key):
        specs[name] = TensorSpec(below.take("dtype", str), below.shape("shape"))
        below.finish()
    return specs
