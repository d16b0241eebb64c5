"""The loop: sound in, frames out, each before its deadline and each accounted for.

A run without a clock takes sound as fast as it is read. A run on a clock opens frame i's slot when its sound is
there, chooses a schedule that fits, and counts what became of the frame. Read `Loop.run` first.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.clock import Clock, SystemClock
from edgetalker.runtime.frame import Frame, Outcome, Sink, Source
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.pace import Pace
from edgetalker.runtime.session import Session
from edgetalker.runtime.tally import Tally
from edgetalker.runtime.window import AudioWindow

__all__ = ["LATE_POLICIES", "LatePolicy", "Loop", "Observer", "Options", "rehearse", "run"]

LatePolicy = Literal["hold", "skip", "send"]
LATE_POLICIES: tuple[LatePolicy, ...] = ("hold", "skip", "send")
_log = logging.getLogger("edgetalker.runtime.loop")
_POLL = 0.1  # seconds after which a wait for sound looks whether it was told to stop


class Observer:
    """Sees every frame after the sinks did: a progress bar, a trace. Override what you need."""

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Take one frame; `start_ns` is when its step began on the clock of the run."""

    def sound(self, total: int) -> None:
        """Take the number of samples heard so far."""


@dataclass(frozen=True)
class Options:
    """How to run.

    realtime: on the clock. schedule: always this one (default: the ladder when on the clock, else the fullest).
    late: for a frame that cannot be made in time, `hold` sends the last motion again, `skip` sends nothing, `send`
    makes and sends it late. budget: seconds from a frame's slot to its deadline (default: one frame). stall:
    seconds after which the watchdog counts a step as hanging. limit: stop after so many frames (0: none).
    """

    realtime: bool = False
    schedule: str | None = None
    late: LatePolicy = "hold"
    budget: float | None = None
    stall: float = 1.0
    limit: int = 0


