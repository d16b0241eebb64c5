"""What the host fills before a frame beside its sound: controls that glide, values from outside, noise by counter."""

from __future__ import annotations

import math
from bisect import insort_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.engines.manifest import Tensor

__all__ = ["PRESENCE", "Control", "CounterNoise", "Inbound", "NoiseSource", "NormalNoise", "Track"]

Values = Mapping[str, float] | Sequence[float] | NDArray[np.float32]


def places(what: str, names: Sequence[str], count: int, values: Values) -> list[tuple[int, float]]:
    """Return (place, value) of values by name or in order. Raises OptionError for a wrong name or count, or for what is
    no number."""
    try:
        if isinstance(values, Mapping):
            for name in values:
                if name not in names:
                    raise OptionError(f"{what} has no `{name}`; it has {', '.join(names)}{nearest(name, names)}")
            return [(names.index(name), float(value)) for name, value in values.items()]
        flat = np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{what} takes numbers: {error}") from None
    if len(flat) != count:
        raise OptionError(f"{what} takes {count} values, {len(flat)} came")
    return list(enumerate(flat.tolist()))


_HAIR = 1e-9
"""Seconds by which a time may miss its frame's: sums of fractions are rounded."""
Saved = tuple[NDArray[np.float32], NDArray[np.float32], tuple[tuple[float, list[tuple[int, float]]], ...]]
"""A control's targets, its values, and what waits: (time, (place, value)s)."""


class Control:
    """Values of one control tensor, moved towards their targets by at most a fixed stride a frame.

    The stride is (high - low) / (glide * fps): a value crosses its whole range in `glide` seconds. `set` and `feed` may
    come from any thread. What is set acts from the next frame on, what is fed for a time from the first frame there;
    both hold until something else comes. due: when the first value that waits for its time acts.
    """

    def __init__(self, tensor: Tensor, fps: Fraction, into: NDArray[np.float32]) -> None:
        """`into` is the staging memory, shape (..., places), that every frame uploads."""
        self.tensor = tensor
        self._target = np.array(tensor.default, np.float32)
        self._inbox: deque[tuple[float | None, list[tuple[int, float]]]] = deque()
        self._later: list[tuple[float, list[tuple[int, float]]]] = []
        self.due = math.inf
        self._into = into.reshape(-1, len(tensor.default))
        self._value = self._target.copy()
        self._move = np.empty_like(self._target)
        span = np.subtract(tensor.high or (1.0,) * len(self._target), tensor.low or (0.0,) * len(self._target))
        frames = tensor.glide * float(fps)
        self._stride = np.abs(span).astype(np.float32) / np.float32(frames) if frames > 0 else None
        self._back = -self._stride if self._stride is not None else None
        self.resting = False
        self.settle()

    @property
    def target(self) -> NDArray[np.float32]:
        """A copy of the targets, with what was set and is not heard yet."""
        target = np.array(self._target)
        for time, wanted in tuple(self._inbox):
            for place, value in wanted if time is None else ():
                target[place] = value
        return target

    @property
    def told(self) -> NDArray[np.float32]:
        """What places are that a source of values does not tell: the targets."""
        return self.target

    def set(self, values: Values) -> None:
        """Set targets: by name (the others keep theirs) or all places in order. Raises as `check` does."""
        self.feed(values, None)

    def feed(self, values: Values, time: float | None) -> None:
        """Set targets as `set` does from `time` on, in seconds of sound (None: from the next frame on)."""
        self._inbox.append((time, self.check(values)))
        self.resting = False

    def check(self, values: Values) -> list[tuple[int, float]]:
        """Return (place, value) of targets.

        Raises OptionError for an unknown name, a wrong count, NaN or a value outside the range.
        """
        tensor = self.tensor
        wanted = places(f"control `{tensor.name}`", tensor.names, len(self._target), values)
        for place, value in wanted:
            low = tensor.low[place] if tensor.low else -math.inf
            high = tensor.high[place] if tensor.high else math.inf
            if not low <= value <= high:
                name = tensor.names[place] if tensor.names else f"place {place}"
                raise OptionError(f"control `{tensor.name}`: {name} is {value:g}; {low:g} to {high:g} was wanted")
        return wanted

    def settle(self) -> None:
        """Jump to the targets: at a reset there is no past to glide from."""
        self._take(-math.inf)
        self._value[...] = self._target
        self._into[...] = self._value

    def arrive(self) -> None:
        """Set at once what waits for its time: an utterance ended, and a new one begins."""
        self._take(math.inf)
        self.resting = False

    def forget(self) -> None:
        """Forget what waits for its time: the sound's clock begins anew. What was set stays."""
        self._take(-math.inf)
        self._later.clear()
        self.due = math.inf

    def advance(self, time: float) -> None:
        """Glide one frame, the one at `time` in seconds of sound, and leave the values in the staging memory; `resting`
        when they have arrived."""
        self.resting = True
        self._take(time)
        if self._stride is None or self._back is None:
            self._into[...] = self._target
            return
        np.subtract(self._target, self._value, out=self._move)
        np.minimum(self._move, self._stride, out=self._move)
        np.maximum(self._move, self._back, out=self._move)
        self._value += self._move
        self._into[...] = self._value
        if self._move.any():
            self.resting = False

    def _take(self, now: float) -> None:
        while self._inbox:
            time, wanted = self._inbox.popleft()
            if time is None:
                self._aim(wanted)
            else:
                insort_right(self._later, (time, wanted), key=itemgetter(0))
        while self._later and self._later[0][0] <= now + _HAIR:
            self._aim(self._later.pop(0)[1])
        self.due = self._later[0][0] - _HAIR if self._later else math.inf

    def _aim(self, wanted: list[tuple[int, float]]) -> None:
        for place, value in wanted:
            self._target[place] = value

    def save(self) -> Saved:
        """Return copies of targets and values, and what waits for its time."""
        self._take(-math.inf)
        return self._target.copy(), self._value.copy(), tuple(self._later)

    def restore(self, saved: Saved) -> None:
        """Go on from what `save` returned."""
        self.forget()
        self._target[...], self._value[...], self._later[:] = saved
        self._into[...], self.resting = self._value, False


