"""TensorRT against PyTorch, each flavour in a process of its own: a library that crashes there takes no report along.

    python -m benchmarks.gpu.tensorrt_check FLAVOUR BUNDLE FOLDER WAIT

is such a process; it writes FOLDER/FLAVOUR.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.child import how_it_ended, run_child
from benchmarks.gpu.frame_checks import sound_for, worst
from benchmarks.gpu.results import Result, attempt
from benchmarks.gpu.setting import NotRunError, Setting
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda.engines import cuda_engines
from edgetalker.engines.cuda.errors import DEVICE_UNAVAILABLE, CudaError
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import UnsupportedGpuError
from edgetalker.engines.machine import this_machine
from edgetalker.engines.targets import PORTABLE, parse_target
from edgetalker.engines.tensorrt.api import FLAVOURS, installed, load
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.measure.floor import Rates
from edgetalker.measure.profile import Profiler

__all__ = ["SECONDS", "with_tensorrt"]

SECONDS = 100.0
"""What a flavour may take: plans of five small stages, each built in a process of its own, and some hundred frames."""

Figures = dict[str, Any]


def with_tensorrt(setting: Setting, flavour: str) -> Figures:
    """Build plans for the small bundle and compare its frames with PyTorch's, in a child.

    Raises NotRunError only where the flavour is not installed, does not know this GPU, or gets no context beside ours.
    """
    if setting.dry:
        raise NotRunError("needs a GPU")
    if flavour not in installed():
        raise NotRunError(f"`{FLAVOURS[flavour]}` is not installed")
    told = setting.work / f"{flavour}.json"
    try:
        done = run_child(_command(setting, flavour), SECONDS)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{flavour} took longer than {SECONDS:g} s and was ended") from None
    if done.returncode or not told.is_file():
        raise AssertionError(f"{flavour}'s process {how_it_ended(done)}")
    result = Result(**json.loads(told.read_text()))
    if result.status == "not run":
        raise NotRunError(result.reason)
    assert result.status == "passed", result.reason
    return dict(result.figures)


def _command(setting: Setting, flavour: str) -> list[str]:
    bundle, folder = setting.bundles["tiny_voca"], setting.work
    return [sys.executable, "-m", __name__, flavour, str(bundle), str(folder), setting.wait]


def main(flavour: str, bundle: str, folder: str, wait: str) -> None:
    """The child's end: make the check, write what became of it."""
    setting = Setting({"tiny_voca": Path(bundle)}, Path(folder), wait=wait)
    result = attempt(setting, flavour, partial(one_flavour, setting, flavour))
    (setting.work / f"{flavour}.json").write_text(json.dumps(vars(result)))


def one_flavour(setting: Setting, flavour: str) -> Figures:
    """Build, open, bind, play and compare. Raises NotRunError when this GPU is not for this library, or not for us."""
    version = load(flavour).version
    try:
        device = setting.device()  # before plans are built: whether a second process gets a context at all
    except CudaError as error:
        if error.code != DEVICE_UNAVAILABLE:
            raise
        raise NotRunError(f"a second process gets no context on this GPU: {error.message}") from None
    folder = setting.work / f"tiny_{flavour}"
    shutil.copytree(setting.bundles["tiny_voca"], folder)
    bundle = Bundle.open(folder)
    found = _compared(setting, bundle, device, _opened(bundle, device, flavour), flavour)
    device.close()
    return {f"{flavour} {version}: {name}": value for name, value in found.items()}


def _opened(bundle: Bundle, device: Device, flavour: str) -> Mapping[str, Engine]:
    """Build every plan and open it. Raises NotRunError when the library does not know this GPU."""
    machine = this_machine()
    target = parse_target(flavour, machine.gpu, tuple(machine.versions))
    builder = PlanBuilder(bundle, target, machine)
    try:
        for stage in bundle.manifest.stages:
            builder.stage(stage)
    except UnsupportedGpuError as refusal:
        raise NotRunError(refusal.message) from None
    try:
        return cuda_engines(bundle, device, engine=flavour, precision="fp32")
    except UnsupportedGpuError as refusal:
        if PORTABLE not in target.capabilities:  # a plan that was built for this very GPU has to run on it
            raise
        raise NotRunError(refusal.message) from None


def _compared(setting: Setting, bundle: Bundle, device: Device, engines: Mapping[str, Engine], flavour: str) -> Figures:
    bound = _binding_costs(engines, device)
    talker = setting.talker(bundle, device, engines=engines, timings=True)
    reference = setting.talker(bundle)
    sound = sound_for(talker, 20)
    error = worst(*(np.stack([each.make(window=one).motion.copy() for one in sound]) for each in (talker, reference)))
    profile = Profiler(talker, Rates(None, None, ())).run("full", 100)
    for each in (talker, reference):
        each.close()
    assert error <= 2e-3, f"{flavour}: frames differ by {error:.2e}"
    return {
        "worst relative error against PyTorch": error,
        "whole frame, us": profile.frame.median / 1e3,
        "device, us": profile.device.median / 1e3,
        "binding 1, 10 and 50 times, ms": [ms for ms, _ in bound],
        "binding 1, 10 and 50 times, MB of the GPU": [mb for _, mb in bound],
    }


def _binding_costs(engines: Mapping[str, Engine], device: Device) -> list[tuple[float, float]]:
    """Return ms and MB after 1, 10 and 50 bindings of the denoise stage: whether each context loads kernels anew."""
    engine, found, kept = engines["denoise"], [], []
    begin, free = time.perf_counter(), device.facts()["free"]
    for count in range(1, 51):
        kept.append(engine.bind({n: device.allocate(n, s) for n, s in {**engine.inputs, **engine.outputs}.items()}))
        if count in (1, 10, 50):
            found.append(((time.perf_counter() - begin) * 1e3, (free - device.facts()["free"]) / 1e6))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
