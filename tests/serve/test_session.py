"""Talkers of a batch from asyncio."""

from __future__ import annotations

import asyncio
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.frame import Frame
from edgetalker.serve import Batch, BatchOptions

pytest.importorskip("onnx", reason="stages are widened with the package onnx")
pytest.importorskip("onnxruntime", reason="stages run on ONNX Runtime")


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    with Batch(options=BatchOptions(talkers=3, schedule="one")) as batch:
        yield batch


def pcm(seconds: float) -> bytes:
    with wave.open(str(Path(edgetalker.__file__).parent / "data" / "speech.wav")) as file:
        return bytes(file.readframes(int(seconds * 16000)))


def test_two_sessions_get_their_frames(batch: Batch) -> None:
    async def one(rate: int) -> list[Frame]:
        async with batch.session(paced=False) as session:
            data = pcm(0.5 * rate / 16000)
            for start in range(0, len(data), 1000):
                await session.push(data[start : start + 1000], rate)
            session.flush()
            return [frame async for frame in session]

    async def both() -> list[list[Frame]]:
        return list(await asyncio.gather(one(16000), one(24000)))

    for frames in asyncio.run(both()):
        assert [float(frame.time) for frame in frames] == pytest.approx(np.arange(15) / 30)
        assert all(np.isfinite(frame.motion).all() for frame in frames)
    assert not batch.talking


def test_no_frame_of_before_comes_after_a_reset(batch: Batch) -> None:
    async def interrupted() -> tuple[int, list[Frame]]:
        async with batch.session(paced=True) as session:
            await session.push(pcm(3.0))
            first = 0
            async for _ in session:
                first += 1
                if first == 5:
                    break
            session.reset()
            await session.push(pcm(0.2))
            session.flush()
            return first, [frame async for frame in session]

    first, frames = asyncio.run(interrupted())
    assert first == 5
    assert [frame.index for frame in frames] == list(range(6))


def test_a_listener_who_takes_nothing_holds_its_own_talker_back(batch: Batch) -> None:
    async def slow() -> tuple[int, int]:
        async with batch.session(paced=False) as session:
            await session.push(pcm(3.0) * 2)
            await session.push(pcm(3.0))
            session.flush()
            while not session.seat.held_back:
                await asyncio.sleep(0.01)
            made = session.seat.tally.made
            return made, len([frame async for frame in session])

    made, taken = asyncio.run(slow())
    assert made < 270
    assert taken == 270


def test_what_is_wrong_is_raised_where_frames_are_awaited(batch: Batch) -> None:
    async def wrong() -> None:
        async with batch.session() as session:
            with pytest.raises(InputError, match="whole 16-bit"):
                await session.push(b"abc")
            session.set("emotion", {"joyful": 1.0})
            async for _ in session:
                pass

    with pytest.raises(OptionError, match="joyful"):
        asyncio.run(wrong())
    with pytest.raises(OptionError, match="no option `pace`"):
        batch.session(pace=True)
    with pytest.raises(InputError, match="not open"):
        batch.session().flush()


def test_who_is_cancelled_while_it_takes_its_seat_gives_it_back(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, join = threading.Event(), batch.join

    def noted(*args: Any) -> Any:
        begun.set()
        return join(*args)

    monkeypatch.setattr(batch, "join", noted)

    async def talk() -> None:
        for wait in (0.0, 0.05):
            joined = batch.figures.joined
            session = batch.session()
            begun.clear()
            with batch._lock:  # as a tick holds it
                entering = asyncio.create_task(session.__aenter__())
                while not begun.is_set():
                    await asyncio.sleep(0.01)
                entering.cancel()
                await asyncio.sleep(wait)
            with pytest.raises(asyncio.CancelledError):
                await entering
            while batch.figures.joined == joined or batch.talking:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(talk(), 60))
