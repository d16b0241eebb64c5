"""`edgetalker live`: sound in, motion out, on the clock, into any number of programs at once."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgetalker.cli.config import Settings, targets
from edgetalker.cli.options import (
    add_bundle,
    add_controls,
    add_device,
    exit_code,
    milliseconds,
    on_signals,
    session_from,
    set_controls,
    tell_plan,
)
from edgetalker.cli.source import add_source, check_source, list_inputs, source_from, values_from
from edgetalker.outputs import sinks_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.frame import Sink
from edgetalker.runtime.live import Live, Report
from edgetalker.runtime.loop import LATE_POLICIES, Options, rehearse
from edgetalker.runtime.talker import Talker

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "live",
        help="drive avatars from a microphone, a pipe or a file",
        description="Plays sound on the clock and sends the motion: edgetalker live --mic --to vmc:// --to view",
    )
    add_source(parser)
    parser.add_argument("--loop", action="store_true", help="play the file over and over")
    add_bundle(parser)
    _add_outputs(parser)
    _add_timing(parser)
    add_controls(parser)
    add_device(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the same names as these options")
    parser.add_argument("--quiet", action="store_true", help="no messages and no summary")
    Settings(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="URL|FILE",
        help="livelink://, vmc://, vrchat://, ws://, view, or a file; options as ?rate=60&smooth=20ms; repeatable",
    )
    group.add_argument(
        "--rest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ease the mouth to rest while nobody speaks (default: yes)",
    )


def _add_timing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("time")
    group.add_argument("--duration", type=_seconds, metavar="SECONDS", help="stop after so much time")
    group.add_argument("--schedule", metavar="NAME", help="always this schedule (default: the fullest that is on time)")
    group.add_argument("--late", choices=LATE_POLICIES, default="hold", help="what becomes of a frame that is too late")
    group.add_argument("--budget", type=milliseconds, metavar="MS", help="deadline after a frame's slot")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Run until the sound ends, the duration is over or a signal comes (exit code 128 + its number)."""
    if args.list_inputs:
        return list_inputs()
    args = args.settings.merge(args, args.config)
    _check(args)
    sinks = sinks_for(targets(args.to), args.speech)
    session = session_from(args)
    try:
        set_controls(session, args)
        return _play(args, session, sinks)
    finally:
        session.close()


def _check(args: argparse.Namespace) -> None:
    own = (
        (not args.to, "no output was named: add --to view, or --to vmc://127.0.0.1:39539, and so on"),
        (args.loop and (args.mic or args.speech == "-"), "--loop is for a file"),
    )
    check_source(args, "edgetalker live --mic --to view; a file, or `-` for raw PCM on stdin, instead of --mic", own)


def _play(args: argparse.Namespace, session: Talker, sinks: Sequence[Sink]) -> int:
    clock = SystemClock()
    limit = math.ceil(args.duration * session.manifest.motion.fps) if args.duration else 0
    options = Options(realtime=True, schedule=args.schedule, late=args.late, budget=args.budget, limit=limit)
    # A microphone records from the moment it is opened: what takes time comes before.
    ladder = rehearse(session, (args.schedule,) if args.schedule else (), clock)
    if not args.quiet:
        tell_plan(session)
    source = source_from(args, session.manifest.audio.rate, clock=clock, loop=args.loop)
    try:
        inputs = values_from(args, session, clock)
        live = Live(session, source, sinks, options=options, clock=clock, rest=args.rest, ladder=ladder, inputs=inputs)
        if not args.quiet:
            sys.stderr.write("".join(f"to {url}\n" for url, _ in targets(args.to)))
        with on_signals(live.stop) as came, _conversation(live):
            report = live.run()
    finally:
        source.close()
    if not args.quiet:
        _summary(report, live)
    return exit_code(came, live.loop.failed)


@contextmanager
def _conversation(live: Live) -> Iterator[None]:
    """SIGUSR1 begins anew (barge-in), SIGUSR2 finishes the utterance, where the system has these signals."""
    actions = {"SIGUSR1": live.reset, "SIGUSR2": live.flush}
    known = {getattr(signal, name): act for name, act in actions.items() if hasattr(signal, name)}
    try:
        before = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in known.items()}
    except ValueError:  # not in the main thread: the caller has `live` itself
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(report: Report, live: Live) -> None:
    lines = [f"warning: {text}" for text in live.loop.warnings()]
    lines.append(report.tally.summary())
    if report.tally.resets:
        lines.append(f"{report.tally.resets} times begun anew")
    if report.first_frame_ms is not None:
        lines.append(f"first frame {report.first_frame_ms:.0f} ms after the first sound")
    lines += [f"{name}: {statistics}" for name, statistics in report.sinks.items()]
    lines += [f"{name}: {delays}" if name else str(delays) for name, delays in report.delays.items() if delays]
    sys.stderr.write("\n".join(lines) + "\n")
