"""A talker on the clock into sinks, and what a conversation needs of it: reset, flush, silence for lost sound."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.clock import Clock, SystemClock
from edgetalker.runtime.delay import DelayMeter, Delays
from edgetalker.runtime.frame import Sink, Source
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.loop import Loop, Observer, Options
from edgetalker.runtime.session import Session
from edgetalker.runtime.sinks.net.sender import NetworkSink
from edgetalker.runtime.sinks.rest import RestStage
from edgetalker.runtime.sinks.sink import SinkStatistics
from edgetalker.runtime.tally import Tally

__all__ = ["Live", "LiveSource", "Report"]

SECOND = 10**9
LULL_NS = SECOND // 50
"""What passes without sound before a finished utterance is over: two packets, less than a frame."""


class LiveSource:
    """A live source that can be told to forget or to finish, and that gives silence when its sound is lost.

    When nothing came for `patience` seconds, silence comes in its place at the pace of the clock, so that the face
    goes on (it blinks) until sound is back. paced: hold back sound that comes faster than it sounds, as a speech
    synthesizer writes it into a pipe; a microphone keeps its own pace and must not be held back.
    """

    live = True

    def __init__(self, inner: Source, clock: Clock, *, patience: float = 0.25, paced: bool = False) -> None:
        self._inner, self._clock = inner, clock
        self.rate = inner.rate
        self.filled = self.discarded = 0
        self._patience_ns, self._paced = int(patience * SECOND), paced
        self._forget = threading.Event()
        self._finish = threading.Event()
        self._filling = False
        self._last_ns = clock.now_ns()
        self._anchor_ns, self._given = self._last_ns, 0

    @property
    def ended(self) -> bool:
        return self._inner.ended

    def forget(self) -> None:
        """Throw away what came and was not read yet. From any thread."""
        self._forget.set()

    def finish(self) -> None:
        """Let silence follow what was sent, as soon as nothing more of it comes. From any thread."""
        self._finish.set()

    def read(self, samples: int, timeout: float) -> NDArray[np.float32]:
        """Return up to `samples` samples as any source does."""
        if self._forget.is_set():
            self._throw_away()
        room, timeout = self._allowed(samples, timeout)
        taken = self._inner.read(room, timeout) if room else np.zeros(0, np.float32)
        now = self._clock.now_ns()
        if len(taken):
            if self._filling:
                self._finish.clear()
                self._filling = False
            self._last_ns = now
            self._given += len(taken)
            return taken
        if room:  # nothing there: time that passes now is no credit for sound that comes later
            self._anchor_ns, self._given = now, 0
        return self._silence(samples, now)

    def _allowed(self, samples: int, timeout: float) -> tuple[int, float]:
        """Return how many samples may come now, and how long to wait for them before silence is due."""
        start = self._clock.now_ns()
        patient = (self._last_ns + self._wait_ns() - start) / SECOND
        timeout = min(timeout, max(patient, 0.0))
        if not self._paced:
            return samples, timeout
        packet = self.rate // 100
        due_ns = self._anchor_ns + (self._given + packet) * SECOND // self.rate
        if start < due_ns:
            self._clock.sleep_until_ns(min(due_ns, start + int(timeout * SECOND)))
        now = self._clock.now_ns()
        allowed = (now - self._anchor_ns) * self.rate // SECOND - self._given
        return (min(samples, allowed) if allowed >= packet else 0), max(timeout - (now - start) / SECOND, 0.0)

    def _silence(self, samples: int, now: int) -> NDArray[np.float32]:
        if now - self._last_ns < self._wait_ns() or self._inner.ended:
            return np.zeros(0, np.float32)
        if not self._filling and not self._finish.is_set():
            # Frames that starved meanwhile have moved the clock of the run: silence goes on from here.
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
        return LULL_NS if self._finish.is_set() else self._patience_ns

    def _throw_away(self) -> None:
        self._forget.clear()
        while len(taken := self._inner.read(self.rate, 0.0)):
            self.discarded += len(taken)
            if len(taken) < self.rate:
                break
        self._anchor_ns, self._given = self._clock.now_ns(), 0

    def warnings(self) -> list[str]:
        """The inner source's warnings, and how much silence took the place of lost sound."""
        found = list(self._inner.warnings())
        if self.filled:
            found.append(f"no sound came for {self.filled / self.rate:.2f} s in all; silence took its place")
        return found

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class Report:
    """What a live run did: the tally, the delay in parts by sink (None without a measured frame), the sinks' counts."""

    tally: Tally
    delays: dict[str, Delays | None]
    sinks: dict[str, SinkStatistics]
    first_frame_ms: float | None


class Live:
    """One talker on the clock: a live source in, any number of sinks out, the mouth at rest in silence.

    `run` plays in the caller's thread; `stop`, `reset` and `flush` may come from any other, or from a signal.
    """

    def __init__(
        self,
        session: Session,
        source: Source,
        sinks: Sequence[Sink],
        *,
        options: Options | None = None,
        clock: Clock | None = None,
        rest: bool = True,
        paced: bool = False,
        patience: float = 0.25,
        observers: Iterable[Observer] = (),
        ladder: Ladder | None = None,
    ) -> None:
        """The arguments are those of Loop; for `paced` and `patience` see LiveSource. Raises OptionError."""
        self.clock = clock or SystemClock()
        self.source = LiveSource(source, self.clock, patience=patience, paced=paced)
        self.sinks = tuple(sinks)
        self.meter = DelayMeter(session, self.clock)
        outputs: Sequence[Sink] = [RestStage(self.sinks, source.rate)] if rest else self.sinks
        self.loop = Loop(
            session,
            self.source,
            outputs,
            options=replace(options or Options(), realtime=True),
            clock=self.clock,
            observers=[self.meter, *observers],
            ladder=ladder,
        )
        for sink in self.sinks:  # a viewer, whose page has sliders and a button to begin anew
            sink.attach(session, self)

    def run(self) -> Report:
        """Play until the sound ends, the limit is reached or `stop` is called; sinks are closed in every case."""
        tally = self.loop.run()
        senders = {sink.endpoint.url: sink for sink in self.sinks if isinstance(sink, NetworkSink)}
        counts = {name: sink.statistics for name, sink in senders.items()}
        period_ms = 1e3 / float(self.loop.session.manifest.motion.fps)
        delays = {
            name: self.meter.delays(sink.statistics.delay, sink.shaping_ms(period_ms)) for name, sink in senders.items()
        }
        first = tally.first_frame_ns
        return Report(tally, delays or {"": self.meter.delays()}, counts, None if first is None else first * 1e-6)

    def stop(self) -> None:
        """End the run after the frame in hand."""
        self.loop.stop()

    def reset(self) -> None:
        """Barge-in: forget the sound that waits and what was said, and begin anew with the next frame."""
        self.source.forget()
        self.loop.reset()

    def flush(self) -> None:
        """The utterance ended: its last frames come when they are due, as if silence followed, without more sound."""
        self.source.finish()
