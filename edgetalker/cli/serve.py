"""`edgetalker serve`: many talkers in one process, over gRPC and WebSocket."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetalker.cli.config import Settings
from edgetalker.cli.options import add_bundle, add_device, add_voice, on_signals, positive
from edgetalker.engines.errors import OptionError

if TYPE_CHECKING:
    from edgetalker.serve import Batch
    from edgetalker.serve.options import Address, Door

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "serve",
        help="play many talkers over WebSocket and gRPC",
        description="Serves talkers: edgetalker serve --talkers 16. docs/serve.md has the protocols.",
    )
    add_bundle(parser)
    group = parser.add_argument_group("where")
    group.add_argument("--http", metavar="HOST:PORT", help="WebSocket, health, metrics and a page")
    group.add_argument("--grpc", metavar="HOST:PORT", help="NVIDIA's Audio2Face-3D service")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="clients must show the word that it holds")
    group.add_argument("--origin", action="append", default=[], metavar="URL", help="a web page that may connect, too")
    group.add_argument("--allow", action="append", default=[], metavar="HOST", help="a name that a proxy gives it, too")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    group = parser.add_argument_group("how much")
    group.add_argument("--talkers", type=positive, default=16, metavar="N", help="most at a time (default: 16)")
    group.add_argument("--connections", type=positive, default=256, metavar="N", help="most at a time (default: 256)")
    group.add_argument("--idle", type=positive, default=60, metavar="SECONDS", help="silence that ends a stream (60)")
    group.add_argument("--schedule", metavar="NAME", help="always this schedule (default: the fullest that is on time)")
    group.add_argument("--ticks", type=positive, default=2, metavar="N", help="launches a frame's time (default: 2)")
    add_voice(group, "energy with WebSocket; with gRPC the mouth rests only where this is given")
    add_device(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the same names as these options")
    parser.add_argument("--quiet", action="store_true", help="no messages and no summary")
    Settings(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes (exit code 128 + its number)."""
    args = args.settings.merge(args, args.config)
    if args.http is None and args.grpc is None:
        args.http = "127.0.0.1:8080"
    return asyncio.run(_serve(args))


async def _serve(args: argparse.Namespace) -> int:
    from edgetalker.runtime.web.admission import host_names, origins, read_token
    from edgetalker.serve import Batch, BatchOptions
    from edgetalker.serve.options import Door, address

    where = {name: address(text) for name, text in (("http", args.http), ("grpc", args.grpc)) if text is not None}
    if len(set(where.values())) < len(where) and where["http"].port:
        raise OptionError(f"--http and --grpc both name {where['http']}", hint="each takes a port of its own")
    door = Door(
        token=read_token(args.token_file) if args.token_file else "",
        origins=_words("origin", args.origin, origins),
        hosts=_words("allow", args.allow, host_names),
        connections=args.connections,
        idle=float(args.idle),
        cert=args.tls_cert,
        key=args.tls_key,
    )
    door.check(*where.values())  # before the model is opened, which takes seconds
    door.tls()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    with on_signals(end) as came:
        batch = Batch(
            args.bundle,
            options=BatchOptions(talkers=args.talkers, schedule=args.schedule, ticks=args.ticks, voice=args.voice),
            **_model_options(args),
        )
        await _until(stop, batch, args, where, door)
    _say(args, batch.figures.summary())
    if batch.fault is not None:
        raise batch.fault
    return 128 + came[0] if came else 0


async def _until(
    stop: asyncio.Event, batch: Batch, args: argparse.Namespace, where: dict[str, Address], door: Door
) -> None:
    """Serve until told to stop, or until the batch has a fault."""
    from edgetalker.serve.a2f import A2fServer
    from edgetalker.serve.metrics import Metrics
    from edgetalker.serve.options import Address
    from edgetalker.serve.server import WebServer

    async with AsyncExitStack() as opened:
        await opened.enter_async_context(batch)
        metrics = Metrics(batch)
        for name, kind in (("http", WebServer), ("grpc", A2fServer)):
            if name in where:
                server: Any = await opened.enter_async_context(kind(batch, where[name], door, metrics))
                _say(args, f"{name}: {where[name].host} port {server.port}")
                if name == "http":
                    scheme = "https" if args.tls_cert else "http"
                    _say(args, f"its page: {scheme}://{Address(where[name].host, server.port)}/")
        for stage, reason in batch.widths.reasons.items():
            _say(args, f"warning: stage `{stage}` runs talker by talker: {reason}")
        _say(args, f"{args.talkers} talkers, schedules {', '.join(batch.schedules)}, widths {batch.widths.widths}")
        while not stop.is_set() and batch.fault is None:
            try:
                await asyncio.wait_for(stop.wait(), 1.0)
            except (asyncio.TimeoutError, TimeoutError):
                continue


def _words(option: str, given: list[str], read: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """Return what an option names, as sinks read it. Raises OptionError."""
    text = ",".join(given)
    try:
        return read(text) if given else ()
    except ValueError as fault:
        raise OptionError(f"--{option} {fault}, and got `{text}`") from None


def _model_options(args: argparse.Namespace) -> dict[str, Any]:
    if args.graphs is not None:
        raise OptionError("--graphs is for one talker; a server captures what it plays", hint="leave it out")
    if args.seed:
        raise OptionError("--seed is for one talker; a server gives each noise of its own", hint="leave it out")
    options = {"device": args.device, "engine": args.engine, "precision": args.precision, "threads": args.threads}
    return {**options, **({"gpu": args.gpu, "wait": args.wait} if args.device == "cuda" else {})}


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        sys.stderr.write(text + "\n")
