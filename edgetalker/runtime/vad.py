"""Voice activity: is somebody speaking? Streaming, causal, numpy alone.

Every 10 ms the power spectrum of the last 32 ms gives a level (250 to 4000 Hz, dB) and its flatness (geometric over
arithmetic mean: 1 for white noise, near 0 for a voice). The level is compared with a noise floor that is the least
smoothed level of the last two seconds, as in minimum statistics (Martin 2001): speech pauses often enough for that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoiseFloor", "VoiceActivity"]

NEVER = -(1 << 62)
CLICK_SHARE = 0.9
"""A voice has two pulses or more in 32 ms, and rings after each: no 4 ms of it hold this much."""


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


class VoiceActivity:
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

    def speaking(self, sample: int, hang: float) -> bool:
        """Return whether there was voice in the `hang` seconds before `sample` (counted since the reset)."""
        return sample - self.last_voice <= hang * self.rate

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
