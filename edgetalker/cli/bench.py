"""`edgetalker bench`: the latency table of a bundle on this machine."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from edgetalker.cli.options import add_bundle, add_device, positive, session_from
from edgetalker.cli.progress import Line
from edgetalker.engines.errors import OptionError
from edgetalker.engines.files import checked_target, write_whole

__all__ = ["add_parser", "run"]

_AGAINST = {"eager": "without graphs", "torch": "eager PyTorch"}


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("bench", help="measure latency, frame by frame and stage by stage")
    add_bundle(parser, positional=True)
    add_device(parser)
    parser.add_argument("--frames", type=positive, default=300, metavar="N", help="frames to time (default: 300)")
    parser.add_argument("--schedule", action="append", metavar="NAME", help="time this schedule (default: all)")
    parser.add_argument("--against", choices=tuple(_AGAINST), help="time the same frames without graphs, or in PyTorch")
    parser.add_argument("--talkers", type=positive, metavar="N", help="time 1, 2, 4, … up to N talkers in one launch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")


def run(args: argparse.Namespace) -> int:
    """Measure and print. All figures come from this run; ratios only compare what ran in it."""
    from edgetalker.measure.bench import Bench

    if args.json is not None:
        checked_target(args.json)
    if args.talkers is not None:
        return _talkers(args)
    bench = Bench(
        partial(session_from, args),
        frames=args.frames,
        schedules=args.schedule,
        against=_AGAINST[args.against] if args.against else "",
        other=partial(session_from, _changed(args)) if args.against else None,
    )
    with Line() as line:
        report = bench.run(progress=line)
    print(report.text())
    _write(args, report.as_dict())
    return 0


def _write(args: argparse.Namespace, report: Any) -> None:
    if args.json is not None:
        with write_whole(args.json) as file:
            file.write(json.dumps(report, indent=1).encode() + b"\n")


def _talkers(args: argparse.Namespace) -> int:
    """Measure many talkers (edgetalker.serve)."""
    from edgetalker.serve.bench import as_dicts, bench_talkers, text

    if args.against:
        raise OptionError("--against compares one talker; --talkers times many", hint="leave one of them out")
    with session_from(args) as talker:
        rows = bench_talkers(talker.model, args.talkers, args.frames, args.schedule or ())
    print(text(rows))
    _write(args, as_dicts(rows))
    return 0


def _changed(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options of what is compared with."""
    engine = "torch" if args.against == "torch" else args.engine
    return argparse.Namespace(**{**vars(args), "engine": engine, "graphs": "eager"})
