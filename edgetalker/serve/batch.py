"""Many talkers in one process: at each tick, every frame that is due is made in one launch.

Read `Batch.tick` first. One thread ticks; everybody else only leaves commands at seats (`Seat.send`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from edgetalker.engines.errors import DeviceError, OptionError, UserError, unknown
from edgetalker.runtime.clock import LEAP_NS, Clock, Durations, SystemClock
from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.runtime.ladder import Ladder
from edgetalker.runtime.loop import Tally
from edgetalker.runtime.model import Model
from edgetalker.runtime.options import Checked, given
from edgetalker.runtime.talker import Talker
from edgetalker.serve.seat import Event, Seat, SeatOptions
from edgetalker.serve.session import Session
from edgetalker.serve.wide import Widths

__all__ = ["Batch", "BatchOptions", "Figures"]

_log = logging.getLogger("edgetalker.serve.batch")
SHARE = 0.9
"""Of a frame's time, what ticks may use; the rest is for sockets."""


@dataclass(frozen=True)
class BatchOptions(Checked):
    """How a batch is played.

    talkers: most at a time. widths: at which the frame steps are prepared (default: 1, 2, 4, 8, 12, 16, … up to
    talkers); a number between is padded to the next. schedule: always this one (default: the fullest that fits, chosen
    for each tick). ticks: how often in a frame's time it is seen who is due; more answer sooner, fewer put more talkers
    into one launch. voice: the detector that says to sessions which rest that somebody speaks: `energy` (default), or
    `silero`; where one is named, Audio2Face's sessions rest, too.
    """

    talkers: int = 16
    widths: Sequence[int] = ()
    schedule: str | None = None
    ticks: int = 2
    voice: str | None = None


