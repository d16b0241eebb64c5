"""Sound out, in step with the face: the speech is held back until its frame is sent, and played from there.

A `Player` is a sink. The loop lends it the sound as it hears it and the frames as they are sent; a `Speaker` asks it
for the next samples and says when they will sound. Where the player should be, it knows from the frames: the sound of
second s belongs at the median of (frame sent - frame's second) + s + sync. Where it is, it knows from the card. The
difference is a drift of two clocks: small ones are followed by playing up to 0.5 % faster or slower (below what is
heard as another pitch), large ones by a jump, and both are counted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.clock import LEAP_NS
from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sinks.speakers import NullSpeaker, PortAudioSpeaker, Speaker, WavSpeaker

__all__ = ["PlayStatistics", "Player", "is_file", "player_for"]

STRIDE = 0.005  # the most by which playing may be faster or slower
_CATCH_UP = 1.0  # seconds in which a difference would be made up
_JUMP = 0.080  # seconds of difference beyond which there is no point in creeping
_FRAMES = 61  # whose sending times give the median
_KEPT = 600  # seconds of sound that may wait: what a synthesizer says at once


@dataclass
class PlayStatistics:
    """seconds: of speech played. underruns: times that speech was due and had not come. jumps: differences that were
    too large to creep after. drift_ppm: how much faster the card runs than the clock of the run. offset_ms: between a
    frame's sending and its sound, less `sync`, median of the last five seconds of speech; NaN before any."""

    seconds: float = 0.0
    underruns: int = 0
    jumps: int = 0
    drift_ppm: float = 0.0
    offset_ms: float = math.nan

    def __str__(self) -> str:
        offset = "" if math.isnan(self.offset_ms) else f", {self.offset_ms:+.1f} ms from its frames"
        return (
            f"played {self.seconds:.1f} s{offset}; {self.underruns} under-runs, {self.jumps} jumps, "
            f"drift {self.drift_ppm:+.0f} ppm followed"
        )