PRESENCE = "presence"


class Track:
    """Values of one `input` tensor, with times on the sound's clock.

    At time t the newest value at or before t holds; between two values a `linear` track interpolates. A value older
    than `stale` seconds gives way to the default. `feed` may come from any thread.

    A last place named `presence` says whether there is anybody who feeds: its default is 0, a value that does not tell
    it has 1, and nobody need feed such an input.
    """

    KEPT = 4096
    """Values that are kept for later frames; the oldest of more are dropped, and counted."""

    def __init__(self, tensor: Tensor, into: NDArray[np.float32]) -> None:
        """`into` is the staging memory, shape (..., places), that every frame uploads."""
        self.tensor = tensor
        self._into = into
        self.default = np.broadcast_to(np.array(tensor.default or 0.0, np.float32), into.shape).copy()
        self._inbox: deque[tuple[float | None, NDArray[np.float32]]] = deque()
        self._values: deque[tuple[float, NDArray[np.float32]]] = deque()
        self.fed = self.stale = self.dropped = 0
        self.clip = into.ndim > 2  # many rows for one talker: nobody has to feed one, and it is no value of a frame
        self.optional = tensor.names[-1:] == (PRESENCE,)
        self.told = self.default.copy()
        self.told[..., -1:] += float(self.optional)
        into[...] = self.default

    def warnings(self) -> list[str]:
        """What a user should know of this input after a run, a sentence each."""
        name, found = self.tensor.name, list[str]()
        if not self.fed and not self.clip and not self.optional:
            found.append(f"the bundle hears the input `{name}`, which nobody fed: its default was played")
        if self.stale:
            found.append(
                f"input `{name}` had no value that was new enough in {self.stale} frames: its default was played"
            )
        if self.dropped:
            found.append(f"input `{name}`: {self.dropped} values came more than {self.KEPT} ahead of their time")
        return found

    def feed(self, values: Values, time: float | None) -> None:
        """Take a value for `time` in seconds of sound (None: from the next frame on). Raises as `check` does."""
        self._inbox.append((time, self.check(values)))

    def check(self, values: Values) -> NDArray[np.float32]:
        """Return a value as the frame has it. By name: the others default.

        Raises OptionError for a wrong name, count or shape, for NaN, and for what is no number.
        """
        tensor = self.tensor
        if isinstance(values, Mapping):
            row: NDArray[np.float32] = self.told.copy()
            for place, value in places(f"input `{tensor.name}`", tensor.names, row.shape[-1], values):
                row[..., place] = value
        else:
            try:
                with np.errstate(over="ignore"):  # what is too large is Inf, and refused below
                    row = np.array(values, np.float32)
            except (TypeError, ValueError, OverflowError) as error:
                raise OptionError(f"input `{tensor.name}` takes numbers: {error}") from None
            if self.optional and row.size == self._into.shape[-1] - 1:
                row = np.append(row, np.float32(1.0))
            if row.size != self._into.size and row.shape != self._into.shape[-1:]:
                raise OptionError(f"input `{tensor.name}` is {tensor.spec}; values of shape {list(row.shape)} came")
            row = row.reshape(self._into.shape) if row.size == self._into.size else self.default * 0 + row
        if not np.isfinite(row).all():
            raise OptionError(f"input `{tensor.name}`: NaN or Inf came")
        return row

    def advance(self, time: float) -> None:
        """Leave the values of `time` (the frame's, in seconds of sound) in the staging memory."""
        while self._inbox:
            self._insert(*self._inbox.popleft(), time)
        values = self._values
        while len(values) > 1 and values[1][0] <= time:
            values.popleft()
        if not values or values[0][0] > time or (self.tensor.stale and time - values[0][0] > self.tensor.stale + 1e-9):
            self.stale += bool(self.fed)
            self._into[...] = self.default
            return
        at, row = values[0]
        if self.tensor.between == "linear" and len(values) > 1:
            share = np.float32((time - at) / (values[1][0] - at))
            row = row + share * (values[1][1] - row)
        self._into[...] = row

    def _insert(self, time: float | None, row: NDArray[np.float32], now: float) -> None:
        self.fed += 1
        at = now if time is None else time
        later = []
        while self._values and self._values[-1][0] >= at:
            if (last := self._values.pop())[0] > at:
                later.append(last)
        self._values.append((at, row))
        self._values.extend(reversed(later))
        while len(self._values) > self.KEPT:
            self._values.popleft()
            self.dropped += 1

    def reset(self) -> None:
        """Forget every value: the sound's clock begins anew."""
        self._inbox.clear()
        self._values.clear()
        self._into[...] = self.default

    def save(self) -> list[tuple[float, NDArray[np.float32]]]:
        """Return what is kept."""
        return list(self._values)

    def restore(self, saved: list[tuple[float, NDArray[np.float32]]]) -> None:
        """Go on from what `save` returned."""
        self.reset()
        self._values.extend(saved)


