"""What this machine has that decides which plans run on it."""

from __future__ import annotations

from edgetalker.engines.driver import probe
from edgetalker.engines.errors import UserError
from edgetalker.engines.fingerprint import Machine
from edgetalker.engines.tensorrt.api import FLAVOURS, installed, load, platform_tag

__all__ = ["flavour_report", "this_machine"]

_WANTED = {
    "Builder": "it builds no plans",
    "OnnxParser": "it reads no ONNX",
    "IExecutionContext.is_stream_capturable": "it does not say whether a stream can be captured",
    "IRuntimeCache": "it keeps no runtime cache",
    "ComputeCapability": "it builds for the GPU in this machine only",
    "EngineInspector": "it shows no layers",
}


def this_machine(index: int = 0) -> Machine:
    """Return platform, GPU `index` and the version of every flavour that loads. Imports them; makes no Runtime."""
    versions = {}
    for flavour in installed():
        try:
            versions[flavour] = load(flavour).version
        except UserError:
            continue  # `flavour_report` says why
    return Machine(versions, platform_tag(), probe(index))


def flavour_report() -> dict[str, list[str]]:
    """Return for each flavour its version and what it lacks, or why it does not load. For `doctor`."""
    report: dict[str, list[str]] = {}
    for flavour in FLAVOURS:
        try:
            api = load(flavour)
        except UserError as error:
            report[flavour] = [error.message, *([f"hint: {error.hint}"] if error.hint else [])]
            continue
        report[flavour] = [api.version, *(text for path, text in _WANTED.items() if not api.has(path))]
    return report
