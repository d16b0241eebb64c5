"""A face for a Pipecat agent: a processor between the speech synthesis and the transport's output.

The transport plays sound and sends messages in the order in which they come, so a motion message that is pushed just
before its sound leaves when the sound before it was played.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from edgetalker.agents.speech import Motion, Sound, Speech, layout_message, motion_message
from edgetalker.engines.errors import MissingPackageError
from edgetalker.runtime.inputs import Values
from edgetalker.runtime.model import Model

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InterruptionFrame,
        OutputTransportMessageFrame,
        TTSAudioRawFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
except ImportError:
    raise MissingPackageError("pipecat-ai", "a face for a Pipecat agent", extra="pipecat") from None

__all__ = ["TalkingFace"]


class TalkingFace(FrameProcessor):  # type: ignore[misc, unused-ignore]
    """Pushes `{"type": "layout"}` once, then `{"type": "motion", "time": …, "values": […]}` before each frame's sound.

    Put it right behind the TTS service: `Pipeline([..., tts, TalkingFace(model), transport.output()])`.
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """model: stays the caller's. options: of TalkerOptions, such as rest=True."""
        super().__init__()
        self._speech = Speech(model, **options)
        self._told = False
        self._context: str | None = None

    def feed(self, name: str, values: Values, *, time: float | None = None) -> None:
        """Take an emotion tag, such as feed("emotion", {"joy": 0.7}): see `Speech.feed`."""
        self._speech.feed(name, values, time=time)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Animate what is spoken; let everything else pass."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self._context = getattr(frame, "context_id", None)
            await self._push(self._speech.push(frame.audio, frame.sample_rate, frame.num_channels), direction)
            return
        if isinstance(frame, (InterruptionFrame, TTSStartedFrame)):
            self._speech.reset()
        elif isinstance(frame, TTSStoppedFrame):
            await self._push(self._speech.flush(), direction)
        elif isinstance(frame, (EndFrame, CancelFrame)):
            await self._speech.close()
        await self.push_frame(frame, direction)

    async def _push(self, items: AsyncIterator[Motion | Sound], direction: FrameDirection) -> None:
        async for item in items:
            if isinstance(item, Motion):
                if not self._told:
                    self._told = True
                    message = layout_message(self._speech.layout)
                    await self.push_frame(OutputTransportMessageFrame(message=message), direction)
                await self.push_frame(OutputTransportMessageFrame(message=motion_message(item)), direction)
            else:
                sound = TTSAudioRawFrame(audio=item.pcm, sample_rate=item.rate, num_channels=item.channels)
                sound.context_id = self._context
                await self.push_frame(sound, direction)

    async def cleanup(self) -> None:
        """Let go of the talker."""
        await self._speech.close()
        await super().cleanup()
