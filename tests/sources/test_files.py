"""Sound from files and its conversion: any format gives the right samples, or an error that says what is wrong."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.sources.convert import Converter, mono
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.sources.live import PacedSource
from edgetalker.runtime.sources.source import Source
from tests.support.clock import FakeClock

RATE = 16000


def tone(rate: int = RATE, seconds: float = 0.5, channels: int = 1, hz: float = 440.0) -> NDArray[np.float32]:
    """Shape (n, channels); each channel half as loud as the one before."""
    phase = 2 * np.pi * hz * np.arange(round(rate * seconds)) / rate
    return np.stack([0.5**c * 0.6 * np.sin(phase) for c in range(channels)], axis=1).astype(np.float32)


def write(path: Path, values: NDArray[Any], rate: int = RATE, subtype: str = "PCM_16", **options: str) -> Path:
    soundfile.write(path, values, rate, subtype=subtype, **options)
    return path


def read_all(source: Source, step: int = 1000) -> NDArray[np.float32]:
    pieces = []
    while not source.ended:
        pieces.append(np.array(source.read(step, 1.0)))
    source.close()
    return np.concatenate(pieces)


@pytest.fixture
def no_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)


def convert(values: NDArray[Any], cuts: list[int], rate_in: int) -> NDArray[np.float32]:
    converter, pieces, at = Converter(rate_in, RATE), [], 0
    for cut in [*cuts, len(values)]:
        pieces.append(converter.convert(values[at : at + cut]))
        at = min(at + cut, len(values))
    return np.concatenate([*pieces, converter.finish()])


@settings(deadline=None)
@given(
    rate_in=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 12345, 192_000, 44_101]),
    channels=st.sampled_from([1, 2, 6, 9]),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_packet_sizes_never_change_a_bit(rate_in: int, channels: int, cuts: list[int]) -> None:
    values = np.random.default_rng(0).standard_normal((9000, channels)).astype(np.float32) * 0.3
    assert convert(values, cuts, rate_in).tobytes() == convert(values, [], rate_in).tobytes()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([0, 128, 255], np.uint8), [-1.0, 0.0, 127 / 128]),
        (np.array([-32768, 0, 16384], np.int16), [-1.0, 0.0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1.0, 0.0, 0.5]),
        (np.array([-1e300, 0, 0.25], np.float64), [-1.0, 0.0, 0.25]),
        (np.array([[1, 0], [0.5, -0.5]], np.float32), [0.5, 0.0]),
    ],
)
def test_every_sample_type_is_scaled_and_mixed(values: NDArray[Any], wanted: list[float]) -> None:
    heard = Converter(RATE, RATE).convert(values)
    assert heard.dtype == np.float32
    assert heard.tolist() == wanted


def test_nan_and_infinity_become_counted_silence() -> None:
    converter = Converter(RATE, RATE)
    packet = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
    assert converter.convert(packet).tolist() == [0, 0, 0, 0.5]
    assert np.isnan(packet[0]), "the caller's packet was changed"
    assert converter.warnings() == ["3 of 4 samples were NaN or infinite and became silence"]


def test_clipping_is_reported_once_it_matters() -> None:
    converter = Converter(RATE, RATE)
    converter.convert(np.zeros(30_000, np.float32))
    assert np.abs(converter.convert(np.array([1.5, -7], np.float32))).max() == 1.0
    assert converter.warnings() == []
    converter.convert(np.full(10, 32767, np.int16))
    assert converter.warnings() == ["12 of 30012 samples are at full scale or beyond: the sound is clipped"]


def test_mixing_six_channels_weighs_them_alike() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert mono(values).tolist() == [2.5, 8.5]


def test_how_an_array_lies_in_memory_changes_no_bit_of_the_mix() -> None:
    """`mean` adds in another order for each of these."""
    rows = np.random.default_rng(0).standard_normal((500, 24)).astype(np.float32)
    columns, strided = np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2]
    assert not columns.flags.c_contiguous and not strided.flags.c_contiguous
    assert mono(columns).tobytes() == mono(strided).tobytes() == mono(rows).tobytes()


def test_channels_that_cancel_each_other_are_told_and_one_can_be_chosen() -> None:
    values = tone()
    both = np.concatenate([values, -values], axis=1)
    average, first, second = Converter(RATE, RATE), Converter(RATE, RATE, channel=1), Converter(RATE, RATE, channel=2)
    assert not average.convert(both).any()
    assert "the channels cancel each other" in average.warnings()[0]
    assert first.convert(both).tolist() == values[:, 0].tolist()
    assert second.convert(both).tolist() == (-values[:, 0]).tolist()
    assert first.warnings() == []
    quiet = Converter(RATE, RATE)
    quiet.convert(np.concatenate([values, 0 * values], axis=1))
    quiet.convert(np.zeros((100, 2)))
    assert quiet.warnings() == []


def test_a_channel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OptionError, match="channel 3 was wanted; the sound has 2"):
        Converter(RATE, RATE, channel=3).convert(np.zeros((5, 2), np.int16))
    with pytest.raises(OptionError, match="channel 2 was wanted; the sound has 1"):
        Converter(RATE, RATE, channel=2).convert(np.zeros(5, np.int16))


def test_channels_first_are_refused_with_what_mends_it() -> None:
    with pytest.raises(InputError, match=r"\(2, 16000\) has 16000 channels") as caught:
        Converter(RATE, RATE).convert(np.zeros((2, 16000), np.float32))
    assert "samples.T" in str(caught.value)


@pytest.mark.parametrize("values", [np.zeros((1, 2, 3), np.float32), np.zeros(4, np.complex64), np.zeros(4, np.int64)])
def test_arrays_that_are_no_sound_are_refused(values: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="float32 in"):
        Converter(RATE, RATE).convert(values)


@pytest.mark.parametrize("rate", [0, 999, 768_001, 10**12])
def test_rates_that_no_recording_has_are_refused(rate: int) -> None:
    with pytest.raises(OptionError, match="1000 to 768000"):
        Converter(rate, RATE)


@pytest.mark.parametrize(
    ("subtype", "rate", "channels", "tolerance"),
    [
        ("PCM_16", RATE, 1, 2**-15),
        ("PCM_U8", RATE, 1, 2**-6),
        ("PCM_24", RATE, 1, 2**-20),
        ("PCM_32", RATE, 1, 2**-20),
        ("FLOAT", RATE, 1, 2**-20),
        ("DOUBLE", RATE, 1, 2**-20),
        ("PCM_16", 8000, 1, 1e-3),
        ("PCM_16", 96000, 1, 1e-3),
        ("PCM_16", RATE, 6, 2**-13),
        ("PCM_24", 44100, 2, 1e-3),
        ("ULAW", 8000, 1, 2e-2),
    ],
)
def test_wav_files_of_every_kind_play(tmp_path: Path, subtype: str, rate: int, channels: int, tolerance: float) -> None:
    values = tone(rate, channels=channels)
    heard = read_all(FileSource(write(tmp_path / "a.wav", values, rate, subtype), RATE), 777)
    wanted = mono(tone(RATE, channels=channels))
    assert len(heard) == len(wanted)
    assert np.abs(heard[500:-500] - wanted[500:-500]).max() < tolerance


@pytest.mark.parametrize(("suffix", "subtype"), [("flac", "PCM_16"), ("ogg", "VORBIS"), ("aiff", "PCM_16")])
def test_other_formats_play_through_libsndfile(tmp_path: Path, suffix: str, subtype: str) -> None:
    heard = read_all(FileSource(write(tmp_path / f"a.{suffix}", tone(), subtype=subtype), RATE))
    assert np.abs(heard[500:-500] - tone()[500:-500, 0]).max() < 0.05


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.usefixtures("no_soundfile")
def test_wav_is_read_bit_for_bit_as_libsndfile_does(tmp_path: Path, subtype: str, form: str, channels: int) -> None:
    values = tone(channels=channels)
    path = write(tmp_path / "a.wav", values, subtype=subtype, format=form)
    wanted, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert read_all(FileSource(path, RATE)).tobytes() == mono(wanted).tobytes()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_big_endian_wav_is_read(tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "a.wav", tone(), subtype=subtype, format="WAV", endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    assert np.abs(read_all(FileSource(path, RATE)) - tone()[:, 0]).max() <= 2**-15


@pytest.mark.usefixtures("no_soundfile")
def test_without_soundfile_another_format_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC\0\0\0\x22" + bytes(100))
    with pytest.raises(InputError, match=r"cannot be read as sound") as caught:
        FileSource(path, RATE)
    assert 'pip install "edgetalker[audio]"' in str(caught.value)


def truncated(path: Path) -> None:
    data = write(path, tone()).read_bytes()
    path.write_bytes(data[: len(data) // 2 + 1])


@pytest.mark.parametrize("library", [True, False])
def test_a_truncated_wav_gives_what_is_there_and_a_warning(
    tmp_path: Path, library: bool, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "a.wav"
    truncated(path)
    if not library:
        request.getfixturevalue("no_soundfile")
    source = FileSource(path, RATE)
    heard = read_all(source)
    assert np.abs(heard - tone()[: len(heard), 0]).max() <= 2**-15
    assert len(heard) == (path.stat().st_size - 44) // 2
    assert "breaks off 8021 bytes before its end" in source.warnings()[0]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.mkdir()


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def header_only(path: Path) -> None:
    path.write_bytes(write(path, tone()).read_bytes()[:30])


def no_samples(path: Path) -> None:
    write(path, tone()[:0])


def absurd_rate(path: Path) -> None:
    data = bytearray(write(path, tone()).read_bytes())
    data[24:28] = (2_000_000_000).to_bytes(4, "little")
    path.write_bytes(data)


def no_channels(path: Path) -> None:
    data = bytearray(write(path, tone()).read_bytes())
    data[22:24] = b"\0\0"
    path.write_bytes(data)


def absent(path: Path) -> None:
    assert not path.exists()


def array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, motion=np.zeros((2, 52), np.float32))


def table(path: Path) -> None:
    path.write_text("Timecode,BlendshapeCount,EyeBlinkLeft\n" * 50)


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)


BROKEN = [
    (empty, "is empty"),
    (folder, "is a folder"),
    (noise, "cannot be read as sound"),
    (header_only, "cannot be read as sound"),
    (no_samples, "holds no sound"),
    (absurd_rate, "2000000000 Hz|cannot be read as sound"),
    (no_channels, "cannot be read as sound"),
    (absent, "there is no file"),
    (array, r"is an archive of arrays \(.npz\); a sound file was wanted\nhint: edgetalker view"),
    (table, "is text; a sound file was wanted"),
    (picture, "is a PNG picture; a sound file was wanted"),
]


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize(("make", "words"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_what_is_no_sound_is_a_clear_error(
    tmp_path: Path, make: Callable[[Path], None], words: str, library: bool, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    if not library:
        request.getfixturevalue("no_soundfile")
    with pytest.raises(InputError, match=words) as caught:
        FileSource(path, RATE)
    assert str(path) in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_wav_plays_or_is_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.wav"
    content = bytearray(write(path, tone(seconds=0.05)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        heard = read_all(FileSource(path, RATE), 100_000)
    except InputError:
        return
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1.0


def test_nan_in_a_float_wav_is_reported_with_the_files_name(tmp_path: Path) -> None:
    values = tone()
    values[100:110] = np.nan
    source = FileSource(write(tmp_path / "a.wav", values, subtype="FLOAT"), RATE)
    heard = read_all(source)
    assert not heard[100:110].any()
    assert source.warnings() == [f"{tmp_path / 'a.wav'}: 10 of 8000 samples were NaN or infinite and became silence"]


def test_reading_in_any_steps_gives_the_same_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(44100), 44100)
    wanted = read_all(FileSource(path, RATE), 10**6).tobytes()
    for step in (1, 533, 4096):
        assert read_all(FileSource(path, RATE), step).tobytes() == wanted


def test_a_wav_written_by_the_standard_library_plays(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.tile(np.array([16384, -16384], "<i2"), 50).tobytes())
    assert read_all(FileSource(tmp_path / "a.wav", RATE)).tolist() == [0.0] * 50


class TestPacedSource:
    """A paced source on a fake clock."""

    def make(self, tmp_path: Path) -> tuple[PacedSource, FakeClock]:
        clock = FakeClock(123)
        return PacedSource(FileSource(write(tmp_path / "a.wav", tone()), RATE), clock), clock

    def test_packets_come_when_they_would_have_been_recorded(self, tmp_path: Path) -> None:
        paced, clock = self.make(tmp_path)
        for i in range(50):
            assert not paced.ended
            assert len(paced.read(533, 10.0)) == 160
            assert clock.now_ns() == 123 + (i + 1) * 10_000_000
        assert paced.ended

    def test_a_timeout_gives_what_has_come_by_then(self, tmp_path: Path) -> None:
        paced, clock = self.make(tmp_path)
        assert len(paced.read(1000, 0.009)) == 0
        assert not paced.ended
        assert clock.now_ns() == 123 + 9_000_000
        assert len(paced.read(100, 1.0)) == 100
        assert len(paced.read(100, 1.0)) == 60
        assert clock.now_ns() == 123 + 10_000_000
        clock.advance(10**9)
        assert len(paced.read(10**6, 0.0)) == 8000 - 160

    def test_it_is_live_and_changes_no_sample(self, tmp_path: Path) -> None:
        paced, _ = self.make(tmp_path)
        assert paced.live
        assert paced.rate == RATE
        plain = read_all(FileSource(tmp_path / "a.wav", RATE))
        assert read_all(paced, 533).tobytes() == plain.tobytes()
        assert paced.warnings() == []


def test_the_clip_that_the_package_carries_is_small_plain_speech(request: pytest.FixtureRequest) -> None:
    import edgetalker

    path = Path(edgetalker.__file__).parent / "data" / "speech.wav"
    assert path.stat().st_size < 300_000
    request.getfixturevalue("no_soundfile")  # it must play with numpy alone
    source = FileSource(path, RATE)
    assert source.samples == 104_320
    sound = read_all(source)
    assert len(sound) == source.samples
    assert source.warnings() == []
    assert 0.05 < np.sqrt(np.mean(sound**2)) < 0.3


class Failing:
    """A file that cannot be read after `blocks` blocks: a stick pulled out, a bad sector."""

    rate, channels, frames = RATE, 1, 10_000

    def __init__(self, blocks: int) -> None:
        self.blocks, self.closed = blocks, False
        self.notes: list[str] = []

    def read(self) -> NDArray[np.float32]:
        if self.blocks == 0:
            raise OSError(5, "Input/output error")
        self.blocks -= 1
        return np.full((100, 1), 0.25, np.float32)

    def close(self) -> None:
        self.closed = True


def test_a_file_that_breaks_while_it_is_read_ends_there_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", tone())
    monkeypatch.setattr(FileSource, "_parts", lambda self: iter([Failing(3)]))
    source = FileSource(path, RATE)
    assert len(read_all(source)) == 300
    assert source.warnings() == [f"{path}: broken off after 300 samples: [Errno 5] Input/output error"]


def test_a_file_that_cannot_be_read_at_all_is_an_error_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, failing = write(tmp_path / "a.wav", tone()), Failing(0)
    monkeypatch.setattr(FileSource, "_parts", lambda self: iter([failing]))
    with pytest.raises(InputError, match=r"cannot be read: \[Errno 5\] Input/output error"):
        FileSource(path, RATE)
    assert failing.closed


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_damaged_flac_plays_as_far_as_it_goes(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.flac", tone(seconds=3), subtype="PCM_16")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    heard = read_all(FileSource(path, RATE))
    assert 0 < len(heard) < 48_000
    assert np.abs(heard - tone(seconds=3)[: len(heard), 0]).max() < 2**-14