class Player(Sink):
    """Plays what the loop hears. With a talker that is given sound in bursts, `free`: from the first frame on, at its
    own pace."""

    def __init__(self, speaker: Speaker, *, sync: float = 0.0, free: bool = False, name: str = "play") -> None:
        """sync: seconds that the sound comes later than its frame leaves here (negative: earlier), which makes up for
        what a receiver takes to show it. Raises OptionError beyond two seconds."""
        if not -2.0 <= sync <= 2.0:
            raise OptionError(f"sync of {sync * 1e3:g} ms; -2000 to 2000 was wanted")
        self.speaker, self.sync, self.free, self.name = speaker, sync, free, name
        self.statistics = PlayStatistics()
        self._lock = threading.Lock()
        self._fps = 30.0
        self._rate = self._device_rate = 0
        self._steps = deque[float](maxlen=300)
        self._apart = deque[float](maxlen=500)
        self._clear()

    def _clear(self) -> None:
        self._pieces = deque[NDArray[np.float32]]()
        self._first = self._end = 0  # sample numbers since the reset: of the first piece, after the last one
        self._sent = deque[int](maxlen=_FRAMES)  # (sent - frame's time) in ns
        self._place: float | None = None  # of the next sample to be played
        self._sounding = (0.0, 0)  # place and when it sounds
        self._starved = False

    # The loop's side

    def open(self, layout: MotionLayout) -> None:
        """Note the frame rate; the card is opened with the first sound, whose rate it needs."""
        self._fps = float(layout.fps)

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        """Keep the sound until it is due. Raises DeviceError when the first cannot be played anywhere."""
        if not self._rate:
            self._rate = rate
            self._device_rate = self.speaker.start(rate, self.fill)
        with self._lock:
            self._pieces.append(np.array(samples, np.float32))
            self._end += len(samples)
            while self._end - self._first > _KEPT * rate and len(self._pieces) > 1:
                self._first += len(self._pieces.popleft())

    def send(self, frame: Frame) -> None:
        """Learn when a frame left; frames that were held show older motion, but at their own time."""
        if frame.outcome is Outcome.STARVED:  # the sample clock waits with it
            return
        at = (frame.done_ns or time.perf_counter_ns()) - int(frame.index * 1e9 / self._fps)
        with self._lock:
            if self._sent and at - self._sent[-1] > LEAP_NS:  # a pause: the median would stay before it for a second
                self._sent.clear()
            self._sent.append(at)

    def reset(self) -> None:
        """Be silent at once (barge-in): what waits is forgotten, and places are counted from 0 again."""
        with self._lock:
            self._clear()

    def close(self) -> None:
        """Stop playing. What waits is played out first, for as long as it lasts."""
        if self._rate:
            end = time.monotonic() + min(self._left(), 5.0) + 0.2
            while self._left() > 0 and time.monotonic() < end:
                time.sleep(0.01)
            self.speaker.close()
            self._count()

    def _left(self) -> float:
        with self._lock:
            if self._place is None and not (self._sent or self.free):
                return 0.0
            return max(self._end - (self._place or 0.0), 0.0) / self._rate

    @property
    def position(self) -> float:
        """Seconds of sound, since the last reset, that can be heard now; negative before the first of it."""
        with self._lock:
            place, at = self._sounding
            if self._place is None or not self._rate:
                return 0.0
            return min(place + (time.perf_counter_ns() - at) * 1e-9 * self._rate, float(self._end)) / self._rate

    # The card's side

    def fill(self, into: NDArray[np.float32], sounds_ns: int) -> None:
        """Give the next samples, of which the first will sound at `sounds_ns`; silence where there are none."""
        with self._lock:
            into.fill(0.0)
            stride = self._follow(sounds_ns)
            if self._place is None:
                return
            self._sounding = (self._place, sounds_ns)
            places = self._place + stride * np.arange(len(into), dtype=np.float64)
            here = int(np.searchsorted(places, self._end - 2, side="left")) if self._end - 2 > self._place else 0
            begun = int(np.searchsorted(places, self._first, side="left"))
            if here > begun:
                into[begun:here] = self._read(places[begun:here])
                self.statistics.seconds += (here - begun) / self._device_rate
                self.statistics.underruns += self._starved  # a gap is one when sound follows it
                self._note(sounds_ns)
            if here < len(into):  # speech is due and has not come: the place waits for it
                self._place = float(places[here]) if here else max(self._place, 0.0)
            else:
                self._place = float(places[-1] + stride)
            self._starved = here < len(into)

    def _note(self, sounds_ns: int) -> None:
        if self._sent:
            apart = (sounds_ns - median(self._sent)) * 1e-6 - self._sounding[0] * 1e3 / self._rate
            self._apart.append(apart - self.sync * 1e3)

    def _follow(self, sounds_ns: int) -> float:
        """Return the samples of sound for each of the card's; set the place where there is none or it is far off."""
        stride = self._rate / self._device_rate if self._device_rate else 1.0
        if self.free:
            if self._place is None and self._end:
                self._place = 0.0
            return stride
        if not self._sent:
            return stride
        wanted = (sounds_ns - median(self._sent)) * 1e-9 - self.sync
        if self._place is None or (not self._starved and abs(wanted - self._place / self._rate) > _JUMP):
            self.statistics.jumps += self._place is not None
            self._place = wanted * self._rate
            return stride
        if self._starved:
            self._place = min(wanted * self._rate, max(self._end - 2.0, 0.0))
            return stride
        behind = wanted - self._place / self._rate
        share = min(max(behind / _CATCH_UP, -STRIDE), STRIDE)
        self._steps.append(share)
        return stride * (1.0 + share)

    def _read(self, places: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the sound at places between samples, by cubics through four of them (Catmull-Rom)."""
        while len(self._pieces) > 1 and self._first + len(self._pieces[0]) < places[0] - 1:
            self._first += len(self._pieces.popleft())
        span = int(places[-1]) + 3 - self._first
        taken, count = [], 0
        for piece in self._pieces:
            taken.append(piece)
            count += len(piece)
            if count >= span:
                break
        sound = np.concatenate(taken)
        whole = np.floor(places).astype(np.int64)
        t = (places - whole).astype(np.float32)
        a, b, c, d = (sound[np.clip(whole - self._first + k, 0, len(sound) - 1)] for k in (-1, 0, 1, 2))
        return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))

    def _count(self) -> None:
        if self._steps:
            self.statistics.drift_ppm = -1e6 * float(np.mean(self._steps))
        if self._apart:
            self.statistics.offset_ms = median(self._apart)


def is_file(target: str | None) -> bool:
    """Return whether what is played goes into a file."""
    return target is not None and target.lower().endswith(".wav")


def player_for(target: str | None, *, sync: float = 0.0, free: bool = False) -> Player:
    """Return a player for a device's number or name (None or ``: the default one), a file `.wav`, or `null`."""
    speaker: Speaker
    if target == "null":
        speaker = NullSpeaker()
    elif target is not None and is_file(target):
        speaker = WavSpeaker(Path(target))
    else:
        speaker = PortAudioSpeaker(target or None)
    return Player(speaker, sync=sync, free=free, name=f"play {target}" if target else "play")
