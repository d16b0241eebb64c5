"""TensorRT's log, kept and turned into errors that say what mends them.

TensorRT reports a failure as None or False and writes the reason into its log. It keeps the first logger that
a process gives it, so there is one for each flavour, for ever.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Any

from edgetalker.engines.errors import DeviceError, EngineError, UnsupportedGpuError, UserError
from edgetalker.engines.machine import Gpu, driver_fault, probe
from edgetalker.engines.tensorrt.api import Api

__all__ = ["Log", "check_header", "explain", "header_faults", "log_of"]

_KEPT = 400

_DAMAGED = "build it again: `edgetalker build BUNDLE --target auto --force`"
_ELSEWHERE = "build the plans again on this machine: `edgetalker build BUNDLE --target auto`"

_CURES: tuple[tuple[type[UserError], str, str, str], ...] = (
    (EngineError, r"magicTag|MALFORMED", "this is no plan, or a damaged one", _DAMAGED),
    (
        DeviceError,
        r"OLD_CUDA_DRIVER|OLD_CUDA_RUNTIME",
        "the NVIDIA driver is older than the plan's library wants",
        "install a newer driver; `edgetalker doctor` names the one that is here",
    ),
    (
        DeviceError,
        r"CUDA driver version is insufficient|CUDA initialization failure|no CUDA-capable device|cudaError (35|100)\b",
        "there is no usable NVIDIA driver or GPU",
        "check `nvidia-smi` (on a Jetson `tegrastats`); plans for RTX cards build without one: --target rtx:sm86",
    ),
    (
        EngineError,
        r"HW-specific datatypes",
        "the network holds a number format that one of the targets cannot compute",
        "FP8 wants sm89 or newer: leave the older targets out, or build another precision",
    ),
    (
        EngineError,
        r"Turing \(SM75\): FP32 GEMM is not supported",
        "TensorRT-RTX has no FP32 matrix products for sm75",
        "build FP16 or INT8 stages for sm75 (`edgetalker convert BUNDLE --precision fp16`; where they hold products in "
        "FP32, anew with a higher --limit, such as 0.5), or leave sm75 out",
    ),
    (
        UnsupportedGpuError,
        r"Target GPU SM \d+ is not supported|does not support this compute capability",
        "this TensorRT does not support the GPU",
        "on a Jetson use the TensorRT that JetPack brings (docs/jetson.md), not one from the package index",
    ),
    (
        EngineError,
        r"not compatible with this version|[Vv]ersion tag|SERIALIZATION_VERSION|Serialized Engine|VERSION_MISMATCH",
        "the plan was made by another version of the library",
        _ELSEWHERE,
    ),
    (
        UnsupportedGpuError,
        r"incompatible device|not compatible with this (device|GPU)|different models of devices|UNSUPPORTED_CC",
        "the plan was made for another GPU",
        _ELSEWHERE,
    ),
    (
        EngineError,
        r"[Oo]ut ?[Oo]f ?[Mm]emory|Requested amount of GPU memory|cudaErrorMemoryAllocation|GPU_MEMORY",
        "memory ran out",
        "close other programs, or lower the limits: `--workspace 256 --level 2`",
    ),
    (
        EngineError,
        r"[Cc]ould not find any implementation for node|insufficient workspace",
        "no kernel fits into the workspace",
        "raise the limit: `--workspace 1024`",
    ),
    (
        EngineError,
        r"nvinfer_lean",
        "version-compatible plans need the library of the lean runtime, which is not here",
        "install libnvinfer-lean, or leave `--version-compatible` out",
    ),
    (
        EngineError,
        r"No importer registered for op|[Pp]lugin not found|Unsupported ONNX|UNSUPPORTED_NODE|UNSUPPORTED_GRAPH",
        "the network holds an operator that this TensorRT cannot import",
        "export with opset 20, which every supported version reads",
    ),
    (
        EngineError,
        r"user allocation|REQUIRE_USER_ALLOCATION",
        "the network needs memory while it runs, so it cannot be captured",
        "export it with fixed shapes and without data-dependent ones (NonZero, Loop)",
    ),
    (
        EngineError,
        r"[Cc]orrupt|[Dd]eserializ\w+ (failed|error)|[Cc]hecksum",
        "the plan is damaged",
        _DAMAGED,
    ),
)


class Log:
    """The newest lines of one flavour's log. `logger` is what TensorRT wants."""

    def __init__(self, api: Api) -> None:
        self._flavour = api.flavour
        self.lines: deque[tuple[str, str]] = deque(maxlen=_KEPT)
        self.logger = _logger_class(api)(self.lines)

    def clear(self) -> None:
        """Forget the lines so far, before an action whose failure shall be explained."""
        self.lines.clear()

    def errors(self) -> list[str]:
        """Return the errors since `clear`, or the warnings when there are none."""
        for levels in (("INTERNAL_ERROR", "ERROR"), ("WARNING",)):
            found = [text for level, text in self.lines if level in levels]
            if found:
                return found
        return []

    def error(self, what: str, further: Iterable[str] = ()) -> UserError:
        """Return the error for `what` that just failed, explained by the log and by `further` lines."""
        return explain(what, [*further, *self.errors()], self._flavour)


