"""Which engine runs a bundle's stages on the GPU: TensorRT where a valid plan lies beside the bundle, else PyTorch.

A plan is chosen by its fingerprint, its digest checked, then it is deserialized.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import (
    DeviceError,
    EngineError,
    MissingPackageError,
    OptionError,
    UserError,
    install,
    unknown,
)
from edgetalker.engines.files import takes_files
from edgetalker.engines.machine import Gpu, Machine, this_machine
from edgetalker.engines.plan import choose, plan_folders, read_plan
from edgetalker.engines.tensorrt.api import FLAVOURS, load
from edgetalker.engines.tensorrt.engine import RuntimeCache, TensorRTEngine, share_scratch

__all__ = ["ENGINES", "cuda_engines", "pick_flavour", "runtime_cache_path", "tensorrt_engines"]

ENGINES = ("auto", "tensorrt", "rtx", "lean", "torch")

_log = logging.getLogger("edgetalker.engines.cuda")


def cuda_engines(
    bundle: Bundle, device: Device, *, engine: str = "auto", precision: str = "fp32"
) -> Mapping[str, Engine]:
    """Return an engine for every stage.

    `auto` takes TensorRT when every stage has a valid plan; else PyTorch, and says so in the log. Raises OptionError
    for an unknown engine, EngineError or MissingPackageError when the chosen one cannot run the bundle here.
    """
    if engine not in ENGINES:
        hint = "`ort` runs on the host: --device host" if engine == "ort" else None
        raise unknown("engine", engine, ENGINES, "on cuda there are", hint=hint)
    if engine == "torch":
        return _with_torch(bundle, device, precision)
    if engine != "auto":
        return tensorrt_engines(bundle, device, flavour=engine, precision=precision)
    try:
        return tensorrt_engines(bundle, device, flavour=engine, precision=precision)
    except (DeviceError, EngineError, OptionError) as reason:
        return _instead(bundle, device, precision, reason)


def _with_torch(bundle: Bundle, device: Device, precision: str) -> Mapping[str, Engine]:
    from edgetalker.engines.torch import torch_engines  # its modules take time that plans need not wait for

    return torch_engines(bundle, device, precision)


def _instead(bundle: Bundle, device: Device, precision: str, reason: UserError) -> Mapping[str, Engine]:
    try:
        engines = _with_torch(bundle, device, precision)
    except (EngineError, MissingPackageError) as error:
        raise EngineError(
            f"no engine runs this bundle on {device.describe()}: TensorRT: {reason.message}; PyTorch: {error.message}",
            hint=reason.hint or error.hint,
        ) from None
    _log.warning("stages run with PyTorch, which is slower than TensorRT: %s", reason.message)
    return engines


def tensorrt_engines(
    bundle: Bundle, device: Device, *, flavour: str = "auto", precision: str = "fp32"
) -> dict[str, TensorRTEngine]:
    """Open every stage of a bundle on a GPU; the stages share their scratch memory.

    flavour: `tensorrt`, `rtx`, `lean` or `auto`. Raises EngineError listing what is wrong with each plan and the
    command that builds them, OptionError for an unknown flavour or precision.
    """
    machine = this_machine(device.ordinal)
    chosen = pick_flavour(flavour, bundle, precision, machine)
    plans = {stage: choose(bundle, stage, precision, chosen, machine) for stage in bundle.manifest.stages}
    engines = {}
    for stage, plan in plans.items():
        border, cache = bundle.manifest.stages[stage], None
        if chosen == "rtx" and isinstance(machine.gpu, Gpu):
            cache = RuntimeCache(runtime_cache_path(plan.path, machine.gpu, plan_folders(bundle)[1]))
        engines[stage] = TensorRTEngine(
            stage,
            load(chosen),
            read_plan(plan),
            device,
            border.inputs,
            border.outputs,
            cache=cache,
            file=bundle.onnx(stage, precision),
            precision=precision,
        )
    share_scratch(engines.values(), device)
    return engines


def pick_flavour(flavour: str, bundle: Bundle, precision: str, machine: Machine) -> str:
    """Return the flavour to run with; `auto` is the first one here for which all stages have a valid plan.

    Raises OptionError for an unknown flavour or when none is installed, EngineError when no flavour has all plans.
    """
    if flavour != "auto":
        load(flavour)  # says what is unknown or missing
        return flavour
    reasons: list[UserError] = []
    for known in FLAVOURS:
        if known not in machine.versions:
            continue
        try:
            for stage in bundle.manifest.stages:
                choose(bundle, stage, precision, known, machine)
        except EngineError as error:
            reasons.append(error)
            continue
        return known
    if reasons:
        raise EngineError("; ".join(error.message for error in reasons), hint=reasons[0].hint)
    raise OptionError(
        "no TensorRT is installed here",
        hint=f"{install('rtx')} for an RTX PC; on a Jetson see docs/jetson.md",
    )


def runtime_cache_path(plan: Path, gpu: Gpu, fallback: Path) -> Path:
    """Return where a plan's cache for this machine lies: beside the plan, or below `fallback` when that is read-only.

    A cache belongs to one GPU model and is read by its driver and newer ones, so both are in its name.
    """
    machine = "".join(c if c.isalnum() else "_" for c in f"{gpu.name}-{gpu.driver}")
    folder = plan.parent
    if not takes_files(folder):
        folder = fallback.joinpath(*folder.parts[-3:])
    return folder / f"{plan.stem}.{machine}.cache"