NoiseSource = Callable[[str, int, NDArray[np.float32]], None]
"""Fills the noise of tensor `name` for frame `index` into an array; what tests use to replay recorded noise."""


class NormalNoise:
    """Standard normal noise by counter (Philox 4x64; Salmon et al. 2011).

    The key is (seed, stream); the counter's upper words are the frame, and the tensor's place with the utterance above
    it, so that any frame's noise can be made again at any time, in any order, and streams never overlap.
    """

    def __init__(self, seed: int, stream: int = 0, place: int = 0) -> None:
        """Raises OptionError unless 0 <= seed, stream < 2**64 and 0 <= place < 2**32."""
        for name, value in (("seed", seed), ("stream", stream), ("place", place)):
            if not 0 <= value < 1 << 64:
                raise OptionError(f"{name} is {value}; 0 to 2**64 - 1 was wanted")
        self._bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state
        self._place = place

    def fill(self, frame: int, into: NDArray[np.float32], utterance: int = 0) -> None:
        """Fill a C-ordered float32 array of any shape with the noise of `frame` of an utterance (below 2**32)."""
        counter = self._state["state"]["counter"]
        counter[3] = self._place + (utterance << 32)
        counter[0] = 0
        counter[2] = frame
        self._state["buffer_pos"] = 4
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        self._generator.standard_normal(out=into, dtype=np.float32)


class CounterNoise:
    """The noise of a talker's tensors: row k of each is that of stream `stream` + k.

    utterance: counts the talker's resets; each has noise of its own, the first the one that (seed, stream) always gave.
    """

    def __init__(self, names: Sequence[str], seed: int, stream: int, talkers: int) -> None:
        """Raises OptionError for a seed or stream out of range."""
        self._makers = {
            name: [NormalNoise(seed, stream + talker, place) for talker in range(talkers)]
            for place, name in enumerate(names)
        }
        self.utterance = 0

    def __call__(self, name: str, frame: int, into: NDArray[np.float32]) -> None:
        """Fill the noise of tensor `name` for frame `frame`, a row a talker."""
        for place, maker in enumerate(self._makers[name]):
            maker.fill(frame, into[place : place + 1], self.utterance)


