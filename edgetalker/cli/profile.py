"""`edgetalker profile`: where each frame's time goes, step by step."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetalker.cli.options import add_bundle, add_device, positive, session_from
from edgetalker.cli.progress import Line
from edgetalker.engines.errors import OptionError
from edgetalker.engines.files import checked_target, write_whole

if TYPE_CHECKING:
    from edgetalker.measure.profile import ProfileOptions

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("profile", help="where each frame's time goes, step by step")
    add_bundle(parser, positional=True)
    add_device(parser)
    parser.add_argument("--frames", type=positive, default=300, metavar="N", help="frames to time (default: 300)")
    parser.add_argument("--schedule", action="append", metavar="NAME", help="time this schedule (default: all)")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="the newest 100 frames for ui.perfetto.dev")
    parser.add_argument("--layers", action="store_true", help="time each layer of each stage, in a run of its own")
    parser.add_argument("--kernels", action="store_true", help="time each GPU kernel of one frame (cupti-python)")
    parser.add_argument("--nvtx", action="store_true", help="mark host calls as NVTX ranges for Nsight Systems")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Every figure comes from this run."""
    from edgetalker.measure.profile import profile
    from edgetalker.measure.report import as_text

    _check_names(args)
    for path in (args.trace, args.csv, args.json):
        if path is not None:
            checked_target(path)
    args.graphs = args.graphs or "step"  # each step alone, with marks and without them
    with Line() as line:
        report = profile(partial(session_from, args), _options(args), progress=line)
    print(as_text(report))
    if args.csv is not None:
        _write(args.csv, report.csv())
    if args.json is not None:
        _write(args.json, json.dumps(report.as_dict(), indent=1) + "\n")
    return 0


def _options(args: argparse.Namespace) -> ProfileOptions:
    from edgetalker.measure.profile import ProfileOptions

    shared = {name: getattr(args, name) for name in ("frames", "threads", "trace")}
    looks = {name: getattr(args, name) for name in ("layers", "kernels", "nvtx")}
    return ProfileOptions(schedules=tuple(args.schedule or ()), **shared, **looks)


def _check_names(args: argparse.Namespace) -> None:
    if args.trace is not None and args.trace.suffix != ".json":
        raise OptionError(f"--trace {args.trace}: a name ending in .json was wanted")
    named = [path.absolute() for path in (args.trace, args.csv, args.json) if path is not None]
    if twice := next((path for path in named if named.count(path) > 1), None):
        raise OptionError(f"{twice} is written twice", hint="name another file")
    if args.kernels and args.device != "cuda":
        raise OptionError("--kernels times GPU kernels", hint="add --device cuda")


def _write(path: Path, text: str) -> None:
    with write_whole(path) as file:
        file.write(text.encode())
