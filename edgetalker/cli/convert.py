"""`edgetalker convert`: add a lower precision beside a bundle's FP32 stages, and report what it costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edgetalker.cli.options import add_bundle, bundle_path, natural, positive
from edgetalker.cli.progress import Line
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError

__all__ = ["MISSED", "add_parser", "run"]

MISSED = 1
"""Exit code of a conversion that was written and missed its goal."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "convert",
        help="add a lower precision beside a bundle's FP32 stages",
        description="Observes the bundle at work, converts its stages to mixed FP16 or to 8 bits, and plays both "
        "precisions on the same sound and noise to report how far the motion drifts. Exit code: 0 when the goal was "
        "kept, 1 when it was missed (the precision is written all the same).",
    )
    add_bundle(parser, positional=True)
    parser.add_argument(
        "--precision",
        choices=("fp16", "int8", "w8", "fp8"),
        default="fp16",
        help="fp16; int8: weights in 8 bits, activations too where a product has 16 rows; w8: weights alone; fp8: as "
        "int8, with FP8 activations (default: fp16)",
    )
    parser.add_argument(
        "--goal", type=percent, default=0.01, metavar="PERCENT", help="drift that is allowed (default: 1%%)"
    )
    parser.add_argument("--audio", type=Path, metavar="DIR", help="recordings to observe with (default: made-up voice)")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the comparison (default: 10)")
    parser.add_argument("--frames", type=positive, default=300, metavar="N", help="frames to observe (default: 300)")
    parser.add_argument("--limit", type=float, default=2e-3, help="relative error one run may have (default: 0.002)")
    parser.add_argument(
        "--hold",
        action="append",
        default=[],
        metavar="STAGE,…|auto",
        help="keep stages in FP32; auto: those without which the goal is missed",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of the noise (default: 0)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write a copy of the bundle here instead")


def run(args: argparse.Namespace) -> int:
    """Convert, print the report; return 1 when the goal is missed."""
    if not 0 < args.minutes <= 600:
        raise OptionError(f"--minutes {args.minutes:g}: more than 0 and at most 600 was wanted")
    if not 0 < args.limit < 1:
        raise OptionError(f"--limit {args.limit:g}: between 0 and 1 was wanted")
    from edgetalker.calibration.convert import ConvertOptions, convert

    bundle = Bundle.open(bundle_path(args.bundle))
    options = ConvertOptions(
        precision=args.precision,
        audio=args.audio,
        goal=args.goal,
        seconds=60 * args.minutes,
        limit=args.limit,
        hold=tuple(name for text in args.hold for name in text.split(",") if name),
        seed=args.seed,
        observed=args.frames,
    )
    with Line() as line:
        report = convert(bundle, options, output=args.output, progress=line)
    for text in report.lines():
        print(text)
    print(f"written to {(args.output or bundle.path) / args.precision}")
    if report.met:
        return 0
    worst = max(report.harm, key=report.harm.__getitem__, default="auto")
    print(
        f"hint: --hold {worst} keeps that stage in FP32, --hold auto finds those; or allow more: --goal",
        file=sys.stderr,
    )
    return MISSED


def percent(text: str) -> float:
    """Parse `1%` or `1` as one percent."""
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no percentage") from None
    if not 0.0 < value < 100.0:
        raise argparse.ArgumentTypeError(f"{text} came; more than 0 and less than 100 percent was wanted")
    return value / 100.0
