"""What a conversion did and cost, as JSON for programs and as a picture for people."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgetalker.calibration.eightbit import EightBits
from edgetalker.calibration.onestep import OneStep
from edgetalker.calibration.rollout import Divergence
from edgetalker.calibration.stage import ConvertedStage, half_share
from edgetalker.engines.lazy import required

__all__ = ["GOAL", "STEADY", "ConvertReport"]

GOAL = 0.01
"""Wanted: a closed-loop error below 1 % of the motion's own standard deviation."""

CLOSURES = 0.995
"""Wanted: F1 of the frames with shut lips against FP32's."""

JUDGED_SECONDS = 60
"""A comparison must be so long before growth is judged: in a shorter one its quarters are too few seconds."""

JUDGED_SHUT = 100
"""So many of FP32's frames must show shut lips before closures are judged."""

STEADY = 2.0
"""Wanted: the median second of the last quarter is not this many times that of the first."""


@dataclass(frozen=True)
class ConvertReport:
    """One conversion. sound: what the rollouts heard. rounded: stage -> error with every FP16 node rounded in
    PyTorch (empty without PyTorch). narrow: what 8 bits were given to, None in FP16. host_loop: of the form that ONNX
    Runtime plays. harm: stage -> drift with it alone in this precision, where the goal was missed. held: stages that
    `auto` took back to FP32, with that drift."""

    bundle: str
    precision: str
    sound: str
    stages: Sequence[ConvertedStage]
    closed_loop: Sequence[Divergence]
    rounded: Mapping[str, OneStep]
    goal: float = GOAL
    narrow: EightBits | None = None
    host_loop: Sequence[Divergence] = ()
    harm: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every schedule keeps the goal in everything that could be judged."""
        return not self.misses

    @property
    def misses(self) -> list[str]:
        """Return what missed the goal, a phrase each; what was too short to be judged is in `unjudged`."""
        found = []
        for form, item in self._loops():
            where = f"schedule {item.schedule}{form}"
            if not item.error < self.goal:
                found.append(f"{where}: drift {item.error:.2%}")
            if len(item.seconds) >= JUDGED_SECONDS and not item.growth < STEADY:
                found.append(f"{where}: the error grows {item.growth:.1f} times")
            if item.closures is not None and item.shut >= JUDGED_SHUT and item.closures < CLOSURES:
                found.append(f"{where}: closures F1 {item.closures:.3f}")
        return found

    @property
    def unjudged(self) -> list[str]:
        """Return what was not judged, and why."""
        seconds = max((len(item.seconds) for _, item in self._loops()), default=0)
        found = (
            [] if seconds >= JUDGED_SECONDS else [f"growth ({seconds} s were compared, {JUDGED_SECONDS} are wanted)"]
        )
        shut = [item.shut for _, item in self._loops() if item.closures is not None]
        if shut and min(shut) < JUDGED_SHUT:
            found.append(f"closures (lips were shut in {min(shut)} frames, {JUDGED_SHUT} are wanted)")
        return found

    def _loops(self) -> list[tuple[str, Divergence]]:
        return [("", item) for item in self.closed_loop] + [(", on the CPU", item) for item in self.host_loop]

    def to_json(self) -> bytes:
        """Return the whole report as JSON."""
        document = {
            "bundle": self.bundle,
            "precision": self.precision,
            "sound": self.sound,
            "goal": self.goal,
            "met": self.met,
            "misses": self.misses,
            "not_judged": self.unjudged,
            "stages": {stage.name: self._stage(stage) for stage in self.stages} or self._narrow_stages(),
            "held": dict(self.held),
            "harm": dict(self.harm),
            **({} if self.narrow is None else _narrow(self.narrow)),
            "closed_loop": {item.schedule: _divergence(item) for item in self.closed_loop},
            "closed_loop_host": {item.schedule: _divergence(item) for item in self.host_loop},
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

    def _narrow_stages(self) -> dict[str, Any]:
        if self.narrow is None:
            return {}
        return {
            stage.name: {
                "one_step": {form: asdict(error) for form, error in stage.one_step.items()},
                "bytes": {"fp32": stage.full_bytes, "gpu": len(stage.gpu), "host": len(stage.host)},
                "weights_in_8_bits": stage.weights,
                "operations_in_8_bits": stage.operations,
                "weights_in_8_bits_on_the_cpu": stage.on_host,
                "kinds": dict(stage.kinds),
            }
            for stage in self.narrow.stages
        }

    def _narrow_lines(self, found: EightBits) -> Iterator[str]:
        for stage in found.stages:
            if not stage.kinds:
                yield f"  {stage.name}: nothing of it is in 8 bits"
                continue
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(stage.kinds.values()).items()))
            errors = ", ".join(f"{error.error:.2e}{_FORMS[form]}" for form, error in stage.one_step.items())
            yield (
                f"  {stage.name}: {kinds}; {stage.weights:.0%} of the weights and {stage.operations:.0%} of the "
                f"multiply-adds in 8 bits, {stage.full_bytes / 1e6:.2f} -> {len(stage.gpu) / 1e6:.2f} MB, error of one "
                f"run {errors}"
            )
        host = f" ({found.on_host:.1%} of weights on the CPU)" if self.host_loop else ""
        yield f"  all: {found.weights:.1%} of weights{host}, {found.operations:.1%} of multiply-adds in 8 bits"
        yield from (f"    not narrow: {layer.name}, alone {layer.drift:.2%}" for layer in found.layers[found.taken :])
        if found.methods:
            yield "  ranges, drift: " + ", ".join(f"{name} {drift:.2%}" for name, drift in found.methods.items())

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        out = [f"{self.bundle} in {self.precision}, heard: {self.sound}"]
        if self.narrow is not None:
            out += self._narrow_lines(self.narrow)
        for stage in self.stages:
            out.append(_stage_line(stage, self.rounded.get(stage.name)))
            counts = Counter(_short(reason) for reason in stage.kept.values())
            out += [f"    {count} in FP32: {reason}" for reason, count in counts.most_common()]
        for form, item in self._loops():
            closures = "" if item.closures is None else f", closures F1 {item.closures:.4f}"
            out.append(
                f"  schedule {item.schedule}{form}, {item.frames} frames: error {item.error:.3%} of the motion's "
                f"deviation, median second {np.median(item.seconds):.3%}, worst second {max(item.seconds):.3%}, "
                f"last quarter over first {item.growth:.2f}{closures}"
            )
        out += [f"  held in FP32: {stage}, which alone drifts by {drift:.2%}" for stage, drift in self.held.items()]
        out.append(f"goal of less than {self.goal:.2%} of drift: {'met' if self.met else 'MISSED'}")
        out += [f"  missed: {miss}" for miss in self.misses]
        out += [f"  not judged: {what}" for what in self.unjudged]
        by_size = sorted(self.harm.items(), key=lambda item: -item[1])
        out += [f"  {stage} alone drifts by {drift:.2%}" for stage, drift in by_size]
        return out

    def to_png(self) -> bytes:
        """Return the errors as a picture. Raises MissingPackageError without matplotlib."""
        agg = required("matplotlib.backends.backend_agg", "the report's picture", extra="calibration")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 2))
        self._draw_stages(left) if self.narrow is None else self._draw_curve(left, self.narrow)
        self._draw_rollouts(right)
        figure.suptitle(f"{self.bundle}: {self.precision} against FP32")
        data = io.BytesIO()
        agg.FigureCanvasAgg(figure)
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

    def _draw_curve(self, axes: Any, found: EightBits) -> None:
        points = found.curve[1:]
        axes.plot([100 * p.share for p in points], [100 * max(p.predicted, 1e-5) for p in points], label="predicted")
        played = [point for point in points if np.isfinite(point.measured)]
        axes.plot([100 * p.share for p in played], [100 * p.measured for p in played], "o", ms=4, label="played")
        axes.axvline(100 * found.curve[found.taken].share, color="#888888", ls=":", lw=1, label="taken")
        axes.axhline(100 * self.goal, color="#b03030", ls="--", lw=1)
        axes.set_yscale("log")
        axes.set_xlabel("weights in 8 bits, %")
        axes.set_ylabel("drift, % of the motion's deviation")
        axes.legend(fontsize="small")

    def _draw_rollouts(self, axes: Any) -> None:
        for form, item in self._loops():
            minutes = [second / 60 for second in range(len(item.seconds))]
            axes.plot(minutes, [100 * max(second, 1e-9) for second in item.seconds], lw=0.8, label=item.schedule + form)
        axes.axhline(100 * self.goal, color="#b03030", ls="--", lw=1, label="goal")
        axes.set_yscale("log")
        axes.set_xlabel("minutes of motion")
        axes.set_ylabel("closed-loop error, % of the motion's deviation")
        axes.legend(fontsize="small")


_FORMS = {"emulated": "", "host": ", on the CPU"}


def _narrow(found: EightBits) -> dict[str, Any]:
    return {
        "weights_in_8_bits": found.weights,
        "operations_in_8_bits": found.operations,
        "weights_in_8_bits_on_the_cpu": found.on_host,
        "probe_frames": found.probe_frames,
        "ranges": found.ranges,
        "range_methods": found.methods,
        "layers": [
            {"name": layer.name, "saved": layer.saved, "drifts": layer.drifts, "taken": place < found.taken}
            for place, layer in enumerate(found.layers)
        ],
        "curve": [_number(asdict(point)) for point in found.curve],
    }


def _number(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan."""
    return {key: None if value != value else value for key, value in values.items()}


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
    return next((short for words, short in _SHORT.items() if words in reason), reason)


_SHORT = {" reaches ": "too large for FP16", " has a size ": "too small for FP16", " loses ": "constant loses bits"}
