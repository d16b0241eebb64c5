"""One speaker: what was heard, the state that one frame leaves for the next, and the call that makes a frame.

`make` allocates nothing on the device, binds nothing and captures nothing. It reads like the frame: choose what is due,
fill, launch, wait, copy. Everything that it launches was captured when the talker was made (captured.py, program.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.engine import Array, Buffer
from edgetalker.engines.errors import InputError, OptionError, real, unknown, whole
from edgetalker.runtime.captured import Captured
from edgetalker.runtime.clock import AudioWindow, SampleClock
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.inputs import Saved, Values, chosen, is_finite
from edgetalker.runtime.options import ModelOptions, TalkerOptions, given, split
from edgetalker.runtime.program import Replay
from edgetalker.runtime.rest import MouthRest
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.spread import Spread
from edgetalker.runtime.voice import DETECTORS, detector

if TYPE_CHECKING:
    from edgetalker.engines.bundle import Bundle
    from edgetalker.runtime.model import Model
    from edgetalker.runtime.sinks.play import Player

__all__ = ["Snapshot", "Talker"]


@dataclass(frozen=True)
class Snapshot:
    """All that a talker's next frames depend on, as `Talker.save` copied it."""

    bundle: str
    tensors: Mapping[str, Array]
    controls: Mapping[str, Saved]
    inputs: Mapping[str, list[tuple[float, NDArray[np.float32]]]]
    window: tuple[int, NDArray[np.float32]]
    index: int
    heard: int
    ran: tuple[int, ...]
    spread: tuple[int, int, int, str] | None
    motion: NDArray[np.float32]
    schedule: str
    utterance: int = 0


