"""`edgetalker animate`: speech in, face motion out; the main job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetalker.cli.corpus import add_corpus, animate_corpus, is_corpus
from edgetalker.cli.options import (
    add_bundle,
    add_controls,
    add_device,
    add_voice,
    exit_code,
    milliseconds,
    natural,
    on_signals,
    session_from,
    set_controls,
    tell_plan,
)
from edgetalker.cli.progress import FrameLine
from edgetalker.cli.source import add_source, check_source, files_read, list_inputs, source_from, values_from
from edgetalker.engines.errors import OptionError
from edgetalker.engines.files import checked_target
from edgetalker.outputs import is_receiver, sinks_for, split_file
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.loop import LATE_POLICIES, Loop, Observer, Options, Tally
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.talker import Talker

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "animate",
        help="speech in, face motion out",
        description="Makes face motion from a sound file, from raw PCM on stdin (`-`) or from a microphone (--mic); "
        "from a folder of sound files a folder of motion files.",
    )
    add_source(parser)
    add_bundle(parser)
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="FILE|URL",
        help=".npz .jsonl .csv (Live Link Face) .glb .png, `-` (JSON lines), or a receiver: vmc://host:39540",
    )
    add_timing(parser)
    add_voice(parser.add_argument_group("voice", "with it the mouth rests while nobody speaks"), "none")
    add_controls(parser)
    add_device(parser)
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="times of every frame and step: .json (Perfetto) or .csv"
    )
    add_corpus(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary: only what goes wrong")


def add_timing(parser: argparse.ArgumentParser) -> None:
    """Add what decides when frames are made."""
    group = parser.add_argument_group("time")
    group.add_argument(
        "--realtime", action="store_true", help="on the clock, deadlines counted (always with --mic and with receivers)"
    )
    group.add_argument("--schedule", metavar="NAME", help="always this schedule (default: the fullest that is on time)")
    group.add_argument("--late", choices=LATE_POLICIES, default="hold", help="what becomes of a frame that is too late")
    group.add_argument(
        "--budget", type=milliseconds, metavar="MS", help="deadline after a frame's slot (default: a frame)"
    )
    group.add_argument("--limit", type=natural, default=0, metavar="N", help="stop after so many frames")


def run(args: argparse.Namespace) -> int:
    """Run the main job. Exit code 0, or 128 + the signal that ended it early."""
    if args.list_inputs:
        return list_inputs()
    if is_corpus(args):
        return animate_corpus(args)
    if args.ray is not None:
        raise OptionError("--ray is for many sounds", hint="a folder, or a .txt with a path a line, as SPEECH")
    check_source(args, "edgetalker animate SPEECH.wav, or `-` for raw PCM on stdin, or --mic")
    # A receiver shows frames as they come: sent faster than they sound, they would only be dropped.
    args.realtime = args.realtime or args.mic or any(is_receiver(target) for target in args.output)
    sinks = sinks_for(args.output, files_read(args), [] if args.trace is None else [args.trace])
    if args.trace is not None:
        checked_target(args.trace)
    session = session_from(args, timings=args.trace is not None, voice=args.voice)
    try:
        set_controls(session, args)
        return _play(args, session, sinks)
    finally:
        session.close()


def _play(args: argparse.Namespace, session: Talker, sinks: Sequence[Sink]) -> int:
    options = Options(
        realtime=args.realtime,
        schedule=args.schedule,
        late=args.late,
        budget=args.budget,
        limit=args.limit,
    )
    clock = SystemClock()
    # A microphone records from the moment it is opened: everything that takes time comes before.
    ladder = None
    if options.realtime:
        ladder = rehearse(session, (args.schedule,) if args.schedule else (), clock)
        if not args.quiet:
            tell_plan(session)
    tracer = _tracer(args, session)
    source = source_from(args, session.manifest.audio.rate, clock=clock if options.realtime else None)
    progress = FrameLine(float(session.manifest.motion.fps), frames_of(source, session))
    observers: list[Observer] = [] if args.quiet else [progress]
    observers += [tracer] if tracer else []
    try:
        loop = Loop(
            session,
            source,
            sinks,
            options=options,
            clock=clock,
            observers=observers,
            ladder=ladder,
            inputs=values_from(args, session, clock),
        )
        with on_signals(loop.stop) as came:
            tally = loop.run()
    finally:
        source.close()
        progress.close()
    if tracer is not None:
        tracer.write(args.trace)
    for text in loop.warnings():
        sys.stderr.write(f"warning: {text}\n")
    if not args.quiet:
        _summary(args, tally)
    return exit_code(came, loop.failed)


def _summary(args: argparse.Namespace, tally: Tally) -> None:
    lines = [tally.summary()] if args.realtime else [f"{tally.due} frames"]
    if tally.schedules and (len(tally.schedules) > 1 or args.realtime):
        lines.append(", ".join(f"{count} with schedule {name}" for name, count in tally.schedules.items()))
    if tally.interrupted:
        lines.append("interrupted; what was made so far is kept")
    files = [split_file(target)[0] for target in args.output if not is_receiver(target)]
    lines += [f"wrote {file}" for file in files if Path(file).exists()]
    sys.stderr.write("\n".join(lines) + "\n")


def frames_of(source: Source, session: Talker) -> int | None:
    """Return how many frames a source will give, None when it does not know."""
    samples = getattr(source, "samples", None)
    return session.clock.frames_spanned(samples) if isinstance(samples, int) else None


class _Tracer(Observer):
    """Hands each frame's times to the trace."""

    def __init__(self, session: Talker) -> None:
        from edgetalker.measure.trace import Trace

        self._session = session
        self._trace = Trace.for_session(session)

    def frame(self, frame: Frame, start_ns: int) -> None:
        self._trace.frame(frame, start_ns, self._session)

    def write(self, path: Path) -> None:
        self._trace.write(path)


def _tracer(args: argparse.Namespace, session: Talker) -> _Tracer | None:
    if args.trace is None:
        return None
    if args.trace.suffix not in (".json", ".csv"):
        raise OptionError(f"--trace {args.trace}: .json (Perfetto) or .csv was wanted")
    return _Tracer(session)
