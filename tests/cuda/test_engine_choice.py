"""Which engine a bundle gets on the GPU, and what is said when none can run it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import engines
from edgetalker.engines.errors import EngineError, MissingPackageError, OptionError
from edgetalker.engines.host import HostDevice
from tests.support.toy import toy_bundle

NO_PLAN = EngineError("stage `audio` has no plan", hint="edgetalker build")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy")


def raising(error: Exception) -> Any:
    def opener(*_: object, **__: object) -> Any:
        raise error

    return opener


def choose(bundle: Bundle, engine: str) -> Any:
    return engines.cuda_engines(bundle, HostDevice(), engine=engine)


def test_auto_takes_tensorrt_where_it_can(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def tensorrt(_: Bundle, __: object, flavour: str, precision: str) -> Any:
        asked.append((flavour, precision))
        return {"plans": True}

    monkeypatch.setattr(engines, "tensorrt_engines", tensorrt)
    monkeypatch.setattr(engines, "_with_torch", raising(AssertionError("PyTorch was not asked for")))
    assert choose(bundle, "auto") == choose(bundle, "rtx") == {"plans": True}
    assert asked == [("auto", "fp32"), ("rtx", "fp32")]


def test_auto_falls_back_to_pytorch_and_says_why(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "tensorrt_engines", raising(NO_PLAN))
    monkeypatch.setattr(engines, "_with_torch", lambda *_: {"torch": True})
    with caplog.at_level(logging.WARNING):
        assert choose(bundle, "auto") == {"torch": True}
    assert "stage `audio` has no plan" in caplog.text


def test_an_engine_that_was_asked_for_is_never_replaced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "tensorrt_engines", raising(NO_PLAN))
    monkeypatch.setattr(engines, "_with_torch", lambda *_: {"torch": True})
    with pytest.raises(EngineError, match="has no plan"):
        choose(bundle, "tensorrt")
    assert choose(bundle, "torch") == {"torch": True}


def test_when_none_can_run_it_both_reasons_are_given(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "tensorrt_engines", raising(NO_PLAN))
    monkeypatch.setattr(engines, "_with_torch", raising(MissingPackageError("torch", "stages", extra="export")))
    with pytest.raises(EngineError) as caught:
        choose(bundle, "auto")
    assert "TensorRT: stage `audio` has no plan; PyTorch: stages needs the package `torch`" in str(caught.value)
    assert caught.value.hint == "edgetalker build"


@pytest.mark.parametrize(("engine", "said"), [("tensort", "`tensorrt`"), ("ort", "--device host")])
def test_unknown_engines_name_the_nearest(bundle: Bundle, engine: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        choose(bundle, engine)
    assert said in str(caught.value)
