"""`edgetalker inspect`: what a bundle holds, for people and (--json) for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from edgetalker.cli.options import add_bundle, bundle_path
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.manifest import Carry, Manifest, Step, Tensor

__all__ = ["add_parser", "run"]

_ROUNDING = 1e-3
"""Share of the motion below which two schedules count as one function: float32 in another order, amplified."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("inspect", help="show what a bundle holds")
    add_bundle(parser, positional=True)
    parser.add_argument("--json", action="store_true", help="the manifest and the sizes as JSON")
    parser.add_argument("--plans", action="store_true", help="the compiled plans: valid, stale, foreign, and why")


def run(args: argparse.Namespace) -> int:
    """Check the bundle whole and print it."""
    bundle = Bundle.open(bundle_path(args.bundle))
    if args.plans:
        from edgetalker.cli.plans_view import show_plans

        return show_plans(bundle, as_json=args.json)
    if args.json:
        document = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
        document["sizes"] = sizes(bundle)
        json.dump(document, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    for line in describe(bundle):
        print(line)
    return 0


def sizes(bundle: Bundle) -> dict[str, int]:
    """Return the size of every file in bytes."""
    return {name: bundle.file(name).stat().st_size for name in bundle.manifest.files}


def describe(bundle: Bundle) -> Iterator[str]:
    """Yield the lines that people read."""
    manifest = bundle.manifest
    total = sum(sizes(bundle).values())
    yield f"{manifest.name} ({manifest.family}), {megabytes(total)} in {len(manifest.files)} files at {bundle.path}"
    if manifest.origin:
        yield f"origin: {manifest.origin}"
    yield from _contract(manifest)
    yield from _stages(bundle)
    yield from _tensors(manifest)
    yield from _program(manifest)
    yield from _schedules(bundle)
    if manifest.precisions:
        yield f"precisions: fp32, {', '.join(manifest.precisions)}"


def _contract(manifest: Manifest) -> Iterator[str]:
    audio, motion = manifest.audio, manifest.motion
    rate, fps = audio.rate, motion.fps
    yield ""
    yield f"audio: {rate} Hz mono; a frame sees {audio.window / rate:.3f} s of sound ({audio.window} samples)"
    latency = float(audio.block / fps) + audio.lookahead / rate
    yield (
        f"       look-ahead {audio.lookahead / rate * 1e3:.0f} ms, block of {audio.block} frames: "
        f"{latency * 1e3:.0f} ms from a frame's first sound to the earliest moment it can be made"
    )
    shape = "×".join(map(str, manifest.tensors[motion.tensor].spec.shape[1:]))
    yield f"motion: {motion.kind}, {shape} a frame at {fps} fps{f', {motion.units}' if motion.units else ''}"
    if motion.names:
        yield f"        {', '.join(motion.names[:6])}{', …' if len(motion.names) > 6 else ''}"


def _stages(bundle: Bundle) -> Iterator[str]:
    yield ""
    yield "stages"
    for stage in bundle.manifest.stages.values():
        size = megabytes(bundle.file(stage.file).stat().st_size)
        yield f"  {stage.name}: {stage.file}, {size}"
        for arrow, specs in (("<-", stage.inputs), ("->", stage.outputs)):
            yield from (f"    {arrow} {name} {spec}" for name, spec in specs.items())


def _tensors(manifest: Manifest) -> Iterator[str]:
    yield ""
    yield "tensors"
    for tensor in manifest.tensors.values():
        yield f"  {tensor.name}: {tensor.role} {tensor.spec}{_details(tensor)}"


def _details(tensor: Tensor) -> str:
    if tensor.role == "control":
        settings = [
            f"{name}={value:g} ({low:g} to {high:g})"
            for name, value, low, high in zip(
                tensor.names or [str(place) for place in range(len(tensor.default))],
                tensor.default,
                tensor.low or [float("-inf")] * len(tensor.default),
                tensor.high or [float("inf")] * len(tensor.default),
                strict=True,
            )
        ]
        return f": {', '.join(settings)}; glides in {tensor.glide:g} s"
    if tensor.role in ("state", "constant"):
        return f" from {tensor.file}" if tensor.file else " from zeros"
    return f", at most {tensor.limit}" if tensor.role == "count" else ""


def _program(manifest: Manifest) -> Iterator[str]:
    yield ""
    yield "program of a frame"
    for step in manifest.program:
        only = f" ({', '.join(step.schedules)} only)" if step.schedules else ""
        if isinstance(step, Carry):
            yield f"  {step.kind} {step.source} -> {step.target}{only}"
        else:
            yield f"  {_step(step)}{only}"
    effect = "shifts the newest rows in again" if manifest.skipped == "repeat" else "leaves the history as it is"
    yield f"  a skipped frame {effect}"


def _step(step: Step) -> str:
    reads = ", ".join(step.inputs.values())
    writes = ", ".join(step.outputs.values())
    often = " once for each row" if step.rows else ""
    often += f" every {step.every} frames" if step.every > 1 else ""
    return f"run {step.stage}{often}: {reads} -> {writes}"


def _schedules(bundle: Bundle) -> Iterator[str]:
    yield ""
    yield "schedules, from the fullest to the cheapest"
    for name in bundle.manifest.ladder:
        rows = len(bundle.table(name))
        yield f"  {name}: {rows or 'no'} rows{_against_full(bundle.manifest.schedules[name].differs)}"


def _against_full(differs: float | None) -> str:
    """Say what the exporter measured of a rung, where it did."""
    if differs is None:
        return ""
    shown = f", differs from full by {differs:.2g} of the motion's RMS"
    return f"{shown} ({'rounding' if differs < _ROUNDING else 'another function in mid-sentence'})"


def megabytes(size: int) -> str:
    """Return a size for people: kB below 1 MB, else MB with one decimal."""
    return f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"
