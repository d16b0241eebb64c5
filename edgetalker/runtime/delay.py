"""How long it takes from a sound to the packet that shows it, in parts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edgetalker.runtime.clock import Clock
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.loop import Observer
from edgetalker.runtime.pace import Pace
from edgetalker.runtime.session import Session
from edgetalker.runtime.stats import Spread

__all__ = ["DelayMeter", "Delays"]


@dataclass(frozen=True)
class Delays:
    """Medians in milliseconds, and with `p95` the 95th percentile of the whole.

    frame: half a frame, from the middle of a frame's sound to its end. lookahead: the bundle's, with its blocks.
    capture: from a sample's own time to its arrival here (packets; not what a sound card holds before it hands
    them on). wait: until the step began. compute: the step. send: from the sink's `send` to the packet's leaving.
    shaping: what the sink's options add: one model frame at a fixed rate, the time constant of the smoothing.
    """

    frame: float
    lookahead: float
    capture: float
    wait: float
    compute: float
    send: float
    shaping: float
    p95: float

    @property
    def total(self) -> float:
        """From the middle of a frame's sound to its packet."""
        return self.frame + self.lookahead + self.capture + self.wait + self.compute + self.send + self.shaping

    def __str__(self) -> str:
        parts = (
            f"half a frame {self.frame:.1f} + look-ahead {self.lookahead:.1f} + capture {self.capture:.1f} + "
            f"wait {self.wait:.1f} + compute {self.compute:.1f} + send {self.send:.2f}"
        ) + (f" + rate and smoothing {self.shaping:.1f}" if self.shaping else "")
        return f"sound to packet {self.total:.1f} ms median (95 %: {self.p95:.1f} ms) = {parts}"


class DelayMeter(Observer):
    """Measures on the clock of the run. The time of a sample is that of the earliest arrival it allows, as in Pace."""

    def __init__(self, session: Session, clock: Clock) -> None:
        audio, fps = session.manifest.audio, session.manifest.motion.fps
        self._session, self._clock = session, clock
        self._pace = Pace(audio.rate, fps, audio.lookahead, audio.block, 0)
        self._period_ms = 1e3 / float(fps)
        self._lookahead_ms = 1e3 * audio.lookahead / audio.rate + (audio.block - 1) * self._period_ms
        self._arrivals: deque[tuple[int, int]] = deque(maxlen=1024)
        self.capture, self.wait, self.compute, self.measured = Spread(), Spread(), Spread(), Spread()

    def sound(self, total: int) -> None:
        """Note when sound came; a smaller total than before is a new beginning."""
        now = self._clock.now_ns()
        if self._arrivals and total <= self._arrivals[-1][0]:
            self._arrivals.clear()
            self._pace.restart()
        self._pace.hear(total, now)
        self._arrivals.append((total, now))

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Note when a frame was begun and done."""
        if frame.outcome is Outcome.STARVED:
            self._pace.wait()
        if frame.outcome not in (Outcome.ON_TIME, Outcome.LATE) or not self._pace.started:
            return
        arrived = self._arrival(frame.sample)
        if arrived is None:
            return
        # A frame of a block is due with its turn, not with the block's sound; hence not the sample's own time.
        heard = self._pace.slot_ns(frame.index)
        self.capture.add(max(arrived - heard, 0))
        self.wait.add(max(start_ns - max(arrived, heard), 0))
        self.compute.add(frame.done_ns - start_ns)
        self.measured.add(frame.done_ns - heard)

    def _arrival(self, sample: int) -> int | None:
        while len(self._arrivals) > 1 and self._arrivals[0][0] < sample:
            self._arrivals.popleft()
        total, now = self._arrivals[0] if self._arrivals else (-1, 0)
        return now if total >= sample else None

    def delays(self, send: Spread | None = None, shaping: float = 0.0) -> Delays | None:
        """Return the parts, with the delays of a sink (`shaping` in ms); None when nothing was measured."""
        if not self.compute.count:
            return None
        sent, sent95 = (send.percentile_ms(50), send.percentile_ms(95)) if send and send.count else (0.0, 0.0)
        fixed = self._period_ms / 2 + self._lookahead_ms
        return Delays(
            self._period_ms / 2,
            self._lookahead_ms,
            self.capture.percentile_ms(50),
            self.wait.percentile_ms(50),
            self.compute.percentile_ms(50),
            sent,
            shaping,
            fixed + shaping + self.measured.percentile_ms(95) + sent95,
        )
