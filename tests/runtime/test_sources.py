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

from edgetalker.engines.errors import InputError, MissingPackageError
from edgetalker.runtime.clock import FakeClock
from edgetalker.runtime.frame import Source
from edgetalker.runtime.sources.convert import Converter, SampleQueue, mono
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.sources.paced import PacedSource

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
    rate_in=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 12345]),
    channels=st.sampled_from([1, 2, 6, 9]),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_packet_sizes_never_change_a_bit(rate_in: int, channels: int, cuts: list[int]) -> None:
    values = np.random.default_rng(0).standard_normal((9000, channels)).astype(np.float32) * 0.3
    assert convert(values, cuts, rate_in).tobytes() == convert(values, [], rate_in).tobytes()


@pytest.mark.parametrize("rate_in", [8000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_a_tone_where_it_was(rate_in: int) -> None:
    heard = convert(tone(rate_in), [], rate_in)
    wanted = tone(RATE)[:, 0]
    assert len(heard) == len(wanted)
    middle = slice(500, -500)  # the ends ring, because the tone starts out of nothing
    assert np.abs(heard[middle] - wanted[middle]).max() < 1e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    heard = convert(tone(48000, hz=9500), [], 48000)
    assert np.abs(heard[500:-500]).max() < 1e-4


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


def test_without_soxr_another_rate_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    Converter(RATE, RATE)
    with pytest.raises(MissingPackageError, match="48000 Hz for a bundle at 16000 Hz") as caught:
        Converter(48000, RATE)
    assert 'pip install "edgetalker[audio]"' in str(caught.value)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 9)), takes=st.lists(st.integers(0, 9)))
def test_the_sample_queue_is_first_in_first_out(sizes: list[int], takes: list[int]) -> None:
    queue, sound = SampleQueue(), np.arange(sum(sizes), dtype=np.float32)
    at = 0
    for size in sizes:
        queue.put(sound[at : at + size])
        at += size
    taken = [queue.take(count) for count in [*takes, len(sound)]]
    assert np.concatenate(taken).tolist() == sound.tolist()
    assert len(queue) == 0


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


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "PCM_32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_standard_library_reads_integer_wav_files_bit_for_bit_alike(
    tmp_path: Path, subtype: str, channels: int, request: pytest.FixtureRequest
) -> None:
    values = tone(channels=channels)
    # Python before 3.12 does not know the extensible header that libsndfile writes for 24-bit files.
    path = write(tmp_path / "a.wav", values, subtype=subtype, format="WAV")
    with_library = read_all(FileSource(path, RATE))
    request.getfixturevalue("no_soundfile")
    assert read_all(FileSource(path, RATE)).tobytes() == with_library.tobytes()


@pytest.mark.usefixtures("no_soundfile")
def test_without_soundfile_a_float_wav_says_what_to_install(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(), subtype="FLOAT")
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


BROKEN = [
    (empty, "is empty"),
    (folder, "is a folder"),
    (noise, "cannot be read as sound"),
    (header_only, "cannot be read as sound"),
    (no_samples, "holds no sound"),
    (absurd_rate, "2000000000 Hz|cannot be read as sound"),
    (no_channels, "cannot be read as sound"),
    (absent, "there is no file"),
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
    monkeypatch.setattr("edgetalker.runtime.sources.file._open", lambda path: Failing(3))
    source = FileSource(path, RATE)
    assert len(read_all(source)) == 300
    assert source.warnings() == [f"{path}: broken off after 300 samples: [Errno 5] Input/output error"]


def test_a_file_that_cannot_be_read_at_all_is_an_error_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, failing = write(tmp_path / "a.wav", tone()), Failing(0)
    monkeypatch.setattr("edgetalker.runtime.sources.file._open", lambda path: failing)
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
