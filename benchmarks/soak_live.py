"""A long live run into every network sink at once: nothing lost, memory flat, no thread left.

    python benchmarks/soak_live.py --bundle BUNDLE --minutes 60              # in real time
    python benchmarks/soak_live.py --bundle BUNDLE --minutes 60 --speed 20   # on a clock that runs 20 times as fast

Sinks: Live Link Face at the model's rate and at 60 Hz, VMC, VRChat, a port that nobody listens on, and a WebSocket
server with a client that reads and one that never does. Prints one line a minute of sound and a JSON summary; exit
code 1 when something does not add up. Resident memory is compared between the first quarter and the end (the viewer
keeps the last minutes). A fast clock makes deadlines as many times harder: its held and late frames say nothing about
real time.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.outputs import sink_for
from edgetalker.runtime.clock import SystemClock
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.ladder import rehearse
from edgetalker.runtime.live import Live, LiveReport
from edgetalker.runtime.loop import Observer, Options
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.file import LoopedSource
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.talker import Talker

LIMIT_BYTES = 4 << 20
"""What resident memory may differ by: allocators round, leaks of a frame each would be far more."""


class FastClock(SystemClock):
    """The machine's clock, `speed` times as fast."""

    def __init__(self, speed: float) -> None:
        super().__init__(spin_ns=0)
        self._speed, self._start = speed, time.perf_counter_ns()

    def now_ns(self) -> int:
        return self._start + int((time.perf_counter_ns() - self._start) * self._speed)

    def sleep_until_ns(self, when: int) -> None:
        while (left := when - self.now_ns()) > 0:
            time.sleep(left * 1e-9 / self._speed)


class Babble:
    """Seven seconds of a voice-like buzz in syllables with pauses between, without a file."""

    live = False

    def __init__(self, rate: int) -> None:
        self.rate, self._at = rate, 0
        seconds = np.arange(7 * rate) / rate
        voice = sum(np.sin(2 * np.pi * 120 * k * seconds + k * k) / k for k in range(1, 20))
        syllables = np.clip(np.sin(2 * np.pi * 4 * seconds), 0, None) * (seconds % 3.5 < 2.5)
        self._sound = np.asarray(0.1 * voice * syllables, np.float32)

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        taken = self._sound[self._at : self._at + samples]
        self._at += len(taken)
        return taken

    @property
    def ended(self) -> bool:
        return self._at >= len(self._sound)

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class Minutes(Observer):
    """Notes resident memory and threads at every minute of sound."""

    def __init__(self, fps: Fraction) -> None:
        self.memory: list[int] = []
        self.threads: list[int] = []
        self._frames, self._per_minute = 0, int(60 * fps)

    def frame(self, frame: Frame, start_ns: int) -> None:
        self._frames += 1
        if self._frames % self._per_minute == 0:
            self.memory.append(resident_bytes())
            self.threads.append(threading.active_count())
            print(
                f"minute {len(self.memory)}: {self.memory[-1] / 2**20:.1f} MiB, {self.threads[-1]} threads", flush=True
            )