class Inbound:
    """The host's side of everything that a frame is told: its sound, counts, noise, controls and inputs.

    audio: the window, (talkers, window); None for a bundle that hears nothing. fed: inputs and controls, whose values
    may have times. values: each one's as the last frame heard it, for the record; clips are not in it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        staging: Mapping[str, NDArray[Any]],
        fps: Fraction,
        noise: NoiseSource | None,
        keys: tuple[int | None, int, int],
    ) -> None:
        """staging: by tensor, what is uploaded. noise: instead of the counter's. keys: seed (None: 0, and a fresh noise
        for each utterance), stream, talkers."""
        self._fps, self._own = fps, noise is None
        roles = {name: tensors[name].role for name in staging}
        self.audio: NDArray[np.float32] | None = next(
            (staging[n] for n, role in roles.items() if role == "audio"), None
        )
        self._heard = [staging[name] for name, role in roles.items() if role == "heard"]
        self._counts = [(staging[name], float(tensors[name].limit)) for name, r in roles.items() if r == "count"]
        self._noises = [(name, staging[name]) for name, role in roles.items() if role == "noise"]
        self.controls = {n: Control(tensors[n], fps, staging[n]) for n, role in roles.items() if role == "control"}
        self.tracks = {n: Track(tensors[n], staging[n]) for n, role in roles.items() if role == "input"}
        self.fed: dict[str, Track | Control] = {**self.tracks, **self.controls}
        clips = [name for name, track in self.tracks.items() if track.clip]
        self.values = {name: staging[name].reshape(-1) for name in self.fed if name not in clips}
        self._glides, self._moving = tuple(self.controls.values()), tuple(self.tracks.values())
        seed, stream, talkers = keys
        self._seeded = seed is not None
        self._counter = CounterNoise([name for name, _ in self._noises], seed or 0, stream, talkers)
        self._noise: NoiseSource = noise or self._counter
        self._noise_of = -1

    def reseed(self, seed: int, stream: int, talkers: int) -> None:
        """Take the noise of another (seed, stream) from the next frame on. Raises OptionError for one below 0."""
        self._noise = self._counter = CounterNoise([name for name, _ in self._noises], seed, stream, talkers)
        self._seeded, self._noise_of = True, -1

    @property
    def utterance(self) -> int:
        """Which utterance's noise it is; set by a snapshot."""
        return self._counter.utterance

    @utterance.setter
    def utterance(self, number: int) -> None:
        self._counter.utterance, self._noise_of = number, -1

    def next_utterance(self) -> None:
        """Go on to the next utterance's noise, unless a seed is fixed."""
        self.utterance += not self._seeded

    def glide(self, index: int) -> None:
        """Move controls and inputs on to frame `index`."""
        time = index * self._fps.denominator / self._fps.numerator
        for control in self._glides:
            if control.due <= time or not control.resting:
                control.advance(time)
        for track in self._moving:
            track.advance(time)

    def fill(self, index: int, heard: int) -> None:
        """Fill counts and noise of frame `index`, and how many samples of its window were heard."""
        for into in self._heard:
            into[0] = heard
        for into, limit in self._counts:
            into[0] = min(float(index), limit)
        if self._noise_of != index:
            self._make_noise(index)

    def foresee(self, index: int) -> None:
        """Make the noise of a frame to come, which then need not wait for it."""
        if self._own and self._noises:
            self._make_noise(index)

    def _make_noise(self, index: int) -> None:
        for name, values in self._noises:
            self._noise(name, index, values)
        self._noise_of = index

    def take_window(self, window: NDArray[np.float32], index: int) -> None:
        """Take a window from the caller. Raises InputError for another shape, NaN, or a bundle that hears nothing."""
        if self.audio is None:
            raise InputError("this bundle hears no audio; it is fed through `feed`")
        if not isinstance(window, np.ndarray) or window.dtype.kind != "f":
            kind = f"of {window.dtype}" if isinstance(window, np.ndarray) else f"a {type(window).__name__}"
            raise InputError(
                f"the window of frame {index} is {kind}; float32 ({self.audio.shape[1]},) was wanted",
                hint="np.asarray(window, np.float32)",
            )
        if window.shape not in (self.audio.shape, self.audio.shape[1:]):
            wanted = f"float32 ({self.audio.shape[1]},)"
            raise InputError(f"the window of frame {index} is {list(window.shape)}; {wanted} was wanted")
        self.audio[...] = window
        if not is_finite(self.audio):
            raise InputError(f"the window of frame {index} holds NaN or Inf")

    def settle(self) -> None:
        """Let every control jump to its target."""
        for control in self._glides:
            control.settle()

    def forget(self) -> None:
        """Forget every value from outside, but what controls were set to."""
        for track in self._moving:
            track.reset()
        for control in self._glides:
            control.forget()

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return copies of the controls' and the inputs' state."""
        controls = {name: control.save() for name, control in self.controls.items()}
        return controls, {name: track.save() for name, track in self.tracks.items()}

    def restore(self, controls: Mapping[str, Any], tracks: Mapping[str, Any]) -> None:
        """Go on from what `save` returned."""
        for name, saved in controls.items():
            self.controls[name].restore(saved)
        for name, kept in tracks.items():
            self.tracks[name].restore(kept)


def is_finite(values: NDArray[np.float32]) -> bool:
    """Return whether none of some values, of which there is one at least, is NaN or infinite; allocates nothing."""
    return math.isfinite(values.min()) and math.isfinite(values.max())  # a NaN is both; a sum would warn of Inf


def chosen(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """Return the control or input of a name. Raises OptionError for one that does not exist."""
    if not isinstance(name, str) or name not in known:
        there = f"this bundle's {kind}s are {', '.join(known)}" if known else f"this bundle has no {kind}s"
        raise OptionError(f"{there}; `{name}` is none{nearest(name, known)}")
    return known[name]
