"""Options of the commands that read a published checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgetalker.cli.options import natural, positive
from edgetalker.engines.errors import OptionError

__all__ = [
    "add_export",
    "add_face",
    "add_out",
    "add_talker",
    "add_talker_face",
    "add_tolerance",
    "exported",
    "face_options",
    "untold",
]


def add_talker(parser: argparse.ArgumentParser) -> None:
    """Add the files of a StreamingTalker."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="Lightning checkpoint of stage 2")
    parser.add_argument("--vae", type=Path, metavar="VAE_CKPT", help="stage-1 checkpoint, where stage 2 lacks the VAE")
    parser.add_argument("--ignore-extra", action="store_true", help="pass over entries that no StreamingTalker has")


def add_talker_face(group: Any) -> None:
    """Add whose face a StreamingTalker moves, and what its tensors may not tell."""
    group.add_argument("--identity", type=natural, default=0, metavar="N", help="training identity (0)")
    group.add_argument("--template", type=Path, metavar="FILE", help="neutral face: .ply, .obj, .npy, templates.pkl")
    group.add_argument("--subject", metavar="NAME", help="whose face, where the template's file holds several")
    group.add_argument("--audio-heads", type=positive, metavar="N", help="of the audio encoder, if not published size")
    group.add_argument("--vae-heads", type=positive, metavar="N", help="of the VAE, if not of published size")
    group.add_argument("--fps", type=positive, metavar="N", help="frames a second (VOCASET 30, BIWI 25)")
    group.add_argument("--period", type=positive, metavar="N", help="frames of the positions' period (the file tells)")
    group.add_argument("--activation", choices=("relu", "gelu"), help="of the condition network (by dataset)")
    group.add_argument("--condition-heads", type=positive, default=4, metavar="N", help="of the condition network (4)")


def untold(args: argparse.Namespace) -> Any:
    """Return the Untold of what `add_talker_face` was given."""
    from edgetalker.models.streamingtalker import Untold

    return Untold(args.audio_heads, args.vae_heads, args.condition_heads, args.fps, args.period, args.activation)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add where a bundle is written."""
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="BUNDLE", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="replace the bundle if the folder exists")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add where a bundle is written, and how much is said of a checkpoint that is none."""
    add_out(parser)
    parser.add_argument("--all", action="store_true", help="show every fault of a checkpoint, not the first ten")


def add_tolerance(group: Any) -> None:
    """Add how far a stage may be from PyTorch."""
    group.add_argument(
        "--tolerance", type=tolerance, default=2e-4, metavar="E", help="allowed error against PyTorch, relative (2e-4)"
    )


def tolerance(text: str) -> float:
    """Parse a relative error. NaN would let nothing pass, or everything."""
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} came; more than 0 and less than 1 was wanted")
    return value


def exported(args: argparse.Namespace, export: Callable[..., Any]) -> Any:
    """Return the report of `export`, which gets `replace` and `say`: a line a stage goes to stderr.

    Raises UserError subclasses for whatever cannot be exported.
    """
    from edgetalker.models.weights import CheckpointError

    try:
        return export(replace=args.force, say=lambda line: print(line, file=sys.stderr))
    except CheckpointError as error:
        error.message = error.whole if args.all else error.message
        raise


def add_face(parser: argparse.ArgumentParser) -> None:
    """Add the options that make motion usable: FLAME's vertices and ARKit's shapes."""
    group = parser.add_argument_group("motion that people can use")
    group.add_argument(
        "--flame", type=Path, metavar="FILE", help="your FLAME file (.pkl, .npz): motion becomes vertices"
    )
    group.add_argument("--flame-shape", type=Path, metavar="FILE.npy", help="FLAME's coefficients of the identity")
    group.add_argument(
        "--arkit",
        type=Path,
        metavar="SHAPES",
        help="neutral and ARKit shapes on the model's topology (folder of .obj, .glb, .npz): motion becomes 52 weights",
    )
    group.add_argument(
        "--arkit-cost", type=float, default=1e-4, metavar="COST", help="of a weight beside its shape's energy (1e-4)"
    )
    group.add_argument("--arkit-steps", type=positive, default=20, metavar="N", help="of the solver, a frame (20)")


def face_options(args: argparse.Namespace) -> Any:
    """Return the FaceOptions that were given. Raises OptionError for a cost that makes no sense."""
    from edgetalker.export.faces.attach import FaceOptions

    if not 1e-7 <= args.arkit_cost <= 1:
        raise OptionError(f"--arkit-cost {args.arkit_cost:g}; 1e-7 to 1 was wanted")
    return FaceOptions(args.flame, args.flame_shape, args.arkit, args.arkit_cost, args.arkit_steps)
