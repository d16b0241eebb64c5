"""`edgetalker view`: a local page with the talking face, its sound, its curves and its times."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.cli.options import (
    add_bundle,
    add_controls,
    add_device,
    add_table,
    natural,
    on_signals,
    session_from,
    set_controls,
)
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.engines.mesh import read_template
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.live import Live
from edgetalker.runtime.sources.file import FileSource, read_whole
from edgetalker.runtime.sources.live import SaidSource
from edgetalker.runtime.web.admission import is_loopback, read_token
from edgetalker.runtime.web.server import Asset
from edgetalker.viewer.controls import controls_of
from edgetalker.viewer.files import wav_bytes
from edgetalker.viewer.player import ClipPlayer
from edgetalker.viewer.recorded import read_recording
from edgetalker.viewer.scene import face_asset, mesh_asset
from edgetalker.viewer.screen import open_page
from edgetalker.viewer.server import HOST, ViewerServer
from edgetalker.viewer.sink import OPTIONS, ViewerSink, page_query
from edgetalker.viewer.stream import Stream
from edgetalker.viewer.wire import Request

__all__ = ["add_parser", "run"]

LISTENING_RATE = 24_000
"""Sample rate of the sound that the page plays, in Hz."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "view",
        help="look at a talking face in the browser",
        description="Opens a page on this machine: 3D face, sound, curves, latency; plays, scrubs and loops. Without a "
        "file the face waits for what its WebSocket says (docs/viewer.md).",
    )
    words = "a sound file, or recorded motion; without one: what is said over the page's WebSocket"
    parser.add_argument("clip", metavar="SPEECH|MOTION.npz", type=Path, nargs="?", help=words)
    parser.add_argument("--audio", type=Path, metavar="SPEECH", help="the sound that goes with recorded motion")
    parser.add_argument("--port", type=natural, default=0, metavar="N", help="port (default: any free)")
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help="listen on this address (default: 127.0.0.1)")
    add_table(parser, OPTIONS)
    add_bundle(parser)
    add_controls(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Show the clip until interrupted. Exit code 0: an interrupt is how one leaves."""
    if args.port > 65535:
        raise OptionError(f"--port {args.port}: 0 to 65535 was wanted")
    if args.clip is None:
        return _spoken(args)
    if args.clip.is_fifo():
        raise InputError(f"{args.clip} is a pipe; the page plays a sound over and over: a file was wanted")
    if args.clip.suffix.lower() == ".npz":
        return _recorded(args)
    if args.audio is not None:
        raise OptionError("--audio goes with recorded motion; SPEECH is itself the sound")
    return _animated(args)


def _recorded(args: argparse.Namespace) -> int:
    recording = read_recording(args.clip)
    stream = Stream("clip", args.clip.name)
    layout, assets, mesh = _scene(args, recording.layout)
    audio = _sound(args.audio, assets) if args.audio is not None else None
    stream.describe(layout, audio=audio, mesh=mesh)
    for frame in recording.frames:
        stream.frame(frame)
    stream.finish()

    def refuse(request: Request) -> None:
        raise OptionError("recorded motion has no controls", hint=request.type)

    _serve(args, _server(args, stream, assets, refuse))
    return 0


def _animated(args: argparse.Namespace) -> int:
    session = session_from(args)
    try:
        set_controls(session, args)
        stream = Stream("clip", args.clip.name)
        layout, assets, mesh = _scene(args, session.layout)
        audio = _sound(args.clip, assets)
        stream.describe(layout, audio=audio, mesh=mesh, controls=controls_of(session))
        rate = session.manifest.audio.rate
        player = ClipPlayer(session, lambda: FileSource(args.clip, rate), stream)
        server = _server(args, stream, assets, player.answer)
        _serve(args, server, player.start, player.close)
    finally:
        session.close()
    return 0


def _spoken(args: argparse.Namespace) -> int:
    """Show a talker that hears what pages and programs say to it."""
    if args.audio is not None:
        raise OptionError("--audio goes with recorded motion", hint="edgetalker view MOTION.npz --audio SPEECH")
    session = session_from(args)
    try:
        set_controls(session, args)
        source = SaidSource(session.manifest.audio.rate)
        where = _where(args)
        sink = ViewerSink(browser=args.browser, template=args.template or None, say=source.say, **where)
        live = Live(session, source, [sink], paced=True, patience=0.02)
        with on_signals(live.stop):
            live.run()
    finally:
        session.close()
    return 0


def _where(args: argparse.Namespace) -> dict[str, Any]:
    """Return where the page is, who may open it and how it looks."""
    given = {name: getattr(args, name.replace("-", "_")) for name in OPTIONS}
    return {
        "port": args.port,
        "host": args.host,
        "public": args.public or not is_loopback(args.host),
        "allow": args.allow,
        "token": read_token(Path(args.token_file)) if args.token_file else "",
        "query": page_query(given),
    }


def _server(
    args: argparse.Namespace, stream: Stream, assets: dict[str, Asset], answer: Callable[[Request], None]
) -> ViewerServer:
    return ViewerServer(stream, assets=assets, answer=answer, **_where(args))


def _scene(args: argparse.Namespace, layout: MotionLayout) -> tuple[MotionLayout, dict[str, Asset], str | None]:
    """Return the layout (vertices shaped (V, 3)), what the page loads for it, and the mesh's path."""
    if layout.kind == "arkit":
        if args.template:
            raise OptionError("--template is for motion of vertices; this motion is ARKit's", hint="leave it out")
        return layout, {"/face.glb": face_asset()}, None
    if layout.kind != "vertices":
        raise InputError(f"motion of kind `{layout.kind}` cannot be shown on a face")
    triangles = None
    if args.template:
        vertices, triangles = read_template(args.template)
        if vertices.size != np.prod(layout.shape):
            raise InputError(
                f"{args.template} has {len(vertices)} vertices; the motion has {int(np.prod(layout.shape)) // 3}"
            )
    path, asset = mesh_asset(layout, triangles)
    return replace(layout, shape=(int(np.prod(layout.shape)) // 3, 3)), {path: asset}, path


def _sound(path: Path, assets: dict[str, Asset]) -> dict[str, Any]:
    """Add the sound to what the page loads; return what the page must know of it."""
    samples = read_whole(path, LISTENING_RATE)
    assets["/audio.wav"] = Asset("audio/wav", wav_bytes(samples, LISTENING_RATE), private=True)
    return {"url": "/audio.wav", "seconds": len(samples) / LISTENING_RATE}


def _serve(
    args: argparse.Namespace,
    server: ViewerServer,
    begin: Callable[[], None] = lambda: None,
    end: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal comes."""
    stopped = threading.Event()
    server.start()
    try:
        with on_signals(stopped.set):
            begin()
            sys.stderr.write(f"open {server.url}\nleave with Ctrl-C\n")
            if args.browser:
                open_page(server.url)
            while not stopped.wait(0.2):  # Windows hears Ctrl-C between two waits, never within one that has no end
                pass
    finally:
        end()
        server.close()
