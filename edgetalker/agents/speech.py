"""Speech in pieces of any size, motion and sound out in turn: what the plug-ins for voice agents share.

A frame's motion comes just before the sound that it belongs to. Until the frame is made, its sound is held back: by the
talker's look-ahead, and by nothing more. Work is done beside the event loop, a tenth of a second of sound at a time, so
that a reset (barge-in) never waits longer than for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from edgetalker.engines.errors import InputError
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.inputs import Values, chosen
from edgetalker.runtime.model import Model
from edgetalker.runtime.talker import Talker

__all__ = ["Motion", "Sound", "Speech", "layout_message", "motion_message"]

_PIECE = Fraction(1, 10)  # seconds of sound between two looks at whether somebody wants to be heard


@dataclass(frozen=True)
class Motion:
    """A frame, which shows the sound from `time` seconds after the utterance's begin on."""

    frame: Frame

    @property
    def time(self) -> float:
        """Second of the utterance at which the frame begins."""
        return float(self.frame.time)


@dataclass(frozen=True)
class Sound:
    """16-bit little-endian PCM, as it was given."""

    pcm: bytes
    rate: int
    channels: int


class Speech:
    """One speaker of an open model, for asyncio. Call it from one task; `reset` from any task of the same loop."""

    def __init__(self, model: Model, **options: Any) -> None:
        """options: of TalkerOptions but `rate`, which the sound tells."""
        self._model, self._options = model, options
        self._talker: Talker | None = None
        self._lock = asyncio.Lock()
        self._turn = 0
        self._rate, self._channels = 0, 1
        self._held = bytearray()
        self._fed: list[tuple[str, Values, float | None]] = []
        self._given = 0  # bytes of the utterance that were given out

    @property
    def layout(self) -> MotionLayout:
        """What the numbers of a frame mean."""
        return self._opened(self._rate or self._model.bundle.manifest.audio.rate).layout

    def feed(self, name: str, values: Values, *, time: float | None = None) -> None:
        """Take an emotion tag, or another value of a control or input, for second `time` of the utterance; None: now,
        or from the next utterance's begin. Raises OptionError for what does not exist or fit."""
        talker = self._opened(self._rate or self._model.bundle.manifest.audio.rate)
        chosen("input", name, talker.fed).check(values)
        self._fed.append((name, values, time))

    @property
    def position(self) -> float:
        """Seconds of the utterance whose sound was given out."""
        return self._given / (2 * self._channels * self._rate) if self._rate else 0.0

    async def push(self, pcm: bytes, rate: int, channels: int = 1) -> AsyncIterator[Motion | Sound]:
        """Take sound: 16-bit little-endian PCM, channels interleaved. Yields what can be shown and played by now.

        Raises InputError for half a sample.
        """
        if len(pcm) % (2 * channels):
            raise InputError(f"{len(pcm)} bytes are no whole number of samples of {channels} channels in 16 bits")
        if self._rate and (rate, channels) != (self._rate, self._channels):
            async for item in self.flush():  # the sound's form changes: what was said in the old one ends
                yield item
            self.reset()
        self._rate, self._channels = rate, channels
        turn, step = self._turn, 2 * channels * int(rate * _PIECE)
        for at in range(0, len(pcm), step):
            piece = pcm[at : at + step]
            self._held += piece
            samples = np.frombuffer(piece, "<i2").reshape(-1, channels)
            frames = await self._work(turn, lambda talker, heard=samples: talker.accept(heard))
            for item in self._in_turn(turn, frames):
                yield item
            if turn != self._turn:
                return

    async def flush(self) -> AsyncIterator[Motion | Sound]:
        """The utterance ended: yields its last frames and the rest of its sound."""
        turn = self._turn
        if self._talker is None:
            return
        frames = await self._work(turn, lambda talker: talker.flush())
        for item in self._in_turn(turn, frames):
            yield item
        if turn == self._turn and self._held:
            yield self._take(len(self._held))

    def reset(self) -> None:
        """Barge-in, or a new utterance: what was held is forgotten, and whatever is on its way is not given out."""
        self._turn += 1
        self._fed = [fed for fed in self._fed if fed[2] is None]
        self._held.clear()
        self._given = 0

    async def close(self) -> None:
        """Let go of the talker. The model stays open."""
        self._turn += 1
        async with self._lock:
            if self._talker is not None:
                self._talker.close()
                self._talker = None

    async def _work(self, turn: int, act: Any) -> list[Frame]:
        async with self._lock:
            if turn != self._turn:
                return []
            return await asyncio.shield(asyncio.to_thread(self._act, turn, act))

    def _act(self, turn: int, act: Any) -> list[Frame]:
        talker = self._opened(self._rate)
        if self._begun != turn:
            talker.reset()
            self._begun = turn
        while self._fed:
            name, values, time = self._fed.pop(0)
            talker.feed(name, values, time=time)
        return list(act(talker))

    _begun = 0

    def _opened(self, rate: int) -> Talker:
        if self._talker is not None and self._talker.rate != rate:
            self._talker.close()
            self._talker = None
        if self._talker is None:
            self._talker = self._model.talker(**self._options, rate=rate)
        return self._talker

    def _in_turn(self, turn: int, frames: list[Frame]) -> Iterator[Motion | Sound]:
        for frame in frames:
            if turn != self._turn:
                return
            yield Motion(frame)
            fps = self._model.bundle.manifest.motion.fps
            end = 2 * self._channels * int((frame.index + 1) / fps * self._rate)
            if end > self._given and turn == self._turn:
                yield self._take(end - self._given)

    def _take(self, count: int) -> Sound:
        piece = bytes(self._held[:count])
        del self._held[:count]
        self._given += len(piece)
        return Sound(piece, self._rate, self._channels)


def layout_message(layout: MotionLayout) -> dict[str, Any]:
    """Return what a client must know of the frames: sent once, before the first."""
    return {"type": "layout", "kind": layout.kind, "names": list(layout.names), "fps": str(layout.fps)}


def motion_message(motion: Motion) -> dict[str, Any]:
    """Return a frame as JSON values: its second in the utterance, and its values in the layout's order."""
    values = np.round(motion.frame.motion.reshape(-1).astype(np.float64), 4).tolist()
    return {"type": "motion", "index": motion.frame.index, "time": round(motion.time, 6), "values": values}
