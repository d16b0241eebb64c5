"""`edgetalker export artalk`: a published ARTalk checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from edgetalker.cli.checkpoints import add_export, add_face, add_tolerance, exported, face_options
from edgetalker.cli.options import natural, positive
from edgetalker.engines.lazy import packages_for

__all__ = ["add_artalk"]


def add_artalk(families: Any) -> None:
    """Register the subcommand."""
    parser = families.add_parser(
        "artalk",
        help="a published ARTalk checkpoint (wav2vec)",
        description="Exports an ARTalk checkpoint: ONNX stages, each checked against PyTorch, and the manifest. "
        "Nothing is written unless every stage passes.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="flat state dict, such as ARTalk_wav2vec.pt"
    )
    add_export(parser)
    parser.add_argument(
        "--config", type=Path, metavar="CONFIG.json", help="the published configuration, to check against"
    )
    motion = parser.add_argument_group("motion")
    motion.add_argument("--style-motion", type=Path, metavar="CLIP.npz", help="a clip of motion to move like")
    motion.add_argument("--fix-pose", action="store_true", help="the head is still (`--set head=1` moves it again)")
    motion.add_argument("--no-smooth", action="store_true", help="no Savitzky-Golay filter, and no delay of 4 frames")
    clock = parser.add_argument_group("clock")
    clock.add_argument("--fps", type=fraction, default=Fraction(25), metavar="RATE", help="frames a second (25)")
    clock.add_argument(
        "--spread",
        type=natural,
        metavar="FRAMES",
        help="a chunk is computed during this many frames of the chunk before; adds them to the delay (a quarter)",
    )
    clock.add_argument(
        "--audio-parts", type=positive, metavar="N", help="stages of the audio encoder (one for six layers)"
    )
    network = parser.add_argument_group("network")
    for option, what in (("audio", "audio encoder (16)"), ("vae", "VAE (8)"), ("style", "style encoder (4)")):
        network.add_argument(f"--{option}-heads", type=positive, metavar="N", help=f"attention heads of the {what}")
    network.add_argument("--heads", type=positive, metavar="N", help="attention heads of the transformer (12)")
    add_tolerance(network)
    add_face(parser)
    parser.set_defaults(export=_run)


def fraction(text: str) -> Fraction:
    """Return a positive rate such as `25` or `30000/1001`."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"`{text}` is no rate such as 25 or 30000/1001")
    return value


def _run(args: argparse.Namespace) -> Any:
    """Return the report of an export. Raises UserError subclasses for whatever cannot be exported."""
    with packages_for("exporting a model", extra="export"):
        from edgetalker.export.artalk import ExportOptions, export_artalk
        from edgetalker.models.artalk import HeadCounts, read_settings
    heads = read_settings(args.config).heads if args.config else HeadCounts()
    options = ExportOptions(
        heads=HeadCounts(
            args.audio_heads or heads.audio,
            args.vae_heads or heads.vae,
            args.heads or heads.transformer,
            args.style_heads or heads.style,
        ),
        config=args.config,
        fps=args.fps,
        style_motion=args.style_motion,
        fix_pose=args.fix_pose,
        smooth=not args.no_smooth,
        spread=args.spread,
        audio_parts=args.audio_parts,
        tolerance=args.tolerance,
        face=face_options(args),
    )
    return exported(args, partial(export_artalk, args.checkpoint, args.out, options))
