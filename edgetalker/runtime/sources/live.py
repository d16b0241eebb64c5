"""Live sound: a queue between who records and who reads, raw PCM from a pipe, what a program says, sound paced by the
clock, and silence in the place of sound that does not come."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, whole
from edgetalker.runtime.clock import AWAY_NS, LEAP_NS, Clock
from edgetalker.runtime.sources.convert import CHANNELS, Converter, encoding
from edgetalker.runtime.sources.source import Source

__all__ = ["LiveSource", "PacedSource", "PcmSource", "QueuedSource", "SaidSource", "SoundQueue"]

_log = logging.getLogger(__name__)
SECOND = 10**9


class SoundQueue:
    """Mono float32 sound handed from the thread that records it to the loop, with a limit on what may wait.

    A recorder that cannot wait calls `put`, which drops the oldest sound beyond `limit` samples (the newest is what a
    live face needs) and counts it in `dropped`. One that can wait calls `put_waiting`, and `waits` counts how often
    it had to.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.dropped, self.waits = limit, 0, 0
        self._pieces: deque[NDArray[np.float32]] = deque()
        self._length = 0
        self._finished = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    def put(self, samples: NDArray[np.float32]) -> None:
        """Add samples (n,) at once; the array must not change any more."""
        with self._changed:
            self._add(samples)
            while self._length > self.limit and len(self._pieces) > 1:
                oldest = len(self._pieces.popleft())
                self._length -= oldest
                self.dropped += oldest

    def put_if_room(self, samples: NDArray[np.float32]) -> bool:
        """Add samples if they fit; return whether they did."""
        with self._changed:
            if fits := self._fits(samples):
                self._add(samples)
            return fits

    def put_waiting(self, samples: NDArray[np.float32]) -> bool:
        """Add samples once there is room for them. Returns False when the queue was finished meanwhile."""
        with self._changed:
            self.waits += not self._fits(samples)
            self._changed.wait_for(lambda: self._finished or self._fits(samples))
            if not self._finished:
                self._add(samples)
            return not self._finished

    def _fits(self, samples: NDArray[np.float32]) -> bool:
        return not self._length or self._length + len(samples) <= self.limit

    def _add(self, samples: NDArray[np.float32]) -> None:
        if len(samples):
            self._pieces.append(samples)
            self._length += len(samples)
            self._changed.notify_all()

    def read(self, count: int, timeout: float) -> NDArray[np.float32]:
        """Remove and return up to `count` samples that are there; when there are none, the first to come in `timeout`.

        Raises what `finish` was given, once all sound is out.
        """
        with self._changed:
            if not self._pieces and not self._finished and timeout > 0:
                limit = None if timeout == float("inf") else timeout
                self._changed.wait_for(lambda: self._pieces or self._finished, limit)
            if not self._pieces and self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            taken, room = [], count
            while room > 0 and self._pieces:
                piece = self._pieces.popleft()
                if len(piece) > room:
                    self._pieces.appendleft(piece[room:])
                    piece = piece[:room]
                taken.append(piece)
                room -= len(piece)
            self._length -= count - room
            self._changed.notify_all()
        return taken[0] if len(taken) == 1 else np.concatenate([np.zeros(0, np.float32), *taken])

    def clear(self) -> int:
        """Remove all that waits; return how many samples that were."""
        with self._changed:
            waited, self._length = self._length, 0
            self._pieces.clear()
            self._changed.notify_all()
        return waited

    @property
    def ended(self) -> bool:
        """True when it is finished and everything was read, the failure at its end too."""
        with self._changed:
            return self._finished and not self._pieces and self._failure is None

    def finish(self, failure: Exception | None = None) -> None:
        """No more sound comes. `failure` is raised to the reader after the last of it."""
        with self._changed:
            self._finished = True
            self._failure = self._failure or failure
            self._changed.notify_all()


