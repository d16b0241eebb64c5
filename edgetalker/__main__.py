"""Where the command `edgetalker` begins, and `python -m edgetalker`: signals first, before anything takes time.

Nothing is imported outside `start`: until it runs, an interrupt is answered by Python, with a traceback.
"""

from __future__ import annotations

import sys

__all__ = ["start"]


def start() -> int:
    """Run the command line; return the exit code."""
    try:
        ignore_early_signals()
        from edgetalker.cli.main import main

        return main()
    except KeyboardInterrupt:  # before `main` could answer it, or while it ended
        from contextlib import suppress

        with suppress(OSError, ValueError, AttributeError):  # stderr may be gone, or absent
            sys.stderr.write("interrupted\n")
        return 130  # 128 + SIGINT


def ignore_early_signals() -> None:
    """SIGUSR1 and SIGUSR2 mean something to `live` while it plays; before, after and to others they must not kill."""
    import signal

    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            # A handler and not SIG_IGN, which the processes that we start would inherit.
            signal.signal(getattr(signal, name), _nothing)


def _nothing(_number: int, _frame: object) -> None:
    pass


if __name__ == "__main__":
    raise SystemExit(start())
