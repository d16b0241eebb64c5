"""`edgetalker live`: sound in, motion out, on the clock, into any number of programs at once."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgetalker.cli.config import Settings, targets
from edgetalker.cli.logs import FORMS, log_as, say
from edgetalker.cli.options import (
    add_bundle,
    add_controls,
    add_device,
    add_voice,
    exit_code,
    milliseconds,
    on_signals,
    session_from,
    set_controls,
    tell_plan,
)
from edgetalker.cli.service import ServiceManager
from edgetalker.cli.source import add_source, check_source, files_read, list_inputs, source_from, values_from
from edgetalker.cli.status import Status, delivered
from edgetalker.engines.errors import DeviceError
from edgetalker.outputs import sinks_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.live import Live, LiveReport
from edgetalker.runtime.loop import LATE_POLICIES, Options
from edgetalker.runtime.sinks.play import is_file, player_for
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.talker import Talker
from edgetalker.runtime.voice import for_a_microphone

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
    parser.add_argument("--quiet", action="store_true", help="no messages and no summary, only what goes wrong")
    parser.add_argument(
        "--heartbeat", type=Path, metavar="FILE", help="its time is set once a second by frames: for a health check"
    )
    parser.add_argument("--log", choices=FORMS, default="text", help="messages as text or one JSON object a line")
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
        "--play",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="play the sound in step with the face: number or part of the name of a sound card, or a file .wav",
    )
    group.add_argument(
        "--sync",
        type=_sync,
        default=0.0,
        metavar="MS",
        help="the sound comes so much later than its frame leaves: what the receiver takes to show it (default: 0)",
    )
    group.add_argument(
        "--rest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ease the mouth to rest while nobody speaks (default: yes)",
    )
    add_voice(group, "silero with --mic where ONNX Runtime is installed, else energy")


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


def _sync(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -2000 <= value <= 2000:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of milliseconds from -2000 to 2000")
    return value * 1e-3


def run(args: argparse.Namespace) -> int:
    """Run until the sound ends, the duration is over or a signal comes (exit code 128 + its number)."""
    if args.list_inputs:
        return list_inputs()
    args = args.settings.merge(args, args.config)
    log_as(args.log, quiet=args.quiet)
    _check(args)
    sinks = sinks_for(targets(args.to), files_read(args), [args.play] if is_file(args.play) else [])
    session = session_from(args, voice=_voice(args), rest=False)  # Live adds it
    try:
        set_controls(session, args)
        return _play(args, session, sinks)
    finally:
        session.close()


def _voice(args: argparse.Namespace) -> str:
    """Return the detector: a room holds more than voices, a file of speech or an agent's stream little else."""
    return args.voice or (for_a_microphone() if args.mic and args.rest else "energy")


def _check(args: argparse.Namespace) -> None:
    own = (
        (
            not args.to and args.play is None,
            "no output was named: add --to view, or --to vmc://127.0.0.1:39540, and so on",
        ),
        (args.loop and (args.mic or args.speech == "-"), "--loop is for a file"),
    )
    check_source(args, "edgetalker live --mic --to view; a file, or `-` for raw PCM on stdin, instead of --mic", own)


def _play(args: argparse.Namespace, session: Talker, sinks: Sequence[Sink]) -> int:
    clock = SystemClock()
    limit = math.ceil(args.duration * session.manifest.motion.fps) if args.duration else 0
    options = Options(realtime=True, schedule=args.schedule, late=args.late, budget=args.budget, limit=limit)
    player = None if args.play is None else player_for(args.play, sync=args.sync)
    # A microphone records from the moment it is opened: what takes time comes before.
    ladder = rehearse(session, (args.schedule,) if args.schedule else (), clock)
    if not args.quiet and args.log == "text":
        tell_plan(session)
    source = source_from(args, session.manifest.audio.rate, clock=clock, loop=args.loop)
    terminal = sys.stderr if sys.stderr.isatty() and args.log == "text" else None
    status = Status(None if args.quiet else terminal)
    manager = ServiceManager(status.text, heartbeat=args.heartbeat)
    observers = [manager] if args.quiet else [manager, status]
    try:
        inputs = values_from(args, session, clock)
        live = Live(
            session,
            source,
            sinks,
            options=options,
            clock=clock,
            rest=args.rest,
            ladder=ladder,
            play=player,
            observers=observers,
            inputs=inputs,
        )
        for sink in live.sinks:
            say(f"to {getattr(sink, 'name', '') or getattr(sink, 'path', sink)}")
        status.watch(live)
        if _at_a_keyboard(args):
            threading.Thread(target=_heed_enter, args=(live,), name="edgetalker-keys", daemon=True).start()
        with on_signals(live.stop) as came, _conversation(live):
            manager.ready()
            report = live.run()
    finally:
        status.close()
        manager.close()
        source.close()
    _summary(report, live, quiet=args.quiet)
    if not came:
        _check_delivered(report, live)
    return exit_code(came, live.loop.failed)


def _check_delivered(report: LiveReport, live: Live) -> None:
    """Raise DeviceError when nobody got anything: such a run is no success."""
    if not report.tally.due:
        raise DeviceError(
            "no frame was due: no sound came", hint="`--list-inputs` lists microphones; is the pipe empty?"
        )
    reached = delivered(live.sinks)
    if reached and not any(reached.values()) and len(reached) == len(live.sinks):
        faults = "; ".join(f"{name}: {report.sinks[name].last_error or 'nothing was sent'}" for name in reached)
        raise DeviceError(f"nothing was delivered: {faults}", hint="`edgetalker check URL` looks at one receiver alone")


def _at_a_keyboard(args: argparse.Namespace) -> bool:
    """Return whether somebody may press Enter, and tell so. A run in the background must not read the terminal."""
    if args.speech == "-" or args.quiet or sys.stdin is None or not sys.stdin.isatty():
        return False
    if hasattr(signal, "SIGTTIN"):
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # reading there fails instead of stopping the run
    say("Enter begins anew (barge-in)")
    return True


def _heed_enter(live: Live) -> None:
    """Begin anew at each Enter: barge-in for systems without signals, and for people."""
    with suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):  # not sys.stdin itself: its lock must be free when Python ends
            live.reset()


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


def _summary(report: LiveReport, live: Live, *, quiet: bool) -> None:
    for text in live.loop.warnings():
        logging.getLogger("edgetalker.run").warning("%s", text)
    if quiet:
        return
    tally = report.tally
    counts = {outcome.value: count for outcome, count in tally.outcomes.items()}
    say(tally.summary(), due=tally.due, outcomes=counts, schedules=tally.schedules, resets=tally.resets)
    if tally.resets:
        say(f"{tally.resets} times begun anew")
    if report.first_frame_ms is not None:
        say(f"first frame {report.first_frame_ms:.0f} ms after the first sound")
    for name, statistics in report.sinks.items():
        say(f"{name}: {statistics}")
    if live.player is not None:
        say(f"{live.player.name}: {live.player.statistics}")
    reached = delivered(live.sinks)
    for name, delays in report.delays.items():
        if delays and reached.get(name, True):  # of what was not sent, no delay was measured
            say(f"{name}: {delays}" if name else str(delays))
