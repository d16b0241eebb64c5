"""What the sound options of the command line open."""

from __future__ import annotations

import argparse
import io
import os
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetalker.cli.source import add_source, check_source, source_from
from edgetalker.engines.errors import OptionError
from edgetalker.runtime.sources.file import FileSource, LoopedSource
from edgetalker.runtime.sources.live import PacedSource, PcmSource
from tests.sources.test_files import RATE, tone, write
from tests.support.clock import FakeClock


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_source(parser)
    args = parser.parse_args(words)
    check_source(args, "an example")
    return args


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of stereo floats, the right channel silent."""
    sound = np.stack([np.full(2 * RATE, 0.5), np.zeros(2 * RATE)], axis=1).astype("<f4")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(sound.tobytes())))


def opened(args: argparse.Namespace, clock: FakeClock | None = None, **more: Any) -> Any:
    return closing(source_from(args, RATE, clock=clock, **more))


PCM = ("-", "--rate", str(RATE), "--channels", "2", "--format", "f32le")


@pytest.mark.usefixtures("stdin")
@pytest.mark.parametrize(
    ("words", "paced", "known"), [([], True, True), (["--paced"], True, False), (["--no-paced"], False, False)]
)
def test_pcm_on_a_clock_is_paced_unless_it_is_recorded(words: list[str], paced: bool, known: bool) -> None:
    with opened(parsed(*PCM, *words), FakeClock()) as source:
        assert isinstance(source, PacedSource) is paced
        if paced:
            assert (source._free is source.inner.tempo) is known


@pytest.mark.usefixtures("stdin")
def test_what_is_written_at_once_takes_its_time_on_a_clock_and_none_without() -> None:
    clock = FakeClock()
    with opened(parsed(*PCM), clock) as source:
        source.inner._thread.join()  # all of it lies there: time without sound would be another case
        count = 0
        while not source.ended:
            count += len(source.read(RATE, 1.0))
    assert count == 2 * RATE
    assert clock.now_ns() == pytest.approx(2e9, abs=3e7)


@pytest.mark.usefixtures("stdin")
def test_without_a_clock_pcm_comes_as_fast_as_it_is_read() -> None:
    with opened(parsed(*PCM, "--channel", "1")) as source:
        assert isinstance(source, PcmSource)
        assert source.read(100, 10.0).tolist() == [0.5] * 100


def test_a_channel_of_a_file_is_chosen(tmp_path: Path) -> None:
    values = tone(channels=2)
    path = write(tmp_path / "a.wav", values, subtype="FLOAT")
    with opened(parsed(str(path), "--channel", "2")) as source:
        assert isinstance(source, FileSource)
        assert source.read(100, 0.0).tolist() == values[:100, 1].tolist()
    with pytest.raises(OptionError, match="channel 3 was wanted; the sound has 2"):
        opened(parsed(str(path), "--channel", "3"))


def test_a_file_is_looped_and_a_pipe_is_not(tmp_path: Path) -> None:
    path, pipe = write(tmp_path / "a.wav", tone()), tmp_path / "pipe"
    with opened(parsed(str(path)), loop=True) as source:
        assert isinstance(source, LoopedSource)
        for _ in range(3):
            assert len(source.read(8000, 0.0)) == 8000
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()[:2000]))
    writer.start()
    with pytest.raises(OptionError, match="is a pipe, which cannot be played twice"):
        opened(parsed(str(pipe)), loop=True)
    writer.join()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.wav", "--format", "s16le"), "--format is for raw PCM"),
        (("a.wav", "--no-paced"), "--paced is for raw PCM"),
        (("-", "--rate", "16000", "--format", "s17le"), "no sample format `s17le`; known are"),
        (("-", "--rate", "999999999"), "--rate 999999999: 1000 to 768000 was wanted"),
        (("-", "--rate", "16000", "--channels", "65"), "--channels 65: 1 to 64 was wanted"),
        (("-", "--rate", "16000", "--channel", "2"), "--channel 2 of --channels 1"),
    ],
)
def test_contradictions_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        parsed(*words)
    assert said in str(caught.value)
