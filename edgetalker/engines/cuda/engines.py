"""Which engine runs a bundle's stages on the GPU: TensorRT where a valid plan lies beside the bundle, else PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import DeviceError, EngineError, MissingPackageError, OptionError, UserError, nearest

__all__ = ["ENGINES", "cuda_engines"]

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
        raise OptionError(
            f"no engine `{engine}` on cuda; known are {', '.join(ENGINES)}{nearest(engine, ENGINES)}",
            hint="`ort` runs on the host: --device host" if engine == "ort" else None,
        )
    if engine == "torch":
        return _with_torch(bundle, device, precision)
    if engine != "auto":
        return _with_tensorrt(bundle, device, engine, precision)
    try:
        return _with_tensorrt(bundle, device, engine, precision)
    except (DeviceError, EngineError, OptionError) as reason:
        return _instead(bundle, device, precision, reason)


def _with_tensorrt(bundle: Bundle, device: Device, flavour: str, precision: str) -> Mapping[str, Engine]:
    from edgetalker.engines.tensorrt.loader import tensorrt_engines

    return tensorrt_engines(bundle, device, flavour=flavour, precision=precision)


def _with_torch(bundle: Bundle, device: Device, precision: str) -> Mapping[str, Engine]:
    from edgetalker.engines.torch import torch_engines

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
