"""`edgetalker check`: ten seconds of a moving test face for one receiver, and what could be found out about it."""

from __future__ import annotations

import argparse
import math
import socket
import sys
import time
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.cli.options import on_signals
from edgetalker.cli.status import delivered
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.face.names import MOTION_NAMES
from edgetalker.outputs import is_receiver, sink_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.net.sender import NetworkSink, UdpSink
from edgetalker.runtime.web.admission import is_loopback

__all__ = ["add_parser", "face_at", "run"]

FPS = 30


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "check",
        help="send a moving test face to a receiver and say what can be found out",
        description="Sends a face that opens its mouth each second, blinks, smiles and turns its head, without a model "
        "and without sound: edgetalker check vmc://127.0.0.1:39540",
    )
    parser.add_argument("url", metavar="URL", help="livelink://, vmc://, vrchat:// or ws://, with options as in `live`")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="for how long (default: 10)")


def run(args: argparse.Namespace) -> int:
    """Send and report. Exit code 0 when packets left and none was refused, 69 when nothing can have arrived, 128 + a
    signal's number where one ended it before."""
    if not 0 < args.seconds <= 3600:
        raise OptionError(f"--seconds {args.seconds:g}: more than 0 and at most 3600 was wanted")
    sink = sink_for(args.url) if is_receiver(args.url) else None
    if not isinstance(sink, NetworkSink):
        raise OptionError(f"`{args.url}` is no receiver that can be checked", hint="such as vmc://127.0.0.1:39540")
    if isinstance(sink, UdpSink):
        print(f"to {sink.endpoint.host} port {sink.endpoint.port}: {_addresses(sink.endpoint.host)}")
    stopped: list[bool] = []
    with on_signals(lambda: stopped.append(True)) as came:
        what = "the mouth opens once a second; blinks, a smile and turns of the head between"
        print(f"{args.seconds:g} s: {what}", flush=True)
        _send(sink, args.seconds, stopped)
    print(sink.statistics)
    arrived = sink.statistics.packets > 0 and delivered([sink])[sink.name]
    if not arrived and not came:
        raise DeviceError(
            _why_not(sink), hint="docs/outputs.md says which program listens where, and how to turn it on"
        )
    print(_what_is_known(sink) if arrived else _why_not(sink))
    return 128 + came[0] if came else 0


def _send(sink: NetworkSink, seconds: float, stopped: list[bool]) -> None:
    clock, layout = SystemClock(), MotionLayout("arkit", (len(MOTION_NAMES),), Fraction(FPS), tuple(MOTION_NAMES))
    sink.open(layout)
    begun = clock.now_ns()
    try:
        for index in range(math.ceil(seconds * FPS)):
            if stopped:
                break
            clock.sleep_until_ns(begun + index * 1_000_000_000 // FPS)
            sink.send(Frame(index, 0, Fraction(index, FPS), face_at(index / FPS), done_ns=clock.now_ns()))
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{index / FPS:4.1f} s ")
        time.sleep(0.1)  # a refusal comes back with the packet after
    finally:
        sink.close()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


def face_at(second: float) -> NDArray[np.float32]:
    """Return the motion of a moment: shapes in [0, 1], then head angles in radians, as MOTION_NAMES orders them."""
    motion = np.zeros(len(MOTION_NAMES), np.float32)
    values = {
        "JawOpen": 0.7 * math.sin(math.pi * second) ** 2,
        "MouthSmileLeft": max(math.sin(math.pi * second / 2), 0.0) * 0.8,
        "MouthSmileRight": max(math.sin(math.pi * second / 2), 0.0) * 0.8,
        "EyeBlinkLeft": 1.0 if second % 3 > 2.85 else 0.0,
        "EyeBlinkRight": 1.0 if second % 3 > 2.85 else 0.0,
        "BrowInnerUp": max(math.sin(math.pi * second / 4), 0.0) * 0.6,
        "HeadYaw": 0.3 * math.sin(math.pi * second / 5),
    }
    for name, value in values.items():
        motion[MOTION_NAMES.index(name)] = value
    return motion


def _addresses(host: str) -> str:
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)}
    except (OSError, UnicodeError) as fault:
        return f"the name is not known ({fault})"
    return ", ".join(sorted(found, key=lambda address: (":" in address, address)))


def _why_not(sink: NetworkSink) -> str:
    nobody = "nothing was sent" if isinstance(sink, UdpSink) else "no client was connected"
    fault = sink.statistics.last_error or nobody
    what = f"nothing arrived at {sink.name}: {fault}"
    return f"{what}: no program listens on that port" if sink.statistics.refused else what


def _what_is_known(sink: NetworkSink) -> str:
    if not isinstance(sink, UdpSink):
        return "sent to every client that was connected"
    if is_loopback(sink.endpoint.host) or sink.endpoint.host == "localhost":
        return "a program on this machine took the packets; whether its avatar moved, only you can see"
    return "the packets left; another machine tells nothing back (UDP): if no face moves, look at its firewall and port"
