"""Each fuzz target for a moment; `make fuzz` runs them for an hour."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz import arrays, configurations, manifests, plans, sounds, stages
from tests.fuzz.checkpoints import run
from tests.fuzz.trying import Wrong


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
    with pytest.raises(Wrong, match="float"):
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
    with pytest.raises(Wrong, match="ZeroDivisionError"):
        configurations.run(examples=200, seconds=None, seed=5)


TARGETS = {"arrays": arrays, "manifests": manifests, "plans": plans, "stages": stages}


@pytest.mark.parametrize(("target", "examples"), [("arrays", 60), ("manifests", 120), ("plans", 25), ("stages", 40)])
def test_changed_parts_of_a_bundle_a_few(target: str, examples: int) -> None:
    assert TARGETS[target].run(examples=examples, seconds=None, seed=0) == examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "examples"), [("arrays", 2000), ("manifests", 2000), ("plans", 1200), ("stages", 1000)]
)
def test_changed_parts_of_a_bundle(target: str, examples: int) -> None:
    assert TARGETS[target].run(examples=examples, seconds=None, seed=100_000) == examples


@pytest.mark.parametrize(
    ("target", "broken", "examples"),
    [
        ("arrays", "tests.fuzz.arrays.read_recording", 40),
        ("manifests", "tests.fuzz.manifests.describe", 400),  # few changed manifests are whole enough to be described
        ("plans", "tests.fuzz.plans.plan_rows", 40),
        ("stages", "edgetalker.runtime.model.Model.talker", 40),
    ],
)
def test_a_target_sees_a_traceback(target: str, broken: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(broken, breaks)
    with pytest.raises(Wrong, match="ZeroDivisionError"):
        TARGETS[target].run(examples=examples, seconds=None, seed=5)


def test_what_takes_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.trying.MOST_MEMORY", -1)
    with pytest.raises(Wrong, match="bytes more"):
        plans.run(examples=1, seconds=None, seed=0)
