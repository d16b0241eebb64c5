"""The resampler keeps pace, adds no images, delays by half its filter, and puts every sample where it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.sources.convert import ENCODINGS, Converter, Resampler, encoding

OUT = 16000
RATES = [8000, 11025, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192_000]


def sine(rate: int, hz: float, seconds: float = 1.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def whole(rate: int, samples: NDArray[np.float32], packet: int = 10**9) -> NDArray[np.float32]:
    resampler = Resampler(rate, OUT)
    pieces = [resampler.push(samples[at : at + packet]) for at in range(0, len(samples), packet)]
    return np.concatenate([*pieces, resampler.finish()])


@pytest.mark.parametrize("rate", RATES)
def test_images_and_aliases_are_below_minus_60_db(rate: int) -> None:
    """A tone anywhere in the input leaves nothing at any other frequency of the output."""
    worst = -300.0
    for share in np.linspace(0.02, 0.49, 24):
        hz = share * rate
        heard = whole(rate, sine(rate, hz))[2000:14000]
        window = np.kaiser(len(heard), 14)
        levels = 2 * np.abs(np.fft.rfft(heard * window)) / window.sum() / 0.5
        frequencies = np.fft.rfftfreq(len(heard), 1 / OUT)
        # A tone near the lower rate's half, in the transition of the filter, is what remains of itself.
        levels[np.abs(frequencies - hz) < 20] = 0
        worst = max(worst, 20 * math.log10(levels.max() + 1e-15))
    assert worst < -80


@pytest.mark.parametrize("rate", RATES)
def test_the_passband_is_flat(rate: int) -> None:
    for share in (0.05, 0.3, 0.6, 0.88):
        hz = share * min(rate, OUT) / 2
        heard = whole(rate, sine(rate, hz))[2000:14000]
        assert np.abs(heard - sine(OUT, hz)[2000:14000]).max() < 1e-3  # in amplitude, and in time


@pytest.mark.parametrize("rate", RATES)
def test_every_packet_gives_all_that_it_determines(rate: int) -> None:
    """Packets of 10 ms in: never more than one sample off the pace, and late by the delay that is stated."""
    resampler, packet, given = Resampler(rate, OUT), rate // 100, 0
    assert resampler.delay < (0.0033 if rate >= OUT else 0.0065)
    for count in range(1, 200):
        given += len(resampler.push(np.zeros(packet, np.float32)))
        heard = count * packet / rate
        assert abs(given - (heard - resampler.delay) * OUT) <= 1.001


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 44_101, 767_999])
def test_a_constant_stays_what_it_is(rate: int) -> None:
    heard = whole(rate, np.full(rate // 4, 0.5, np.float32))
    assert np.abs(heard[1000:-1000] - 0.5).max() < 1e-5


@pytest.mark.parametrize("rate", [44_101, 15_999, 767_999])
def test_rates_without_a_common_factor_need_little_memory_and_keep_their_quality(rate: int) -> None:
    """They have 16,000 phases: no more filters are kept than fit 16 MiB."""
    resampler = Resampler(rate, OUT)
    assert resampler._bank.nbytes <= (1 << 24) + resampler._bank.shape[1] * 4
    heard = whole(rate, sine(rate, 3000, 0.5))
    assert np.abs(heard[1000:-1000] - sine(OUT, 3000, 0.5)[1000 : len(heard) - 1000]).max() < 5e-4


@pytest.mark.parametrize("rate", RATES)
def test_the_length_is_exact(rate: int) -> None:
    for count in (0, 1, 7, 1000, 12345):
        assert len(whole(rate, np.zeros(count, np.float32), 77)) == math.ceil(count * OUT / rate)


def test_a_stream_can_begin_anew_and_at_another_rate() -> None:
    converter = Converter(48000, OUT)
    sound = sine(48000, 440)
    first = np.concatenate([converter.convert(sound), converter.restart(48000)])
    again = np.concatenate([converter.convert(sound), converter.restart(OUT)])
    plain = converter.convert(sine(OUT, 440))
    assert first.tobytes() == again.tobytes()
    assert len(first) == len(plain) == OUT
    assert np.abs(first - plain)[500:-500].max() < 1e-3
    assert converter.delay == 0


# --- how raw samples are written

SAMPLES = np.array([-1.0, -0.5, 0.0, 0.25, 0.5], np.float64)


@pytest.mark.parametrize("name", sorted(set(ENCODINGS) - {"mulaw", "alaw"}))
def test_every_encoding_of_raw_samples_is_decoded(name: str) -> None:
    bits, order = int(name[1:3].rstrip("lb")), ">" if name.endswith("be") else "<"
    if name[0] == "f":
        data = SAMPLES.astype(f"{order}f{bits // 8}").tobytes()
    else:
        whole_numbers = (SAMPLES * 2 ** (bits - 1)).astype(np.int64) + (128 if name == "u8" else 0)
        data = b"".join(
            int(value & ((1 << bits) - 1)).to_bytes(bits // 8, "big" if order == ">" else "little")
            for value in whole_numbers
        )
    heard = Converter(OUT, OUT).convert(ENCODINGS[name].decode(data))
    assert heard.tolist() == SAMPLES.tolist()


def test_companded_samples_are_those_of_g711() -> None:
    """The decoder values of ITU-T G.711, tables 1a and 2a, at the ends of the first and last segments."""
    mulaw = ENCODINGS["mulaw"].decode(bytes([0xFF, 0x7F, 0xFE, 0x80, 0x00, 0xF0]))
    assert mulaw.tolist() == [0, 0, 8, 32124, -32124, 120]
    alaw = ENCODINGS["alaw"].decode(bytes([0xD5, 0x55, 0xD4, 0xAA, 0x2A, 0xC5]))
    assert alaw.tolist() == [8, -8, 24, 32256, -32256, 264]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("S16_LE", "s16le"), ("FLOAT_LE", "f32le"), ("MU_LAW", "mulaw"), ("S24_3LE", "s24le"), ("pcm_s16be", "s16be")],
)
def test_the_names_of_alsa_and_ffmpeg_are_known(written: str, meant: str) -> None:
    assert encoding(written) is ENCODINGS[meant]


@pytest.mark.parametrize(
    ("name", "words"), [("s16lee", "did you mean `s16le`"), ("S24_LE", "S24_3LE"), ("", "no sample")]
)
def test_an_unknown_encoding_is_an_error(name: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        encoding(name)
