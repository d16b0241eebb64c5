"""A soak of the server: `python -m benchmarks.soak_serve --minutes 20`.

Sixteen clients talk over WebSocket and gRPC, and end as real ones do: in order, by barge-in, or cut off in mid-word.
Beside them come rubbish, messages that are too big, and, once, 500 connections at a time. At the end memory,
threads and file descriptors must be what they were after the first tenth, every finished utterance must have had all of
its frames, and the server's counts must add up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import grpc
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.serve_table import FPS, RATE, Client, over_grpc, ports_of, speech
from edgetalker.serve.protocol import HEAD

SOUND = speech(8.0)
ENDS = ("finished", "finished", "reset", "cut off")


async def over_websocket(port: int, seconds: float, end: str, seen: Counter[str]) -> None:
    """Talk once; a finished utterance's frames are counted."""
    data = SOUND[: int(seconds * RATE) * 2]
    client = Client(data)
    async with connect(f"ws://127.0.0.1:{port}/v1/talk", compression=None) as ws:
        await ws.recv()
        await ws.send('{"type": "start", "format": "binary"}')
        place = 0
        async for packet in client.speak():
            await ws.send(packet)
            place += len(packet)
            if end == "cut off" and place > len(data) // 2:
                ws.transport.abort()
                return
            if end == "reset" and place > len(data) // 2:
                await ws.send('{"type": "reset"}')
                break
        await ws.send('{"type": "flush"}')
        frames, serial = 0, int(end == "reset")
        if end == "reset":
            await ws.send(SOUND[:RATE])
            await ws.send('{"type": "flush"}')
        while True:
            message = await ws.recv()
            if isinstance(message, str):
                if '"end"' in message:
                    break
                continue
            _, _, _, outcome, of, _ = HEAD.unpack_from(message)
            frames += of == serial and outcome != 4  # starved frames come between the sound's own
        wanted = -(-(RATE // 2 if serial else len(data) // 2) * FPS // RATE)
        seen["frames that were missed" if frames != wanted else "utterances whole"] += 1


async def talker(ports: tuple[int, int], until: float, seen: Counter[str]) -> None:
    while time.monotonic() < until:
        end, seconds = random.choice(ENDS), random.uniform(0.5, 5.0)
        try:
            if random.random() < 0.3:
                client = Client(SOUND[: int(seconds * RATE) * 2])
                call = asyncio.create_task(over_grpc(ports[1], client))
                if end == "finished":
                    await call
                    whole = len(client.came) == -(-int(seconds * RATE) * FPS // RATE)
                    seen["utterances whole" if whole else "frames that were missed"] += 1
                else:
                    await asyncio.sleep(seconds / 2)
                    call.cancel()
                    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                        await call
            else:
                await over_websocket(ports[0], seconds, end, seen)
            seen[end] += 1
        except (OSError, WebSocketException, grpc.aio.AioRpcError) as error:
            seen[f"refused: {_reason(error)}"] += 1
        await asyncio.sleep(random.uniform(0, 0.3))


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.code().name)
    closed = getattr(error, "rcvd", None)
    return f"{closed.code} {closed.reason}" if closed is not None else str(error) or type(error).__name__


async def nuisance(port: int, until: float, seen: Counter[str]) -> None:
    """Rubbish, half requests, too big messages."""
    while time.monotonic() < until:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(random.choice([b"", b"GET /v1/talk HTT", os.urandom(5000)]))
        with suppress(OSError):
            await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()
        seen["nuisances"] += 1


async def flood(port: int, seen: Counter[str]) -> None:
    """500 connections at once, each for three seconds."""

    async def one() -> None:
        try:
            async with connect(f"ws://127.0.0.1:{port}/v1/talk", compression=None, open_timeout=30) as ws:
                await asyncio.wait_for(ws.recv(), 30)
                with suppress(WebSocketException):
                    await ws.send(b"\0" * (1 << 19))  # twice what a message may be
                    await asyncio.sleep(3)
            seen["flood: let in"] += 1
        except (OSError, WebSocketException, asyncio.TimeoutError, TimeoutError):
            seen["flood: turned away"] += 1

    await asyncio.gather(*(one() for _ in range(500)))


State = tuple[int, int, int]


def state(pid: int) -> State:
    """Resident memory in KiB, threads, file descriptors."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]), int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(pid: int, ports: tuple[int, int], minutes: float, states: list[State]) -> Counter[str]:
    seen: Counter[str] = Counter()
    begin = time.monotonic()
    until = begin + 60 * minutes
    work = [asyncio.create_task(talker(ports, until, seen)) for _ in range(16)]
    work.append(asyncio.create_task(nuisance(ports[0], until, seen)))
    flooded = False
    while time.monotonic() < until:
        passed = time.monotonic() - begin
        states.append(state(pid))
        memory, threads, files = states[-1]
        print(f"{passed:6.0f} s  {memory / 1024:7.1f} MiB  {threads:3} threads  {files:4} files", flush=True)
        if not flooded and passed > 30 * minutes:
            flooded = True
            work.append(asyncio.create_task(flood(ports[0], seen)))
        await asyncio.sleep(max(6 * minutes, 1))
    await asyncio.gather(*work)
    return seen


def faults(states: list[State], end: State, seen: Counter[str], metrics: str) -> list[str]:
    """Return what is not as it must be. Memory may grow once, by what 500 connections at a time take."""
    found = []
    settled = states[len(states) // 10]
    if end[0] > settled[0] + (16 << 10):
        found.append(f"memory grew from {settled[0]} to {end[0]} KiB")
    if end[1] > max(threads for _, threads, _ in states[: len(states) // 2]):
        found.append(f"{end[1]} threads at the end")
    if end[2] > states[0][2] + 2:  # gRPC opens one or two of its own when it first needs them
        found.append(f"{end[2]} file descriptors at the end, {states[0][2]} at the start")
    if seen["frames that were missed"]:
        found.append(f"{seen['frames that were missed']} utterances without all of their frames")
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    if float(counts["edgetalker_talkers"]):
        found.append("talkers that nobody gave back")
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20.0)
    args = parser.parse_args()
    command = [
        sys.executable, "-m", "edgetalker", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
        "--talkers", "16",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first, second = ports_of(process.stderr)
        states: list[State] = []
        try:
            seen = asyncio.run(soak(process.pid, (first, second), args.minutes, states))
            time.sleep(25)  # what is half open is noticed
            memory, threads, files = end = state(process.pid)
            print(f"   end    {memory / 1024:7.1f} MiB  {threads:3} threads  {files:4} files")
            for name, count in sorted(seen.items()):
                print(f"{count:7} {name}")
            with urllib.request.urlopen(f"http://127.0.0.1:{first}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            told = ("edgetalker_frames", "edgetalker_talkers", "edgetalker_refused")
            print("\n".join(line for line in metrics.splitlines() if line.startswith(told)))
            found = faults(states, end, seen, metrics)
            print("\n".join(f"FAULT: {text}" for text in found) or "no fault")
        finally:
            process.terminate()
            print(process.stderr.read())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
