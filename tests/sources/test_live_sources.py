"""Raw PCM from a pipe: real pipes, cut anywhere, broken off anywhere."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.sources.live import PacedSource, PcmSource, SoundQueue, Tempo
from tests.support.clock import FakeClock
from tests.support.talk import Pieces

RATE = 16000
SOUND = (np.random.default_rng(0).standard_normal(4000) * 6000).astype("<i2")


@pytest.fixture
def pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as reader, os.fdopen(write_end, "wb", buffering=0) as writer:
        yield reader, writer


def drain(source: PcmSource, step: int = 700) -> NDArray[np.float32]:
    pieces = [np.zeros(0, np.float32)]
    while not source.ended:
        pieces.append(np.array(source.read(step, 10.0)))
    source.close()
    return np.concatenate(pieces)


class Cut(io.RawIOBase):
    """A stream that gives its bytes in the sizes it is told."""

    def __init__(self, data: bytes, sizes: list[int], error: Exception | None = None) -> None:
        self._data, self._sizes, self._error = data, list(sizes), error

    def read(self, size: int = -1) -> bytes:
        take = self._sizes.pop(0) if self._sizes else size
        piece, self._data = self._data[:take], self._data[take:]
        if not piece and self._error:
            raise self._error
        return piece


def cut(data: bytes, sizes: list[int], error: Exception | None = None) -> IO[bytes]:
    return Cut(data, sizes, error)  # type: ignore[return-value]


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 3001), max_size=10), channels=st.sampled_from([1, 2]))
def test_packets_cut_inside_samples_change_nothing(sizes: list[int], channels: int) -> None:
    source = PcmSource(RATE, input_rate=RATE, channels=channels, stream=cut(SOUND.tobytes(), sizes))
    wanted = (SOUND.reshape(-1, channels).astype(np.float64) / 32768).mean(axis=1)
    assert drain(source).tolist() == wanted.astype(np.float32).tolist()
    assert source.warnings() == []


def test_another_rate_is_resampled_to_the_end() -> None:
    heard = drain(PcmSource(RATE, input_rate=8000, stream=cut(SOUND.tobytes(), [])))
    assert len(heard) == 2 * len(SOUND)


@pytest.mark.parametrize("extra", [b"\x01", b"\x01\x02\x03"])
def test_a_broken_last_sample_is_dropped_and_reported(extra: bytes) -> None:
    source = PcmSource(RATE, input_rate=RATE, channels=2, stream=cut(SOUND.tobytes() + extra, []))
    assert len(drain(source)) == 2000
    assert source.warnings() == [f"standard input: {len(extra)} bytes at the end are no whole sample and were dropped"]


def test_an_empty_pipe_ends_at_once() -> None:
    source = PcmSource(RATE, input_rate=RATE, stream=io.BytesIO(b""))
    assert len(drain(source)) == 0
    assert source.ended


def test_a_quiet_pipe_times_out_without_ending(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    reader, writer = pipe
    source = PcmSource(RATE, input_rate=RATE, stream=reader)
    assert len(source.read(10, 0.01)) == 0
    assert not source.ended
    writer.write(SOUND[:7].tobytes())
    assert len(source.read(7, 10.0)) == 7
    writer.close()
    assert len(drain(source)) == 0


def test_a_reader_that_falls_behind_loses_nothing(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    reader, writer = pipe
    source = PcmSource(RATE, input_rate=RATE, stream=reader, buffer_seconds=0.01)
    sound = np.arange(300_000).astype("<i2")

    def record() -> None:
        writer.write(sound.tobytes())
        writer.close()

    recorder = threading.Thread(target=record)
    recorder.start()
    time.sleep(0.05)
    heard = drain(source, 9999)
    recorder.join()
    assert np.array_equal(heard * 32768, sound)


def test_a_read_error_is_told_after_the_sound_before_it() -> None:
    source = PcmSource(RATE, input_rate=RATE, stream=cut(SOUND.tobytes(), [], OSError(5, "Input/output error")))
    heard = 0
    while heard < len(SOUND):
        heard += len(source.read(4000, 10.0))
    assert not source.ended, "a source that failed has not ended before it said so"
    with pytest.raises(InputError, match=r"standard input cannot be read: .*Input/output error"):
        source.read(1, 10.0)
    assert source.ended


def test_a_wav_header_is_not_played_as_sound() -> None:
    source = PcmSource(RATE, input_rate=RATE, stream=cut(b"RIFF\0\0\0\0WAVEfmt ", [3, 1]))
    with pytest.raises(InputError, match="starts with `RIFF`") as caught:
        drain(source)
    assert "arecord -t raw" in str(caught.value)


def test_a_pipe_shorter_than_a_header_is_still_sound() -> None:
    assert drain(PcmSource(RATE, input_rate=RATE, stream=cut(SOUND[:1].tobytes(), [1, 1]))).tolist() == [
        SOUND[0] / 32768
    ]


def test_a_terminal_is_refused() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(InputError, match="standard input is a terminal"):
        PcmSource(RATE, input_rate=RATE, stream=Terminal())


def test_closing_frees_a_recorder_that_waits() -> None:
    source = PcmSource(RATE, input_rate=RATE, stream=cut(bytes(10**6), []), buffer_seconds=0.01)
    assert len(source.read(1, 10.0)) == 1
    source.close()
    source._thread.join(10)
    assert not source._thread.is_alive()


def test_the_source_at_the_end_of_a_real_pipeline_survives_its_writers_death() -> None:
    """The writer is killed in the middle; the reader ends in order with the sound that had come."""
    writer = "import sys, time\nsys.stdout.buffer.write(bytes(3201)); sys.stdout.flush(); time.sleep(60)"
    reader = (
        "from edgetalker.runtime.sources.live import PcmSource\n"
        "s = PcmSource(16000, input_rate=16000); n = 0\n"
        "while n < 1600: n += len(s.read(1600 - n, 30))\n"
        "print(n, flush=True)\n"
        "while not s.ended: n += len(s.read(100, 0.1))\n"
        "print(n, s.warnings())"
    )
    with (
        subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE) as recorder,
        subprocess.Popen(
            [sys.executable, "-c", reader], stdin=recorder.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as player,
    ):
        assert recorder.stdout is not None
        assert player.stdout is not None
        recorder.stdout.close()
        assert player.stdout.readline() == b"1600\n"
        recorder.send_signal(signal.SIGKILL)
        out, err = player.communicate(timeout=60)
    assert out.startswith(b"1600 ['standard input: 1 bytes")
    assert (player.returncode, err) == (0, b"")


def test_a_full_queue_keeps_the_newest_and_counts_the_rest() -> None:
    queue = SoundQueue(limit=250)
    for i in range(10):
        queue.put(np.full(100, i, np.float32))
    assert queue.dropped == 800
    assert queue.read(1000, 0.0).tolist() == [8] * 100 + [9] * 100
    assert len(queue.read(1, 0.0)) == 0
    assert not queue.ended
    queue.finish()
    assert queue.ended


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 9)), takes=st.lists(st.integers(0, 9)))
def test_the_queue_is_first_in_first_out(sizes: list[int], takes: list[int]) -> None:
    queue, sound = SoundQueue(10**6), np.arange(sum(sizes), dtype=np.float32)
    at = 0
    for size in sizes:
        queue.put(sound[at : at + size])
        at += size
    taken = [queue.read(count, 0.0) for count in [*takes, len(sound)]]
    assert np.concatenate(taken).tolist() == sound.tolist()
    assert len(queue.read(1, 0.0)) == 0


# --- raw samples of other kinds, and files that are none


def test_other_encodings_and_one_channel_of_several() -> None:
    stereo = np.stack([SOUND, -SOUND], axis=1)
    data = (stereo.astype(np.float32) / 32768).astype(">f4").tobytes()
    both = PcmSource(RATE, input_rate=RATE, channels=2, form="f32be", channel=2, stream=cut(data, [5, 7]))
    assert drain(both).tolist() == (-SOUND.astype(np.float64) / 32768).tolist()
    assert both.warnings() == []
    mixed = PcmSource(RATE, input_rate=RATE, channels=2, form="f32be", stream=cut(data, []))
    assert not drain(mixed).any()
    assert "the channels cancel each other" in mixed.warnings()[0]


def test_sound_that_begins_like_mp3_is_still_sound() -> None:
    """One sync word is chance, a second one where the first frame ends is a file."""
    data = b"\xff\xfb\x90\x00" + SOUND.tobytes()
    assert len(drain(PcmSource(RATE, input_rate=RATE, stream=cut(data, [2, 3])))) == len(SOUND) + 2
    frame = b"\xff\xfb\x90\x00" + bytes(413)
    with pytest.raises(InputError, match=r"it is a sound file \(MP3\)"):
        drain(PcmSource(RATE, input_rate=RATE, stream=cut(frame * 3, [])))


def test_an_error_in_the_reading_thread_reaches_the_reader() -> None:
    source = PcmSource(RATE, input_rate=RATE, channels=1, channel=2, stream=cut(SOUND.tobytes(), []))
    with pytest.raises(OptionError, match="channel 2 was wanted; the sound has 1"):
        drain(source)


def test_without_a_standard_input_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="there is no standard input"):
        PcmSource(RATE, input_rate=RATE)


# --- recorded or written


def arrivals(*moments: tuple[float, float]) -> Tempo:
    tempo = Tempo()
    for now, seconds in moments:
        tempo.note(now, seconds)
    return tempo


@pytest.mark.parametrize("period", [0.01, 0.05, 0.125, 0.2])
@pytest.mark.parametrize("backlog", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("pace", [0.999, 1.0, 1.001])
def test_a_recorder_is_known_by_its_pace(period: float, backlog: float, pace: float) -> None:
    moments = [(7.0, backlog or period), *((7.0 + i * period, period * pace) for i in range(1, int(1.5 / period)))]
    assert arrivals(*moments).recorded


@pytest.mark.parametrize(
    "bursts",
    [
        [(0.0, 3.0), (3.0, 3.0), (6.0, 3.0)],  # a sentence at once, the next when it was spoken
        [(0.01 * i, 0.5) for i in range(200)],  # all of it as fast as the pipe takes it
        [(0.1 * i, 0.2) for i in range(50)],  # a synthesizer that is twice as fast as speech
        [(0.3 * i, 0.05) for i in range(50)],  # one that is slower
        [(0.5 * i + d, 0.25) for i in range(50) for d in (0.0, 0.001)],  # phrases of half a second, each when it is due
        [(0.0, 1.0)],
    ],
)
def test_a_synthesizer_is_not_taken_for_a_recorder(bursts: list[tuple[float, float]]) -> None:
    assert not arrivals(*bursts).recorded


def test_a_writer_that_we_hold_back_is_no_recorder_though_it_keeps_our_pace() -> None:
    tempo = Tempo()
    for i in range(100):
        tempo.note(0.1 * i, 0.1, waited=True)
    assert not tempo.recorded


def test_a_recorder_whose_sound_suddenly_leaps_ahead_is_one_no_more() -> None:
    tempo = arrivals(*((0.1 * i, 0.1) for i in range(20)))
    assert tempo.recorded
    tempo.note(2.05, 3.0)
    assert not tempo.recorded


def test_what_a_synthesizer_writes_at_once_takes_its_time(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    """Two seconds at once, on a clock that only sleeping moves: no sample comes before it would sound."""
    reader, writer = pipe
    threading.Thread(target=lambda: (writer.write(bytes(2 * 32_000)), writer.close()), daemon=True).start()
    clock = FakeClock()
    pcm = PcmSource(RATE, input_rate=RATE, stream=reader)
    source = PacedSource(pcm, clock, free=pcm.tempo)
    given = 0
    while not source.ended:
        before = given
        given += len(source.read(16_000, 10.0))
        if before:
            assert clock.now_ns() >= (given - 160) * 10**9 // RATE - 10**7
    assert given == 32_000
    assert clock.now_ns() == pytest.approx(2e9, abs=3e7)


def test_what_is_recorded_passes_as_it_comes() -> None:
    clock, tempo = FakeClock(), Tempo()
    tempo.recorded = True
    source = PacedSource(Pieces(np.ones(32_000, np.float32)), clock, free=tempo)
    assert len(source.read(16_000, 0.1)) == 16_000
    assert clock.now_ns() == 0
    tempo.recorded = False
    assert len(source.read(16_000, 1.0)) == 160
    assert clock.now_ns() == 10**7
