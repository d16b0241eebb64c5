"""The loop: sound in, frames out, each before its deadline and each accounted for.

A run without a clock takes sound as fast as it is read. A run on a clock opens frame i's slot when its sound is
there, chooses a schedule that fits, and counts what became of the frame. Read `Loop.advance` first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, UserError, unknown
from edgetalker.runtime.clock import LEAP_NS, Clock, Pace, SystemClock
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.ladder import Ladder, rehearse
from edgetalker.runtime.options import Checked
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.sources.values import InputSource
from edgetalker.runtime.talker import Talker

__all__ = ["LATE_POLICIES", "LatePolicy", "Loop", "Observer", "Options", "Tally", "drive"]

LatePolicy = Literal["hold", "skip", "send"]
LATE_POLICIES: tuple[LatePolicy, ...] = ("hold", "skip", "send")
_CATCH_UP = 60  # slots after a starved one in which sound may turn out to have been late; later it is another clock
_log = logging.getLogger("edgetalker.runtime.loop")
_POLL = 0.1  # seconds after which a wait for sound looks whether it was told to stop
_TURN_NS = 2_000_000  # between two looks at the sound of many loops


class Observer:
    """Sees every frame after the sinks did: a progress bar, a trace. Override what you need."""

    def frame(self, frame: Frame, start_ns: int) -> None:
        """Take one frame; `start_ns` is when its step began on the clock of the run."""

    def sound(self, total: int) -> None:
        """Take the number of samples heard so far."""


@dataclass(frozen=True)
class Options(Checked):
    """How to run.

    realtime: on the clock. schedule: always this one (default: the ladder when on the clock, else the fullest).
    late: for a frame that cannot be made in time, `hold` sends the last motion again, `skip` sends nothing, `send`
    makes and sends it late. budget: seconds from a frame's slot to its deadline (default: one frame). stall:
    seconds after which the watchdog says that a frame hangs. limit: stop after so many frames (0: none).
    """

    bounds: ClassVar = {"budget": (1e-6, 1000.0), "stall": (1e-3, 1e6), "limit": (0, math.inf)}
    realtime: bool = False
    schedule: str | None = None
    late: LatePolicy = "hold"
    budget: float | None = None
    stall: float = 1.0
    limit: int = 0


@dataclass
class Tally:
    """Counts of one run. `due` counts frame slots; it always equals the sum over the outcomes.

    schedules: frames made by each schedule. stalls: frames that took longer than the watchdog allows. broken: frames
    whose motion was NaN or Inf; they are held, and the model's states are put back to their start. resets: times the
    talker began anew. pauses: times the clock leapt because nobody ran, and paused: the frames' time that passed in
    them. None was due then, and the frames' own time stands still. interrupted: the run ended by a signal or `stop`.
    first_frame_ns: from the first sound that came to the first frame handed to the sinks. latest_ns: the worst
    lateness of a frame.
    """

    due: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    schedules: dict[str, int] = field(default_factory=dict)
    stalls: int = 0
    broken: int = 0
    resets: int = 0
    pauses: int = 0
    paused: int = 0
    interrupted: bool = False
    first_frame_ns: int | None = None
    latest_ns: int = 0

    def count(self, frame: Frame) -> None:
        """Count one due frame by its outcome."""
        self.due += 1
        self.outcomes[frame.outcome] += 1
        if frame.outcome in (Outcome.ON_TIME, Outcome.LATE):
            self.schedules[frame.schedule] = self.schedules.get(frame.schedule, 0) + 1
        if frame.outcome is Outcome.LATE:
            self.latest_ns = max(self.latest_ns, frame.done_ns - frame.due_ns)

    @property
    def made(self) -> int:
        """Frames that were computed."""
        return self.outcomes[Outcome.ON_TIME] + self.outcomes[Outcome.LATE]

    @property
    def balanced(self) -> bool:
        """Whether every due frame has exactly one outcome."""
        return self.due == sum(self.outcomes.values())

    def summary(self) -> str:
        """Return one line for people, such as `300 frames due: 298 on time, 2 late (worst 1.2 ms)`."""
        parts = []
        for outcome, count in self.outcomes.items():
            if count or outcome is Outcome.ON_TIME:
                worst = f" (worst {self.latest_ns / 1e6:.1f} ms)" if outcome is Outcome.LATE else ""
                parts.append(f"{count} {outcome.value.replace('_', ' ')}{worst}")
        if self.stalls:
            parts.append(f"{self.stalls} stalls")
        if self.broken:
            parts.append(f"{self.broken} with NaN or Inf, held")
        if self.pauses:
            parts.append(f"{self.pauses} {'pause' if self.pauses == 1 else 'pauses'} as long as {self.paused} frames")
        return f"{self.due} frames due: {', '.join(parts)}"


class Loop:
    """One run of one talker from one source to any number of sinks. `stop` and `reset` may come from any thread.

    A sink that fails costs itself alone: it is closed, which keeps what it made, and noted in `failed`; the run ends
    when no sink is left.
    """

    def __init__(
        self,
        talker: Talker,
        source: Source,
        sinks: Sequence[Sink],
        *,
        options: Options | None = None,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
        ladder: Ladder | None = None,
        inputs: Iterable[InputSource] = (),
    ) -> None:
        """On a clock, `ladder` should come from `rehearse`, called before a live source is opened; without one
        the loop rehearses now, and sound that arrives meanwhile waits.

        Raises OptionError when the source's rate is not the bundle's or an option does not fit.
        """
        self.talker, self.source, self.sinks = talker, source, _listed(sinks)
        _check_kinds(talker, source, self.sinks, options)
        self.options = options or Options()
        self.clock = clock or SystemClock()
        self.observers, self.inputs = tuple(observers), tuple(inputs)
        self.tally = Tally()
        self.failed: list[tuple[Sink, Exception]] = []
        # A frame's slot on the time line of the run: its index, the slots before the talker began anew, and those that
        # starved. `_slot` is the last one that was shown.
        self._before = self._starved = 0
        self._slot = -1
        self._waited_ns = self._caught_until = 0
        _check(talker, source, self.options)
        schedules = (self.options.schedule,) if self.options.schedule is not None else talker.schedules
        if ladder is None:
            ladder = rehearse(talker, schedules, self.clock) if self.options.realtime else Ladder(schedules)
        self._ladder = ladder
        audio, fps = talker.manifest.audio, talker.manifest.motion.fps
        budget = self.options.budget if self.options.budget is not None else 1 / float(fps)
        self._pace = Pace(audio.rate, fps, audio.lookahead, audio.block, int(budget * 1e9), audio.spread)
        self._open: list[Sink] = []
        self._closed: list[Sink] = []
        self._hearers: list[Sink] = []
        # Live sound is taken as it comes, so that its arrival is known; other sound only as far as needed.
        self._ahead = source.rate if self.options.realtime and source.live else 0
        self._stop, self._reset = threading.Event(), threading.Event()
        self._padded = False  # the sound ended, silence follows
        self._begin_ns: int | None = None
        self._heard_ns = 0  # when the last sound came; nothing is read while a frame is ready
        self._watchdog = Watchdog(self.options.stall, self.tally)
        self._timed = self.options.realtime or bool(self.observers)

    def stop(self) -> None:
        """End the run after the frame in hand; what was made so far is kept."""
        self._stop.set()

    def reset(self) -> None:
        """Begin anew with the next frame (barge-in): sound that was heard is forgotten, states are as at the start."""
        self._reset.set()

    def run(self) -> Tally:
        """Play until the sound ends, the limit is reached or `stop` is called. Sinks are closed in every case.

        Raises what the last sink raised when none is left, and what the source or the talker raise.
        """
        with self.opened():
            while self.advance(_POLL):
                pass
        return self.tally

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the sinks, and close them in the end."""
        with ExitStack() as opened:
            for source in self.inputs:
                opened.callback(source.close)
            for sink in self.sinks:
                sink.open(self.talker.layout)
                opened.callback(self._close, sink)
                self._open.append(sink)
            self._hearers = [sink for sink in self._open if type(sink).hear is not Sink.hear]
            if self.options.realtime:
                opened.enter_context(self._watchdog)
            yield
        self.tally.interrupted = self._stop.is_set()

    def advance(self, wait: float) -> bool:
        """Do the next thing: read sound, or make a frame. Returns False when the run is over.

        wait: seconds that may pass in waiting for sound or for the frame's slot; 0 returns at once instead.
        """
        talker, options = self.talker, self.options
        if self._stop.is_set() or (options.limit and self.tally.due >= options.limit):
            return False
        if self._reset.is_set():
            self._begin_anew()
        if self._padded and talker.index >= talker.spanned:
            return False
        while not talker.ready():
            if self.source.ended:
                # Frames whose start lies within the sound are made; the last ones hear silence after its end.
                if talker.index >= talker.spanned:
                    return False
                talker.pad()
                self._padded = True
            elif not self._read(wait):
                return True
        if options.realtime:
            self._play(wait)
        else:
            self._make(options.schedule or talker.schedules[0], 0, 0)
        return True

    def next_ns(self) -> int:
        """Return when `advance(0)` is next worth a call, on the run's clock."""
        if self.options.realtime and self.talker.ready() and self._pace.origin_ns is not None:
            return self._pace.slot_ns(self.talker.index)
        return self.clock.now_ns() + (_TURN_NS if self.source.live else 0)

    def _begin_anew(self) -> None:
        self._reset.clear()
        self._padded = False
        self.talker.reset()
        self._pace.restart()
        self._before, self._starved = self._slot + 1, 0
        self.tally.resets += 1
        for sink in self._open:
            sink.reset()

    def _read(self, wait: float) -> bool:
        """Read some sound. False when something else must be looked at first."""
        talker = self.talker
        wanted = talker.needs - talker.window.total + self._ahead
        samples = self.source.read(min(wanted, self.source.rate), self._timeout(wait))
        if len(samples):
            talker.take(samples)
            self._note(samples)
        if self.options.realtime and self._overdue():
            self._starve()
            return False
        return wait > 0 and not (self._stop.is_set() or self._reset.is_set())

    def _note(self, samples: NDArray[np.float32]) -> None:
        """Tell everybody whom sound concerns that some has come."""
        if self.options.realtime or self._begin_ns is None:
            self._heard_ns = self.clock.now_ns()
            self._begin_ns = self._begin_ns or self._heard_ns
        if self.options.realtime:
            self._pace.hear(self.talker.window.total, self._heard_ns)
            # Where every frame is sent, however late, none makes up for one that starved.
            if self._starved and self.tally.due < self._caught_until and self.options.late != "send":
                self._catch_up()
        for sink in self._hearers:
            sink.hear(samples, self.source.rate)
        for observer in self.observers:
            observer.sound(self.talker.heard)

    def _timeout(self, wait: float) -> float:
        if not wait or self._pace.origin_ns is None:
            return wait
        left = self._pace.due_ns(self.talker.index) - self.clock.now_ns()
        return min(max(left * 1e-9, 1e-3), wait)

    def _overdue(self) -> bool:
        if self._pace.origin_ns is None or self.talker.ready():
            return False
        return self.clock.now_ns() >= self._pace.due_ns(self.talker.index)

    def _starve(self) -> None:
        """The slot passes without its sound: the sample clock waits, so that late sound is not thrown away."""
        now = self.clock.now_ns()
        behind = now - self._pace.due_ns(self.talker.index)
        if behind > LEAP_NS:
            self._pause(behind)
            return
        frame = self.talker.still(Outcome.STARVED, due_ns=now, done_ns=now)
        self._pace.wait()
        self._hand_over(frame, now, send=True)
        self._starved += 1
        self._waited_ns, self._caught_until = self._pace.origin_ns or 0, self.tally.due + _CATCH_UP

    def _pause(self, behind: int) -> None:
        """The clock leapt: nobody ran, so no frame was due. All the periods that were missed pass at once."""
        missed = behind // self._pace.period_ns + 1
        self._pace.leap(missed)
        self.tally.pauses += 1
        self.tally.paused += missed
        _log.warning("the clock leapt by %.1f s (sleep, or a stop): a pause of %d frames", behind * 1e-9, missed)

    def _catch_up(self) -> None:
        """Sound that was late came after all, faster than it sounds: slots that starved were its own."""
        early = round((self._waited_ns - (self._pace.origin_ns or 0)) / self._pace.period_ns)
        caught = min(max(early, 0), self._starved)
        self._starved -= caught
        self._waited_ns -= caught * self._pace.period_ns

    def _play(self, wait: float) -> None:
        talker, index = self.talker, self.talker.index
        if talker.spread is not None:
            self._listen()
            talker.work()
        slot, due = self._pace.slot_ns(index), self._pace.due_ns(index)
        if not wait and self.clock.now_ns() < slot:
            return
        self._wait_until(slot)
        left, kind = due - self.clock.now_ns(), talker.due
        schedule = self._ladder.choose(left, kind)
        # Only a frame that is overdue is passed over: each time the loop has caught up one is made, so that the
        # ladder goes on learning and a machine that was slow is noticed to be fast again.
        hopeless = left < 0 and left + self._pace.period_ns < self._ladder.predict(schedule, kind)
        if hopeless and self.options.late != "send" and self.tally.made:
            self._let_pass(due)
        else:
            self._make(schedule, slot, due)
        if talker.spread is not None:
            self._listen()
            talker.work()

    def _wait_until(self, slot: int) -> None:
        """Sleep until the frame's slot; while a long piece runs beside the frames, look whether the next can begin."""
        spread = self.talker.spread
        while spread is not None and spread.aside.busy() and (now := self.clock.now_ns()) < slot:
            self.clock.sleep_until_ns(min(slot, now + _TURN_NS))
            self.talker.work()
        self.clock.sleep_until_ns(slot)

    def _listen(self) -> None:
        """Take the sound of the next block that has come by now: what is spread waits for it, no frame does yet."""
        talker, source = self.talker, self.source
        end = talker.next_block_needs
        while (room := end - talker.window.total) > 0:
            if source.ended:
                talker.pad(end)
                self._padded = True
                return
            if not source.live:  # a file has all of its sound at once; it comes by the clock all the same
                come = int(self._pace.sound_time(self.clock.now_ns()) * source.rate)
                room = min(room, come - talker.window.total)
            if room <= 0 or not len(samples := source.read(min(room, source.rate), 0.0)):
                return
            talker.take(samples)
            self._note(samples)

    def _make(self, schedule: str, slot: int, due: int) -> None:
        talker, timed = self.talker, self._timed
        kind = talker.due if timed else 0
        self._watchdog.begun_ns = start = self.clock.now_ns() if timed else 0
        for source in self.inputs:
            self._feed(source)
        frame = talker.make(schedule)
        if talker.broken:
            self._replace_broken(frame, due, start)
            return
        if timed:
            done, self._watchdog.begun_ns = self.clock.now_ns(), 0
            late = due > 0 and done > due
            self._ladder.learn(schedule, done - start, late=late, kind=kind)
            self._watchdog.check(frame.index, done - start)
            outcome = Outcome.LATE if late else Outcome.ON_TIME
            frame = replace(frame, outcome=outcome, heard_ns=self._heard_ns, slot_ns=slot, due_ns=due, done_ns=done)
        self._hand_over(frame, start, send=True)

    def _feed(self, source: InputSource) -> None:
        talker = self.talker
        time = float(talker.clock.frame_time(talker.index))
        for at, came_ns, values in source.take(time):
            if at is None and self._pace.origin_ns is not None:
                at = self._pace.sound_time(came_ns)
            talker.feed(source.name, values, time=at)

    def warnings(self) -> list[str]:
        """What was wrong with the sound and the inputs, a sentence each; to be shown after the run."""
        found = list(self.source.warnings())
        found += [text for source in self.inputs for text in source.warnings()]
        return found + [text for track in self.talker.inputs.values() for text in track.warnings()]

    def _replace_broken(self, frame: Frame, due: int, start: int) -> None:
        """NaN in a history stays there for ever, and receivers may crash on it: hold, and begin with new states."""
        if self.tally.broken == 0:
            _log.warning("frame %d came out as NaN or Inf; it is held, and the model's states begin anew", frame.index)
        self.tally.broken += 1
        self.talker.heal()
        now = self.clock.now_ns()
        held = replace(frame, motion=self.talker.motion, outcome=Outcome.HELD, schedule="", due_ns=due, done_ns=now)
        self._hand_over(held, start, send=True)

    def _let_pass(self, due: int) -> None:
        """A frame that is a frame late before it begins: passing over it is how the loop catches up."""
        outcome = Outcome.HELD if self.options.late == "hold" else Outcome.SKIPPED
        now = self.clock.now_ns()
        frame = self.talker.still(outcome, due_ns=due, done_ns=now)
        self.talker.skip()
        self._hand_over(frame, now, send=outcome is Outcome.HELD)

    def _hand_over(self, frame: Frame, start_ns: int, *, send: bool) -> None:
        if frame.index < 0:
            return  # motion of before the sound began, where the program is some frames behind it
        slot = frame.index + self._before + self._starved
        if slot <= self._slot and frame.outcome is Outcome.ON_TIME:  # it is shown, whatever the time line says
            self._starved += self._slot + 1 - slot
            slot = self._slot + 1
        if slot != frame.index:
            frame.time = slot / self.talker.manifest.motion.fps
        self.tally.count(frame)
        if send and slot > self._slot:  # else it is for a slot that starved, was shown then and is caught up
            self._slot = slot
            for sink in self._open:
                try:
                    sink.send(frame)
                except (UserError, OSError) as error:
                    self._drop(sink, error)
            if self.tally.first_frame_ns is None and self._begin_ns is not None:
                self.tally.first_frame_ns = self.clock.now_ns() - self._begin_ns
        for observer in self.observers:
            observer.frame(frame, start_ns)

    def _drop(self, sink: Sink, error: Exception) -> None:
        """A recording on a full disk must not stop the receivers."""
        self._open = [other for other in self._open if other is not sink]
        self.failed.append((sink, error))
        if not isinstance(error, BrokenPipeError):  # `| head`: the convention is silence
            _log.warning("an output failed and is left out from now on: %s", error)
        with suppress(UserError, OSError):  # a disk that is full is told once
            self._close(sink)
        if not self._open:
            raise error

    def _close(self, sink: Sink) -> None:
        if sink in self._closed:
            return
        self._closed.append(sink)
        sink.close()


