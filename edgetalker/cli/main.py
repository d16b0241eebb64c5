"""The command `edgetalker`: one file a command, each imported only when it is used."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from edgetalker import __version__
from edgetalker.engines.errors import OptionError, UserError, nearest

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "animate": "speech in, face motion out",
    "view": "open a page that shows and plays the talking face",
    "live": "drive avatars from a microphone, a pipe or a file",
    "inspect": "show what a bundle holds",
    "bench": "measure latency, frame by frame and stage by stage",
    "doctor": "show what this machine has and what will therefore run",
    "export": "turn a PyTorch checkpoint into a bundle",
    "convert": "add a lower precision beside the FP32 stages",
    "build": "compile a bundle's stages into TensorRT plans",
    "profile": "time every stage and every denoise step, against what the hardware could do",
}
"""Command -> what it does. The module edgetalker.cli.NAME defines add_parser(subparsers) and run(args)."""

ENVIRONMENT = {"EDGETALKER_TEST_CACHE": "where the tests keep what they download"}
"""Every environment variable of ours. Settings are options or lines of a configuration file instead."""


class _Parser(argparse.ArgumentParser):
    """Says what came, what was wanted and what mends it, and exits with 64 (EX_USAGE)."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}\nhint: {self.prog} --help\n")
        raise SystemExit(64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. A user's mistake is a message on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _check_environment()
        return _dispatch(words)
    except UserError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except BrokenPipeError:
        # The reader went away (`| head`): conventional silence. Python would complain again at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13  # SIGPIPE, which Windows does not name
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT


def _check_environment() -> None:
    """A misspelt variable would be silently ignored; nothing unknown passes."""
    for name in sorted(os.environ):
        if name.startswith("EDGETALKER_") and name not in ENVIRONMENT:
            known = ", ".join(ENVIRONMENT)
            raise OptionError(
                f"the environment variable `{name}` means nothing here{nearest(name, ENVIRONMENT)}; known are {known}",
                hint=f"unset {name}",
            )


def _dispatch(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        sys.stderr.write(f"error: no command `{command}`{nearest(command, COMMANDS)}\nhint: edgetalker --help\n")
        return 64
    parser, subparsers = _parser()
    modules: dict[str, ModuleType] = {}
    for name, text in COMMANDS.items():
        if name == command:
            modules[name] = import_module(f"edgetalker.cli.{name}")
            modules[name].add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 64
    return int(modules[args.command].run(args))


def _parser() -> tuple[_Parser, Any]:
    parser = _Parser(
        prog="edgetalker",
        description="Plays trained speech-to-face models on a device, frame by frame, before each frame's deadline.",
    )
    parser.add_argument("--version", action="version", version=f"edgetalker {__version__}")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")


if __name__ == "__main__":
    raise SystemExit(main())
