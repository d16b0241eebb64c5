"""From whatever a source delivers to mono float32 at the bundle's rate, and what was wrong with it on the way.

The output is a function of the samples alone: how they were cut into packets changes no bit of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import MissingPackageError

__all__ = ["Converter", "SampleQueue", "mono"]

CLIPPED_SHARE = 1e-4
"""Clipping is worth a warning when at least this share of the samples touches full scale."""
FULL_SCALE = 1.0 - 2.0**-15
"""The largest value of 16-bit sound; a recording that touches it has most likely been cut off there."""


class Converter:
    """Turns packets of one stream into mono float32 in [-1, 1] at another rate.

    Samples that are NaN or infinite become 0, those beyond full scale are cut off; both are counted and
    reported by `warnings`. Channels are averaged. Other rates go through soxr's "HQ" streaming resampler (linear
    phase, flat to 0.91 of the lower rate's half), which holds back up to 40 ms of sound until its block is full.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        """Rates in samples a second. Raises MissingPackageError when they differ and soxr is not installed."""
        self.rate_in, self.rate_out = rate_in, rate_out
        self.samples = self.not_finite = self.clipped = 0
        self._resampler = None if rate_in == rate_out else _resampler(rate_in, rate_out)

    def convert(self, packet: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the packet adds to the output, shape (m,); m may be 0 while the resampler fills up.

        packet: shape (n,) or (n, channels), uint8, int16, int32, float32 or float64; integers are scaled so
        that their range becomes [-1, 1).
        """
        values = _as_float(packet)
        self._inspect(values)
        single = mono(values)
        if self._resampler is None:
            return single
        return _limited(self._resampler.resample_chunk(single))

    def finish(self) -> NDArray[np.float32]:
        """Return what the resampler still holds back. The converter takes no more packets after that."""
        empty = np.zeros(0, np.float32)
        return empty if self._resampler is None else _limited(self._resampler.resample_chunk(empty, last=True))

    def warnings(self) -> list[str]:
        """Return what was wrong with the sound so far, one sentence each; empty when nothing was."""
        found = []
        if self.not_finite:
            found.append(f"{self.not_finite} of {self.samples} samples were NaN or infinite and became silence")
        if self.clipped >= max(1.0, CLIPPED_SHARE * self.samples):
            found.append(f"{self.clipped} of {self.samples} samples are at full scale or beyond: the sound is clipped")
        return found

    def _inspect(self, values: NDArray[Any]) -> None:
        """Count faults and mend them in place; `values` is ours."""
        self.samples += values.size
        finite = np.isfinite(values)
        if not finite.all():
            self.not_finite += int(values.size - np.count_nonzero(finite))
            values[~finite] = 0
        self.clipped += int(np.count_nonzero(np.abs(values) >= FULL_SCALE))
        np.clip(values, -1, 1, out=values)


def mono(values: NDArray[Any]) -> NDArray[np.float32]:
    """Average the channels of (n,) or (n, channels) into (n,) float32.

    Channels are added one after the other, because the order in which `mean` adds depends on the packet's size.
    """
    if values.ndim == 1:
        single: NDArray[np.float32] = values.astype(np.float32, copy=False)
        return single
    total: NDArray[np.float32] = values[:, 0].astype(np.float32)
    for channel in range(1, values.shape[1]):
        total += values[:, channel].astype(np.float32)
    if values.shape[1] > 1:
        total /= np.float32(values.shape[1])
    return total


def _as_float(packet: NDArray[Any]) -> NDArray[Any]:
    """Return a float copy scaled to [-1, 1]; float64 stays so, because its values may not fit float32."""
    if packet.dtype.kind == "f":
        return np.array(packet)
    values: NDArray[np.float32] = packet.astype(np.float32)
    if packet.dtype == np.uint8:  # 8-bit WAV is the only unsigned format: 128 is silence
        values -= 128
    values *= np.float32(2.0 ** (1 - 8 * packet.dtype.itemsize))
    return values


def _limited(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off what the resampler's filter overshoots beyond full scale."""
    np.clip(samples, -1, 1, out=samples)
    return samples


def _resampler(rate_in: int, rate_out: int) -> Any:
    try:
        import soxr
    except ImportError:
        raise MissingPackageError(
            "soxr", f"sound at {rate_in} Hz for a bundle at {rate_out} Hz", extra="audio"
        ) from None
    return soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="HQ")


class SampleQueue:
    """Converted samples that wait to be read, first in first out."""

    def __init__(self) -> None:
        self._pieces: deque[NDArray[np.float32]] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, samples: NDArray[np.float32]) -> None:
        """Add samples, shape (n,); the array must not change any more."""
        if len(samples):
            self._pieces.append(samples)
            self._length += len(samples)

    def take(self, count: int) -> NDArray[np.float32]:
        """Remove and return the oldest `count` samples, or all there are when they are fewer."""
        count = min(count, self._length)
        self._length -= count
        taken = []
        while count > 0:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece[count:])
                piece = piece[:count]
            taken.append(piece)
            count -= len(piece)
        return taken[0] if len(taken) == 1 else np.concatenate([np.zeros(0, np.float32), *taken])
