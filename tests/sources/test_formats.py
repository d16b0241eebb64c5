"""Files as they come: joined, cut, with leftovers, through a pipe, with names of any bytes and sizes that lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.file import FileSource, LoopedSource, read_whole
from edgetalker.runtime.sources.formats import frame_bytes, kind_of
from tests.sources.test_files import RATE, tone, write

KINDS = [
    ("wav", "PCM_16", {}),
    ("wav", "IMA_ADPCM", {}),
    ("flac", "PCM_16", {}),
    ("aiff", "PCM_16", {}),
    ("au", "PCM_16", {}),
    ("caf", "PCM_16", {}),
    ("w64", "PCM_16", {}),
    ("ogg", "VORBIS", {}),
    ("opus", "OPUS", {"format": "OGG"}),
    ("mp3", "MPEG_LAYER_III", {"format": "MP3"}),
]
kinds = pytest.mark.parametrize(("suffix", "subtype", "options"), KINDS, ids=[f"{k[0]}-{k[1]}" for k in KINDS])


def played(path: Path) -> tuple[NDArray[np.float32], str]:
    """The sound, and all warnings in one text."""
    with closing(FileSource(path, RATE)) as source:
        pieces = []
        while not source.ended:
            pieces.append(source.read(3000))
        return np.concatenate(pieces), "\n".join(source.warnings())


def made(folder: Path, suffix: str, subtype: str, options: dict[str, Any]) -> Path:
    noisy = tone(seconds=3)
    noisy += np.random.default_rng(0).normal(0, 0.05, noisy.shape).astype(np.float32)
    return write(folder / f"a.{suffix}", noisy, subtype=subtype, **options)


@kinds
def test_joined_files_play_one_after_the_other(tmp_path: Path, suffix: str, subtype: str, options: Any) -> None:
    path = made(tmp_path, suffix, subtype, options)
    alone, said = played(path)
    assert said == ""
    path.write_bytes(path.read_bytes() * 2)
    both, said = played(path)
    assert len(both) == 2 * len(alone)
    assert said == ""
    # A decoder that begins anew gives the same again.
    assert np.abs(both[len(alone) :] - alone).max() < 1e-6


def test_a_part_that_cannot_be_played_does_not_cost_those_before_it(tmp_path: Path) -> None:
    good = write(tmp_path / "a.ogg", tone(), subtype="OPUS", format="OGG").read_bytes()
    (tmp_path / "b.ogg").write_bytes(good + good[: len(good) // 2].replace(b"OpusHead", b"OpusHeap"))
    heard, said = played(tmp_path / "b.ogg")
    assert heard.tobytes() == read_whole(tmp_path / "a.ogg", RATE).tobytes()
    assert "what follows its first part cannot be read as sound" in said


def test_parts_of_different_rates_and_channels_play_on(tmp_path: Path) -> None:
    first = write(tmp_path / "a.wav", tone(RATE)).read_bytes()
    second = write(tmp_path / "b.wav", tone(48000, channels=2), 48000).read_bytes()
    (tmp_path / "c.wav").write_bytes(first + second)
    heard, said = played(tmp_path / "c.wav")
    assert len(heard) == 16000
    assert said == ""


@kinds
def test_what_breaks_off_is_told(tmp_path: Path, suffix: str, subtype: str, options: Any) -> None:
    path = made(tmp_path, suffix, subtype, options)
    whole = read_whole(path, RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    heard, said = played(path)
    assert 0 < len(heard) < len(whole)
    assert "breaks off" in said or "broken off" in said, said


@kinds
def test_what_is_left_over_is_told(tmp_path: Path, suffix: str, subtype: str, options: Any) -> None:
    path = made(tmp_path, suffix, subtype, options)
    whole = read_whole(path, RATE)
    path.write_bytes(path.read_bytes() + b"\x12some leftover\xff\x01" * 10_000)
    heard, said = played(path)
    assert len(heard) == len(whole)
    assert " were left" in said


@kinds
def test_padding_and_tags_are_not_told(tmp_path: Path, suffix: str, subtype: str, options: Any) -> None:
    path = made(tmp_path, suffix, subtype, options)
    tag = {"wav": b"LIST\x04\0\0\0INFO", "mp3": b"TAG" + b"x" * 125}.get(suffix, b"")
    path.write_bytes(path.read_bytes() + tag + (b"" if suffix in ("ogg", "opus") else bytes(64)))
    assert played(path)[1] == ""


@kinds
def test_a_pipe_plays_as_its_file_does(tmp_path: Path, suffix: str, subtype: str, options: Any) -> None:
    path = made(tmp_path, suffix, subtype, options)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    if subtype == "IMA_ADPCM":  # its header is read, and gone, before it shows that WavReader cannot play it
        with pytest.raises(InputError, match="WAV of format 0x0011 with 4 bits, from a pipe"):
            FileSource(pipe, RATE)
        writer.join()
        return
    heard, said = played(pipe)
    writer.join()
    assert heard.tobytes() == read_whole(path, RATE).tobytes()
    assert said == ""


def test_a_wav_in_a_pipe_plays_before_it_ends(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = write(tmp_path / "a.wav", tone()).read_bytes()
    go_on = threading.Event()

    def slowly() -> None:
        with pipe.open("wb", buffering=0) as file:
            for piece in (data[:3], data[3:21], data[21:5001]):
                file.write(piece)
            go_on.wait(30)
            file.write(data[5001:])

    writer = threading.Thread(target=slowly)
    writer.start()
    with closing(FileSource(pipe, RATE)) as source:
        assert source.pipe
        heard = source.read(2000)
        go_on.set()
        while not source.ended:
            heard = np.append(heard, source.read(2000))
    writer.join()
    assert heard.tobytes() == read_whole(tmp_path / "a.wav", RATE).tobytes()


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", tone())
    opened, plain = [], Path.open

    def counting(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(self)
        return plain(self, *args, **options)

    monkeypatch.setattr(Path, "open", counting)
    played(path)
    assert opened == [path]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_name_that_is_not_utf8_plays(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path / f"a.{suffix}", tone())
    path = tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
    try:
        plain.rename(path)
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    assert len(played(path)[0]) == 8000


@pytest.mark.parametrize(("size", "words"), [(0, "says 0 bytes of sound"), (0xFFFF_FFFF, ""), (0x7FFF_F000, "")])
def test_a_size_that_its_writer_did_not_know_is_no_size(tmp_path: Path, size: int, words: str) -> None:
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    heard, said = played(path)
    assert len(heard) == 8000
    assert words in said if words else said == ""


def test_a_size_that_is_too_small_leaves_the_rest_and_tells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[40:44] = (2000).to_bytes(4, "little")
    path.write_bytes(data)
    heard, said = played(path)
    assert len(heard) == 1000
    assert "14000 bytes after its sound are neither sound nor a chunk, and were left" in said


def test_a_wrong_alignment_does_not_garble_the_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(channels=2))
    wanted = read_whole(path, RATE)
    data = bytearray(path.read_bytes())
    data[32:34] = (1).to_bytes(2, "little")
    path.write_bytes(data)
    assert read_whole(path, RATE).tobytes() == wanted.tobytes()


@pytest.fixture
def ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    return found


def encode(ffmpeg: str, source: Path, target: Path, *options: str) -> Path:
    subprocess.run([ffmpeg, "-nostdin", "-v", "error", "-y", "-i", source, *options, target], check=True)
    return target


@pytest.mark.parametrize("seconds", [0.2, 0.5, 3.0])
def test_a_flac_of_unknown_length_plays_whole(tmp_path: Path, ffmpeg: str, seconds: float) -> None:
    plain = write(tmp_path / "a.wav", tone(seconds=seconds))
    with (tmp_path / "a.flac").open("wb") as out:  # a pipe: the encoder cannot come back to fill in the length
        subprocess.run(f"{ffmpeg} -nostdin -v error -i {plain} -f flac - | cat", shell=True, stdout=out, check=True)
    heard, said = played(tmp_path / "a.flac")
    assert heard.tobytes() == read_whole(plain, RATE).tobytes()
    assert said == ""
    with closing(FileSource(tmp_path / "a.flac", RATE)) as source:
        assert source.samples is None


@pytest.mark.parametrize("suffix", ["m4a", "webm", "wma", "aac"])
def test_what_libsndfile_does_not_know_plays_through_ffmpeg(
    tmp_path: Path, ffmpeg: str, suffix: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write(tmp_path / "a.wav", tone(seconds=2))
    path = encode(ffmpeg, plain, tmp_path / f"a.{suffix}")
    heard, said = played(path)
    assert abs(len(heard) - 32_000) < 4000
    assert said == ""
    assert 0.3 < np.sqrt(np.mean(heard[8000:24000] ** 2)) < 0.5
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="cannot be read as sound") as caught:
        FileSource(path, RATE)
    assert "ffmpeg -i IN -ar 16000 OUT.wav" in str(caught.value)


def test_ffmpeg_opens_no_other_file_and_no_address(
    tmp_path: Path, ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A playlist is text, and text is refused before; ffmpeg's own guards are for what is told less easily.
    monkeypatch.setattr("edgetalker.runtime.sources.formats._refuse_what_is_no_sound", lambda file: None)
    secret = encode(ffmpeg, write(tmp_path / "a.wav", tone()), tmp_path / "secret.ts", "-c:a", "aac")
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:0.5,\n"
    for address in (f"file:{secret}", "http://127.0.0.1:9/a.ts"):
        (tmp_path / "a.m3u8").write_text(f"{head}{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError, match="cannot be read as sound"):
            FileSource(tmp_path / "a.m3u8", RATE)


def test_a_good_mp3_makes_no_noise_and_a_damaged_one_only_ours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = made(tmp_path, "mp3", "MPEG_LAYER_III", {"format": "MP3"})
    assert played(path)[1] == ""
    data = bytearray(path.read_bytes())
    data[4000:4400] = bytes(400)
    path.write_bytes(data[:12000])
    assert "breaks off" in played(path)[1]
    assert capfd.readouterr().err == ""


def test_devices_are_no_sound_files(tmp_path: Path) -> None:
    for name in ("/dev/null", "/dev/zero"):
        if Path(name).exists():
            with pytest.raises(InputError, match="is a device"):
                FileSource(name, RATE)
    with pytest.raises(InputError, match="cannot be opened"):
        FileSource("a\0b.wav", RATE)


STARTS: list[tuple[str, Callable[[Path], bytes]]] = [
    *((k[0], lambda folder, k=k: made(folder, *k).read_bytes()) for k in KINDS),
    ("m4a", lambda folder: b"\0\0\0\x1cftypM4A "),
    ("webm", lambda folder: b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81"),
    ("wma", lambda folder: b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa"),
    ("id3", lambda folder: b"ID3\x04\0\0\0\0\0#TS"),
    ("adts", lambda folder: b"\xff\xf1P\x80\x02\x1f\xfc\xda\x02\0L\0"),
    ("bw64", lambda folder: b"BW64\xff\xff\xff\xffWAVE"),
]


@pytest.mark.parametrize(("name", "start"), STARTS, ids=[name for name, _ in STARTS])
def test_containers_are_told_by_their_first_twelve_bytes(
    tmp_path: Path, name: str, start: Callable[[Path], bytes]
) -> None:
    assert kind_of(start(tmp_path)[:12]) is not None


def test_raw_sound_is_hardly_ever_taken_for_a_container() -> None:
    rng = np.random.default_rng(0)
    quiet = rng.normal(0, 30, (4000, 6)).astype("<i2")
    assert sum(kind_of(row.tobytes()) is not None for row in quiet) == 0


def test_frames_of_mpeg_audio_have_the_length_that_their_header_says(tmp_path: Path) -> None:
    data = made(tmp_path, "mp3", "MPEG_LAYER_III", {"format": "MP3"}).read_bytes()
    at = count = 0
    while length := frame_bytes(data[at : at + 6]):
        at, count = at + length, count + 1
    assert at == len(data)
    assert count > 50
    # ISO/IEC 11172-3: layer III at 128 kbit/s and 44.1 kHz has 417 bytes, 418 with padding.
    assert [frame_bytes(bytes((0xFF, 0xFB, b, 0, 0, 0))) for b in (0x90, 0x92)] == [417, 418]


def test_a_looped_file_closes_each_round(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(seconds=0.01))
    with closing(LoopedSource(lambda: FileSource(path, RATE))) as source:
        heard = np.concatenate([source.read(100, 0) for _ in range(10)])
    assert source.rounds >= 5
    assert heard[160:320].tolist() == heard[:160].tolist()
