"""A LiveKit agent's audio with a face: python examples/livekit_agent.py "Hello there" >motion.jsonl

A stand-in for the agent's room prints what would be published. Needs edgetalker[cpu,livekit].
"""

import asyncio
import sys
from types import SimpleNamespace

from espeak import speak
from livekit import rtc

from edgetalker import Model
from edgetalker.agents.livekit import TalkingFace


class Room:
    async def publish_data(self, payload, *, reliable, topic):
        print(payload)

    async def publish_track(self, track):
        pass


async def main(text):
    pcm, rate = speak(text)
    with Model() as model:
        face, done = TalkingFace(model, rate=rate, rest=True), asyncio.Event()
        face.audio.on("playback_finished", lambda _: done.set())
        session = SimpleNamespace(output=SimpleNamespace(audio=None))
        await face.start(session, SimpleNamespace(local_participant=Room()))
        for at in range(0, len(pcm), 2000):
            piece = pcm[at : at + 2000]
            await face.audio.capture_frame(rtc.AudioFrame(piece, rate, 1, len(piece) // 2))
        face.audio.flush()
        await done.wait()
        await face.aclose()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Hello, this is my face."))
