"""A Pipecat agent with a face: python examples/pipecat_agent.py "Hello there" >motion.jsonl

Where a real agent has a TTS service and a transport, here are a process and a print. Needs edgetalker[cpu,pipecat].
"""

import asyncio
import json
import sys

from espeak import speak
from pipecat.frames.frames import EndFrame, OutputTransportMessageFrame, TextFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameProcessor

from edgetalker import Model
from edgetalker.agents.pipecat import TalkingFace


# Both ends of the pipeline: text becomes speech, and motion is printed.
class Ends(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TextFrame):
            await self.push_frame(TTSAudioRawFrame(*speak(frame.text), 1), direction)
            frame = TTSStoppedFrame()
        elif isinstance(frame, OutputTransportMessageFrame):
            print(json.dumps(frame.message))
        await self.push_frame(frame, direction)


async def main(text):
    with Model() as model:
        task = PipelineTask(Pipeline([Ends(), TalkingFace(model, rest=True), Ends()]))
        await task.queue_frames([TextFrame(text), EndFrame()])
        await PipelineRunner().run(task)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Hello, this is my face."))
