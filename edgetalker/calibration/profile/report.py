"""The profile's figures: as text for people, as CSV and JSON under keys that stay."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgetalker import __version__
from edgetalker.calibration.profile.floor import StageCost
from edgetalker.calibration.profile.rates import Rates
from edgetalker.runtime.stats import Summary

__all__ = ["COLUMNS", "FORMAT", "Piece", "ProfileReport", "ScheduleProfile"]

FORMAT = "edgetalker-profile"
VERSION = 1
_FIGURES = ("min", "median", "mean", "p90", "p95", "p99", "max")
COLUMNS = (
    "schedule",
    "part",
    "name",
    "row",
    "launches",
    "nodes",
    "count",
    *(f"{name}_ns" for name in _FIGURES),
    "cv",
    "share",
    "weight_bytes",
    "activation_bytes",
    "operations",
    "floor_ns",
    "floor_ratio",
    "limit",
)
"""Columns of the CSV and keys of a piece in the JSON. part: `device` or `host`."""


@dataclass(frozen=True)
class Piece:
    """One stage, or one row of it. share: of the frame's device time. floor: None where it is not known."""

    name: str
    stage: str
    row: int
    launches: int
    nodes: int
    times: Summary
    share: float
    cost: StageCost | None = None
    floor_ns: float | None = None
    limit: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the floor the median is."""
        return self.times.median / self.floor_ns if self.floor_ns else None

    def as_dict(self) -> dict[str, Any]:
        """Return the piece under the CSV's keys."""
        cost = self.cost
        return {
            "part": "device",
            "name": self.name,
            "row": self.row,
            "launches": self.launches,
            "nodes": self.nodes,
            **_times(self.times),
            "share": self.share,
            "weight_bytes": cost.weight_bytes if cost else None,
            "activation_bytes": cost.activation_bytes if cost else None,
            "operations": cost.operations if cost else None,
            "floor_ns": self.floor_ns,
            "floor_ratio": self.ratio,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class ScheduleProfile:
    """One schedule. frame: wall time. device: sum of the pieces. host: upload, enqueue, download, wait."""

    name: str
    frame: Summary
    device: Summary
    host: Mapping[str, Summary]
    transfer: Summary | None
    pieces: Sequence[Piece]
    warnings: Sequence[str]


@dataclass(frozen=True)
class ProfileReport:
    """Everything that one `profile` measured."""

    bundle: str
    device: str
    kind: str
    engine: str
    precision: str
    graphs: str
    fps: float
    rates: Rates
    schedules: Sequence[ScheduleProfile]
    health: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    kernels: Sequence[tuple[str, int, float]] = ()
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report under stable keys; times in ns."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "edgetalker": __version__,
            "bundle": self.bundle,
            "device": self.device,
            "kind": self.kind,
            "engine": self.engine,
            "precision": self.precision,
            "graphs": self.graphs,
            "fps": self.fps,
            "rates": self.rates.as_dict(),
            "health": dict(self.health),
            "schedules": {profile.name: _schedule(profile) for profile in self.schedules},
            "layers": {stage: [{"name": name, "ns": ns} for name, ns in found] for stage, found in self.layers.items()},
            "kernels": [{"name": name, "count": count, "ns": ns} for name, count, ns in self.kernels],
            "notes": list(self.notes),
        }

    def csv(self) -> str:
        """Return a line for each piece and each part of the host's work; what is not known is empty."""
        into = io.StringIO()
        writer = csv.DictWriter(into, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for profile in self.schedules:
            for piece in profile.pieces:
                writer.writerow({"schedule": profile.name, **{k: _cell(v) for k, v in piece.as_dict().items()}})
            for name, times in profile.host.items():
                writer.writerow({"schedule": profile.name, "part": "host", "name": name, "row": -1, **_times(times)})
        return into.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value


def _times(times: Summary) -> dict[str, float]:
    return {"count": times.count, **{f"{name}_ns": getattr(times, name) for name in _FIGURES}, "cv": times.cv}


def _schedule(profile: ScheduleProfile) -> dict[str, Any]:
    return {
        "frame": profile.frame.as_dict(),
        "device": profile.device.as_dict(),
        "host": {name: times.as_dict() for name, times in profile.host.items()},
        "transfer": profile.transfer.as_dict() if profile.transfer else None,
        "pieces": [piece.as_dict() for piece in profile.pieces],
        "warnings": list(profile.warnings),
    }