class Watchdog:
    """Says of a frame that it hangs while it hangs: a thread that looks a few times a stall whether one is overdue.

    begun_ns: when the frame in hand was begun, 0 between frames. Time is the machine's, whatever clock the run has.
    """

    def __init__(self, stall: float, tally: Tally) -> None:
        self.begun_ns = 0
        self._stall, self._tally = stall, tally
        self._told_ns = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgetalker-watchdog", daemon=True)

    def check(self, index: int, cost_ns: int) -> None:
        """Take the cost of a frame that came back; one that was told of already is not counted twice."""
        if self._told_ns:
            _log.warning("frame %d came back after %.1f s", index, cost_ns * 1e-9)
            self._told_ns = 0
        elif cost_ns > self._stall * 1e9:
            self._tally.stalls += 1

    def _watch(self) -> None:
        seen, since = 0, 0.0
        while not self._end.wait(self._stall / 4):
            begun, now = self.begun_ns, time.monotonic()
            if begun != seen:
                seen, since = begun, now
            elif begun and not self._told_ns and now - since > self._stall:
                self._told_ns = begun
                self._tally.stalls += 1
                _log.warning("the frame in hand has taken more than %.1f s and is not back", self._stall)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def drive(loops: Sequence[Loop]) -> list[Tally]:
    """Run many loops in one thread, each frame in its slot, until all are over. Their clock must be the same.

    Returns their tallies. An error in one ends that one; it is raised when the others are done.
    """
    clock = loops[0].clock if loops else SystemClock()
    errors: list[Exception] = []
    with ExitStack() as opened:
        for loop in loops:
            opened.enter_context(loop.opened())
        running = list(loops)
        while running:
            running = [loop for loop in running if _advanced(loop, errors)]
            if running:
                now = clock.now_ns()
                clock.sleep_until_ns(min(max(min(loop.next_ns() for loop in running), now), now + _TURN_NS))
    if errors:
        raise errors[0]
    return [loop.tally for loop in loops]


