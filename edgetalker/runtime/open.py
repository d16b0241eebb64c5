"""From a bundle's path to a session: picks the device and an engine for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Device, Engine
from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.noise import NoiseSource
from edgetalker.runtime.session import Granularity, Session

__all__ = ["DEVICES", "open_engines", "open_session"]

DEVICES = ("host", "cuda")
HOST_ENGINES = ("auto", "ort", "torch")


def open_session(
    path: Path | str | Bundle,
    *,
    device: str = "host",
    engine: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
    poison: bool = False,
    seed: int = 0,
    stream: int = 0,
    graphs: Granularity = "step",
    timings: bool = False,
    schedules: Sequence[str] | None = None,
    noise: NoiseSource | None = None,
    **device_options: Any,
) -> Session:
    """Open a bundle for playing.

    device: `host` (ONNX Runtime) or `cuda`. engine: on cuda `auto`, `tensorrt`, `rtx`, `lean` or `torch`; on the
    host `auto`, `ort` or `torch`. precision: `fp32` or one that `convert` added. The rest as in Session. Raises
    UserError subclasses for whatever is missing, with what brings it.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    chosen = open_device(device, poison=poison, **device_options)
    try:
        engines = open_engines(bundle, chosen, engine=engine, precision=precision, threads=threads)
        return Session(
            bundle,
            engines,
            chosen,
            seed=seed,
            stream=stream,
            graphs=graphs,
            timings=timings,
            schedules=schedules,
            noise=noise,
        )
    except BaseException:
        chosen.close()
        raise


def open_device(name: str, *, poison: bool = False, **options: Any) -> Device:
    """Return a device by name. Raises OptionError for an unknown one, DeviceError when there is none."""
    if name == "host":
        from edgetalker.engines.host import HostDevice

        return HostDevice(poison=poison, **options)
    if name == "cuda":
        from edgetalker.engines.cuda import CudaDevice

        return CudaDevice(poison=poison, **options)
    raise OptionError(f"no device `{name}`; known are {', '.join(DEVICES)}{nearest(name, DEVICES)}")


def open_engines(
    bundle: Bundle, device: Device, *, engine: str = "auto", precision: str = "fp32", threads: int = 1
) -> Mapping[str, Engine]:
    """Return an engine for every stage. Raises EngineError, OptionError or MissingPackageError."""
    if device.kind == "host":
        return _host_engines(bundle, device, engine, precision, threads)
    from edgetalker.engines.cuda.engines import cuda_engines

    return cuda_engines(bundle, device, engine=engine, precision=precision)


def _host_engines(bundle: Bundle, device: Device, engine: str, precision: str, threads: int) -> Mapping[str, Engine]:
    if engine == "torch":
        from edgetalker.engines.torch import torch_engines

        return torch_engines(bundle, device, precision, threads=threads)
    if engine not in HOST_ENGINES:
        raise OptionError(
            f"engine `{engine}` does not run on the host; {', '.join(HOST_ENGINES)} do{nearest(engine, HOST_ENGINES)}",
            hint="add --device cuda" if engine in ("tensorrt", "rtx", "lean") else None,
        )
    from edgetalker.engines.ort import OrtEngine

    return {
        name: OrtEngine(
            name, bundle.onnx(name, precision), stage.inputs, stage.outputs, threads=threads, precision=precision
        )
        for name, stage in bundle.manifest.stages.items()
    }
