"""The table of docs/serve.md, `python -m benchmarks.serve_table`: starts a server and talks to it in real time.

Clients send the shipped speech in packets of 20 ms as time goes by. Latency is from the packet that completes what a
frame hears (sample end(i) of the bundle's clock) to its motion in the client. Over WebSocket frames keep the pace of a
playout clock, so a part of it is waiting for a slot, and a miss is a frame that the server calls late, held or
starved. Over gRPC frames come as soon as they can; a miss is one that took longer than a frame's time. CPU is the
server process's, for each frame.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import grpc
import numpy as np
from websockets.asyncio.client import connect

import edgetalker
from edgetalker.serve.a2f_messages import METHOD, SERVICE, messages
from edgetalker.serve.protocol import HEAD

RATE, FPS, LOOKAHEAD, PACKET = 16000, 30, 534, 320


def speech(seconds: float) -> bytes:
    with wave.open(str(Path(edgetalker.__file__).parent / "data" / "speech.wav")) as file:
        data = bytes(file.readframes(file.getnframes()))
    count = int(seconds * RATE) * 2
    return (data * (count // len(data) + 1))[:count]


class Client:
    """One talker's client: when each packet went out, and when each frame came in."""

    def __init__(self, data: bytes) -> None:
        self.packets = [data[at : at + 2 * PACKET] for at in range(0, len(data), 2 * PACKET)]
        self.sent: list[float] = []
        self.came: dict[int, float] = {}
        self.misses = 0

    async def speak(self) -> AsyncIterator[bytes]:
        begin = time.perf_counter()
        for place, packet in enumerate(self.packets):
            await asyncio.sleep(max(begin + (place + 1) * PACKET / RATE - time.perf_counter(), 0))
            self.sent.append(time.perf_counter())
            yield packet

    def frame(self, seconds: float) -> None:
        self.came.setdefault(round(seconds * FPS), time.perf_counter())

    def latencies(self) -> list[float]:
        found = []
        for index, came in self.came.items():
            packet = ((index + 1) * RATE // FPS + LOOKAHEAD - 1) // PACKET
            if packet < len(self.sent):
                found.append(came - self.sent[packet])
        return found


async def over_websocket(port: int, client: Client) -> None:
    async with connect(f"ws://127.0.0.1:{port}/v1/talk", compression=None) as ws:
        await ws.recv()
        await ws.send('{"type": "start", "format": "binary"}')

        async def speak() -> None:
            async for packet in client.speak():
                await ws.send(packet)
            await ws.send('{"type": "flush"}')

        speaking = asyncio.create_task(speak())
        while isinstance(message := await ws.recv(), bytes):
            _, _, seconds, outcome, _, _ = HEAD.unpack_from(message)
            client.frame(seconds)
            client.misses += outcome != 0
        await speaking


async def over_grpc(port: int, client: Client) -> None:
    kinds = messages()
    request, reply = kinds["AudioWithEmotionStream"], kinds["A2F3DAnimationDataStream"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(
            f"/{SERVICE}/{METHOD}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
        )

        async def speak() -> AsyncIterator[Any]:
            sound = kinds["AudioHeader"](channel_count=1, samples_per_second=RATE, bits_per_sample=16)
            yield request(audio_stream_header=kinds["AudioWithEmotionStreamHeader"](audio_header=sound))
            async for packet in client.speak():
                yield request(audio_with_emotion=kinds["AudioWithEmotion"](audio_buffer=packet))
            yield request(end_of_audio=kinds["EndOfAudio"]())

        async for answer in call(speak()):
            for row in answer.animation_data.skel_animation.blend_shape_weights:
                client.frame(row.time_code)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, talk: Any, port: int, talkers: int, seconds: float) -> dict[str, float]:
    clients = [Client(speech(seconds)) for _ in range(talkers)]
    before = cpu_seconds(pid)

    async def later(place: int, client: Client) -> None:
        await asyncio.sleep(place * 0.0137)  # nobody begins with anybody else
        await talk(port, client)

    await asyncio.gather(*(later(place, client) for place, client in enumerate(clients)))
    used = cpu_seconds(pid) - before
    times = np.array([latency for client in clients for latency in client.latencies()]) * 1e3
    misses = sum(client.misses for client in clients) if talk is over_websocket else int((times > 1000 / FPS).sum())
    frames = sum(len(client.came) for client in clients)
    p50, p90, p99 = np.percentile(times, (50, 90, 99))
    return {
        "talkers": talkers, "frames": frames, "p50": p50, "p90": p90, "p99": p99,
        "misses": misses, "cpu": used / frames * 1e3,
    }  # fmt: skip


def ports_of(told: IO[str]) -> list[int]:
    """Return the ports of HTTP and gRPC that a server tells, whatever else it tells between them."""
    lines = (line for line in told if " port " in line)
    return [int(next(lines).rsplit(" ", 1)[1]) for _ in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--talkers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--schedule", default="one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = [
        sys.executable, "-m", "edgetalker", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
        "--talkers", str(max(args.talkers)), "--schedule", args.schedule,
    ]  # fmt: skip
    rows = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ports = ports_of(process.stderr)
        try:
            print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; schedule {args.schedule}")
            head = "protocol    talkers  frames   p50 ms   p90 ms   p99 ms   misses   CPU ms/frame"
            print(head)
            for name, talk, port in (("websocket", over_websocket, ports[0]), ("grpc", over_grpc, ports[1])):
                for talkers in args.talkers:
                    row = asyncio.run(measure(process.pid, talk, port, talkers, args.seconds))
                    rows.append({"protocol": name, **row})
                    figures = "".join(f"{row[key]:>9.1f}" for key in ("p50", "p90", "p99"))
                    print(f"{name:<12}{talkers:>7}{row['frames']:>8}{figures}{row['misses']:>9}{row['cpu']:>15.2f}")
        finally:
            process.terminate()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
