"""A face as a LiveKit agent's audio output: the real QueueAudioOutput and audio frames, a room that notes."""

from __future__ import annotations

import asyncio
import json
import types
from typing import Any

import numpy as np
import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed here: make test-agents")

from livekit import rtc

from edgetalker.agents.livekit import TOPIC, TalkingFace
from edgetalker.runtime.model import Model

RATE = 24_000


class Playout:
    """Plays at once or not at all; notes in which order sound and data came."""

    def __init__(self, order: list[Any], hold: bool = False) -> None:
        self.order, self.hold = order, hold
        self.queued = 0.0
        self.cleared = 0
        self.freed = asyncio.Event()

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        self.order.append(frame)
        if self.hold:
            self.queued += frame.duration
            if self.queued > 0.3:
                await self.freed.wait()

    def clear_queue(self) -> None:
        self.cleared += 1
        self.queued = 0.0
        self.hold = False
        self.freed.set()

    async def wait_for_playout(self) -> None:
        return None

    @property
    def queued_duration(self) -> float:
        return self.queued


class Participant:
    def __init__(self, order: list[Any]) -> None:
        self.order = order

    async def publish_data(self, payload: str, *, reliable: bool, topic: str) -> None:
        assert topic == TOPIC
        self.order.append(json.loads(payload))


def frames(seconds: float) -> list[rtc.AudioFrame]:
    count = RATE // 20
    t = np.arange(int(seconds * RATE)) / RATE
    pcm = (8000 * np.sin(2 * np.pi * 200 * t)).astype("<i2")
    return [rtc.AudioFrame(pcm[at : at + count].tobytes(), RATE, 1, count) for at in range(0, len(pcm), count)]


@pytest.fixture(scope="module")
def model() -> Any:
    with Model() as opened:
        yield opened


class Stage:
    """A started face, and what came of it."""

    def __init__(self, model: Model, hold: bool = False) -> None:
        self.order: list[Any] = []
        self.playout = Playout(self.order, hold)
        self.face = TalkingFace(model, rate=RATE, playout=self.playout, schedule="one")
        self.finished: list[Any] = []
        self.started: list[Any] = []
        self.face.audio.on("playback_finished", self.finished.append)
        self.face.audio.on("playback_started", self.started.append)
        self.session = types.SimpleNamespace(output=types.SimpleNamespace(audio=None))

    async def start(self) -> None:
        await self.face.start(self.session, types.SimpleNamespace(local_participant=Participant(self.order)))
        assert self.session.output.audio is self.face.audio

    async def until(self, met: Any) -> None:
        async def wait() -> None:
            while not met():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), 60)


def test_motion_is_published_before_its_sound(model: Model) -> None:
    async def go() -> Stage:
        stage = Stage(model)
        await stage.start()
        for frame in frames(1.0):
            await stage.face.audio.capture_frame(frame)
        stage.face.audio.flush()
        await stage.until(lambda: stage.finished)
        await stage.face.aclose()
        return stage

    stage = asyncio.run(go())
    kinds = [item["type"] if isinstance(item, dict) else "sound" for item in stage.order]
    assert kinds == ["layout"] + ["motion", "sound"] * 30
    assert sum(item.duration for item in stage.order if not isinstance(item, dict)) == pytest.approx(1.0)
    assert len(stage.started) == len(stage.finished) == 1
    assert not stage.finished[0].interrupted
    assert stage.finished[0].playback_position == pytest.approx(1.0)


def test_a_cleared_buffer_is_silent_and_tells_how_far_it_was_heard(model: Model) -> None:
    async def go() -> Stage:
        stage = Stage(model, hold=True)
        await stage.start()
        for frame in frames(4.0):
            await stage.face.audio.capture_frame(frame)
        await stage.until(lambda: stage.playout.queued > 0.3)
        before = len(stage.order)
        stage.face.audio.flush()
        stage.face.audio.clear_buffer()
        assert stage.playout.cleared == 1
        assert len(stage.finished) == 1, "told at once"
        await asyncio.sleep(0.2)
        assert len(stage.order) <= before + 1, "nothing more of it is sent"
        for frame in frames(0.5):
            await stage.face.audio.capture_frame(frame)
        stage.face.audio.flush()
        await stage.until(lambda: len(stage.finished) == 2)
        await stage.face.aclose()
        return stage

    stage = asyncio.run(go())
    assert stage.finished[0].interrupted
    assert stage.finished[0].playback_position < 0.5
    assert not stage.finished[1].interrupted
    times = [item["time"] for item in stage.order if isinstance(item, dict) and item["type"] == "motion"]
    assert times[-15] == 0.0, "the next utterance has a clock of its own"


def test_a_face_whose_room_is_gone_says_so_and_closes(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> Stage:
        stage = Stage(model)
        await stage.start()

        async def gone(*_: Any, **__: Any) -> None:
            raise ConnectionError("the room is gone")

        stage.face._room.local_participant.publish_data = gone
        for frame in frames(0.5):
            await stage.face.audio.capture_frame(frame)
        stage.face.audio.flush()
        await stage.until(lambda: stage.finished)
        await stage.face.aclose()
        await stage.face.aclose()
        return stage

    stage = asyncio.run(go())
    assert stage.finished[0].interrupted
    assert stage.face._speech._talker is None
    assert "the face ended" in caplog.text
    assert "the room is gone" in caplog.text
