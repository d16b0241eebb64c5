"""A LiveKit agent's audio with a face, spoken by espeak-ng: python examples/livekit_agent.py "Hello" >motion.jsonl

In an agent, `face.start(session, room)` before `session.start(...)` is all; here a stand-in for the room prints what
it would publish. Needs edgetalker[cpu,livekit].
"""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
from livekit import rtc

from edgetalker import Model
from edgetalker.agents.livekit import TalkingFace


class Room:
    def __init__(self):
        self.local_participant = self

    async def publish_data(self, payload, *, reliable, topic):
        print(payload)

    async def publish_track(self, track):
        pass


async def main(text):
    wav = subprocess.run(["espeak-ng", "--stdout", text], capture_output=True, check=True).stdout
    rate = int(np.frombuffer(wav, "<u4", 1, 24)[0])
    pcm = np.frombuffer(wav[44 : 44 + (len(wav) - 44) // 2 * 2], "<i2")  # behind a header of 44 bytes
    with Model() as model:
        face, done = TalkingFace(model, rate=rate, rest=True), asyncio.Event()
        face.audio.on("playback_finished", lambda _: done.set())
        await face.start(SimpleNamespace(output=SimpleNamespace(audio=None)), Room())
        for piece in np.array_split(pcm, max(len(pcm) // 1000, 1)):
            await face.audio.capture_frame(rtc.AudioFrame(piece.tobytes(), rate, 1, len(piece)))
        face.audio.flush()
        await done.wait()
        await face.aclose()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Hello, this is my face."))
