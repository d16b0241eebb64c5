"""One talker's place in a batch: the sound that waits, the slots of its frames, what became of each.

Everything but `send` and `close` is called from the batch's thread alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, UserError
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.inputs import Values
from edgetalker.runtime.loop import Tally
from edgetalker.runtime.options import Checked
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.talker import Talker

__all__ = ["Event", "Flush", "Playing", "Reset", "Seat", "SeatOptions", "Set", "Sound", "Start"]


@dataclass(frozen=True)
class Sound:
    """Samples (n,) or (n, channels) at `rate`, and when they came (ns of the batch's clock)."""

    samples: NDArray[Any]
    rate: int
    came_ns: int


@dataclass(frozen=True)
class Start:
    """An utterance begins with the next sound; its clock is 0 there."""

    name: str = ""


@dataclass(frozen=True)
class Flush:
    """An utterance ends: silence follows its sound as far as its last frames hear."""


@dataclass(frozen=True)
class Reset:
    """Barge-in: sound and frames so far are forgotten; the talker begins anew. serial: counts the resets."""

    serial: int = 0


@dataclass(frozen=True)
class Set:
    """A control's new targets: from the next frame on, or from second `time` of the sound of the utterance that was
    started last."""

    control: str
    values: Values
    time: float | None = None


@dataclass(frozen=True)
class Playing:
    """The listener hears second `position` of the utterance at `when_ns` of the batch's clock."""

    position: float
    when_ns: int


Command = Sound | Start | Flush | Reset | Set | Playing


@dataclass(frozen=True)
class Event:
    """What a seat hands out: a frame, the end of an utterance, or a fault that ended or concerned it.

    time: exact start of the frame in seconds of the utterance's own sound. latency_ns: from the packet that completed
    what the frame hears (or its slot, where that came later) until it was made. serial: how often the seat began anew.
    """

    kind: str  # frame, end, fault
    utterance: str = ""
    serial: int = 0
    frame: Frame | None = None
    time: Fraction = Fraction(0)
    latency_ns: int = 0
    error: UserError | None = None


@dataclass(frozen=True)
class SeatOptions(Checked):
    """How a talker is played.

    seed, stream: key of its noise. paced: a frame a frame's time, by the playout clock that starts with the first
    frame; else every frame as soon as its sound is there, as fast as the batch goes. rest: ease the mouth to rest
    while nobody speaks. budget: seconds from a frame's slot to its deadline (default: one frame).
    """

    bounds: ClassVar = {"budget": (1e-6, 1000.0)}
    seed: int = 0
    stream: int = 0
    paced: bool = True
    rest: bool = False
    budget: float | None = None


class Seat:
    """A talker in a batch. `send` may be called from any thread."""

    def __init__(self, talker: Talker, options: SeatOptions, deliver: Callable[[Event], None], number: int) -> None:
        """deliver: called in the batch's thread with every event; it must not wait."""
        self.talker, self.options, self.deliver, self.number = talker, options, deliver, number
        self.tally = Tally()
        self.closed = self.held_back = False
        self.inbox: deque[Command] = deque()
        self.waiting = 0  # samples at the bundle's rate that no frame has heard
        audio, fps = talker.manifest.audio, talker.manifest.motion.fps
        self._period_ns = 1_000_000_000 / fps
        self.period_ns = int(self._period_ns)
        self._budget_ns = int((options.budget if options.budget is not None else float(1 / fps)) * 1e9)
        self._converter = Converter(audio.rate, audio.rate)
        self._queue: deque[tuple[NDArray[np.float32], int] | Start | Flush] = deque()
        self._later: list[tuple[int, Set]] = []  # of utterances to come, with their numbers
        self._utterance, self._starts = "", Fraction(0)
        self._sent = self._playing = 0  # the utterance that was started last, and that whose frames are made
        self._open = False  # sound came since the last flush
        self._started = False  # an utterance was started since then
        self._idle = True  # no sound is being played: before the first, and after an utterance's end
        self._origin_ns: int | None = None
        self._first = 0
        self._heard_ns = 0
        self.serial = 0
        self.outcome, self.latency_ns, self.skipped = Outcome.ON_TIME, 0, False
        talker.reset()
        talker.reseed(options.seed, options.stream)
        for control in talker.controls.values():
            control.set(control.tensor.default)
            control.settle()
        talker.rest = talker.mouth_rest() if options.rest else None

    def send(self, command: Command) -> None:
        """Take a command; it acts at the next tick. A reset overtakes what waits. From any thread."""
        self.inbox.append(command)

    # Commands

    def listen(self) -> None:
        """Take what came since the last tick. A fault in a command is told and costs that command alone."""
        while self.inbox:
            command = self.inbox.popleft()
            try:
                self._take(command)
            except UserError as error:
                self.deliver(Event("fault", self._utterance, self.serial, error=error))

    def _take(self, command: Command) -> None:
        if isinstance(command, Sound):
            self._hear(command)
        elif isinstance(command, Reset):
            self._begin_anew(command.serial)
        elif isinstance(command, Flush):
            self._open |= self._started  # who ends an utterance waits for its end, though there was no sound
            self._end()
        elif isinstance(command, Start):
            self._end()
            self._queue.append(command)
            self._sent += 1
            self._started = True
        elif isinstance(command, Playing):
            self._follow(command)
        else:
            _check_set(self.talker, command)
            if command.time is None or self._sent == self._playing:
                self._set(command)
            else:
                self._later.append((self._sent, command))

    def _set(self, command: Set) -> None:
        motion, time = self.talker.manifest.motion, command.time
        at = None if time is None else self._starts + Fraction(time) + motion.delay / motion.fps
        self.talker.feed(command.control, command.values, time=at)

    def _hear(self, sound: Sound) -> None:
        if sound.rate != self._converter.rate_in:
            self._add(self._converter.restart(sound.rate), sound.came_ns)
        self._add(self._converter.convert(sound.samples), sound.came_ns)
        self._open = True

    def _add(self, samples: NDArray[np.float32], came_ns: int) -> None:
        if len(samples):
            self._queue.append((samples, came_ns))
            self.waiting += len(samples)

    def _end(self) -> None:
        if self._open:
            self._add(self._converter.finish(), self._heard_ns)
            self._queue.append(Flush())
            self._open = self._started = False

    def _begin_anew(self, serial: int) -> None:
        self._queue.clear()
        self._later.clear()
        self._converter = Converter(self._converter.rate_in, self._converter.rate_out)
        self.waiting, self._open, self._started, self._idle = 0, False, False, True
        self._utterance, self._starts, self._playing = "", Fraction(0), self._sent
        self._origin_ns, self.serial = None, serial
        self.talker.reset()
        self.tally.resets += 1

    def _follow(self, playing: Playing) -> None:
        if self._origin_ns is not None:
            fps = self.talker.clock.fps
            ahead = int((self._starts + Fraction(playing.position)) * fps) - self._first
            self._origin_ns = playing.when_ns - int(ahead * self._period_ns)

    # Frames

    def ready(self, now_ns: int, until_ns: int) -> bool:
        """Return whether the next frame's sound is there and its slot begins by `until_ns`."""
        if not self._hears_enough():
            return False
        if not self.options.paced:
            return True
        if self._origin_ns is None:
            self._origin_ns, self._first = now_ns, self.talker.index
        return self.slot_ns <= until_ns

    def _hears_enough(self) -> bool:
        """Let the talker hear what the next frame needs, if it is there."""
        talker, queue = self.talker, self._queue
        while queue or not self._idle:
            head = queue[0] if queue else None
            if isinstance(head, Flush) and talker.index >= talker.spanned:
                queue.popleft()
                self._idle, self._origin_ns = True, None  # a block may be ready beyond the end: it waits for more sound
                self.deliver(Event("end", self._utterance, self.serial, time=self.time))
            elif isinstance(head, Start) and self._idle:
                queue.popleft()
                self._utterance = head.name
                self._starts = Fraction(talker.window.total, talker.manifest.audio.rate)
                self._playing += 1
                self._begin_utterance()
            elif talker.ready() and not self._idle:
                return True
            elif isinstance(head, Flush):
                talker.pad()
            elif isinstance(head, tuple):
                self._idle = False
                queue.popleft()
                samples, self._heard_ns = head
                missing = talker.needs - talker.window.total
                if missing > 0:
                    talker.take(samples[:missing])
                    self.waiting -= min(missing, len(samples))
                    samples = samples[missing:]
                if len(samples):
                    queue.appendleft((samples, self._heard_ns))
            else:
                return False
        return False

    def _begin_utterance(self) -> None:
        """Its second 0 is known now: what was wanted in it gets its times, after what the one before did not reach."""
        for control in self.talker.controls.values():
            control.arrive()
        for command in [command for number, command in self._later if number == self._playing]:
            self._set(command)
        self._later = [later for later in self._later if later[0] > self._playing]

    @property
    def time(self) -> Fraction:
        """Exact start of the next frame in seconds of the utterance's sound."""
        talker = self.talker
        return talker.clock.frame_time(talker.index - talker.manifest.motion.delay) - self._starts

    @property
    def slot_ns(self) -> int:
        """When the next frame is to be made; 0 when it is not on a clock."""
        if self._origin_ns is None:
            return 0
        return self._origin_ns + int((self.talker.index - self._first) * self._period_ns)

    @property
    def due_ns(self) -> int:
        """The next frame's deadline; 0 when it has none."""
        return self.slot_ns + self._budget_ns if self._origin_ns is not None else 0

    def starving(self, now_ns: int) -> bool:
        """Return whether the slot of a frame passed whose sound has not come, in the middle of an utterance."""
        return self._origin_ns is not None and self._open and now_ns >= self.due_ns

    def starve(self, now_ns: int) -> None:
        """Send the last motion again; the sample clock waits, so that late sound is not thrown away."""
        assert self._origin_ns is not None
        self._hand_over(self.talker.still(Outcome.STARVED, due_ns=self.due_ns, done_ns=now_ns), self.time, now_ns)
        self._origin_ns += self.period_ns

    def pause(self, now_ns: int) -> bool:
        """After a leap of the clock: let the periods that were missed pass at once. Returns whether there were any."""
        if self._origin_ns is None or now_ns < self.due_ns:
            return False
        missed = (now_ns - self.due_ns) // self.period_ns + 1
        self._origin_ns += int(missed * self._period_ns)
        self.tally.pauses += 1
        self.tally.paused += missed
        return True

    def hold(self, now_ns: int) -> None:
        """Pass over a frame that is too late: the motion before is sent again."""
        frame, time = self.talker.still(Outcome.HELD, due_ns=self.due_ns, done_ns=now_ns), self.time
        self.talker.skip()
        self._hand_over(frame, time, now_ns)

    def prepare(self, schedule: str) -> None:
        """Do what comes before the frame steps."""
        self.talker.prepare(schedule)

    def finish(self, start_ns: int, now_ns: int) -> bool:
        """Hand the frame out; return whether it was late."""
        talker, due, slot, time = self.talker, self.due_ns, self.slot_ns, self.time
        frame = talker.finish(start_ns)
        late = bool(due) and now_ns > due
        outcome = Outcome.LATE if late else Outcome.ON_TIME
        if talker.broken:
            self.tally.broken += 1
            talker.heal()
            frame, outcome = replace(frame, motion=talker.motion, schedule=""), Outcome.HELD
        frame = replace(frame, outcome=outcome, heard_ns=self._heard_ns, slot_ns=slot, due_ns=due, done_ns=now_ns)
        self._hand_over(frame, time, now_ns)
        return late

    def _hand_over(self, frame: Frame, time: Fraction, now_ns: int) -> None:
        if frame.index < 0:  # a chunk model's motion is behind its sound: these are of before the first
            return
        self.tally.count(frame)
        motion = frame.motion.copy()
        motion.flags.writeable = False
        frame = replace(frame, motion=motion)
        self.outcome, self.latency_ns = frame.outcome, now_ns - max(self._heard_ns, frame.slot_ns)
        self.deliver(Event("frame", self._utterance, self.serial, frame, time, self.latency_ns))


def _check_set(talker: Talker, command: Set) -> None:
    """Raise OptionError for a control or values that the bundle does not have, before their time comes."""
    if command.control not in talker.controls:
        known = ", ".join(talker.controls) or "none"
        raise OptionError(f"no control `{command.control}`; the bundle has {known}")
    talker.controls[command.control].check(command.values)
