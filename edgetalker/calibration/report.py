"""What a conversion did and cost, as JSON for programs and as a picture for people."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetalker.calibration.onestep import OneStep
from edgetalker.calibration.rollout import Divergence
from edgetalker.calibration.stage import ConvertedStage, half_share
from edgetalker.engines.errors import MissingPackageError

__all__ = ["GOAL", "STEADY", "Report"]

GOAL = 0.01
"""Wanted: a closed-loop error below 1 % of the motion's own standard deviation."""

STEADY = 2.0
"""Wanted: the median second of the last quarter is not this many times that of the first."""


@dataclass(frozen=True)
class Report:
    """One conversion. sound: what the rollouts heard. rounded: stage -> error with every FP16 node rounded in
    PyTorch (empty without PyTorch)."""

    bundle: str
    precision: str
    sound: str
    stages: Sequence[ConvertedStage]
    closed_loop: Sequence[Divergence]
    rounded: Mapping[str, OneStep]

    @property
    def met(self) -> bool:
        """Whether the error of every schedule is below the goal and does not grow."""
        return all(item.error < GOAL and item.growth < STEADY for item in self.closed_loop)

    def to_json(self) -> bytes:
        """Return the whole report as JSON."""
        document = {
            "bundle": self.bundle,
            "precision": self.precision,
            "sound": self.sound,
            "goal": GOAL,
            "met": self.met,
            "stages": {stage.name: self._stage(stage) for stage in self.stages},
            "closed_loop": {item.schedule: _divergence(item) for item in self.closed_loop},
        }
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"

    def _stage(self, stage: ConvertedStage) -> dict[str, Any]:
        rounded = self.rounded.get(stage.name)
        return {
            "one_step": asdict(stage.error),
            "one_step_every_node_rounded": asdict(rounded) if rounded else None,
            "largest_value": stage.largest,
            "bytes": {"fp32": stage.full_bytes, self.precision: len(stage.onnx) or stage.full_bytes},
            "weights_in_half": round(half_share(stage.onnx), 4) if stage.onnx else 0.0,
            "half": list(stage.half),
            "kept": stage.kept,
            "products_kept": list(stage.products_kept),
        }

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        out = [f"{self.bundle} in {self.precision}, heard: {self.sound}"]
        for stage in self.stages:
            out.append(_stage_line(stage, self.rounded.get(stage.name)))
            counts = Counter(_short(reason) for reason in stage.kept.values())
            out += [f"    {count} in FP32: {reason}" for reason, count in counts.most_common()]
        for item in self.closed_loop:
            out.append(
                f"  schedule {item.schedule}, {item.frames} frames: error {item.error:.3%} of the motion's deviation, "
                f"median second {np.median(item.seconds):.3%}, worst second {max(item.seconds):.3%}, "
                f"last quarter over first {item.growth:.2f}"
            )
        out.append(f"goal of less than {GOAL:.0%} without growth: {'met' if self.met else 'MISSED'}")
        return out

    def to_png(self) -> bytes:
        """Return the errors as a picture. Raises MissingPackageError without matplotlib."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingPackageError("matplotlib", "the report's picture", extra="calibration") from None
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 2))
        self._draw_stages(left)
        self._draw_rollouts(right)
        figure.suptitle(f"{self.bundle}: {self.precision} against FP32")
        data = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(data, format="png")
        return data.getvalue()

    def _draw_stages(self, axes: Any) -> None:
        names = [stage.name for stage in self.stages]
        axes.barh(names, [max(stage.error.error, 1e-9) for stage in self.stages], color="#3b6ea5", label="one run")
        rounded = [(stage.name, self.rounded[stage.name].error) for stage in self.stages if stage.name in self.rounded]
        if rounded:
            axes.plot(
                [error for _, error in rounded], [name for name, _ in rounded], "k|", ms=14, label="every node rounded"
            )
        axes.set_xscale("log")
        axes.set_xlim(1e-5, 1e-2)
        axes.invert_yaxis()
        axes.set_xlabel("relative error of one run")
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(0.0, -0.14), frameon=False)

    def _draw_rollouts(self, axes: Any) -> None:
        for item in self.closed_loop:
            minutes = [second / 60 for second in range(len(item.seconds))]
            axes.plot(minutes, [100 * max(second, 1e-9) for second in item.seconds], lw=0.8, label=item.schedule)
        axes.axhline(100 * GOAL, color="#b03030", ls="--", lw=1, label="goal")
        axes.set_yscale("log")
        axes.set_xlabel("minutes of motion")
        axes.set_ylabel("closed-loop error, % of the motion's deviation")
        axes.legend(fontsize="small")


def _divergence(item: Divergence) -> dict[str, Any]:
    return {**asdict(item), "error": item.error, "growth": item.growth, "worst_second": max(item.seconds, default=0.0)}


def _stage_line(stage: ConvertedStage, rounded: OneStep | None) -> str:
    if not stage.onnx:
        return f"  {stage.name}: nothing in it is worth FP16; it stays FP32"
    more = f", {rounded.error:.2e} with every node rounded" if rounded else ""
    return (
        f"  {stage.name}: {len(stage.half)} nodes and {half_share(stage.onnx):.0%} of the weights in FP16, "
        f"{stage.full_bytes / 1e6:.2f} -> {len(stage.onnx) / 1e6:.2f} MB, "
        f"error of one run {stage.error.error:.2e}{more}"
    )


def _short(reason: str) -> str:
    """Drop the tensor's name and value, so that alike reasons are counted together."""
    for word in ("reaches", "has a size", "loses"):
        if f" {word} " in reason:
            return {"reaches": "too large for FP16", "has a size": "too small for FP16"}.get(
                word, "constant loses bits"
            )
    return reason