class Talker(Captured):
    """One talker, or several in lock-step where the bundle was made so.

    Any thread may call it, one at a time: a second one waits. `set` and `feed` never wait. Talkers of one model are
    independent: on the host they run side by side, on a GPU one after the other.
    """

    def __init__(self, model: Model | Bundle | Path | str | None = None, **options: Any) -> None:
        """Allocate, bind, warm and capture.

        model: an open Model, which stays open; or a bundle (a folder, the name of one that ships with the package, None
        for the shipped talker) that is opened for this talker alone and closed with it. options: of TalkerOptions and,
        with a bundle, of ModelOptions. Raises UserError subclasses for what is missing, wrong or unknown.
        """
        from edgetalker.runtime.model import Model

        if isinstance(model, Model):
            model.check_open()
            self._prepare(model, given(TalkerOptions, options))
            model.join(self)
            return
        for_model, for_talker = split(options, ModelOptions, TalkerOptions)
        model = Model(model, **for_model)
        try:
            self._prepare(model, TalkerOptions(**for_talker))
        except BaseException:
            model.close()
            raise
        model.join(self, alone=True)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse copy, deepcopy and pickle: a copy would share buffers and sound with this talker."""
        raise OptionError(
            "a talker can be neither copied nor pickled",
            hint="clone() gives another that goes on from here; save() gives a state for restore()",
        )

    def check_open(self) -> None:
        """Raise OptionError when the talker or its model is closed."""
        if self._closed:
            raise OptionError("the talker is closed", hint="make another one")
        if self.model.closed:
            raise OptionError("the talker's model is closed", hint="open it again")

    def _prepare(self, model: Model, options: TalkerOptions) -> None:
        audio, delay = model.bundle.manifest.audio, model.bundle.manifest.motion.delay
        if options.voice not in (None, *DETECTORS):
            raise unknown("voice detector", options.voice, DETECTORS)
        self.rate = audio.rate if options.rate is None else options.rate
        self._converter = Converter(self.rate, audio.rate)
        self._closed = False
        super().__init__(model, options)
        host = self.device.kind == "host"
        self._lock = threading.RLock() if host else model.lock
        self._hearing = threading.RLock()  # taken before the other; a model's talkers hear side by side
        self._mapped = bool(self.device.facts().get("integrated"))
        self._schedule = self.schedules[0] if options.schedule is None else options.schedule
        if self._schedule not in self.schedules:
            raise unknown("schedule", self._schedule, self.schedules, "prepared are")
        self.clock, self._delay = SampleClock(audio.rate, self.layout.fps, audio.lookahead, audio.block), delay
        # Room for two seconds that come at once, and for the block that the frames of the one before wait for.
        self._backlog = 2 * audio.rate + self.clock.end(0) + self.clock.boundary(audio.spread)
        self.window = AudioWindow(audio.window, backlog=self._backlog)
        self.spread: Spread | None = None
        if spread := [group for group in self._groups if group.spread]:
            self.spread = Spread(
                spread,
                self.clock,
                audio.spread,
                host=host,
                fill=self._fill_block,
                restart=self._put_back,
                wait=self.device.synchronize,
            )
        rests = options.voice is not None if options.rest is None else options.rest
        self.rest = self.mouth_rest() if rests else None
        self.player = _player(options.play, self.layout)
        self.index = self.heard = self.needs = 0
        self._ran: list[int] = []
        self._last_schedule, self.broken = self.schedules[0], False
        self._begin()

    def mouth_rest(self) -> MouthRest:
        """Return a new stage that rests this talker's mouth, with the detector of its options. Raises as `detector`."""
        rate = self.manifest.audio.rate
        return MouthRest(self.layout, rate, activity=detector(self.options.voice or DETECTORS[0], rate))

    # Sound, settings and values from outside

    def hear(self, samples: Any) -> None:
        """Take new sound: (n,) or (n, channels), n >= 0, float in [-1, 1] or 8, 16 or 32-bit integers, at `rate`.

        Raises InputError for another shape or type, or when two seconds wait unmade: make the frames that are ready.
        """
        with self._hearing:
            self.take(self._converted(samples))

    def _converted(self, samples: Any) -> NDArray[np.float32]:
        self.check_open()
        if self.manifest.talkers != 1:
            raise OptionError(
                f"the bundle plays {self.manifest.talkers} talkers in lock-step", hint="make(window=(talkers, window))"
            )
        try:
            sound = np.asarray(samples)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"what came is no sound: {error}", hint="(n,) or (n, channels) was wanted") from None
        return self._converter.convert(sound)

    def take(self, samples: NDArray[np.float32]) -> None:
        """Take sound as a source gives it: mono float32, finite, at the bundle's rate."""
        with self._hearing:
            if self.window.total + len(samples) - self.needs > self._backlog:
                raise InputError(
                    f"{len(samples)} more samples would push out sound that frame {self.index} has not heard",
                    hint="make the frames that are ready first, or use accept(), which does",
                )
            self.window.append(samples)
            self.heard = self.window.total
            if self.rest is not None:
                self.rest.hear(samples)
            if self.player is not None:
                self.player.hear(samples, self.manifest.audio.rate)

    def ready(self) -> bool:
        """Return whether all the sound that the next frame hears has come."""
        return self.window.total >= self.needs or self.audio is None

    @property
    def next_block_needs(self) -> int:
        """Number of samples after which all that the next block of frames hears has come."""
        block = self.clock.block
        return self.clock.end(-(-self.index // block) * block)

    def pad(self, end: int | None = None) -> None:
        """Let silence follow what was heard, up to sample `end` (default: as far as the next frame hears)."""
        with self._hearing:
            self.check_open()
            end = self.needs if end is None else whole("the end of the silence", end, least=0)
            if end - self.needs > self._backlog:
                raise InputError(
                    f"silence up to sample {end} would push out sound that frame {self.index} has not heard",
                    hint=f"up to {self.needs + self._backlog} it fits; make the frames that are ready, then pad on",
                )
            missing = end - self.window.total
            if missing > 0:
                silence = np.zeros(missing, np.float32)
                self.window.append(silence)
                if self.rest is not None:
                    self.rest.hear(silence)

    @property
    def position(self) -> float:
        """Second of the sound since the reset that can be heard now, with `play`: show the frames whose time it is.

        Without `play`, the end of what was heard.
        """
        return self.heard / self.manifest.audio.rate if self.player is None else self.player.position

    @property
    def spanned(self) -> int:
        """Number of frames that start before the end of what was heard; the last ones hear silence after it."""
        return self.clock.frames_spanned(self.heard) + (self._delay if self.heard else 0)

    def set(self, control: str, values: Values) -> None:
        """Change a control, such as set("emotion", {"joy": 0.7}), from the next frame on; it glides. From any thread.

        Raises OptionError for what does not exist or fit.
        """
        self.check_open()
        chosen("control", control, self.controls).set(values)

    def feed(self, name: str, values: Values, *, time: float | Fraction | None = None) -> None:
        """Take a value of an input or control, such as feed("gaze", [...], time=1.25), in seconds of sound since the
        reset. A control acts from then on as `set` does: it glides, and holds.

        time: default is the next frame's. From any thread. Raises OptionError for what does not exist or fit.
        """
        self.check_open()
        fed = chosen("input", name, self.fed)
        fed.feed(values, None if time is None else float(real(f"the time of `{name}`", time, least=-1e9, most=1e9)))

    # Frames

    def make(self, schedule: str | None = None, *, window: NDArray[np.float32] | None = None) -> Frame:
        """Make the next frame and return it; its motion is valid until the next one.

        schedule: name (default: the fullest). window: the samples [end(i) - window, end(i)) from the caller instead of
        what was heard, float32 (window,) or (talkers, window); `end(i)` less `window.size`, where negative, counts as
        before the stream's start. Raises InputError when it has another length, is not finite, or was not heard yet;
        OptionError for an unknown schedule.
        """
        with self._lock:
            start = time.perf_counter_ns()
            frame = self._prepared(schedule, window)
            frame.launch()
            if self._download is not None:
                self._download()
            self._wait()
            return self._frame(start)

    def _prepared(self, schedule: str | None, window: NDArray[np.float32] | None) -> Replay:
        """Fill and upload what the next frame reads, run the groups that are due, and return the frame's own work.

        Noted for `labels` and `durations`: also the pieces of a block whose results this frame is the first to see.
        """
        name, index = self._schedule if schedule is None else schedule, self.index
        frame = self._frames.get((name, index % self._period)) if isinstance(name, str) else None
        if frame is None:
            raise self._refusal(name)
        launches = self._due(name) if self._groups else ()
        ahead: Sequence[Replay] = ()
        self._inbound.glide(index)
        if self.spread is not None:
            ahead = self.spread.complete(index // self.clock.block, name, window)
        hears = frame.hears or (bool(launches) and any(replay.hears for replay in launches))
        self._fill(index, window, hears=hears)
        if self._upload is not None:
            self._upload()
        for replay in launches:
            replay.launch()
        self._last, self._last_schedule = (*ahead, *launches, frame), name
        return frame

    def _refusal(self, schedule: str) -> OptionError:
        self.check_open()
        return unknown("schedule", schedule, self.schedules, "prepared are")

    def _due(self, schedule: str) -> tuple[Replay, ...]:
        index, due = self.index, self.due
        return tuple(g.replays[schedule, index % g.period] for place, g in enumerate(self._groups) if due >> place & 1)

    def _fill(self, index: int, window: NDArray[np.float32] | None, *, hears: bool) -> None:
        """Fill the host's side of what frame `index` hears, and its counts and noise."""
        end = self.needs if index == self.index else self.clock.end(index)
        if window is not None:
            self._inbound.take_window(window, index)
        elif hears and self.audio is not None:
            if self.window.total < end:
                raise InputError(f"frame {index} hears {end} samples; {self.window.total} have come")
            self.window.read(end, self.audio[0])
        self._inbound.fill(index, min(end, self.window.size))

    def _frame(self, start: int) -> Frame:
        for slot, group in enumerate(self._groups):
            self._ran[slot] = self.index // group.every
        self.broken = not is_finite(self._staged)
        motion = self.motion
        if self.broken:
            motion = self._staged.copy()  # the last sound motion stays: held frames show it
        else:
            np.copyto(self._motion, self._staged)
        frame = Frame(
            index=self.index - self._delay,
            sample=self.needs,
            time=self.clock.frame_time(self.index - self._delay),
            motion=motion,
            schedule=self._last_schedule,
            cost_ns=time.perf_counter_ns() - start,
            inputs=self._inbound.values,
        )
        self._advance()
        self._inbound.foresee(self.index)
        return frame if self.rest is None else self.rest.apply(frame)

    def _advance(self) -> None:
        self.index += 1
        self.needs = self.clock.end(self.index)

    def still(self, outcome: Outcome, *, due_ns: int = 0, done_ns: int = 0) -> Frame:
        """Return the last sound motion once more, as the frame that was not made."""
        frame = Frame(
            index=self.index - self._delay,
            sample=self.needs,
            time=self.clock.frame_time(self.index - self._delay),
            motion=self.motion,
            outcome=outcome,
            due_ns=due_ns,
            done_ns=done_ns,
            inputs=self._inbound.values,
        )
        return frame if self.rest is None else self.rest.apply(frame)

    def skip(self) -> None:
        """Let one frame pass without making it. The history does what the manifest's `skipped` says."""
        with self._lock:
            self.check_open()
            repeat = self._repeats.get(self._last_schedule)
            if repeat is not None and self._last:
                repeat()
                if self._mapped:  # the shift may read an input that the next frame's filling overwrites
                    self.device.synchronize()
            self._advance()

    @property
    def due(self) -> int:
        """Which groups the next frame runs, a bit each: frames of different `due` differ in cost."""
        index = self.index
        found = 0
        for place, group in enumerate(self._groups):
            if index // group.every != self._ran[place] and not group.spread:
                found |= 1 << place
        return found

    # Frames whose steps run elsewhere, together with other talkers' (edgetalker.serve)

    def prepare(self, schedule: str | None = None) -> str:
        """Do all of `make` that comes before the steps of every frame; return the schedule. `finish` does the rest."""
        with self._lock:
            self._prepared(schedule, None)
            return self._last_schedule

    def launch(self) -> None:
        """Enqueue the steps of the frame that was prepared, as `make` does, without waiting for them."""
        with self._lock:
            self._last[-1].launch()
            if self._download is not None:
                self._download()

    def finish(self, start_ns: int) -> Frame:
        """Return the frame whose motion and states now lie in the talker's buffers. start_ns: when work on it began."""
        with self._lock:
            return self._frame(start_ns)

    def buffer(self, text: str) -> Buffer:
        """Return the buffer that the next frame's steps see for a reference such as `history` or `latents[phase]`."""
        return self._program.see(text, self.index)

    # Groups that are spread over the frames before they are needed (spread.py)

    def work(self) -> None:
        """Run what the plan has for this slot of the next block, if its sound has come; before a block's first frame,
        all that is left of it. Called between frames."""
        if self.spread is not None:
            with self._lock:
                self.spread.work(self.index, self.window.total, self._last_schedule, ready=self.ready())

    def _fill_block(self, index: int, window: NDArray[np.float32] | None) -> None:
        self._fill(index, window, hears=True)
        if self._upload is not None:
            self._upload()

    # State

    def heal(self) -> None:
        """Put every state back to its start and go on with the next frame: what mends a history that holds NaN."""
        with self._lock:
            self._put_back()

    def _put_back(self) -> None:
        self._restart()
        self.device.synchronize()

    def reseed(self, seed: int, stream: int) -> None:
        """Take the noise of another (seed, stream) from the next frame on, in every utterance that follows.

        Raises OptionError for one below 0.
        """
        self._inbound.reseed(seed, stream, self.manifest.talkers)

    def reset(self, *, repeat: bool = False) -> None:
        """Begin anew at frame 0 (barge-in): sound and frames so far are forgotten, states are as at the start, controls
        at their targets. Frees and allocates nothing, and waits for nothing.

        repeat: with the noise of the utterance before, as with a seed: the same sound gives the same frames.
        """
        with self._lock:
            self.check_open()
            self._converter = Converter(self.rate, self.manifest.audio.rate)
            self._inbound.forget()
            if self.rest is not None:
                self.rest.reset()
            if self.player is not None:
                self.player.reset()
            if not repeat:
                self._inbound.next_utterance()
            self._begin()

    def _begin(self) -> None:
        self._put_back() if self.spread is None else self.spread.reset()
        self.window.reset()
        self.heard = self.index = 0
        self.needs = self.clock.end(0)
        self._ran = [-1] * len(self._groups)
        self._last, self._last_schedule = (), self.schedules[0]
        self._motion.fill(0.0)
        self.broken = False
        self._inbound.settle()

    def rehearse(self, schedule: str, *, clock: Callable[[], int] = time.perf_counter_ns) -> Iterator[tuple[int, int]]:
        """Make two frames on silence, one with every group due and one with none, and yield (due, cost in ns) of each.

        The talker is as new afterwards; inputs that were fed stay.
        """
        silence = None if self.audio is None else np.zeros(self.audio.shape, np.float32)
        for _ in range(2 if self._groups else 1):
            if self.spread is not None:
                self.spread.complete(0, schedule, silence)
            due, start = self.due, clock()
            self.make(schedule, window=silence)
            yield due, clock() - start
        self._begin()

    def save(self) -> Snapshot:
        """Return a copy of all that the next frames depend on. Costs a download of every buffer."""
        with self._lock:
            self.check_open()
            spread = self.spread.save() if self.spread else None
            controls, inputs = self._inbound.save()
            return Snapshot(
                bundle=self.bundle.digest,
                tensors=self._memory.save(),
                controls=controls,
                inputs=inputs,
                window=self.window.save(),
                index=self.index,
                heard=self.heard,
                ran=tuple(self._ran),
                spread=spread,
                motion=self._motion.copy(),
                schedule=self._last_schedule,
                utterance=self._inbound.utterance,
            )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, of this talker or of another of a model of the same bundle.

        Raises InputError for a snapshot of another bundle.
        """
        with self._lock:
            self.check_open()
            if not isinstance(snapshot, Snapshot):
                raise InputError(f"a {type(snapshot).__name__} is no snapshot", hint="save() gives one")
            if snapshot.bundle != self.bundle.digest or not self._memory.fits(snapshot.tensors):
                raise InputError("the snapshot is of another bundle")
            self._begin()
            self._memory.restore(snapshot.tensors)
            self._inbound.restore(snapshot.controls, snapshot.inputs)
            self.window.restore(*snapshot.window)
            self._inbound.utterance = snapshot.utterance
            self.index, self.heard, self._ran = snapshot.index, snapshot.heard, list(snapshot.ran)
            self.needs = self.clock.end(self.index)
            self._last_schedule = snapshot.schedule if snapshot.schedule in self.schedules else self.schedules[0]
            if self.spread and snapshot.spread:
                self.spread.restore(snapshot.spread)
            np.copyto(self._motion, snapshot.motion)

    def clone(self) -> Talker:
        """Return another talker of the model that goes on from here as this one does."""
        self.check_open()
        other = Talker(self.model, **{**vars(self.options), "play": None})
        other.restore(self.save())
        return other

    # Pushed sound

    def accept(self, samples: Any, schedule: str | None = None) -> list[Frame]:
        """Take new sound (as `hear`) and return the frames that are now ready, oldest first, each with its own motion.

        The frames do not depend on how the sound was cut into pieces.
        """
        with self._hearing:
            return self._accept(self._converted(samples), schedule)

    def _accept(self, samples: NDArray[np.float32], schedule: str | None) -> list[Frame]:
        frames = []
        while len(samples):
            # Sound is taken up to the next frame's end, so that the window never has to hold all of it.
            piece = samples[: max(self.needs - self.window.total, 0)]
            samples = samples[len(piece) :]
            if len(piece):
                self.take(piece)
            while self.ready():
                frames.append(_kept(self.make(schedule)))
        return [frame for frame in frames if frame.index >= 0]

    def flush(self, schedule: str | None = None) -> list[Frame]:
        """The sound ended, for now: return the frames that its last part still has, as if silence followed.

        More sound may come afterwards; it continues after that silence.
        """
        with self._hearing:
            self.check_open()
            frames = self._accept(self._converter.finish(), schedule)
            spanned = self.spanned
            while self.index < spanned:
                self.pad()
                frames.append(_kept(self.make(schedule)))
            self._converter = Converter(self.rate, self.manifest.audio.rate)
        return [frame for frame in frames if frame.index >= 0]

    def end(self, index: int) -> int:
        """Return the sample after the last one that frame `index` sees (the audio contract)."""
        return self.clock.end(index)

    @property
    def listens(self) -> bool:
        """Whether the next frame reads the audio window; a block's later frames need not be given it."""
        name = self.schedules[0]
        begins = self.spread is not None and self.spread.shown != self.index // self.clock.block
        return begins or self._frames[name, self.index % self._period].hears or any(r.hears for r in self._due(name))

    def orphan(self) -> None:
        """The model closes: what was captured must not be launched again."""
        if self.spread is not None:
            self.spread.aside.close()
        self._frames, self._repeats = {}, {}

    def close(self) -> None:
        """Let go of the buffers. The model stays open, unless it was opened for this talker alone. What is left to be
        played is played first."""
        if self.player is not None:
            self.player.close()
        self.orphan()
        self._closed = True
        self.model.leave(self)

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _player(wanted: str | Player | None, layout: MotionLayout) -> Player | None:
    if wanted is None:
        return None
    from edgetalker.runtime.sinks.play import player_for

    player = player_for(wanted, free=True) if isinstance(wanted, str) else wanted
    player.open(layout)
    return player


def _kept(frame: Frame) -> Frame:
    motion = frame.motion.copy()
    motion.flags.writeable = False
    return replace(frame, motion=motion, inputs={name: values.copy() for name, values in frame.inputs.items()})
