"""Each fuzz target for a moment; `make fuzz` runs them for an hour."""

from __future__ import annotations

import pytest

from tests.fuzz import configurations
from tests.fuzz.checkpoints import Wrong, run


def test_changed_checkpoints_a_few() -> None:
    assert run(examples=39, seconds=None, seed=0) == 39


@pytest.mark.slow
def test_changed_checkpoints() -> None:
    assert run(examples=200, seconds=None, seed=100) == 200


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
