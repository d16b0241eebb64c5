"""A face for a LiveKit agent: takes the agent's audio, publishes it as a track and its motion as data, in step.

It does what an avatar plug-in does (QueueAudioOutput as the tail of the agent's audio, clear_buffer for barge-in,
playback_started and playback_finished), but renders nothing: clients draw the face.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Protocol

from edgetalker.agents.speech import Motion, Sound, Speech, layout_message, motion_message
from edgetalker.engines.errors import MissingPackageError
from edgetalker.runtime.inputs import Values
from edgetalker.runtime.model import Model

try:
    from livekit import rtc
    from livekit.agents.voice.avatar import AudioSegmentEnd, QueueAudioOutput
except ImportError:
    raise MissingPackageError("livekit-agents", "a face for a LiveKit agent", extra="livekit") from None

__all__ = ["TOPIC", "TalkingFace"]

_log = logging.getLogger("edgetalker.agents.livekit")

TOPIC = "edgetalker.motion"
"""Topic of the data packets: JSON, first the layout, then a frame each."""


class Playout(Protocol):
    """What plays: an rtc.AudioSource, or a test's stand-in."""

    async def capture_frame(self, frame: rtc.AudioFrame) -> None: ...

    def clear_queue(self) -> None: ...

    async def wait_for_playout(self) -> None: ...

    @property
    def queued_duration(self) -> float: ...


class TalkingFace:
    """`face = TalkingFace(model); await face.start(session, room)` before `session.start(...)`."""

    def __init__(self, model: Model, *, rate: int = 24_000, playout: Playout | None = None, **options: Any) -> None:
        """model: stays the caller's. rate: samples a second of the track. options: of TalkerOptions."""
        self.audio = QueueAudioOutput(sample_rate=rate, wait_playback_start=True)
        self._rate = rate
        self._speech = Speech(model, **options)
        # A short queue: what was handed over and not played yet is what a barge-in must still take back.
        self._playout: Playout = playout or rtc.AudioSource(rate, 1, queue_size_ms=100)
        self._room: Any = None
        self._task: asyncio.Task[None] | None = None
        self._turn = 0
        self._speaking = False
        self._told = False

    async def start(self, agent_session: Any, room: Any) -> None:
        """Become the agent's audio output and publish the track."""
        self._room = room
        agent_session.output.audio = self.audio
        if isinstance(self._playout, rtc.AudioSource):
            track = rtc.LocalAudioTrack.create_audio_track("edgetalker", self._playout)
            await room.local_participant.publish_track(track)
        self.audio.on("clear_buffer", self._clear)
        self._task = asyncio.create_task(self._run())

    async def wait_for_join(self, *, timeout: float | None = None) -> None:
        """Nobody joins: the agent itself speaks. There for programs that await an avatar."""

    async def aclose(self) -> None:
        """End, and let go of the talker. May be called twice."""
        self.audio.off("clear_buffer", self._clear)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._speech.close()

    def feed(self, name: str, values: Values, *, time: float | None = None) -> None:
        """Take an emotion tag, such as feed("emotion", {"joy": 0.7}): see `Speech.feed`."""
        self._speech.feed(name, values, time=time)

    @property
    def position(self) -> float:
        """Seconds of the utterance that were played."""
        return max(self._speech.position - self._playout.queued_duration, 0.0)

    def _clear(self) -> None:
        """Barge-in: silent within a frame, and the agent is told how far it was heard."""
        self._turn += 1
        if not self._speaking:
            return
        played = self.position
        self._speech.reset()
        self._playout.clear_queue()
        self._finish(played, interrupted=True)

    def _finish(self, played: float, *, interrupted: bool) -> None:
        self._speaking = False
        self.audio.notify_playback_finished(playback_position=played, interrupted=interrupted)

    async def _run(self) -> None:
        """Play until the end. A fault is told now, and the agent does not wait for the end of what it says."""
        try:
            await self._listen()
        except Exception:
            _log.exception("the face ended")
            if self._speaking:
                self._finish(self.position, interrupted=True)

    async def _listen(self) -> None:
        async for item in self.audio:
            turn = self._turn
            if isinstance(item, AudioSegmentEnd):
                async for piece in self._speech.flush():
                    await self._play(piece, turn)
                if turn == self._turn and self._speaking:
                    await self._playout.wait_for_playout()
                if turn == self._turn and self._speaking:
                    self._finish(self._speech.position, interrupted=False)
                    self._speech.reset()
                continue
            if not self._speaking:
                self._speaking = True
                self.audio.notify_playback_started()
            async for piece in self._speech.push(bytes(item.data), item.sample_rate, item.num_channels):
                await self._play(piece, turn)

    async def _play(self, piece: Motion | Sound, turn: int) -> None:
        if turn != self._turn:
            return
        if isinstance(piece, Motion):
            if not self._told:
                self._told = True
                await self._publish(layout_message(self._speech.layout), reliable=True)
            await self._publish(motion_message(piece), reliable=False)
            return
        count = len(piece.pcm) // (2 * piece.channels)
        if count:
            await self._playout.capture_frame(rtc.AudioFrame(piece.pcm, piece.rate, piece.channels, count))

    async def _publish(self, message: dict[str, Any], *, reliable: bool) -> None:
        await self._room.local_participant.publish_data(json.dumps(message), reliable=reliable, topic=TOPIC)
