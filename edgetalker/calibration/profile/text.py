"""The profile as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgetalker.calibration.profile.report import Piece, ProfileReport, ScheduleProfile
from edgetalker.runtime.stats import Summary

__all__ = ["as_text"]

_HEAD = (
    f"{'launch':>7}{'min':>10}{'median':>10}{'mean':>10}{'p90':>10}{'p95':>10}{'p99':>10}{'max':>10}"
    f"{'cv %':>7}{'share %':>9}{'floor':>9}{'ratio':>7}  limit"
)


def as_text(report: ProfileReport) -> str:
    """Return the whole report; times in microseconds."""
    return "\n".join(_lines(report))


def _lines(report: ProfileReport) -> Iterator[str]:
    yield f"{report.bundle} on {report.device}, {report.engine}, {report.precision}, graphs: {report.graphs}"
    yield _rates(report)
    for name, value in report.health.items():
        yield f"{name}: {value}"
    for profile in report.schedules:
        yield ""
        yield from _schedule(profile, report.fps)
    for stage, layers in report.layers.items():
        yield ""
        yield f"layers of {stage} (one run, us)"
        yield from (f"{ns / 1e3:>10.2f}  {name}" for name, ns in layers)
    if report.kernels:
        yield ""
        yield "kernels (one frame: count, us)"
        yield from (f"{count:>6}{ns / 1e3:>10.2f}  {name}" for name, count, ns in report.kernels)
    for note in report.notes:
        yield f"note: {note}"


def _rates(report: ProfileReport) -> str:
    rates = report.rates
    moved = "unknown" if rates.bytes_per_s is None else f"{rates.bytes_per_s / 1e9:.1f} GB/s"
    computed = "unknown" if rates.operations_per_s is None else f"{rates.operations_per_s / 1e12:.3f} Tflop/s"
    return f"measured: copies {moved}, matrix products {computed} ({'; '.join(rates.notes)})"


def _schedule(profile: ScheduleProfile, fps: float) -> Iterator[str]:
    width = max([len(piece.name) for piece in profile.pieces] + [len("enqueue (host)"), 12])
    yield f"schedule {profile.name}, us"
    yield f"{'':<{width}}{_HEAD}"
    for piece in profile.pieces:
        yield f"{piece.name:<{width}}{_cells(piece)}"
    yield f"{'frame, device':<{width}}{_plain(profile.device)}"
    if profile.transfer is not None:
        yield f"{'copies, device':<{width}}{_plain(profile.transfer)}"
    for name, times in profile.host.items():
        yield f"{name + ' (host)':<{width}}{_plain(times)}"
    yield f"{'frame, wall':<{width}}{_plain(profile.frame)}"
    period = 1e9 / fps
    yield f"the median frame takes {100 * profile.frame.median / period:.1f} % of a frame at {fps:g} fps"
    yield from (f"warning: {warning}" for warning in profile.warnings)


def _figures(times: Summary) -> str:
    values: Sequence[float] = (times.min, times.median, times.mean, times.p90, times.p95, times.p99, times.max)
    return "".join(f"{value / 1e3:>10.2f}" for value in values) + f"{100 * times.cv:>7.1f}"


def _plain(times: Summary) -> str:
    return f"{'':>7}{_figures(times)}"


def _cells(piece: Piece) -> str:
    floor = "-" if piece.floor_ns is None else f"{piece.floor_ns / 1e3:.2f}"
    ratio = "-" if piece.ratio is None else f"{piece.ratio:.1f}"
    return f"{piece.launches:>7}{_figures(piece.times)}{100 * piece.share:>9.1f}{floor:>9}{ratio:>7}  {piece.limit}"
