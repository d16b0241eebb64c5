"""`edgetalker doctor`: what this machine has, what will therefore run, what is missing and how to get it."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Any

from edgetalker import __version__
from edgetalker.cli.options import bundled
from edgetalker.engines.errors import UserError, install
from edgetalker.engines.machine import usable_cores

__all__ = ["Ability", "add_parser", "run"]

PACKAGES = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "soundfile": "soundfile",
    "pyaudio": "pyaudio",
    "websockets": "websockets",
    "matplotlib": "matplotlib",
    "torch": "torch",
    "onnx": "onnx",
    "transformers": "transformers",
    "cuda-bindings": "cuda",
    "polygraphy": "polygraphy",
}
"""Distribution -> module. TensorRT's flavours are asked for by the adapter itself."""


@dataclass(frozen=True)
class Ability:
    """One thing that a user may want: whether it runs here, with what, or what is missing and what brings it."""

    name: str
    works: bool
    detail: str
    hint: str = ""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("doctor", help="show what this machine has and what will therefore run")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args: argparse.Namespace) -> int:
    """Look and report. Exit code 0 when the main job (a WAV file on the host) runs, else 69."""
    facts, abilities = dict(_facts()), list(_abilities())
    main_job = next(ability.works for ability in abilities if ability.name == "animate a WAV file")
    if args.json:
        json.dump({"machine": facts, "abilities": [asdict(ability) for ability in abilities]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0 if main_job else 69
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        print(f"{name:<{width}}  {lines[0] if lines else '-'}")
        for line in lines[1:]:
            print(f"{'':<{width}}  {line}")
    print()
    for ability in abilities:
        print(f"{'yes' if ability.works else 'no ':<3}  {ability.name}: {ability.detail}")
        if ability.hint:
            print(f"     hint: {ability.hint}")
    return 0 if main_job else 69


def _facts() -> Iterator[tuple[str, str | list[str]]]:
    yield "edgetalker", __version__
    yield "python", f"{platform.python_version()} at {sys.executable}"
    yield "system", f"{platform.platform()}, {usable_cores()} cores usable"
    yield "packages", [f"{name} {_version(name) or 'not installed'}" for name in PACKAGES]
    yield "GPU", _asked(_gpu)
    yield "TensorRT", _asked(_flavours)
    yield "bundled", [f"{name}: {path}" for name, path in bundled().items()] or "no bundle ships with this install"


def _version(distribution: str) -> str | None:
    """Return the installed version without importing the package."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(no version)" if util.find_spec(PACKAGES[distribution]) else None


def _asked(question: Callable[[], str | list[str]]) -> str | list[str]:
    try:
        return question()
    except UserError as error:
        return error.message


def _gpu() -> str:
    from edgetalker.engines.machine import probe

    return str(probe())


_WANTED = {
    "Builder": "it builds no plans",
    "OnnxParser": "it reads no ONNX",
    "IExecutionContext.is_stream_capturable": "it does not say whether a stream can be captured",
    "IRuntimeCache": "it keeps no runtime cache",
    "ComputeCapability": "it builds for the GPU in this machine only",
    "EngineInspector": "it shows no layers",
}
"""A part of TensorRT's interface -> what is not to be had without it."""


def _flavours() -> list[str]:
    """Return for each flavour of TensorRT its version and what it lacks, or why it does not load."""
    from edgetalker.engines.machine import Gpu, driver_fault, probe
    from edgetalker.engines.tensorrt.api import FLAVOURS, load

    report = []
    for flavour in FLAVOURS:
        try:
            api = load(flavour)
            found = probe()
            fault = driver_fault(flavour, found) if isinstance(found, Gpu) else None
            lacks = [text for path, text in _WANTED.items() if not api.has(path)]
            told = [api.version, *([] if fault is None else _told(fault)), *lacks]
        except UserError as error:
            told = _told(error)
        report.append(f"{flavour}: {'; '.join(told)}")
    return report


def _told(error: UserError) -> list[str]:
    return [error.message, *([f"hint: {error.hint}"] if error.hint else [])]


def _abilities() -> Iterator[Ability]:
    yield _with_packages("animate a WAV file", ["onnxruntime"], "cpu", "any rate, on the host, through ONNX Runtime")
    yield _with_packages("other sound files", ["soundfile"], "audio", "FLAC, Ogg, MP3; with ffmpeg MP4 and WebM")
    yield _microphone()
    yield _with_packages("send over WebSocket, open the viewer", ["websockets"], "net", "ws://, edgetalker view")
    yield _with_packages("export checkpoints", ["torch", "onnx", "transformers"], "export", "PyTorch to a bundle")
    yield _cuda()
    yield _plans()


def _with_packages(name: str, packages: list[str], extra: str, detail: str) -> Ability:
    missing = [package for package in packages if _version(package) is None]
    if missing:
        return Ability(name, False, f"needs {', '.join(missing)}", install(extra))
    return Ability(name, True, detail)


def _microphone() -> Ability:
    name = "hear a microphone"
    if _version("pyaudio") is None:
        apt = "apt-get install portaudio19-dev gcc, then " if shutil.which("apt-get") else ""
        return Ability(name, False, "needs pyaudio", f"{apt}{install('mic')}")
    from edgetalker.runtime.sources.portaudio import list_inputs

    try:
        inputs = list_inputs()
    except UserError as error:
        return Ability(name, False, error.message, error.hint or "")
    if not inputs:
        return Ability(name, False, "no input device", "plug a microphone in; `edgetalker animate --list-inputs`")
    return Ability(name, True, f"{len(inputs)} input devices")


def _cuda() -> Ability:
    from edgetalker.engines.machine import Gpu, bindings_fault, probe

    name, found = "play on the GPU (--device cuda)", probe()
    if not isinstance(found, Gpu):
        return Ability(name, False, found.reason, "--device host plays on the CPU")
    if _version("cuda-bindings") is None:
        extra = "cuda12" if found.driver.startswith("12.") else "cuda"
        return Ability(name, False, "needs cuda-bindings", install(extra))
    fault = bindings_fault(found)
    if fault is not None:
        return Ability(name, False, fault.message, fault.hint or "")
    return Ability(name, True, str(found))


def _plans() -> Ability:
    name = "build TensorRT plans"
    from edgetalker.engines.tensorrt.api import from_jetpack, installed, load

    builders, faults = [], []
    for flavour in installed():
        try:
            api = load(flavour)
        except UserError as error:
            faults.append(error)
            continue
        if api.has("Builder"):
            builders.append(flavour)
    if builders:
        return Ability(name, True, ", ".join(builders))
    if faults:
        return Ability(name, False, "; ".join(error.message for error in faults), faults[0].hint or "")
    none = "the lean runtime builds none" if installed() else "no TensorRT is installed"
    return Ability(name, False, none, from_jetpack("tensorrt") or f"{install('rtx')} for RTX cards")