@dataclass
class Figures:
    """What a batch did, over all talkers that it had: outcomes, resets, ticks, and times in ns."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    schedules: Counter[str] = field(default_factory=Counter)
    joined: int = 0
    left: int = 0
    resets: int = 0
    broken: int = 0
    pauses: int = 0
    ticks: int = 0
    launches: Counter[int] = field(default_factory=Counter)
    cost: Durations = field(default_factory=lambda: Durations(1 << 14))
    latency: Durations = field(default_factory=lambda: Durations(1 << 16))

    @property
    def due(self) -> int:
        """Frames that were due."""
        return sum(self.outcomes.values())

    def summary(self) -> str:
        """Return one line for people."""
        counts = ", ".join(f"{count} {outcome.value.replace('_', ' ')}" for outcome, count in self.outcomes.items())
        pauses = f", {self.pauses} times paused" if self.pauses else ""
        told = f"{self.joined} talkers, {self.due} frames due: {counts or 'none'}"
        return f"{told}; {self.resets} times begun anew{pauses}"


class Batch:
    """A model that plays many talkers at once. Open it with `with`, or with `async with` (see Session)."""

    def __init__(
        self,
        model: Model | Path | str | None = None,
        *,
        options: BatchOptions | None = None,
        clock: Clock | None = None,
        **model_options: Any,
    ) -> None:
        """model: an open Model, which stays open; or a bundle that is opened with `model_options` (of ModelOptions)."""
        self.options = options or BatchOptions()
        self.clock = clock or SystemClock(spin_ns=0)
        self.figures = Figures()
        self._ticked_ns = self.clock.now_ns()
        self._wanted, self._model_options = model, model_options
        if not 1 <= self.options.talkers <= 1024:
            raise OptionError(f"{self.options.talkers} talkers; 1 to 1024 were wanted")
        if not 1 <= self.options.ticks <= 16:
            raise OptionError(f"{self.options.ticks} ticks a frame; 1 to 16 were wanted")
        self.fault: BaseException | None = None
        self._lock = threading.Lock()
        self._seats: list[Seat] = []
        self._free: list[Talker] = []
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> Batch:
        """Open the model, widen its stages, make the talkers and learn what schedules cost. Raises UserError."""
        options, borrowed = self.options, isinstance(self._wanted, Model)
        self.model = self._wanted if isinstance(self._wanted, Model) else Model(self._wanted, **self._model_options)
        self._owns = not borrowed
        try:
            manifest = self.model.bundle.manifest
            if options.schedule is not None and options.schedule not in manifest.ladder:
                raise unknown("schedule", options.schedule, manifest.ladder, "the bundle has")
            self.schedules = (options.schedule,) if options.schedule else manifest.ladder
            self.widths = Widths(self.model, options.talkers, widths=options.widths, schedules=self.schedules)
            more = {} if options.voice is None else {"voice": options.voice, "rest": False}  # a session says whether
            self._free = [self.model.talker(schedules=self.schedules, **more) for _ in range(options.talkers)]
            if options.voice is not None:
                self._free[0].mouth_rest()  # what is wrong with it is said now, and its network is read
        except BaseException:
            self._close_model()
            raise
        self.layout: MotionLayout = self._free[0].layout
        self.rate = manifest.audio.rate
        self.controls = {name: control.tensor for name, control in self._free[0].controls.items()}
        self.period_ns = int(1_000_000_000 / manifest.motion.fps)
        self._tick_ns = self.period_ns // options.ticks
        self.ladder = Ladder(self.schedules)
        self._rehearse()
        return self

    def _rehearse(self) -> None:
        """Learn what each schedule costs at each width before anybody waits for a frame."""
        for schedule in self.schedules:
            for width in self.widths.widths:
                talkers = self._free[:width]
                for _ in range(3):
                    start = self.clock.now_ns()
                    for talker in talkers:
                        talker.pad()
                        talker.prepare(schedule)
                    self.widths.make(talkers, schedule)
                    for talker in talkers:
                        talker.finish(start)
                    self.ladder.learn(schedule, self.clock.now_ns() - start, kind=width)
                for talker in talkers:
                    talker.reset()

    # Seats

    @property
    def talking(self) -> Sequence[Seat]:
        """The seats that are taken now."""
        return tuple(self._seats)

    @property
    def waiting(self) -> float:
        """Seconds of sound that wait at all seats together."""
        return sum(seat.waiting for seat in list(self._seats)) / self.rate

    @property
    def resets(self) -> int:
        """Times that talkers began anew, those that left too."""
        return self.figures.resets + sum(seat.tally.resets for seat in self._seats)

    def join(self, deliver: Callable[[Event], None], options: SeatOptions | None = None) -> Seat:
        """Take a seat. deliver: called in the batch's thread with every event. Raises DeviceError when none is free."""
        with self._lock:
            if self.fault is not None:
                raise DeviceError(f"the batch ended: {self.fault}", hint="start it again")
            if not self._free:
                most = self.options.talkers
                raise DeviceError(
                    f"all {most} talkers are taken", hint="come again later, or serve with more --talkers"
                )
            talker = self._free.pop()
            try:
                seat = Seat(talker, options or SeatOptions(), deliver, self.figures.joined)
            except BaseException:
                self._free.append(talker)
                raise
            self.figures.joined += 1
            self._seats = [*self._seats, seat]
            return seat

    def leave(self, seat: Seat) -> None:
        """Give the seat back. What waits there is forgotten."""
        with self._lock:
            if seat.closed:
                return
            seat.closed = True
            self._seats = [other for other in self._seats if other is not seat]
            self._free.append(seat.talker)
            self._settle(seat.tally)

    def _settle(self, tally: Tally) -> None:
        self.figures.left += 1
        self.figures.resets += tally.resets
        self.figures.broken += tally.broken

    def wake(self) -> None:
        """Something came: look at it soon."""
        self._wake.set()

    # Ticks

    def tick(self) -> bool:
        """Make every frame that is due now. Returns whether some talker could have another at once."""
        with self._lock:
            seats, now = self._seats, self.clock.now_ns()
            if now - self._ticked_ns > LEAP_NS:
                self._pause(seats, now)
            self._ticked_ns = now
            until = now + self._tick_ns // 2
            due: list[Seat] = []
            for seat in seats:
                self._look(seat, now, until, due)
            paced = [seat for seat in due if seat.due_ns]
            if paced:
                due = self._pass_over(due, now)
            for start in range(0, len(due), self.widths.widths[-1]):
                self._make(due[start : start + self.widths.widths[-1]], len(seats))
            self.figures.ticks += bool(due)
            return any(not seat.options.paced for seat in due)

    def _pause(self, seats: Sequence[Seat], now: int) -> None:
        """No tick came for seconds: nobody ran, so no frame was due."""
        paused = sum(seat.pause(now) for seat in seats)
        if paused:
            self.figures.pauses += 1
            _log.warning("the clock leapt (sleep, or a stop): a pause of %d talkers", paused)

    def _look(self, seat: Seat, now: int, until: int, due: list[Seat]) -> None:
        seat.listen()
        if seat.held_back:
            return
        if seat.ready(now, until):
            due.append(seat)
        elif seat.starving(now):
            seat.starve(now)
            self._count(Outcome.STARVED)

    def _pass_over(self, due: Sequence[Seat], now: int) -> list[Seat]:
        """Hold what is a frame late before it begins: that is how a talker catches up. One that has made none yet, or
        whose last frame was held, gets its turn, so that no talker stands still for ever."""
        cheapest = self.ladder.predict(self.ladder.cheapest, self.widths.fitting(len(due)))
        kept = []
        for seat in due:
            left = seat.due_ns - now if seat.due_ns else 0
            if left < 0 and left + seat.period_ns < cheapest and seat.tally.made and not seat.skipped:
                seat.hold(now)
                seat.skipped = True
                self._count(Outcome.HELD)
            else:
                seat.skipped = False
                kept.append(seat)
        return kept

    def _make(self, seats: Sequence[Seat], all_seats: int) -> None:
        start, width = self.clock.now_ns(), self.widths.fitting(len(seats))
        left = min((seat.due_ns - start for seat in seats if seat.due_ns), default=None)
        # Other talkers are due at other ticks of the same frame's time: each tick may use its talkers' share of it.
        share = int(SHARE * self.period_ns * len(seats) / max(all_seats, 1))
        schedule = self.ladder.choose(min(left, share), width) if left is not None else self.schedules[0]
        prepared = []
        for seat in seats:
            try:
                seat.prepare(schedule)
                prepared.append(seat)
            except UserError as error:  # costs this talker alone
                seat.deliver(Event("fault", serial=seat.serial, error=error))
                seat.held_back = True
        self.widths.make([seat.talker for seat in prepared], schedule)
        done = self.clock.now_ns()
        late = False
        for seat in prepared:
            late |= seat.finish(start, done)
            self._count(seat.outcome, schedule)
            self.figures.latency.add(max(seat.latency_ns, 0))
        if prepared:
            self.ladder.learn(schedule, done - start, late=late and left is not None, kind=width)
            self.figures.cost.add(done - start)
            self.figures.launches[width] += 1

    def _count(self, outcome: Outcome, schedule: str = "") -> None:
        self.figures.outcomes[outcome] += 1
        if outcome in (Outcome.ON_TIME, Outcome.LATE):
            self.figures.schedules[schedule] += 1

    def run(self) -> None:
        """Tick until `stop`: on a grid of the frame's time over `ticks`, and without a pause while bursts wait."""
        clock, next_ns = self.clock, self.clock.now_ns()
        try:
            while not self._stop.is_set():
                self._wake.clear()
                more = self.tick()
                if more:
                    continue
                if not self._seats:
                    self._wake.wait(1.0)
                    continue
                next_ns = max(next_ns + self._tick_ns, clock.now_ns())
                clock.sleep_until_ns(next_ns)
        except BaseException as error:
            self.fault = error
            _log.error("the batch ended: %s", error)
            fault = error if isinstance(error, UserError) else DeviceError(f"{type(error).__name__}: {error}")
            for seat in self._seats:
                seat.deliver(Event("fault", error=fault))

    def start(self) -> Batch:
        """Tick in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="edgetalker-batch", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop ticking and free everything. May be called twice."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._close_model()

    def _close_model(self) -> None:
        if hasattr(self, "widths"):
            self.widths.close()
        if self._owns:
            self.model.close()

    def session(self, **options: Any) -> Session:
        """Return a talker for asyncio, to be entered with `async with`. options: those of SeatOptions."""
        return Session(self, given(SeatOptions, options))

    async def __aenter__(self) -> Batch:
        await asyncio.to_thread(self.open)
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Batch:
        return self.open().start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
