"""`edgetalker export speaker` and `edgetalker export eye-cameras`: a bundle out of the talker that ships."""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetalker.cli.checkpoints import add_out
from edgetalker.cli.options import add_bundle, positive
from edgetalker.engines.lazy import packages_for

__all__ = ["add_eye_cameras", "add_speaker"]


def add_speaker(families: Any) -> None:
    """Register the subcommand."""
    parser = families.add_parser(
        "speaker",
        help="the talker that ships, fitted to one voice",
        description="Fits the layer that reads mouth, lips and teeth to clips of one speaker, from a minute and a half "
        "of them. Before it is fitted to all clips it is fitted five times to four fifths of them and scored on the "
        "fifth: what is printed was never fitted to, and where closures gain nothing no bundle is written.",
    )
    parser.add_argument(
        "--clips", type=Path, required=True, metavar="FOLDER", help="CLIP.wav or .flac, what is said in CLIP.txt"
    )
    parser.add_argument("--language", default="en", metavar="NAME", help="what is spoken, as espeak-ng calls it (en)")
    _add_common(parser, "the scores")
    parser.set_defaults(make=partial(_made, "speaker", "fitting a talker to a speaker"))


def add_eye_cameras(families: Any) -> None:
    """Register the subcommand."""
    parser = families.add_parser(
        "eye-cameras",
        help="the talker that ships, with two eye cameras as an input",
        description="Renders our own head as a headset's cameras see it, trains an encoder and the layer that follows "
        "it, adds both to the talker, and reports how far what is shown is from what was rendered.",
    )
    parser.add_argument(
        "--sessions", type=positive, default=240, metavar="N", help="wearings, ten pictures an eye each (240)"
    )
    parser.add_argument("--steps", type=positive, default=2500, metavar="N", help="steps of training (2500)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw what was seen and what was shown")
    _add_common(parser, "the errors")
    parser.set_defaults(make=partial(_made, "eyecameras", "training an encoder of eye cameras"))


def _add_common(parser: argparse.ArgumentParser, what: str) -> None:
    add_bundle(parser)
    add_out(parser)
    parser.add_argument("--report", type=Path, metavar="JSON", help=f"write {what}")


def _made(module: str, purpose: str, args: argparse.Namespace) -> int:
    with packages_for(purpose, extra="train"):
        made = import_module(f"edgetalker.export.online.{module}")
    return int(made.run(args))
