"""From whatever a source delivers to mono float32 at the bundle's rate, and what was wrong with it on the way.

The output is a function of the samples alone: how they were cut into packets changes no bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError, unknown, whole

__all__ = [
    "CHANNELS",
    "ENCODINGS",
    "RATES",
    "Converter",
    "Encoding",
    "Resampler",
    "checked_channel",
    "encoding",
    "mono",
]

CHANNELS = 64
"""More than any real recording has; a corrupt header may claim thousands."""
RATES = (1000, 768_000)
"""Samples a second that any real recording has."""
CLIPPED_SHARE = 1e-4
"""Clipping is worth a warning when at least this share of the samples touches full scale."""
FULL_SCALE = 1.0 - 2.0**-15
"""The largest value of 16-bit sound; a recording that touches it has most likely been cut off there."""
CANCELLED = 1e-3
"""Channels whose average has less than this share of their own power (-30 dB) are out of phase."""


class Converter:
    """Turns packets of one stream into mono float32 in [-1, 1] at another rate.

    Samples that are NaN or infinite become 0, those beyond full scale are cut off; both are counted and
    reported by `warnings`. Channels are averaged, unless one is chosen. Other rates go through `Resampler`.
    """

    def __init__(self, rate_in: int, rate_out: int, *, channel: int | None = None) -> None:
        """Rates in samples a second. channel: play this one alone, counted from 1 (default: the average).

        Raises OptionError for an input rate outside RATES, for an output rate or a channel below 1, and for what is no
        whole number.
        """
        rate_in, rate_out = whole("the sound's rate", rate_in), whole("the rate to play at", rate_out, least=1)
        _check_rate(rate_in)
        self.rate_in, self.rate_out, self._channel = rate_in, rate_out, checked_channel(channel)
        self.samples = self.not_finite = self.clipped = 0
        self._power = self._mixed = 0.0
        self._resampler = None if rate_in == rate_out else Resampler(rate_in, rate_out)

    @property
    def delay(self) -> float:
        """Seconds by which sound is held back: half the resampler's filter, 0 without one."""
        return self._resampler.delay if self._resampler else 0.0

    def convert(self, packet: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the packet adds to the output, shape (m,); m may be 0 while the resampler's filter fills.

        packet: shape (n,) or (n, channels), 8, 16 or 32-bit integers, float32 or float64; integers are scaled so
        that their range becomes [-1, 1). Raises InputError for another shape or type.
        """
        _check(packet)
        values = self._inspected(_as_float(packet))
        single = self._one_channel(values)
        return single if self._resampler is None else _limited(self._resampler.push(single))

    def finish(self) -> NDArray[np.float32]:
        """Return what the resampler still holds back. The next packet begins a new stream."""
        return np.zeros(0, np.float32) if self._resampler is None else _limited(self._resampler.finish())

    def restart(self, rate_in: int) -> NDArray[np.float32]:
        """Go on at another rate, as after a device was opened again; returns what `finish` does. Counts go on.

        Raises OptionError for an input rate outside RATES.
        """
        rate_in = whole("the sound's rate", rate_in)
        _check_rate(rate_in)
        rest = self.finish()
        if rate_in != self.rate_in:
            self.rate_in = rate_in
            self._resampler = None if rate_in == self.rate_out else Resampler(rate_in, self.rate_out)
        return rest

    def warnings(self) -> list[str]:
        """Return what was wrong with the sound so far, one sentence each; empty when nothing was."""
        found = []
        if self.not_finite:
            found.append(f"{self.not_finite} of {self.samples} samples were NaN or infinite and became silence")
        if self.clipped >= max(1.0, CLIPPED_SHARE * self.samples):
            found.append(f"{self.clipped} of {self.samples} samples are at full scale or beyond: the sound is clipped")
        if self._mixed < CANCELLED * self._power:
            found.append("the channels cancel each other: their average is all but silent; --channel 1 plays one alone")
        return found

    def _inspected(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Count faults and mend them in place; `values` is ours."""
        self.samples += values.size
        # Both are false for NaN: what is left is inside, and mostly that is all there is to do.
        if not (np.max(values, initial=0.0) < FULL_SCALE and np.min(values, initial=0.0) > -FULL_SCALE):
            finite = np.isfinite(values)
            self.not_finite += int(values.size - np.count_nonzero(finite))
            values[~finite] = 0
            self.clipped += int(np.count_nonzero(np.abs(values) >= FULL_SCALE))
            np.clip(values, -1, 1, out=values)
        return values.astype(np.float32, copy=False)

    def _one_channel(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        count = 1 if values.ndim == 1 else values.shape[1]
        if self._channel is not None and self._channel > count:
            raise OptionError(f"channel {self._channel} was wanted; the sound has {count}")
        if count == 1 or self._channel is not None:
            return values if values.ndim == 1 else values[:, (self._channel or 1) - 1].copy()
        single = mono(values)
        self._power += float(np.vdot(values, values)) / values.shape[1]
        self._mixed += float(np.vdot(single, single))
        return single


def checked_channel(channel: int | None) -> int | None:
    """Return which channel is played alone. Raises OptionError for one below 1, and for what is no whole number."""
    return None if channel is None else whole("`channel`", channel, least=1, hint="channels count from 1; None is all")


def mono(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels of (n, channels) into (n,) float32.

    Channels are added one after the other: the order in which `mean` adds depends on how the array lies in memory.
    """
    total: NDArray[np.float32] = values[:, 0].astype(np.float32)
    for channel in range(1, values.shape[1]):
        total += values[:, channel]
    total /= np.float32(values.shape[1])
    return total


class Resampler:
    """Polyphase FIR resampling that keeps pace with its input: every packet gives all that its samples determine.

    Libraries' streams work in blocks of 20 to 100 ms, which a face shows as stutter. The filter is a sinc under
    a Kaiser window (J. F. Kaiser 1974, in A. V. Oppenheim and R. W. Schafer, Discrete-Time Signal Processing, 7.5):
    flat within 0.001 dB up to 0.9 of the lower rate's half, 80 dB down from that half on. Output k stands for time
    k / rate_out exactly; it comes when the input `delay` seconds later is there: 3.1 ms for a lower rate of
    16 kHz, 6.3 ms for 8 kHz. n samples give ceil(n * rate_out / rate_in).
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        common = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // common, rate_in // common
        self._bank, self._half = _filters(self._up, self._down)
        self.delay = self._half / rate_in
        self._begin()

    def _begin(self) -> None:
        self._kept = np.zeros(self._half - 1, np.float32)
        self._first = 1 - self._half  # the input sample that _kept begins with
        self._given = 0  # output samples so far

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take input (n,), return the output that it completes (m,)."""
        self._kept = np.concatenate([self._kept, samples])
        end = self._first + len(self._kept)
        return self._up_to(-(-(end - self._half) * self._up // self._down))

    def finish(self) -> NDArray[np.float32]:
        """Return the rest, as if silence followed, and begin a new stream."""
        total = self._first + len(self._kept)
        self._kept = np.concatenate([self._kept, np.zeros(self._half, np.float32)])
        rest = self._up_to(-(-total * self._up // self._down))
        self._begin()
        return rest

    def _up_to(self, stop: int) -> NDArray[np.float32]:
        """Return output samples from where we are up to `stop`."""
        pieces = []
        step = max(1, _MOST // self._bank.shape[1])
        while self._given < stop:
            pieces.append(self._some(min(self._given + step, stop)))
        if not pieces:
            return np.zeros(0, np.float32)
        start = max(0, self._given * self._down // self._up - self._half + 1 - self._first)
        self._kept, self._first = self._kept[start:], self._first + start
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _some(self, stop: int) -> NDArray[np.float32]:
        place, self._given = np.arange(self._given, stop) * self._down, stop
        at = place // self._up - self._half + 1 - self._first
        windows = np.lib.stride_tricks.sliding_window_view(self._kept, self._bank.shape[1])
        phases = len(self._bank) - 1
        if phases == 1:  # every output has the same filter: its windows lie evenly and need no copy
            chosen, filters = windows[at[0] :: self._down][: len(at)], self._bank[:1]
        else:
            chosen, filters = windows[at], self._bank[(place % self._up * phases + self._up // 2) // self._up]
        values: NDArray[np.float32] = np.einsum("nt,nt->n", chosen, np.broadcast_to(filters, chosen.shape))
        return values


_ATTENUATION_DB, _TRANSITION, _MOST = 80.0, 0.1, 1 << 20


@lru_cache(maxsize=8)
def _filters(up: int, down: int) -> tuple[NDArray[np.float32], int]:
    """Return a filter for each place that an output can have between two inputs, (phases + 1, taps), and taps / 2.

    There are `up` places; when their filters would need more than 16 MiB, they are rounded to fewer, which
    stays below -80 dB because a long filter moves little from one phase to the next.
    """
    half_band = 0.5 * min(1.0, up / down)  # the lower rate's half, in cycles an input sample
    width = 2 * math.pi * half_band * _TRANSITION
    half = math.ceil((_ATTENUATION_DB - 7.95) / (2.285 * width) / 2)
    beta = 0.1102 * (_ATTENUATION_DB - 8.7)
    phases = min(up, (1 << 22) // (2 * half))
    time = np.arange(phases + 1)[:, None] / phases - np.arange(1 - half, half + 1)
    cutoff = 2 * half_band * (1 - _TRANSITION / 2)
    window = np.i0(beta * np.sqrt(np.clip(1 - (time / half) ** 2, 0, None)))
    filters = np.sinc(cutoff * time) * window
    filters /= filters.sum(axis=1, keepdims=True)
    bank = filters.astype(np.float32)
    bank.flags.writeable = False
    return bank, half


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise OptionError(f"a rate of {rate} samples a second; {RATES[0]} to {RATES[1]} were wanted")


def _check(packet: NDArray[Any]) -> None:
    kind, width = packet.dtype.kind, packet.dtype.itemsize
    good = (kind == "i" and width in (1, 2, 4)) or (kind == "u" and width == 1) or (kind == "f" and width in (4, 8))
    if not good or packet.ndim not in (1, 2):
        raise InputError(
            f"sound of shape {packet.shape} and type {packet.dtype}; (n,) or (n, channels) was wanted",
            hint="float32 in [-1, 1], or 8, 16 or 32-bit integers",
        )
    if packet.ndim == 2 and not 1 <= packet.shape[1] <= CHANNELS:
        turned = 1 <= packet.shape[0] <= CHANNELS
        raise InputError(
            f"sound of shape {packet.shape} has {packet.shape[1]} channels; (n, channels) with 1 to {CHANNELS} "
            "was wanted",
            hint="channels come last: give samples.T" if turned else None,
        )


def _as_float(packet: NDArray[Any]) -> NDArray[Any]:
    """Return a float copy scaled to [-1, 1]; float64 stays so, because its values may not fit float32."""
    if packet.dtype.kind == "f":
        return packet.astype(packet.dtype.newbyteorder("="))
    values: NDArray[np.float32] = packet.astype(np.float32)
    if packet.dtype == np.uint8:  # 8-bit WAV is the only unsigned format: 128 is silence
        values -= 128
    values *= np.float32(2.0 ** (1 - 8 * packet.dtype.itemsize))
    return values


def _limited(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off what the resampler's filter overshoots beyond full scale."""
    np.clip(samples, -1, 1, out=samples)
    return samples


# --- how samples are written as bytes

Decode = Callable[[bytes], NDArray[Any]]


class Encoding(NamedTuple):
    """How a raw sample is written: its name (ffmpeg's), its bytes, and from bytes to numbers."""

    name: str
    width: int
    decode: Decode


def _plain(dtype: str) -> Decode:
    return lambda data: np.frombuffer(data, dtype)


def _wide(order: str) -> Decode:
    """24 bits go to the top of 32, same scale."""

    def decode(data: bytes) -> NDArray[Any]:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, slice(1, 4) if order == "<" else slice(0, 3)] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view(order + "i4").ravel()

    return decode


def _table(values: NDArray[np.int64]) -> Decode:
    table = values.astype(np.int16)
    return lambda data: table[np.frombuffer(data, np.uint8)]


def _companded() -> dict[str, Decode]:
    """ITU-T G.711: sign, three bits of exponent, four of mantissa."""
    code = np.arange(256)
    mu, a = ~code & 255, code ^ 0x55
    mu_size = ((((mu & 15) << 3) + 0x84) << ((mu >> 4) & 7)) - 0x84
    exponent = (a >> 4) & 7
    a_size = np.where(exponent, (((a & 15) << 4) + 0x108) << np.maximum(exponent - 1, 0), ((a & 15) << 4) + 8)
    return {
        "mulaw": _table(np.where(mu & 128, -mu_size, mu_size)),
        "alaw": _table(np.where(a & 128, a_size, -a_size)),
    }


ENCODINGS: dict[str, Encoding] = {
    name: Encoding(name, width, decode)
    for name, width, decode in (
        ("u8", 1, _plain("u1")),
        ("s8", 1, _plain("i1")),
        *((f"s16{end}e", 2, _plain(order + "i2")) for end, order in (("l", "<"), ("b", ">"))),
        *((f"s24{end}e", 3, _wide(order)) for end, order in (("l", "<"), ("b", ">"))),
        *((f"s32{end}e", 4, _plain(order + "i4")) for end, order in (("l", "<"), ("b", ">"))),
        *((f"f32{end}e", 4, _plain(order + "f4")) for end, order in (("l", "<"), ("b", ">"))),
        *((f"f64{end}e", 8, _plain(order + "f8")) for end, order in (("l", "<"), ("b", ">"))),
        *((name, 1, decode) for name, decode in _companded().items()),
    )
}
"""Raw samples by ffmpeg's names for them."""


def encoding(name: str) -> Encoding:
    """Return an encoding by its name, as ffmpeg (`s16le`) or ALSA (`S16_LE`, `FLOAT_LE`, `MU_LAW`) write it.

    Raises OptionError for one that is unknown.
    """
    plain = name.lower().replace("_", "").replace("-", "")
    plain = plain.replace("float64", "f64").replace("float", "f32").replace("243", "24").replace("pcm", "")
    if name.upper() == "S24_LE":  # ALSA's has a fourth, empty byte above; ffmpeg's s24le has three
        raise OptionError("S24_LE has 24 of 32 bits a sample; S24_3LE or S32_LE was wanted")
    if plain not in ENCODINGS:
        raise unknown("sample format", name.lower(), ENCODINGS)
    return ENCODINGS[plain]