@cache
def log_of(api: Api) -> Log:
    """Return the one log of a flavour."""
    return Log(api)


def explain(what: str, lines: Iterable[str], flavour: str = "") -> UserError:
    """Turn TensorRT's lines into an error: DeviceError for an absent or old driver, else EngineError.

    The message ends with the library's own words, so that nothing is lost when no cure is known.
    """
    said = list(dict.fromkeys(_plain(line) for line in lines))
    text = "\n".join(said)
    words = "; ".join(said[:3]) or "it gave no reason"
    for kind, pattern, meaning, cure in _CURES:
        if re.search(pattern, text):
            old = None
            if kind is DeviceError and flavour and isinstance(found := probe(), Gpu):
                old = driver_fault(flavour, found)  # TensorRT calls a driver that is too old for its wheels no driver
            if old is not None:
                return DeviceError(f"{what}: {old.message} (TensorRT says: {words})", hint=old.hint)
            return kind(f"{what}: {meaning} (TensorRT says: {words})", hint=cure)
    return EngineError(f"{what}: TensorRT says: {words}", hint="`edgetalker doctor` shows what this TensorRT can do")


def _plain(line: str) -> str:
    """Drop the library's source places and collapse blanks."""
    line = re.sub(r"^\[?\w+\.cpp::\w+::\d+\]\s*", "", line.strip())
    line = re.sub(r"\(?\s*In \w+ at /\S+?:\d+\s*(?=\(|\)|$)", " ", line)
    line = re.sub(r"\s+", " ", line)
    return line if len(line) <= 300 else line[:297] + "..."


def _logger_class(api: Api) -> Any:
    """ILogger is a different class in every flavour, so the subclass is made when the flavour is known."""
    base: Any = api.module.ILogger
    names = {getattr(base, level): level for level in ("INTERNAL_ERROR", "ERROR", "WARNING")}

    class KeepingLogger(base):  # type: ignore[misc]
        """Appends to a deque: called from TensorRT's threads, it must neither raise nor block."""

        def __init__(self, lines: deque[tuple[str, str]]) -> None:
            super().__init__()
            self._lines = lines

        def log(self, severity: Any, message: str) -> None:
            if severity in names:
                self._lines.append((names[severity], message))

    return KeepingLogger


def header_faults(api: Api, runtime: Any, plan: bytes) -> list[str]:
    """Return the names of what is wrong with a plan's header here; empty when well formed or nothing is known.

    Without a GPU the library calls every plan invalid and gives no diagnosis, unless the header is malformed.
    """
    if not api.has("Runtime.get_engine_validity"):
        return []
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != api.module.EngineValidity.INVALID:
        return []
    kinds = api.module.EngineInvalidityDiagnostics.__members__.values()
    return [kind.name for kind in kinds if int(kind) & int(diagnostics)]


def check_header(api: Api, plan: bytes) -> list[str]:
    """Return the faults of a plan's header without a GPU. Only for `rtx`, whose Runtime is safe without a driver."""
    if api.flavour != "rtx":
        return []
    log = log_of(api)
    log.clear()
    return header_faults(api, api.module.Runtime(log.logger), plan)
