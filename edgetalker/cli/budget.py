"""`edgetalker budget`: whether a device should hold a bundle's deadline, before it is there. A prediction."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgetalker.cli.options import add_bundle, positive
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError
from edgetalker.engines.files import checked_target, write_whole
from edgetalker.runtime.model import find_bundle

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "budget",
        help="predict whether a device holds a bundle's deadline",
        description="Predicts frame times, memory and talkers from public figures of devices, and for `cpu` from what "
        "this machine measures now. Exit code: 0 when every named device is predicted to hold, 1 when one is not.",
    )
    add_bundle(parser, positional=True)
    parser.add_argument(
        "--device", default="cpu", metavar="NAME,…", help="such as orin-nano,rtx4060,cpu (default: cpu)"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, or one that `edgetalker convert` added")
    parser.add_argument("--schedule", help="which schedule (default: the fullest)")
    parser.add_argument("--fps", type=float, help="frames a second (default: the bundle's)")
    parser.add_argument("--talkers", type=positive, default=1, metavar="N", help="how many must fit (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the predictions as JSON too")


def run(args: argparse.Namespace) -> int:
    """Predict and print."""
    from edgetalker.measure.budget import budget, device_facts

    if args.fps is not None and not 0 < args.fps <= 1000:
        raise OptionError(f"--fps {args.fps:g}: more than 0 and at most 1000 was wanted")
    if args.json is not None:
        checked_target(args.json)
    bundle = Bundle.open(find_bundle(args.bundle))
    names = [part for part in args.device.split(",") if part]
    if not names:
        raise OptionError(f"--device {args.device!r} names no device", hint="such as orin-nano,rtx4060,cpu")
    found = []
    for name in names:
        facts = device_facts(name, bundle, args.precision, args.schedule)
        found.append(budget(bundle, facts, precision=args.precision, schedule=args.schedule, fps=args.fps))
    for item in found:
        print("\n".join(item.lines()))
        if args.talkers > 1:
            print(f"prediction: {args.talkers} talkers {'fit' if item.talkers >= args.talkers else 'do NOT fit'}")
        print()
    if args.json is not None:
        with write_whole(args.json) as file:
            file.write(json.dumps([item.as_dict() for item in found], indent=1).encode() + b"\n")
    return 0 if all(item.holds and item.talkers >= args.talkers for item in found) else 1
