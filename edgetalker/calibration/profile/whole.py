"""One whole profile from the command's options: open, measure rates and frames, look into layers and kernels."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
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

__all__ = ["engine_name", "health_of", "profile"]


def profile(args: argparse.Namespace, *, progress: TextIO | None = None) -> ProfileReport:
    """Profile a bundle. Raises UserError subclasses for what cannot be opened; what cannot be measured is a note."""
    from edgetalker.cli.options import session_from

    session = session_from(args, timings=True)
    try:
        return _profiled(session, args, progress)
    finally:
        session.close()


def _profiled(session: Session, args: argparse.Namespace, progress: TextIO | None) -> ProfileReport:
    notes: list[str] = []
    device = session.device
    rates = measure_rates(device, precision=args.precision, threads=args.threads)
    profiler = Profiler(session, rates, precision=args.precision, ranges=_ranges(args, notes))
    names = args.schedule or session.schedules
    schedules = [profiler.run(name, args.frames, progress=progress) for name in names]
    if args.trace is not None:
        write_trace(args.trace, profiler.traced, device.describe())
    return ProfileReport(
        bundle=f"{session.manifest.name} ({session.manifest.family})",
        device=device.describe(),
        kind=device.kind,
        engine=engine_name(session),
        precision=args.precision,
        graphs=args.graphs,
        fps=float(session.manifest.motion.fps),
        rates=rates,
        schedules=schedules,
        health=health_of(device),
        layers=_noted(notes, "layers", layers_of, session, args.precision) or {} if args.layers else {},
        kernels=_noted(notes, "kernels", kernels_of, session, names[0]) or () if args.kernels else (),
        notes=notes,
    )


def _ranges(args: argparse.Namespace, notes: list[str]) -> Any:
    if not args.nvtx:
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
