"""ARTalk's stages: each checked, as many token evaluations as the cache leaves, and chunks that are the network's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.export.artalk.stages import Stages
from edgetalker.export.artalk.transformer_stages import StyleStage
from edgetalker.export.artalk.vae_stages import DecodeStage, EncodeStage, FinishStage
from edgetalker.export.onnx_stage import Check, StageFile
from edgetalker.models.artalk import ARTalk, model_from_tensors
from edgetalker.runtime.talker import Talker
from tests.export.make_toy_artalk import make
from tests.support.artalk import PUBLISHED, TOY, TOY_BUNDLE, TOY_HEADS, checkpoint

Array = NDArray[Any]


@pytest.fixture(scope="module")
def model() -> ARTalk:
    return model_from_tensors(checkpoint(TOY), TOY_HEADS)


def stages_of(model: ARTalk, **options: Any) -> Stages:
    settings: Mapping[str, Any] = {"tolerance": 2e-4, "audio_parts": 1, "smooth": True, "style_frames": 50}
    return Stages(model, **{**settings, **options})


@pytest.fixture(scope="module")
def made(model: ARTalk) -> dict[str, tuple[StageFile, Check]]:
    return {stage.name: (stage, check) for stage, check in stages_of(model).make()}


@pytest.mark.slow
def test_every_stage_is_what_the_network_computes(made: dict[str, tuple[StageFile, Check]]) -> None:
    scales = [f"scale_{scale}" for scale in range(1, 6)]
    assert list(made) == ["audio", "style", "condition", *scales, "decode", "encode", "finish"]
    assert all(check.passed for _, check in made.values())
    assert made["encode"][1].error == 0  # codes are signs: equal or wrong
    evaluated = [made[name][0].inputs["adaptors"]["shape"][1] for name in scales]
    assert (evaluated, sum(evaluated)) == ([1, 3, 6, 12, 25], 47)


def test_a_published_chunk_is_181_token_evaluations() -> None:
    passes = [PUBLISHED.scales.rows(scale) for scale in range(5)]
    assert sum(rows.stop - rows.start for rows in passes) == 181
    assert sum(rows.stop for rows in passes) == 300  # the published loop begins each pass at the first token


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [(DecodeStage, "decode"), (EncodeStage, "encode"), (FinishStage, "finish"), (StyleStage, "style")],
)
def test_a_stage_that_computes_something_else_fails_its_check(
    model: ARTalk, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    right = module.forward

    def wrong(self: Any, *values: torch.Tensor) -> Any:
        result = right(self, *values)
        return (result[0] * 1.01, *result[1:]) if isinstance(result, tuple) else result * 1.01

    monkeypatch.setattr(module, "forward", wrong)
    with torch.no_grad():
        _, check = getattr(stages_of(model), f"_{name}")()
    assert not check.passed


@pytest.mark.slow
def test_the_bundle_for_runtime_tests_is_what_this_code_exports(tmp_path: Path) -> None:
    kept, fresh = Bundle.open(TOY_BUNDLE), make(tmp_path / "fresh").bundle
    documents = [json.loads((bundle.path / "manifest.json").read_text()) for bundle in (kept, fresh)]
    assert all(documents[0][key] == documents[1][key] for key in documents[0].keys() - {"files", "notes"})
    np.testing.assert_array_equal(kept.array("past_codes.npy"), fresh.array("past_codes.npy"))
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    motions = [np.stack([frame.motion for frame in Talker(one).accept(sound)]) for one in (kept, fresh)]
    np.testing.assert_allclose(motions[0], motions[1], atol=1e-4)


@pytest.mark.slow
def test_the_audio_encoder_may_be_cut_into_parts() -> None:
    config = dataclasses.replace(TOY, audio_layers=3)
    model = model_from_tensors(checkpoint(config), TOY_HEADS)
    with torch.no_grad():
        parts = list(stages_of(model, audio_parts=2)._audio())
    assert [stage.name for stage, _ in parts] == ["audio_1", "audio_2"]
    assert all(check.passed for _, check in parts)
    assert np.prod(parts[1][0].inputs["before"]["shape"]) == 49 * 32
