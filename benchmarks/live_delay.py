"""Sound to packet, measured twice: by the parts that `edgetalker live` prints, and by a client's own clock.

    python -m benchmarks.live_delay [--bundle BUNDLE] [--sound SPEECH.wav] [--seconds 60] [--schedule NAME]

A file is played on the clock in packets of 10 ms, so that the time of every sample is known exactly. A WebSocket
client in the same process notes when each frame arrives. Its delay is counted from the middle of the frame's sound to
that arrival.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak_live import free_port
from edgetalker.outputs import sink_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.live import Live, LiveReport
from edgetalker.runtime.loop import Options
from edgetalker.runtime.sources.file import FileSource, LoopedSource
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.talker import Talker

SPEECH = Path(__file__).resolve().parents[1] / "edgetalker" / "data" / "speech.wav"


def listen(port: int, arrivals: dict[int, int]) -> None:
    """Note when each frame that was made in time arrives."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    for _ in range(200):
        try:
            with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as client:
                on_time = json.loads(client.recv())["outcomes"].index("on_time")
                for message in client:
                    assert isinstance(message, bytes)
                    _, index, _, outcome, _ = struct.unpack_from("<4sIdII", message)
                    if outcome == on_time:
                        arrivals[index] = time.perf_counter_ns()
            return
        except ConnectionClosed:
            return
        except OSError:
            time.sleep(0.05)


def play(talker: Talker, args: argparse.Namespace) -> tuple[LiveReport, list[float]]:
    """Return the run's report and the client's delays in ms, one for each frame it got."""
    audio, fps = talker.manifest.audio, talker.manifest.motion.fps
    clock, port, arrivals = SystemClock(), free_port(), dict[int, int]()
    client = threading.Thread(target=listen, args=(port, arrivals))
    client.start()
    source = PacedSource(LoopedSource(lambda: FileSource(args.sound, audio.rate)), clock)
    options = Options(realtime=True, limit=int(args.seconds * fps), schedule=args.schedule)
    sink = sink_for(f"ws://127.0.0.1:{port}?format=binary&queue=64")
    names = (args.schedule,) if args.schedule else ()
    report = Live(talker, source, [sink], clock=clock, options=options, ladder=rehearse(talker, names)).run()
    client.join(5)
    assert source.start_ns is not None
    middle = [(index, source.start_ns + int((index + 0.5) / fps * 1e9)) for index in arrivals]
    return report, [(arrivals[index] - spoken) * 1e-6 for index, spoken in middle]


def summary(report: LiveReport, delays: list[float]) -> dict[str, Any]:
    """Return what is printed."""
    (parts,) = report.delays.values()
    percentiles = np.percentile(delays, [50, 95, 99, 100]) if delays else np.full(4, np.nan)
    return {
        "tally": report.tally.summary(),
        "schedules": report.tally.schedules,
        "parts": str(parts),
        "client_ms": dict(zip(("median", "p95", "p99", "max"), np.round(percentiles, 1).tolist(), strict=True)),
        "client_frames": len(delays),
        "first_frame_ms": report.first_frame_ms,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="a bundle's folder (default: the talker that ships with the package)")
    parser.add_argument("--sound", type=Path, default=SPEECH, help="a sound file to loop (default: the demo's clip)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--schedule", help="always this schedule")
    args = parser.parse_args()
    with Talker(args.bundle) as talker:
        print(json.dumps(summary(*play(talker, args)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
