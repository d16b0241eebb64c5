"""A Pipecat agent with a face, spoken by espeak-ng: python examples/pipecat_agent.py "Hello there" >motion.jsonl

Where a real agent has a TTS service and a transport, here are a process and a print. Needs edgetalker[cpu,pipecat].
"""

import asyncio
import json
import subprocess
import sys

import numpy as np
from pipecat.frames.frames import (
    EndFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameProcessor

from edgetalker import Model
from edgetalker.agents.pipecat import TalkingFace


class Espeak(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, TextFrame):
            await self.push_frame(frame, direction)
            return
        wav = subprocess.run(["espeak-ng", "--stdout", frame.text], capture_output=True, check=True).stdout
        pcm = wav[44 : 44 + (len(wav) - 44) // 2 * 2]  # 16-bit mono behind a header of 44 bytes
        await self.push_frame(TTSStartedFrame(), direction)
        await self.push_frame(TTSAudioRawFrame(pcm, int(np.frombuffer(wav, "<u4", 1, 24)[0]), 1), direction)
        await self.push_frame(TTSStoppedFrame(), direction)


class Printer(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageFrame):
            print(json.dumps(frame.message))
        await self.push_frame(frame, direction)


async def main(text):
    with Model() as model:
        task = PipelineTask(Pipeline([Espeak(), TalkingFace(model, rest=True), Printer()]))
        await task.queue_frames([TextFrame(text), EndFrame()])
        await PipelineRunner().run(task)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Hello, this is my face."))
