"""`edgetalker completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
from typing import Any

from edgetalker.engines.lazy import required

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print what completes commands and options in bash, zsh or tcsh",
        description="Prints a shell's completion: edgetalker completion bash > "
        "~/.local/share/bash-completion/completions/edgetalker; for zsh, a file _edgetalker in a folder of $fpath.",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="for which shell")


def run(args: argparse.Namespace) -> int:
    """Print it. Raises MissingPackageError without shtab, which writes it."""
    shtab = required("shtab", "completion in a shell", extra="shell")
    from edgetalker.cli.main import whole_parser

    print(shtab.complete(whole_parser(), shell=args.shell))
    return 0
