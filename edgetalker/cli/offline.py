"""`edgetalker offline`: a whole clip through a published path in PyTorch, for evaluation and films."""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgetalker.cli.checkpoints import add_talker, add_talker_face, untold
from edgetalker.cli.options import natural, positive
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.engines.lazy import packages_for
from edgetalker.outputs import is_receiver, sink_for

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "offline",
        help="play a whole clip as a published paper evaluates it, not frame by frame",
        description="Runs a StreamingTalker checkpoint over a whole clip in PyTorch: features of the whole utterance, "
        "windows that cover what the published path sees. As slow as it is; for evaluation and films.",
    )
    add_talker(parser)
    parser.add_argument("speech", type=Path, metavar="SPEECH", help="a sound file")
    parser.add_argument("-o", "--output", action="append", required=True, metavar="FILE", help="such as film.npz")
    parser.add_argument(
        "--path",
        choices=("predict", "streaming_inference"),
        default="predict",
        help="predict: what the paper's figures were made with; streaming_inference: append-only (predict)",
    )
    add_talker_face(parser)
    parser.add_argument("--steps", type=positive, default=50, metavar="N", help="denoise steps (50)")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of the noise (0)")


def run(args: argparse.Namespace) -> int:
    """Make every frame, then write. Raises UserError subclasses for whatever does not fit."""
    if receivers := [target for target in args.output if is_receiver(target)]:
        raise OptionError(f"{', '.join(receivers)}: a clip made offline goes into files")
    sinks = [sink_for(target) for target in args.output]
    with packages_for("running PyTorch", extra="export"):
        import torch

        from edgetalker.export.streamingtalker.compare import Clip, published
        from edgetalker.export.streamingtalker.template import read_template
        from edgetalker.models.streamingtalker import load_checkpoint, make_schedule
    from edgetalker.runtime.frame import Frame, MotionLayout
    from edgetalker.runtime.sources.file import read_whole

    model = load_checkpoint(args.checkpoint, args.vae, untold(args), ignore_extra=args.ignore_extra, say=say)
    config = model.config
    if args.identity >= config.identities:
        raise OptionError(f"identity {args.identity}; the network has 0 to {config.identities - 1}")
    template, _ = (
        read_template(args.template, config.vertex_values // 3, args.subject) if args.template else (None, None)
    )
    samples = torch.from_numpy(read_whole(args.speech, 16000))
    frames = config.tokens(len(samples)) * config.frame_rate // 50
    if frames < 2:
        raise InputError(f"{args.speech} is too short: {len(samples) / 16000:.2f} s; at least three frames were wanted")
    rest = torch.zeros(config.vertex_values) if template is None else torch.from_numpy(template.reshape(-1))
    schedule = make_schedule(args.steps)
    clip = Clip(samples, frames, torch.eye(config.identities)[[args.identity]], rest, schedule, args.seed)
    started = time.monotonic()
    extra = {"checkpoint": args.checkpoint.name, "path": args.path}
    units = "metres" if config.dataset == "vocaset" else ""
    shape = (config.vertex_values // 3, 3)
    layout = MotionLayout("vertices", shape, Fraction(config.frame_rate), (), units, extra)
    opened = []
    try:
        for sink in sinks:  # before the work: one that cannot show vertices says so here
            sink.open(layout)
            opened.append(sink)
        vertices = published(model, clip, args.path)
        for sink in opened:
            sink.hear(samples.numpy(), 16000)
            for index, motion in enumerate(vertices):
                end = (index + 1) * 16000 // config.frame_rate
                sink.send(Frame(index, end, Fraction(index, config.frame_rate), motion, schedule="full"))
    finally:
        for sink in opened:
            sink.close()
    say(f"{len(vertices)} frames of {args.path} in {time.monotonic() - started:.0f} s")
    for target in args.output:
        say(f"wrote {target}")
    return 0


def say(line: str) -> None:
    """Print to stderr."""
    print(line, file=sys.stderr)
