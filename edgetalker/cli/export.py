"""`edgetalker export`: a trained PyTorch checkpoint, or another bundle, becomes a bundle."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from edgetalker.cli.checkpoints import (
    add_export,
    add_face,
    add_talker,
    add_talker_face,
    add_tolerance,
    exported,
    face_options,
    untold,
)
from edgetalker.cli.compare import add_comparison, check_comparison, compare_bundle
from edgetalker.cli.export_artalk import add_artalk
from edgetalker.cli.export_online import add_eye_cameras, add_speaker
from edgetalker.cli.options import add_bundle, bundle_path, natural, positive
from edgetalker.engines.errors import OptionError
from edgetalker.engines.lazy import packages_for

__all__ = ["add_parser", "run"]

_COMPARISON = ("json", "png", "lips", "upper_face")


def add_parser(subparsers: Any) -> None:
    """Register the command and a subcommand for each thing that it exports."""
    parser = subparsers.add_parser("export", help="turn a PyTorch checkpoint, or a talker, into a bundle")
    families = parser.add_subparsers(dest="family", metavar="WHAT", required=True, title="what to export")
    parser.set_defaults(make=_export_checkpoint)  # of what has no `make` of its own
    _add_streamingtalker(families)
    add_artalk(families)
    add_speaker(families)
    add_eye_cameras(families)
    _add_triton(families)


def _add_triton(families: Any) -> None:
    parser = families.add_parser(
        "triton",
        help="a bundle as a model repository of NVIDIA Triton",
        description="Writes REPO/NAME: an ONNX graph of a frame and config.pbtxt; Triton keeps each talker's states.",
    )
    add_bundle(parser, positional=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="REPO", help="folder of Triton's models")
    parser.add_argument("--name", default="", help="of the model (default: the bundle's)")
    parser.add_argument("--schedule", default="", metavar="NAME", help="which one (default: the fullest)")
    parser.add_argument("--talkers", type=positive, default=16, metavar="N", help="frames in one run at most (16)")
    parser.add_argument("--on-gpu", action="store_true", help="Triton runs it on GPUs")
    parser.set_defaults(make=_export_triton)


def _export_triton(args: argparse.Namespace) -> int:
    from edgetalker.engines.bundle import Bundle
    from edgetalker.serve.triton import TritonOptions, export_triton

    options = TritonOptions(name=args.name, schedule=args.schedule, talkers=args.talkers, gpu=args.on_gpu)
    print(export_triton(Bundle.open(bundle_path(args.bundle)), args.output, options))
    return 0


def _add_streamingtalker(families: Any) -> None:
    parser = families.add_parser(
        "streamingtalker",
        help="a published StreamingTalker checkpoint (VOCASET or BIWI)",
        description="Exports a StreamingTalker stage-2 checkpoint: ONNX stages, each checked against PyTorch, "
        "and the manifest. Nothing is written unless every stage passes.",
    )
    add_talker(parser)
    add_export(parser)
    _add_contract(parser)
    _add_sampling(parser)
    _add_network(parser)
    add_face(parser)
    parser.add_argument("--compare", type=Path, metavar="SPEECH", help="then measure the bundle (edgetalker compare)")
    add_comparison(parser)
    parser.set_defaults(export=_export_streamingtalker)


def _add_contract(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("streaming contract")
    lengths = (
        ("--block", 200, "the audio encoder hears so much at once (200)"),
        ("--lookahead", 200, "sound heard past a block (200): adds latency"),
        ("--context", 2000, "sound heard before a block (2000)"),
    )
    for option, default, text in lengths:
        group.add_argument(option, type=natural, default=default, metavar="MS", help=text)
    group.add_argument("--history", type=positive, default=60, metavar="FRAMES", help="frames of history (60)")
    group.add_argument("--decode-window", type=positive, default=60, metavar="FRAMES", help="latents decoded (60)")
    group.add_argument(
        "--phase",
        choices=("window", "absolute"),
        default="window",
        help="periodic positions restart with the window, as published, or follow the frame's index (window)",
    )
    group.add_argument(
        "--past",
        choices=("append", "rewrite"),
        default="append",
        help="append: a frame adds its latent, as streaming_inference; rewrite: it makes its window anew, as predict",
    )
    group.add_argument(
        "--floor",
        type=float,
        default=-50.0,
        metavar="DB",
        help="a window quieter than this (dB of full scale) fades to silence; -200: none does (-50)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--rule",
        choices=("legacy_sample", "ddim"),
        default="legacy_sample",
        help="legacy_sample: what the published weights were evaluated with; ddim: the textbook rule",
    )
    group.add_argument("--steps", type=positive, default=50, metavar="N", help="denoise steps of `full` (50)")
    group.add_argument("--fast-steps", type=natural, default=0, metavar="N", help="add `fast` of so many steps (none)")
    group.add_argument(
        "--steps-per-row", type=positive, default=1, metavar="N", help="denoise steps in one launch of the stage (1)"
    )
    group.add_argument(
        "--collapse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the rung `collapsed`: all steps of `full` as one map, exact for the published linear head (on)",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    add_talker_face(group)
    add_tolerance(group)


def run(args: argparse.Namespace) -> int:
    """Make what was asked for. Raises UserError subclasses for whatever cannot be exported."""
    return int(args.make(args))


def _export_checkpoint(args: argparse.Namespace) -> int:
    """Export and print one line a stage."""
    if (speech := getattr(args, "compare", None)) is not None:
        args.speech = speech
        check_comparison(args)
    elif without := [name for name in _COMPARISON if getattr(args, name, None) is not None]:
        raise OptionError(f"--{without[0].replace('_', '-')} is for a comparison", hint="add --compare SPEECH.wav")
    report = args.export(args)
    size = sum(file.stat().st_size for file in report.bundle.path.rglob("*") if file.is_file())
    print(f"{report.bundle.path}: {len(report.checks)} stages, {size / 1e6:.1f} MB, in {report.seconds:.0f} s")
    if speech is not None:
        return compare_bundle(report.bundle.path, args)
    return 0


def _export_streamingtalker(args: argparse.Namespace) -> Any:
    with packages_for("exporting a model", extra="export"):
        from edgetalker.export.streamingtalker import ExportOptions, export_streamingtalker
    options = ExportOptions(
        block_ms=args.block,
        lookahead_ms=args.lookahead,
        context_ms=args.context,
        history=args.history,
        decode_window=args.decode_window,
        phase=args.phase,
        past=args.past,
        floor_db=args.floor,
        rule=args.rule,
        full_steps=args.steps,
        fast_steps=args.fast_steps,
        steps_per_row=args.steps_per_row,
        collapse=args.collapse,
        identity=args.identity,
        template=args.template,
        subject=args.subject,
        untold=untold(args),
        tolerance=args.tolerance,
        face=face_options(args),
    )
    export = partial(export_streamingtalker, args.checkpoint, args.vae, args.out, options)
    return exported(args, partial(export, ignore_extra=args.ignore_extra))
