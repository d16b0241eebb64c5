"""Each fuzz target for a moment; `make fuzz` runs them for an hour."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz import configurations, sounds
from tests.fuzz.checkpoints import Wrong, run


def test_changed_checkpoints_a_few() -> None:
    assert run(examples=39, seconds=None, seed=0) == 39


@pytest.mark.slow
def test_changed_checkpoints() -> None:
    assert run(examples=200, seconds=None, seed=100) == 200


def test_changed_sound_files_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without ffmpeg, which takes a tenth of a second to refuse a file
    assert sounds.run(examples=150, seconds=None, seed=0) >= 150


@pytest.mark.slow
def test_changed_sound_files() -> None:
    assert sounds.run(examples=None, seconds=20, seed=100) >= 50


def test_the_sound_target_sees_a_traceback_and_sound_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with monkeypatch.context() as patched:
        patched.setattr("edgetalker.runtime.sources.file.WavReader.follow", lambda self: [][0])
        with pytest.raises(IndexError):
            sounds.run(examples=100, seconds=None, seed=5)
    monkeypatch.setattr(
        "edgetalker.runtime.sources.convert.Converter._inspected",
        lambda self, values: np.full(values.shape, 9, np.float32),
    )
    with pytest.raises(sounds.Wrong, match="float"):
        sounds.run(examples=100, seconds=None, seed=5)


def test_the_target_sees_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tests.fuzz.checkpoints.load_checkpoint", broken)
    with pytest.raises(Wrong, match="seed 5, flip: ZeroDivisionError"):
        run(examples=1, seconds=None, seed=5)


def test_changed_configurations() -> None:
    assert configurations.run(examples=400, seconds=15, seed=0) > 50


def test_the_configurations_target_sees_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tests.fuzz.configurations.sink_for", broken)
    with pytest.raises(configurations.Wrong, match="ZeroDivisionError"):
        configurations.run(examples=200, seconds=None, seed=5)