def _advanced(loop: Loop, errors: list[Exception]) -> bool:
    try:
        return loop.advance(0.0)
    except (UserError, OSError) as error:
        errors.append(error)
        return False


def _listed(sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    """Return the sinks. Raises OptionError for what is no list, such as a file's name or one sink alone."""
    if isinstance(sinks, str) or not isinstance(sinks, Iterable):
        raise OptionError(f"{repr(sinks)[:60]} is no list of sinks", hint="[sink], for one")
    return tuple(sinks)


def _check_kinds(talker: object, source: object, sinks: Iterable[object], options: object) -> None:
    """Raise OptionError for an argument that is something else than was wanted: a file's name where its source is."""
    wanted = [
        (talker, ("make", "manifest"), "talker", "edgetalker.Talker(...)"),
        (source, ("read", "ended", "rate"), "source", "edgetalker.FileSource(name, rate) reads a file"),
        *(
            (sink, ("open", "send", "close"), "sink", "runtime.sinks.registry.sink_for(name) makes one")
            for sink in sinks
        ),
        (options or Options(), ("realtime", "late"), "Options", "edgetalker.Options(...)"),
    ]
    for given, names, what, hint in wanted:
        if isinstance(given, (str, type)) or not all(hasattr(type(given), n) or hasattr(given, n) for n in names):
            raise OptionError(f"{repr(given)[:60]} is no {what}", hint=hint)


def _check(talker: Talker, source: Source, options: Options) -> None:
    rate = talker.manifest.audio.rate
    if source.rate != rate:
        raise OptionError(f"the source has {source.rate} samples a second; the bundle hears {rate}")
    if talker.manifest.talkers != 1:
        raise OptionError(f"the bundle plays {talker.manifest.talkers} talkers in lock-step; a loop plays one")
    if options.late not in LATE_POLICIES:
        raise unknown("late policy", options.late, LATE_POLICIES)
    if options.schedule is not None and options.schedule not in talker.schedules:
        raise unknown("schedule", options.schedule, talker.schedules, "prepared are")
