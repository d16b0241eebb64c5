"""The command `edgetalker`: one file a command, each imported only when it is used."""

from __future__ import annotations

import argparse
import atexit
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn, TextIO

from edgetalker import __version__
from edgetalker.__main__ import ignore_early_signals
from edgetalker.engines.errors import OptionError, UserError, nearest

__all__ = ["COMMANDS", "main", "whole_parser"]

COMMANDS = {
    "animate": "speech in, face motion out",
    "view": "open a page that shows and plays the talking face",
    "live": "drive avatars from a microphone, a pipe or a file",
    "serve": "play many talkers over WebSocket and gRPC",
    "check": "send a moving test face to a receiver and say what can be found out",
    "inspect": "show what a bundle holds",
    "bench": "measure latency, frame by frame and stage by stage",
    "doctor": "show what this machine has and what will therefore run",
    "export": "turn a PyTorch checkpoint, or a talker, into a bundle",
    "score": "measure how well any ARKit motion fits its speech",
    "compare": "measure a bundle against the published paths, or sweep its windows",
    "offline": "play a whole clip as a published paper evaluates it, not frame by frame",
    "convert": "add a lower precision beside the FP32 stages",
    "build": "compile a bundle's stages into TensorRT plans",
    "profile": "time every stage and every denoise step, against what the hardware could do",
    "budget": "predict whether a device holds a bundle's deadline",
    "completion": "print what completes commands and options in bash, zsh or tcsh",
}
"""Command -> what it does. The module edgetalker.cli.NAME defines add_parser(subparsers) and run(args)."""

ENVIRONMENT = {
    "EDGETALKER_TEST_CACHE": "where the tests keep what they download",
    "EDGETALKER_TEST_STRICT": "tests fail when one is skipped for want of something that this project can install",
}
"""Every environment variable of ours. Settings are options or lines of a configuration file instead."""

_OF_OTHERS = re.compile(
    r"EDGETALKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?|NAME|ENV_\w+)"
)
"""What Kubernetes sets for every Service of a namespace, and Docker for links, where one is called edgetalker."""


class _Parser(argparse.ArgumentParser):
    """Says what came, what was wanted and what mends it, and exits with 64 (EX_USAGE). Options are written out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise OptionError(message, hint=f"{self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse passes over a disk that is full."""
        if message:
            (file or sys.stderr).write(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. A user's mistake is a message on stderr, never a traceback."""
    _begin_signals()
    _mend_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _check_environment()
        try:
            return _dispatch(words)
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe shows here, not in Python's last words
    except UserError as error:
        return _say(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        # The reader went away (`| head`): conventional silence. Python would complain again at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13  # SIGPIPE, which Windows does not name
    except OSError as error:
        _let_go_of_stdout()
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _say(f"{where}{error.strerror or error}", None, 74)
    except MemoryError as error:
        return _say(f"memory ran out{f': {error}' if str(error) else ''}", "a smaller bundle, or fewer threads", 70)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT


def _say(message: str, hint: str | None, code: int) -> int:
    from edgetalker.cli.logs import complain

    message, hint = _harmless(message), hint and _harmless(hint)
    with suppress(OSError, ValueError):  # stderr itself may be gone
        if complain(message, hint, code):
            return code
        sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    return code


def _harmless(text: str) -> str:
    """A name may hold what a terminal takes for an order."""
    return re.sub(r"[^\n\t -~\xa0-\U0010ffff]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _let_go_of_stdout() -> None:
    """What could not be written stays in the buffer, and Python would try again at exit and say so in its way."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _ignore_late_signals() -> None:
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _begin_signals() -> None:
    with suppress(ValueError):  # not in the main thread
        ignore_early_signals()
        # Python takes its handlers away before the process ends, but not the order to ignore.
        atexit.register(_ignore_late_signals)


def _mend_streams() -> None:
    """Make standard streams that are absent (pythonw, `2>&-`) harmless, and let none fail for want of a letter.

    A closed descriptor is taken again by the first file that is opened, and what libraries write to fd 2 would land in
    that file. So each is opened the wrong way round: reading or writing it goes on to be an error, as it was.
    """
    for number, wrong_way in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, wrong_way)
    sys.stdout, sys.stderr = _mended(sys.stdout), _mended(sys.stderr)


def _mended(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for the life of the process
    if isinstance(stream, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation, ValueError):
            stream.reconfigure(errors="backslashreplace")
    return stream


def _check_environment() -> None:
    """A misspelt variable would be silently ignored; nothing unknown passes, but what an orchestrator sets."""
    for name in sorted(os.environ):
        if name.startswith("EDGETALKER_") and name not in ENVIRONMENT and not _OF_OTHERS.fullmatch(name):
            known = ", ".join(ENVIRONMENT)
            raise OptionError(
                f"the environment variable `{name}` means nothing here{nearest(name, ENVIRONMENT)}; known are {known}",
                hint=f"unset {name}",
            )


def _dispatch(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        raise OptionError(f"no command `{command}`{nearest(command, COMMANDS)}", hint="edgetalker --help")
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


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser with every command's options: what a shell's completion is made from."""
    parser, subparsers = _parser()
    for name in COMMANDS:
        import_module(f"edgetalker.cli.{name}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