class QueuedSource:
    """What sources have in common whose sound another thread puts into a queue."""

    live = True
    _queue: SoundQueue

    @property
    def ended(self) -> bool:
        return self._queue.ended

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that have come, waiting at most `timeout` seconds for the first.

        Raises what ended the sound, such as InputError for a pipe that holds a sound file.
        """
        return self._queue.read(samples, timeout)


class Tempo:
    """Tells a recorder, whose sound comes as it sounds, from a program that writes faster (a speech synthesizer).

    Sound is recorded once it has come for a second at the pace of the clock, without gaps or leaps, from a writer
    that never had to wait. Until that is known it is taken for written: held back too much, a recorder is late
    for a second; held back too little, a synthesizer's first sentence is rushed through.
    """

    GAP, LEAP = 0.4, 0.5

    def __init__(self) -> None:
        self.recorded = False
        self._since = self._last = float("-inf")
        self._heard, self._pieces = 0.0, 0

    def note(self, now: float, seconds: float, *, waited: bool = False) -> None:
        """Take the arrival of `seconds` of sound at `now`; waited: its writer had to wait until there was room."""
        passed = now - self._since
        self._heard, self._pieces = self._heard + seconds, self._pieces + 1
        leapt = self._heard - passed > self.LEAP
        if waited or leapt or now - self._last > self.GAP:
            # The first piece of a window was there already, or came after a pause: it says nothing of the pace.
            self.recorded = self.recorded and not (waited or leapt)
            self._since, self._heard, self._pieces = now, 0.0, 0
        elif passed >= 1.0:
            self.recorded = self.recorded or (self._pieces >= 4 and self._heard > 0.8 * passed)
            self._since, self._heard, self._pieces = now, 0.0, 0
        self._last = now


class PcmSource(QueuedSource):
    """Raw PCM from a pipe, channels interleaved, without a header: `arecord ... | edgetalker animate -`.

    A thread reads the pipe, so that `read` can time out. When the loop falls behind, the writer has to wait
    (a pipe loses nothing). A half sample at the end is dropped with a warning. A stream that starts as a sound file
    does is refused: its bytes would be played as noise. `tempo` knows whether it is recorded as it is written.
    """

    READ_BYTES = 1 << 14  # a pipe's read returns as soon as anything is there, so this costs no delay

    def __init__(
        self,
        rate: int,
        *,
        input_rate: int,
        channels: int = 1,
        form: str = "s16le",
        channel: int | None = None,
        stream: IO[bytes] | None = None,
        buffer_seconds: float = 4.0,
    ) -> None:
        """`rate` is the bundle's, `input_rate` the pipe's, both samples a second. form: one of ENCODINGS.
        channel: see Converter. stream: stdin by default.

        Raises OptionError for an unknown form, InputError when stdin is absent or a terminal: nobody types PCM.
        """
        self.rate, self.tempo = whole("the rate to play at", rate, least=1), Tempo()
        channels = whole("`channels`", channels, least=1, most=CHANNELS)
        self._encoding = encoding(form)
        if stream is None and sys.stdin is None:
            raise InputError("`-` reads sound from a pipe, but there is no standard input")
        self._stream = sys.stdin.buffer if stream is None else stream
        if self._stream.isatty():
            raise InputError(
                "`-` reads sound from a pipe, but standard input is a terminal",
                hint=f"arecord -t raw -f S16_LE -r {input_rate} -c {channels} | edgetalker animate - ...",
            )
        self._channels, self._frame_bytes = channels, channels * self._encoding.width
        self._notes: list[str] = []
        self._converter = Converter(input_rate, rate, channel=channel)
        self._queue = SoundQueue(max(1, round(buffer_seconds * rate)))
        self._thread = threading.Thread(target=self._pump, name="edgetalker-pcm", daemon=True)
        self._thread.start()

    def warnings(self) -> list[str]:
        return [f"standard input: {text}" for text in self._notes + self._converter.warnings()]

    def close(self) -> None:
        """Stop reading. The thread ends at its next packet; a blocked read of stdin dies with the process."""
        self._queue.finish()

    def _pump(self) -> None:
        """Run in the thread: hand on the pipe until its end, then say how it ended."""
        try:
            rest = self._hand_on(self._first_bytes())
        except InputError as error:
            self._queue.finish(error)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed under us
            self._queue.finish(InputError(f"standard input cannot be read: {error}"))
        except Exception as error:  # no thread may die and leave its reader waiting
            self._queue.finish(error)
        else:
            if rest:
                self._notes.append(f"{rest} bytes at the end are no whole sample and were dropped")
            self._queue.put_waiting(self._converter.finish())
            self._queue.finish()

    def _hand_on(self, data: bytes) -> int:
        """Queue whole samples until the pipe ends or the queue closes; return the bytes left over."""
        rest = b""
        while data:
            came = time.monotonic()
            rest += data
            whole = len(rest) - len(rest) % self._frame_bytes
            packet = self._encoding.decode(rest[:whole]).reshape(-1, self._channels)
            rest = rest[whole:]
            waits = self._queue.waits
            if not self._queue.put_waiting(self._converter.convert(packet)):
                return 0
            self.tempo.note(came, len(packet) / self._converter.rate_in, waited=self._queue.waits > waits)
            data = self._read_some()
        return len(rest)

    def _first_bytes(self) -> bytes:
        """Return at least the bytes that tell a file from raw sound, fewer only if the pipe ends before."""
        from edgetalker.runtime.sources.formats import frame_bytes, kind_of

        start = self._at_least(b"", 12)
        kind = kind_of(start)
        if kind is not None and (length := frame_bytes(start)):  # one sync word may be sound, two are none
            start = self._at_least(start, length + 2)
            kind = kind if start[length : length + 2] == start[:2] else None
        if kind is not None:
            shown = start[:4].decode("ascii", "backslashreplace")
            raise InputError(
                f"standard input starts with `{shown}`: it is a sound file ({kind}), raw PCM was wanted",
                hint="give the file's name instead of `-` (/dev/stdin for a pipe), or let the recorder write raw "
                "samples (arecord -t raw)",
            )
        return start

    def _at_least(self, start: bytes, count: int) -> bytes:
        while len(start) < count and (data := self._read_some()):
            start += data
        return start

    def _read_some(self) -> bytes:
        """Return what is there without waiting for a full buffer; b"" at the end."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, io.UnsupportedOperation):
            return self._stream.read(self.READ_BYTES)
        return os.read(descriptor, self.READ_BYTES)


