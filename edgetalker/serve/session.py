"""A talker of a batch for asyncio: sound in, frames out, and the event loop never waits for either."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetalker.engines.errors import InputError
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.inputs import Values
from edgetalker.serve.seat import Event, Flush, Playing, Reset, Seat, SeatOptions, Set, Sound, Start

if TYPE_CHECKING:
    from edgetalker.serve.batch import Batch

__all__ = ["Session"]

AHEAD = 30.0
"""Seconds of sound that may wait; `push` waits for room beyond."""
BEHIND = 256
"""Frames that may wait to be taken. A talker that is not paced then makes no more; a paced one loses the oldest."""
_TURN = 0.02


class Session:
    """One talker. Frames are numbers with times on the utterance's own sound; iterate to get them.

    `async for frame in session` ends at the end of an utterance (after `flush`) and can be begun again for the next.
    """

    def __init__(self, batch: Batch, options: SeatOptions) -> None:
        self.batch, self.options = batch, options
        self.dropped = 0
        self.position = Fraction(0)
        self._events: deque[Event] = deque()
        self.serial = 0
        self._told = False
        self._seat: Seat | None = None

    @property
    def seat(self) -> Seat:
        """The place in the batch. Raises InputError when the session is not open."""
        if self._seat is None:
            raise InputError("the session is not open", hint="async with batch.session() as session")
        return self._seat

    async def __aenter__(self) -> Session:
        """Take a seat. Raises DeviceError when none is free."""
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        gone = threading.Event()

        def take() -> None:
            self._seat = self.batch.join(self._deliver, self.options)
            if gone.is_set():
                self.batch.leave(self._seat)

        try:
            await asyncio.to_thread(take)  # the batch's thread may hold its lock for as long as a tick takes
        except asyncio.CancelledError:
            # Who is cancelled here does not come to `close`, and the thread may still take the seat.
            gone.set()
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the seat back. May be called twice."""
        if self._seat is not None:
            await asyncio.shield(asyncio.to_thread(self.batch.leave, self._seat))
            self._arrived.set()

    def _deliver(self, event: Event) -> None:
        """Take an event in the batch's thread."""
        self._events.append(event)
        if len(self._events) >= BEHIND and self._seat is not None:
            if self.options.paced:
                with suppress(IndexError):
                    self.dropped += self._events.popleft().kind == "frame"
            else:
                self._seat.held_back = True
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._told = False
        self._arrived.set()

    # What the talker hears

    async def push(self, samples: Any, rate: int | None = None) -> None:
        """Take sound: bytes of signed 16-bit mono samples, or (n,) or (n, channels) of floats or integers.

        rate: samples a second (default: the bundle's). Waits while 30 s of sound are ahead. Raises InputError for a
        half sample, and when the session was closed.
        """
        if isinstance(samples, (bytes, bytearray, memoryview)):
            if len(samples) % 2:
                raise InputError(f"{len(samples)} bytes of sound; whole 16-bit samples were wanted")
            samples = np.frombuffer(samples, "<i2")
        seat = self.seat
        while seat.waiting > AHEAD * self.batch.rate or len(seat.inbox) > BEHIND:
            if seat.closed:
                break
            await asyncio.sleep(_TURN)
        if seat.closed:
            raise InputError("the session is closed")
        seat.send(Sound(np.array(samples), rate or self.batch.rate, self.batch.clock.now_ns()))
        self.batch.wake()

    def start(self, utterance: str = "") -> None:
        """Begin an utterance: the next sound is its second 0, the frames carry its name."""
        self.seat.send(Start(utterance))

    def flush(self) -> None:
        """End the utterance: its last frames come as if silence followed."""
        self.seat.send(Flush())
        self.batch.wake()

    def reset(self) -> None:
        """Barge-in: forget sound and frames; the talker begins anew. No frame from before comes after this call."""
        self.serial += 1
        self._events.clear()
        self.seat.held_back = False
        self.seat.send(Reset(self.serial))
        self.batch.wake()

    def set(self, control: str, values: Values, *, time: float | None = None) -> None:
        """Change a control, at a second of the utterance's sound or from the next frame on."""
        self.seat.send(Set(control, values, time))

    def playing(self, position: float) -> None:
        """Say which second of the utterance is heard now; frames keep to that clock from here on."""
        self.seat.send(Playing(position, self.batch.clock.now_ns()))

    # What it shows

    async def events(self) -> AsyncIterator[Event]:
        """Yield frames, ends of utterances and faults as they come, until the session is closed."""
        while True:
            while self._events:
                event = self._events.popleft()
                if len(self._events) < BEHIND // 2:
                    self.seat.held_back = False
                if event.serial != self.serial and event.kind != "fault":
                    continue  # made before the talker began anew
                if event.kind == "frame":
                    self.position = event.time
                yield event
            if self.seat.closed or self.batch.fault is not None:
                return
            self._arrived.clear()
            if not self._events:
                await self._arrived.wait()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        async for event in self.events():
            if event.error is not None:
                raise event.error
            if event.kind == "end":
                return
            if event.frame is not None:
                yield replace(event.frame, time=event.time)
