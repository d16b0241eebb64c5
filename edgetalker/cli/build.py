"""`edgetalker build`: compile a bundle's stages into plans for TensorRT or TensorRT-RTX."""

from __future__ import annotations

import argparse
from typing import Any

from edgetalker.cli.options import add_bundle, bundle_path, positive
from edgetalker.cli.progress import Line
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import unknown
from edgetalker.engines.machine import this_machine
from edgetalker.engines.plan import Found, PlanRecord, default_precision
from edgetalker.engines.targets import parse_target, targets_for
from edgetalker.engines.tensorrt.api import load
from edgetalker.engines.tensorrt.build import BuildOptions
from edgetalker.engines.tensorrt.children import PlanBuilder

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "build",
        help="compile a bundle's stages into TensorRT plans",
        description="Compiles a bundle's stages into plans. Plans for RTX cards are built on any machine; all others "
        "on the machine that will play them.",
    )
    add_bundle(parser, positional=True)
    parser.add_argument("--target", default="auto", help="rtx:sm86,sm89,sm120 or rtx:portable; rtx, tensorrt, auto")
    parser.add_argument("--precision", help="fp32, or one that `edgetalker convert` added (default: fp16 if there)")
    parser.add_argument("--stage", action="append", metavar="NAME", help="build this stage only (may be repeated)")
    parser.add_argument("--force", action="store_true", help="build again what is there and valid")
    _add_tuning(parser)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the builder (the defaults fit a Jetson's memory)")
    group.add_argument("--level", type=int, default=3, help="how long to look for kernels, 0 to 5 (default: 3)")
    group.add_argument("--workspace", type=positive, default=512, metavar="MIB", help="limit a kernel (default: 512)")
    group.add_argument("--tf32", action="store_true", help="let FP32 products round to 10 bits on tensor cores")
    group.add_argument("--version-compatible", action="store_true", help="plans for the lean runtime (tensorrt only)")
    group.add_argument("--no-timing-cache", action="store_true", help="measure every kernel anew (tensorrt only)")


def run(args: argparse.Namespace) -> int:
    """Build stage after stage; print what each took and where it lies."""
    bundle = Bundle.open(bundle_path(args.bundle))
    machine = this_machine()
    target = parse_target(args.target, machine.gpu, tuple(machine.versions))
    load(target.flavour)  # says what is missing, before anything starts
    precision = args.precision or default_precision(bundle)
    stages = _stages(bundle, precision, args.stage)
    version = machine.versions[target.flavour]
    for one in targets_for(target, precision):
        builder = PlanBuilder(bundle, one, machine, precision, _options(args))
        print(f"{bundle.manifest.name} {precision} for {one} with {one.flavour} {version}")
        for stage in stages:
            with Line() as line:
                found = builder.stage(stage, line, force=args.force)
            print(f"  {summary(found, built=line.seen)}")
        print(f"plans in {builder.folder}")
    return 0


def _options(args: argparse.Namespace) -> BuildOptions:
    return BuildOptions(
        level=args.level,
        workspace=args.workspace,
        tf32=args.tf32,
        version_compatible=args.version_compatible,
        timing_cache=not args.no_timing_cache,
    )


def _stages(bundle: Bundle, precision: str, wanted: list[str] | None) -> list[str]:
    known = list(bundle.manifest.stages)
    for name in wanted or []:
        if name not in known:
            raise unknown("stage", name, known, "the bundle has")
    for name in known:
        bundle.onnx_name(name, precision)  # raises OptionError for a precision that is not there
    return wanted or known


def summary(found: Found, *, built: bool) -> str:
    """Return one line about a plan: stage, size, and what it took if it was built now."""
    record = found.record
    assert isinstance(record, PlanRecord)
    size = f"{record.plan_bytes / 1e6:.2f} MB"
    if not built:
        return f"{record.stage}: {size}, was built already"
    peak = f", peak {record.peak_memory / 2**20:.0f} MiB" if record.peak_memory else ""
    return f"{record.stage}: {size}, built in {record.seconds:.1f} s{peak}"
