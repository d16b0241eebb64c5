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

from edgetalker.engines.errors import InputError
from edgetalker.runtime.sources.live import PcmSource, SoundQueue

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
