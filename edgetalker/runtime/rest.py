"""Is somebody speaking, and the mouth that rests in silence. Streaming, causal, numpy alone.

Every 10 ms the power spectrum of the last 32 ms gives a level (250 to 4000 Hz, dB) and its flatness (geometric over
arithmetic mean: 1 for white noise, near 0 for a voice). The level is compared with a noise floor that is the least
smoothed level of the last two seconds, as in minimum statistics (Martin 2001): speech pauses often enough for that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout, Outcome

__all__ = ["MouthRest", "NoiseFloor", "Voice", "VoiceActivity", "speech_shapes"]

NEVER = -(1 << 62)
CLICK_SHARE = 0.9
"""A voice has two pulses or more in 32 ms, and rings after each: no 4 ms of it hold this much."""


class Voice(Protocol):
    """Hears sound in order and remembers when there last was a voice. hang: seconds that speech outlasts it. rate:
    samples a second. last_voice: number of samples since the reset after which there last was a voice."""

    hang: float
    rate: int
    last_voice: int

    def hear(self, samples: NDArray[np.float32]) -> None: ...

    def reset(self) -> None: ...

    def speaking(self, sample: int, hang: float) -> bool:
        """Return whether there was voice in the `hang` seconds before `sample` (counted since the reset)."""
        return sample - self.last_voice <= hang * self.rate


class NoiseFloor:
    """The least value of the last `blocks * length` hops, kept as a minimum a block: constant work, no list grows."""

    def __init__(self, start: float, blocks: int = 8, length: int = 25) -> None:
        self._start, self._length = start, length
        self._minima = np.full(blocks, np.inf)
        self.reset()

    def add(self, level: float) -> float:
        """Take one level and return the floor."""
        place = self._hop // self._length % len(self._minima)
        if self._hop % self._length == 0:
            self._minima[place] = level
        self._minima[place] = min(self._minima[place], level)
        self._hop += 1
        return self.value

    @property
    def value(self) -> float:
        """The floor; during the first half second at most the value it began with: speech may start at once."""
        least = float(self._minima.min())
        return min(least, self._start) if self._hop < 50 else least

    def reset(self) -> None:
        """Forget everything heard."""
        self._minima[:] = np.inf
        self._hop = 0


class VoiceActivity(Voice):
    """Says after every 10 ms whether there is voice, and remembers when there last was.

    Voice is a level `clear` dB above the floor, or `near` dB above it with a spectrum that is not flat, and never
    below `quiet` dBFS. Two such hops in a row begin it. A click is in several hops, because their windows overlap;
    it is told by its power, of which a window holds nearly all within 4 ms. Not for use from two threads.
    """

    def __init__(self, rate: int, *, clear: float = 12.0, near: float = 6.0, quiet: float = -55.0) -> None:
        """rate: samples a second, at least 8000. Raises ValueError below."""
        if rate < 8000:
            raise ValueError(f"{rate} samples a second hold too little of a voice; 8000 are wanted")
        self.rate, self.clear, self.near, self.quiet = rate, clear, near, quiet
        self.hang = 0.25
        self.hop = rate // 100
        self._size = rate * 32 // 1000
        self._slots = np.arange(0, self._size - self._size // 16, self._size // 16)
        self._window = np.hanning(self._size + 1)[:-1].astype(np.float32)
        frequencies = np.fft.rfftfreq(self._size, 1 / rate)
        self._level_band = (frequencies >= 250) & (frequencies <= 4000)
        self._flat_band = (frequencies >= 300) & (frequencies <= 4000)
        self._scale = 2.0 / (self._size * float((self._window**2).sum()))
        self._floor = NoiseFloor(-50.0)
        self._tail = np.zeros(self._size, np.float32)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream. The noise floor stays: the room is the same."""
        self._tail[:] = 0
        self._pending = np.zeros(0, np.float32)
        self.total = 0
        self.last_voice = NEVER
        self.level = -120.0
        self.flatness = 1.0
        self._smooth = -120.0
        self._run = 0

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Take sound, shape (n,), mono float32, cut in any way: the result does not depend on the cuts."""
        self._pending = np.concatenate([self._pending, samples]) if len(self._pending) else samples
        hops = len(self._pending) // self.hop
        for hop in range(hops):
            self._take(self._pending[hop * self.hop : (hop + 1) * self.hop])
        self._pending = self._pending[hops * self.hop :].copy()

    @property
    def floor(self) -> float:
        """The noise floor in dBFS."""
        return self._floor.value

    def _take(self, samples: NDArray[np.float32]) -> None:
        self._tail[: -self.hop] = self._tail[self.hop :]
        self._tail[-self.hop :] = samples
        self.total += self.hop
        power = np.abs(np.fft.rfft(self._tail * self._window)) ** 2 * self._scale
        self.level = 10 * float(np.log10(power[self._level_band].sum() + 1e-12))
        band = power[self._flat_band] + 1e-14
        self.flatness = float(np.exp(np.log(band).mean()) / band.mean())
        self._smooth = self.level if self.total == self.hop else 0.7 * self._smooth + 0.3 * self.level
        above = self.level - self._floor.add(self._smooth)
        loud = above > self.clear or (above > self.near and self.flatness < 0.25)
        self._run = self._run + 1 if loud and self.level > self.quiet and not self._clicks() else 0
        if self._run >= 2:
            self.last_voice = self.total

    def _clicks(self) -> bool:
        """Whether two neighbouring sixteenths of the window (2 ms each) hold most of its power."""
        power = np.add.reduceat(self._tail * self._tail, self._slots)
        return float((power[1:] + power[:-1]).max()) > CLICK_SHARE * float(power.sum())


def speech_shapes(layout: MotionLayout) -> NDArray[np.intp]:
    """Return the places of the shapes that speech moves: jaw, lips, tongue, cheeks' puff.

    Smile, frown and dimple stay out: they carry the expression, which does not end with the voice. Motion without
    ARKit names has none.
    """
    kept = ("MouthSmile", "MouthFrown", "MouthDimple")
    moved = ("Jaw", "Mouth", "Tongue", "CheekPuff")
    names = layout.names if layout.kind == "arkit" else ()
    return np.array([i for i, n in enumerate(names) if n.startswith(moved) and not n.startswith(kept)], dtype=np.intp)


class MouthRest:
    """Eases speech shapes to 0 while nobody speaks; the rest of the face passes untouched.

    Speech ends `hang` seconds after the last voice; the mouth then closes over `release` seconds and comes back
    over `attack` seconds. Sound that does not come (a starved frame) counts as silence.
    """

    def __init__(
        self,
        layout: MotionLayout,
        rate: int,
        *,
        hang: float | None = None,
        attack: float = 0.04,
        release: float = 0.2,
        activity: Voice | None = None,
    ) -> None:
        """rate: samples a second of what `hear` takes. Times in seconds; hang: the detector's own where it is None.

        activity: the detector (`runtime.voice.detector`); by default VoiceActivity.
        """
        self.activity: Voice = activity or VoiceActivity(rate)
        self.gain = 0.0
        self._hang = self.activity.hang if hang is None else hang
        self._rise, self._fall = (1 / (max(time, 1e-6) * float(layout.fps)) for time in (attack, release))
        self._shapes = speech_shapes(layout)
        self._motion = np.zeros(layout.shape, np.float32)
        self._per_frame = rate / float(layout.fps)
        self._missing = 0.0

    def reset(self) -> None:
        """The talker begins anew: samples are counted from 0 again."""
        self.activity.reset()
        self._missing = 0.0

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Take the sound that the talker takes, in order."""
        self.activity.hear(samples)
        self._missing = 0.0

    def apply(self, frame: Frame) -> Frame:
        """Return the frame with its mouth at rest as far as it is quiet; its motion is reused by the next call."""
        if frame.outcome is Outcome.STARVED:
            self._missing += self._per_frame
        speaking = self.activity.speaking(frame.sample + int(self._missing), self._hang)
        self.gain = min(self.gain + self._rise, 1.0) if speaking else max(self.gain - self._fall, 0.0)
        if self.gain == 1.0 or not len(self._shapes):
            return frame
        np.copyto(self._motion, frame.motion)
        self._motion[self._shapes] *= np.float32(self.gain * self.gain * (3 - 2 * self.gain))
        return replace(frame, motion=self._motion)
