"""One whole profile: the machine's rates, every schedule's frames, layers and kernels on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from edgetalker.calibration.profile.kernels import kernels_of
from edgetalker.calibration.profile.layers import layers_of
from edgetalker.calibration.profile.measure import Profiler
from edgetalker.calibration.profile.meter import load_nvtx
from edgetalker.calibration.profile.perfetto import write_trace
from edgetalker.calibration.profile.rates import measure_rates
from edgetalker.calibration.profile.report import ProfileReport
from edgetalker.engines.engine import Device
from edgetalker.engines.errors import MissingPackageError, UserError
from edgetalker.runtime.session import Session

__all__ = ["Options", "engine_name", "health_of", "profile"]


@dataclass(frozen=True)
class Options:
    """What to measure. schedules: names (none: all). trace: where the newest frames go."""

    frames: int = 300
    schedules: tuple[str, ...] = ()
    precision: str = "fp32"
    graphs: str = "step"
    threads: int = 1
    trace: Path | None = None
    layers: bool = False
    kernels: bool = False
    nvtx: bool = False


def profile(session: Session, options: Options, *, progress: TextIO | None = None) -> ProfileReport:
    """Profile a session that was opened with timings. What cannot be measured here is a note in the report."""
    notes: list[str] = []
    device = session.device
    rates = measure_rates(device, precision=options.precision, threads=options.threads)
    profiler = Profiler(session, rates, precision=options.precision, ranges=_ranges(options, notes))
    names = options.schedules or session.schedules
    schedules = [profiler.run(name, options.frames, progress=progress) for name in names]
    if options.trace is not None:
        write_trace(options.trace, profiler.traced, device.describe())
    return ProfileReport(
        bundle=f"{session.manifest.name} ({session.manifest.family})",
        device=device.describe(),
        kind=device.kind,
        engine=engine_name(session),
        precision=options.precision,
        graphs=options.graphs,
        fps=float(session.manifest.motion.fps),
        rates=rates,
        schedules=schedules,
        health=health_of(device),
        layers=_noted(notes, "layers", layers_of, session, options.precision) or {} if options.layers else {},
        kernels=_noted(notes, "kernels", kernels_of, session, names[0]) or () if options.kernels else (),
        notes=notes,
    )


def _ranges(options: Options, notes: list[str]) -> Any:
    if not options.nvtx:
        return None
    ranges = load_nvtx()
    if ranges is None:
        missing = MissingPackageError("nvtx", "--nvtx", extra="cuda")
        missing.hint = "pip install nvtx"
        raise missing
    notes.append("NVTX ranges cost about a microsecond each and are in the host's times")
    return ranges


def _noted(notes: list[str], what: str, function: Any, *arguments: Any) -> Any:
    """Return what was found, or None and a note that says why not."""
    try:
        return function(*arguments)
    except UserError as error:
        notes.append(f"no {what}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return None


def engine_name(session: Session) -> str:
    """Return the kinds of engine that run the stages, such as `OrtEngine`."""
    return ", ".join(sorted({type(engine).__name__ for engine in session.engines.values()}))


def health_of(device: Device) -> Mapping[str, Any]:
    """Return power, clocks, temperature and throttling of a GPU where they can be read."""
    if device.kind != "cuda":
        return {}
    from edgetalker.engines.cuda.health import read_health

    return read_health(getattr(device, "bus", None))
