"""A face in a real Pipecat pipeline, with a transport of its own: no server, no cloud."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="pipecat-ai is not installed here: make test-agents")

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from edgetalker.agents.pipecat import TalkingFace
from edgetalker.runtime.model import Model

RATE = 24_000


class Output(FrameProcessor):  # type: ignore[misc, unused-ignore]
    """Stands for the transport: notes what comes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[Any] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.came.append(frame)
        await self.push_frame(frame, direction)

    def kinds(self) -> list[str]:
        names = []
        for frame in self.came:
            if isinstance(frame, OutputTransportMessageFrame):
                names.append(frame.message["type"])
            elif isinstance(frame, TTSAudioRawFrame):
                names.append("sound")
            elif isinstance(frame, (InterruptionFrame, TTSStoppedFrame, TextFrame)):
                names.append(type(frame).__name__)
        return names


def said(seconds: float) -> bytes:
    t = np.arange(int(seconds * RATE)) / RATE
    return (8000 * np.sin(2 * np.pi * 200 * t)).astype("<i2").tobytes()


def chunk(pcm: bytes) -> TTSAudioRawFrame:
    return TTSAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1)


def run(*frames: Frame, between: float = 0.0, model: Model) -> Output:
    output = Output()

    async def go() -> None:
        task = PipelineTask(Pipeline([TalkingFace(model, schedule="one"), output]), cancel_on_idle_timeout=False)
        runner = PipelineRunner(handle_sigint=False)

        async def feed() -> None:
            for frame in frames:
                await task.queue_frame(frame)
                await asyncio.sleep(between)
            await task.queue_frame(EndFrame())

        await asyncio.wait_for(asyncio.gather(runner.run(task), feed()), 120)

    asyncio.run(go())
    return output


@pytest.fixture(scope="module")
def model() -> Any:
    with Model() as opened:
        yield opened


def test_motion_comes_just_before_its_sound(model: Model) -> None:
    pcm = said(1.0)
    pieces = [chunk(pcm[at : at + 2 * 1200]) for at in range(0, len(pcm), 2 * 1200)]
    output = run(TTSStartedFrame(), *pieces, TTSStoppedFrame(), TextFrame("passes"), model=model)
    kinds = [kind for kind in output.kinds() if kind in ("layout", "motion", "sound")]
    assert kinds[0] == "layout"
    assert kinds[1:] == ["motion", "sound"] * 30
    sounds = [frame for frame in output.came if isinstance(frame, TTSAudioRawFrame)]
    assert b"".join(frame.audio for frame in sounds) == pcm, "no sound is lost, none is changed"
    messages = [frame.message for frame in output.came if isinstance(frame, OutputTransportMessageFrame)]
    assert [message["time"] for message in messages[1:4]] == [0.0, 0.033333, 0.066667]
    assert len(messages[0]["names"]) == len(messages[1]["values"]) == 55
    assert output.kinds()[-1] == "TextFrame"
    assert "TTSStoppedFrame" in output.kinds()


def test_an_interruption_forgets_what_was_said(model: Model) -> None:
    long = said(20.0)
    output = run(
        TTSStartedFrame(),
        chunk(long),
        InterruptionFrame(),
        chunk(said(0.5)),
        TTSStoppedFrame(),
        between=0.3,
        model=model,
    )
    kinds = output.kinds()
    at = kinds.index("InterruptionFrame")
    before, after = kinds[:at].count("motion"), kinds[at:]
    assert before < 600, "what was not made yet is not made"
    assert after.count("motion") == 15
    first = next(
        frame.message["time"]
        for frame in output.came[output.came.index(next(f for f in output.came if isinstance(f, InterruptionFrame))) :]
        if isinstance(frame, OutputTransportMessageFrame)
    )
    assert first == 0.0, "the next utterance has a clock of its own"


def test_sound_at_another_rate_and_in_stereo(model: Model) -> None:
    stereo = np.repeat(np.frombuffer(said(0.4), "<i2"), 2).tobytes()
    output = run(
        TTSStartedFrame(),
        TTSAudioRawFrame(audio=stereo, sample_rate=RATE, num_channels=2),
        TTSStoppedFrame(),
        model=model,
    )
    assert b"".join(frame.audio for frame in output.came if isinstance(frame, TTSAudioRawFrame)) == stereo
    assert output.kinds().count("motion") == 12