class Loop:
    """One run of one session from one source to any number of sinks. `stop` and `reset` may come from any thread."""

    def __init__(
        self,
        session: Session,
        source: Source,
        sinks: Sequence[Sink],
        *,
        options: Options | None = None,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
        ladder: Ladder | None = None,
    ) -> None:
        """On a clock, `ladder` should come from `rehearse`, called before a live source is opened; without one
        the loop rehearses now, and sound that arrives meanwhile waits.

        Raises OptionError when the source's rate is not the bundle's or an option does not fit.
        """
        self.session, self.source, self.sinks = session, source, tuple(sinks)
        self.options = options or Options()
        self.clock = clock or SystemClock()
        self.observers = tuple(observers)
        self.tally = Tally()
        audio, fps = session.manifest.audio, session.manifest.motion.fps
        _check(session, source, self.options)
        self._window = AudioWindow(audio.window, backlog=2 * audio.rate + session.end(0))
        self._ladder = ladder or self._own_ladder()
        budget = self.options.budget if self.options.budget is not None else 1 / float(fps)
        self._pace = Pace(audio.rate, fps, audio.lookahead, audio.block, int(budget * 1e9))
        # The last sound motion, rest before the first: what held and starved frames show.
        self._good = np.zeros(session.motion.shape, np.float32)
        self._good_view = self._good.view()
        self._good_view.flags.writeable = False
        self._stop, self._reset = threading.Event(), threading.Event()
        self._heard = 0
        self._begin_ns: int | None = None

    def _own_ladder(self) -> Ladder:
        schedules = (self.options.schedule,) if self.options.schedule else self.session.schedules
        return rehearse(self.session, schedules, self.clock) if self.options.realtime else Ladder(schedules)

    def stop(self) -> None:
        """End the run after the frame in hand; what was made so far is kept."""
        self._stop.set()

    def reset(self) -> None:
        """Begin anew with the next frame (barge-in): sound that was heard is forgotten, states are as at the start."""
        self._reset.set()

    def run(self) -> Tally:
        """Play until the sound ends, the limit is reached or `stop` is called. Sinks are closed in every case."""
        with ExitStack() as opened:
            for sink in self.sinks:
                sink.open(self.session.layout)
                opened.callback(sink.close)
            while not self._finished():
                if self._reset.is_set():
                    self._begin_anew()
                if not self._await_sound():
                    continue
                self._play()
        self.tally.interrupted = self._stop.is_set()
        return self.tally

    def _finished(self) -> bool:
        if self._stop.is_set() or (self.options.limit and self.tally.due >= self.options.limit):
            return True
        if not self.source.ended:
            return False
        # Frames whose start lies within the sound are made; the last ones hear silence after its end.
        return self.session.index >= self.session.clock.frames_spanned(self._heard)

    def _begin_anew(self) -> None:
        self._reset.clear()
        self.session.reset()
        self._window.reset()
        self._pace.restart()
        self._heard = 0
        self.tally.resets += 1
        for sink in self.sinks:
            sink.reset()

    def _await_sound(self) -> bool:
        """Read until the next frame's sound is there. False when something else must be looked at first."""
        end = self.session.end(self.session.index)
        while self._window.total < end:
            if self.source.ended:
                self._window.append_silence(end - self._window.total)
                break
            self._read(end)
            if self._stop.is_set() or self._reset.is_set():
                return False
            if self._window.total < end and self._overdue():
                self._starve()
                return False
        return not (self.source.ended and self._finished())

    def _read(self, end: int) -> None:
        room = self._window.total + self.session.manifest.audio.rate
        samples = self.source.read(min(end + self._ahead(), room) - self._window.total, self._timeout())
        if len(samples) == 0:
            return
        if self._begin_ns is None:
            self._begin_ns = self.clock.now_ns()
        self._window.append(samples)
        self._heard += len(samples)
        self._pace.hear(self._window.total, self.clock.now_ns())
        for sink in self.sinks:
            sink.hear(samples, self.source.rate)
        for observer in self.observers:
            observer.sound(self._heard)

    def _ahead(self) -> int:
        """Live sound is taken as it comes, so that its arrival is known; other sound only as far as needed."""
        return self.source.rate if self.options.realtime and self.source.live else 0

    def _timeout(self) -> float:
        if not (self.options.realtime and self._pace.started):
            return _POLL
        left = self._pace.due_ns(self.session.index) - self.clock.now_ns()
        return min(max(left * 1e-9, 1e-3), _POLL)

    def _overdue(self) -> bool:
        return (
            self.options.realtime
            and self._pace.started
            and self.clock.now_ns() >= self._pace.due_ns(self.session.index)
        )

    def _starve(self) -> None:
        """The slot passes without its sound: the sample clock waits, so that late sound is not thrown away."""
        frame = self._still(Outcome.STARVED, self.session.index)
        self._pace.wait()
        self._hand_over(frame, self.clock.now_ns(), send=True)

    def _play(self) -> None:
        if not self.options.realtime:
            self._make(self.options.schedule or self.session.schedules[0], 0)
            return
        index = self.session.index
        self.clock.sleep_until_ns(self._pace.slot_ns(index))
        due = self._pace.due_ns(index)
        left = due - self.clock.now_ns()
        schedule = self._ladder.choose(left)
        # Only a frame that is overdue is passed over: each time the loop has caught up one is made, so that the
        # ladder goes on learning and a machine that was slow is noticed to be fast again.
        hopeless = left < 0 and left + self._pace.period_ns < self._ladder.predict(schedule)
        if hopeless and self.options.late != "send" and self.tally.made:
            self._let_pass(due)
        else:
            self._make(schedule, due)

    def _make(self, schedule: str, due: int) -> None:
        session, start = self.session, self.clock.now_ns()
        index = session.index
        if session.audio is not None and session.listens:
            self._window.read(session.end(session.index), session.audio[0])
        frame = session.step(schedule=schedule)
        done = self.clock.now_ns()
        late = self.options.realtime and done > due
        self._ladder.learn(schedule, done - start, late=late)
        if done - start > self.options.stall * 1e9:
            self.tally.stalls += 1
        if not math.isfinite(float(frame.motion.sum())):
            self._replace_broken(index, due, start)
            return
        np.copyto(self._good, frame.motion)
        frame = replace(frame, outcome=Outcome.LATE if late else Outcome.ON_TIME, due_ns=due, done_ns=done)
        self._hand_over(frame, start, send=True)

    def _replace_broken(self, index: int, due: int, start: int) -> None:
        """NaN in a history stays there for ever, and receivers may crash on it: hold, and begin with new states."""
        if self.tally.broken == 0:
            _log.warning("frame %d came out as NaN or Inf; it is held, and the model's states begin anew", index)
        self.tally.broken += 1
        self.session.heal()
        self._hand_over(replace(self._still(Outcome.HELD, index), due_ns=due), start, send=True)

    def _let_pass(self, due: int) -> None:
        """A frame that is a frame late before it begins: passing over it is how the loop catches up."""
        outcome = Outcome.HELD if self.options.late == "hold" else Outcome.SKIPPED
        frame = replace(self._still(outcome, self.session.index), due_ns=due)
        self.session.skip()
        self._hand_over(frame, self.clock.now_ns(), send=outcome is Outcome.HELD)

    def _still(self, outcome: Outcome, index: int) -> Frame:
        """The motion before, once more."""
        session = self.session
        fps, now = session.manifest.motion.fps, self.clock.now_ns()
        time = Fraction(index * fps.denominator, fps.numerator)
        return Frame(index, session.end(index), time, self._good_view, outcome, due_ns=now, done_ns=now)

    def _hand_over(self, frame: Frame, start_ns: int, *, send: bool) -> None:
        self.tally.count(frame)
        if send:
            for sink in self.sinks:
                sink.send(frame)
            if self.tally.first_frame_ns is None and self._begin_ns is not None:
                self.tally.first_frame_ns = self.clock.now_ns() - self._begin_ns
        for observer in self.observers:
            observer.frame(frame, start_ns)


def rehearse(session: Session, schedules: Sequence[str] = (), clock: Clock | None = None, times: int = 3) -> Ladder:
    """Return a ladder that knows what each schedule costs (default: all), before the first frame is due.

    Each schedule is stepped `times` times on silence; the session is then as new.
    """
    clock = clock or SystemClock()
    ladder = Ladder(schedules or session.schedules)
    for schedule in ladder.schedules:
        for _ in range(times):
            start = clock.now_ns()
            session.step(heard=0, schedule=schedule)
            ladder.learn(schedule, clock.now_ns() - start)
    session.reset()
    return ladder


def run(session: Session, source: Source, sinks: Sequence[Sink], **rest: object) -> Tally:
    """Play `source` through `session` into `sinks`; the options are those of Loop."""
    return Loop(session, source, sinks, **rest).run()  # type: ignore[arg-type]


def _check(session: Session, source: Source, options: Options) -> None:
    rate = session.manifest.audio.rate
    if source.rate != rate:
        raise OptionError(f"the source has {source.rate} samples a second; the bundle hears {rate}")
    if session.manifest.talkers != 1:
        raise OptionError(f"the bundle plays {session.manifest.talkers} talkers in lock-step; a loop plays one")
    if options.late not in LATE_POLICIES:
        raise OptionError(f"late policy `{options.late}` is unknown; known are {', '.join(LATE_POLICIES)}")
    if options.schedule is not None and options.schedule not in session.schedules:
        raise OptionError(f"no schedule `{options.schedule}`; the bundle has {', '.join(session.schedules)}")