class SaidSource(QueuedSource):
    """A source that never ends: what was said, in its order, as fast as it is read, and nothing in between.

    `Live(paced=True, patience=0.02)` plays it as it sounds, with silence where nothing is said. rate: samples a second
    of what it gives. most: seconds that may wait to be heard.
    """

    def __init__(self, rate: int, *, most: float = 120.0) -> None:
        self.rate, self._most = rate, most
        self._queue = SoundQueue(int(most * rate))

    def say(self, samples: NDArray[Any], rate: int) -> None:
        """Add sound, (n,) or (n, channels) at `rate`; from any thread. Raises InputError when too much waits."""
        converter = Converter(rate, self.rate)
        sound = np.concatenate([converter.convert(samples), converter.finish()])
        if not self._queue.put_if_room(sound):
            raise InputError(f"more than {self._most:g} s of sound would wait", hint="say it later")

    def forget(self) -> int:
        """Throw away what was said and not read yet, from any thread; return how many samples that were."""
        return self._queue.clear()

    def warnings(self) -> list[str]:
        return []  # what was said was checked then

    def close(self) -> None:
        """Nothing is open."""


class PacedSource:
    """Another source's sound, no earlier than it would sound: as if it were being recorded now.

    This is how a file is played on the clock, and what a speech synthesizer writes at once. Sound comes in packets,
    each when its last sample is due, counted from the first read; where the inner source has nothing, from when it
    has again: time without sound is no credit for later, nor is time that the clock leapt over. `free` says that sound
    keeps its own pace: it passes. start_ns: clock time of sample 0 (after a pause: of the first one since); None before
    the first read.
    """

    live = True

    def __init__(self, inner: Source, clock: Clock, packet: int | None = None, *, free: Tempo | None = None) -> None:
        """`packet`: samples that come at once, 10 ms by default."""
        self.inner, self._clock, self.rate = inner, clock, inner.rate
        self._packet = packet or max(1, inner.rate // 100)
        self._free = free
        self.start_ns: int | None = None
        self._given = 0

    @property
    def samples(self) -> int | None:
        """How many samples there will be, if the inner source knows."""
        return getattr(self.inner, "samples", None)

    @property
    def ended(self) -> bool:
        return self.inner.ended

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples that are due, waiting at most `timeout` seconds for the next packet."""
        if self._free is not None and self._free.recorded:
            self.start_ns = None
            return self.inner.read(samples, timeout)
        now = self._clock.now_ns()
        if self.start_ns is None:
            self.start_ns, self._given = now, 0
        end = now + int(timeout * SECOND) if timeout != float("inf") else None
        packet_ns = self.start_ns - (-(self._given // self._packet + 1) * self._packet * SECOND // self.rate)
        passed = (now - self.start_ns) * self.rate // SECOND
        waits = passed - passed % self._packet <= self._given
        if waits:
            self._clock.sleep_until_ns(packet_ns if end is None else min(packet_ns, end))
            now = self._clock.now_ns()
        if now - packet_ns > (LEAP_NS if waits else AWAY_NS):
            self.start_ns, self._given = now - self._packet * SECOND // self.rate, 0
        passed = (now - self.start_ns) * self.rate // SECOND
        due = passed - passed % self._packet - self._given
        if due <= 0:
            return np.zeros(0, np.float32)
        taken = self.inner.read(min(samples, due), 0.0)
        if not len(taken):  # nothing there: what comes next is given at once, and what follows it as it sounds
            wait = float("inf") if end is None else max(0.0, (end - now) / SECOND)
            taken = self.inner.read(min(samples, self._packet), wait)
            self.start_ns, self._given = self._clock.now_ns() - self._packet * SECOND // self.rate, 0
        self._given += len(taken)
        return taken

    def warnings(self) -> list[str]:
        return self.inner.warnings()

    def close(self) -> None:
        self.inner.close()


class LiveSource:
    """A live source that can be told to forget or to finish, and that gives silence when its sound is lost.

    When nothing came for `patience` seconds, silence comes in its place at the pace of the clock, so that the face
    goes on (it blinks) until sound is back. paced: hold back sound that comes faster than it sounds.
    """

    live = True
    LULL_NS = SECOND // 50  # what passes without sound before a finished utterance is over: less than a frame

    def __init__(self, inner: Source, clock: Clock, *, patience: float = 0.25, paced: bool = False) -> None:
        self._inner = PacedSource(inner, clock) if paced else inner
        # What waits below a pace is forgotten too, unless it is a file: that is not what came.
        raw = self._inner.inner if isinstance(self._inner, PacedSource) else inner
        self._raw = raw if raw.live else inner
        self._clock, self.rate = clock, inner.rate
        self.filled = self.discarded = 0
        self._patience_ns = int(patience * SECOND)
        self._forget, self._finish = threading.Event(), threading.Event()
        self._filling = False
        self._last_ns = clock.now_ns()

    @property
    def ended(self) -> bool:
        return self._inner.ended

    def forget(self) -> None:
        """Throw away what came and was not read yet. From any thread."""
        if isinstance(self._raw, SaidSource):  # now: what is said next must not be thrown away with it
            self.discarded += self._raw.forget()
        else:
            self._forget.set()

    def finish(self) -> None:
        """Let silence follow what was sent, as soon as nothing more of it comes. From any thread."""
        self._finish.set()

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples as any source does."""
        if self._forget.is_set():
            self._throw_away()
        patient = (self._last_ns + self._wait_ns() - self._clock.now_ns()) / SECOND
        taken = self._inner.read(samples, min(timeout, max(patient, 0.0)))
        now = self._clock.now_ns()
        if not len(taken):
            return self._silence(samples, now)
        if self._filling:
            self._filling = False
            self._finish.clear()
        self._last_ns = now
        return taken

    def _silence(self, samples: int, now: int) -> NDArray[np.float32]:
        if now - self._last_ns < self._wait_ns() or self._inner.ended:
            return np.zeros(0, np.float32)
        fresh = not self._filling and not self._finish.is_set()
        if fresh or now - self._last_ns > AWAY_NS:
            # Frames that starved meanwhile, or a pause, have moved the clock of the run: silence goes on from here.
            self._last_ns = now - self.rate // 100 * SECOND // self.rate
        self._filling = True
        count = min(samples, (now - self._last_ns) * self.rate // SECOND)
        self._last_ns += count * SECOND // self.rate
        self.filled += count
        return np.zeros(count, np.float32)

    def _wait_ns(self) -> int:
        """How long nothing may come before silence takes its place: one packet once that began."""
        if self._filling:
            return SECOND // 100
        return self.LULL_NS if self._finish.is_set() else self._patience_ns

    def _throw_away(self) -> None:
        self._forget.clear()
        while len(taken := self._raw.read(self.rate, 0.0)):
            self.discarded += len(taken)
            if len(taken) < self.rate:
                break

    def warnings(self) -> list[str]:
        """The inner source's warnings, and how much silence took the place of lost sound."""
        found = list(self._inner.warnings())
        if self.filled:
            found.append(f"no sound came for {self.filled / self.rate:.2f} s in all; silence took its place")
        return found

    def close(self) -> None:
        self._inner.close()
