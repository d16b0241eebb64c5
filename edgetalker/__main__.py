"""Where the command `edgetalker` begins, and `python -m edgetalker`: signals first, before anything takes time."""

from __future__ import annotations

import signal

__all__ = ["start"]


def start() -> int:
    """Run the command line; return the exit code."""
    ignore_early_signals()
    from edgetalker.cli.main import main

    return main()


def ignore_early_signals() -> None:
    """SIGUSR1 and SIGUSR2 mean something to `live` while it plays; before, after and to others they must not kill."""
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            # A handler and not SIG_IGN, which the processes that we start would inherit.
            signal.signal(getattr(signal, name), _nothing)


def _nothing(_number: int, _frame: object) -> None:
    pass


if __name__ == "__main__":
    raise SystemExit(start())