def resident_bytes() -> int:
    """Return the process's resident memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def drain() -> Iterator[tuple[int, list[int]]]:
    """A UDP receiver on loopback: its port and a list whose one number counts datagrams."""
    count = [0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(0.2)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    bound.recv(2048)
                    count[0] += 1
                except TimeoutError:
                    continue

        thread = threading.Thread(target=read, name="drain")
        thread.start()
        try:
            yield bound.getsockname()[1], count
        finally:
            done.set()
            thread.join()


@contextmanager
def clients(port: int, count: list[int]) -> Iterator[None]:
    """One WebSocket client that reads and one that never does, from the moment the server listens."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    done = threading.Event()

    def talk() -> None:
        deadline = time.monotonic() + 30
        while not done.is_set() and time.monotonic() < deadline:
            try:
                with (
                    connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as reader,
                    connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None, max_queue=1, ping_interval=None),
                ):
                    while not done.is_set():
                        reader.recv()
                        count[0] += 1
            except ConnectionClosed:
                return
            except OSError:
                time.sleep(0.1)

    thread = threading.Thread(target=talk, name="clients")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Run and return the summary."""
    before = threading.active_count()
    with ExitStack() as opened:
        ports = [opened.enter_context(drain()) for _ in range(4)]
        ws_port, read = free_port(), [0]
        urls = [
            f"livelink://127.0.0.1:{ports[0][0]}",
            f"livelink://127.0.0.1:{ports[1][0]}?rate=60&smooth=10ms",
            f"vmc://127.0.0.1:{ports[2][0]}?rate=90",
            f"vrchat://127.0.0.1:{ports[3][0]}",
            f"vmc://127.0.0.1:{free_port()}",
            f"ws://127.0.0.1:{ws_port}?stall=60",
        ]
        opened.enter_context(clients(ws_port, read))
        watchers = ["view://?browser=no"] if args.view else []
        report, watch = play(args, [sink_for(url) for url in [*urls, *watchers]])
        received = {url: count[0] for url, (_, count) in zip(urls, ports, strict=False)}
    received[urls[-1]] = read[0]
    return summary(report, watch, received, threading.active_count() - before)


def play(args: argparse.Namespace, sinks: list[Sink]) -> tuple[LiveReport, Minutes]:
    session = Talker(args.bundle, threads=1)
    fps, rate = session.manifest.motion.fps, session.manifest.audio.rate
    clock = FastClock(args.speed) if args.speed != 1 else SystemClock()
    source: Source = PacedSource(LoopedSource(lambda: sound(args, rate)), clock)
    watch = Minutes(fps)
    options = Options(realtime=True, limit=int(args.minutes * 60 * fps))
    live = Live(session, source, sinks, options=options, clock=clock, observers=[watch], ladder=rehearse(session))
    try:
        return live.run(), watch
    finally:
        session.close()


def sound(args: argparse.Namespace, rate: int) -> Source:
    if args.sound is None:
        return Babble(rate)
    from edgetalker.runtime.sources.file import FileSource

    return FileSource(args.sound, rate)


def summary(report: LiveReport, watch: Minutes, received: dict[str, int], threads_left: int) -> dict[str, Any]:
    """Return what is printed, with `faults` that fail the run."""
    sent = report.tally.due - sum(n for outcome, n in report.tally.outcomes.items() if outcome.value == "skipped")
    early = watch.memory[len(watch.memory) // 4] if watch.memory else 0
    growth = watch.memory[-1] - early if watch.memory else 0
    checks = {
        "the tally does not add up": not report.tally.balanced,
        "a sink did not account for every frame": any(s.accounted != s.frames for s in report.sinks.values()),
        "a sink did not get every frame": any(s.frames != sent for s in report.sinks.values()),
        "memory grew": growth > LIMIT_BYTES,
        "threads were left behind": threads_left != 0,
        "threads came and stayed": len(set(watch.threads[1:])) > 1,
    }
    return {
        "tally": report.tally.summary(),
        "sinks": {url: str(statistics) for url, statistics in report.sinks.items()},
        "delays": {url: str(delays) for url, delays in report.delays.items()},
        "received": received,
        "memory_mib": [round(value / 2**20, 1) for value in watch.memory],
        "growth_kib_after_first_quarter": growth // 1024,
        "faults": [text for text, wrong in checks.items() if wrong],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="a bundle whose motion is ARKit shapes")
    parser.add_argument("--minutes", type=float, default=60.0, help="of sound (default: 60)")
    parser.add_argument("--speed", type=float, default=1.0, help="how fast the clock runs (default: 1, real time)")
    parser.add_argument("--view", action="store_true", help="also into the viewer, with no page open")
    parser.add_argument("--sound", help="a sound file to loop (default: a synthetic voice)")
    result = soak(parser.parse_args())
    print(json.dumps(result, indent=2))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
