"""Our network against arrays that the published code made with the same random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetalker.models.streamingtalker import (
    Generated,
    Schedule,
    StreamingTalker,
    alphas_cumprod,
    make_schedule,
    predict,
    stream_frames,
    streaming_inference,
)
from edgetalker.models.streamingtalker.audio import encode_clip, normalise
from edgetalker.models.streamingtalker.network import head_slopes, temporal_bias
from tests.models.streamingtalker.conftest import Case, Reference

CONDITION, VERTEX = 1e-4, 5e-4


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def run_predict(model: StreamingTalker, reference: Reference, schedule: Schedule) -> Generated:
    return predict(
        model,
        reference.tensor("hidden_state"),
        reference.tensor("id_onehot"),
        reference.tensor("template"),
        lambda frame, rows: reference.tensor(f"predict_noise_{frame:04d}"),
        schedule,
    )


def run_streaming(model: StreamingTalker, reference: Reference, schedule: Schedule) -> Generated:
    return streaming_inference(
        model,
        reference.tensor("hidden_state"),
        reference.tensor("id_onehot"),
        reference.tensor("template"),
        lambda frame, rows: reference.tensor(f"stream_noise_{frame:04d}"),
        schedule,
    )


def test_audio_features(case: Case) -> None:
    model, reference = case.model, case.reference
    samples = normalise(reference.tensor("wav")[None])
    assert apart(samples[0], reference.tensor("audio_normalised")) < 1e-6
    with torch.no_grad():
        features = encode_clip(model.audio_encoder, samples, model.config.frame_rate)
    assert apart(features, reference.tensor("hidden_state")) < 1e-4


def test_start_token(case: Case) -> None:
    with torch.no_grad():
        token = case.model.vae.start_token()
    assert apart(token, case.reference.tensor("start_quant")[:, :1]) < 1e-5


def test_schedule(reference: Reference) -> None:
    np.testing.assert_allclose(alphas_cumprod(), reference["alphas_cumprod"], atol=1e-6)
    np.testing.assert_array_equal(make_schedule(50).times, reference["timesteps"])
    assert float(reference["final_alpha_cumprod"]) == pytest.approx(alphas_cumprod()[0], abs=1e-6)


def test_legacy_gains_are_the_published_ones() -> None:
    gains = make_schedule(50).gain
    assert gains[0] == pytest.approx(1.0817, abs=1e-4)
    assert gains.max() == pytest.approx(1.4141, abs=1e-4)
    assert gains[-1] == pytest.approx(1.0287, abs=1e-4)


def test_predict(case: Case) -> None:
    ours = run_predict(case.model, case.reference, make_schedule(50))
    assert apart(ours.condition, case.reference.tensor("predict_cond_last")) < CONDITION
    assert apart(ours.latents, case.reference.tensor("predict_latents")) < case.latents
    assert apart(ours.vertices, case.reference.tensor("predict_vertices")) < VERTEX


def test_streaming_inference(case: Case) -> None:
    ours = run_streaming(case.model, case.reference, make_schedule(50))
    assert apart(ours.condition, case.reference.tensor("stream_cond_last")) < CONDITION
    theirs = case.reference.tensor("stream_vertices").flatten(1)[None]
    assert apart(ours.vertices, theirs) < VERTEX


def test_denoising_every_row_changes_nothing_for_the_newest(model: StreamingTalker, reference: Reference) -> None:
    inputs = (reference.tensor("hidden_state")[:, :6], reference.tensor("id_onehot"), reference.tensor("template"))

    def noise(frame: int, rows: int) -> torch.Tensor:
        newest = reference.tensor(f"stream_noise_{frame:04d}")
        return torch.cat([torch.zeros(1, rows - 1, newest.shape[2]), newest], dim=1)

    def vertices(all_rows: bool) -> torch.Tensor:
        frames = stream_frames(model, *inputs, noise, make_schedule(50), all_rows=all_rows)
        return torch.stack([frame for *_, frame in frames])

    assert apart(vertices(True), vertices(False)) < VERTEX


def test_textbook_ddim_does_not_reproduce_the_published_rule(model: StreamingTalker, reference: Reference) -> None:
    ours = run_streaming(model, reference, make_schedule(50, "ddim"))
    theirs = reference.tensor("stream_vertices").flatten(1)[None]
    assert apart(ours.vertices, theirs) > 1.0


def test_textbook_ddim_recovers_a_known_clean_latent() -> None:
    # With a perfect estimate, DDIM follows x = √ᾱ x0 + √(1-ᾱ) ε down to the last level for any ε.
    schedule, levels = make_schedule(50, "ddim"), alphas_cumprod()
    clean, epsilon = np.float64(0.7), np.float64(-1.3)
    x = np.sqrt(levels[981]) * clean + np.sqrt(1 - levels[981]) * epsilon
    for keep, gain in zip(schedule.keep, schedule.gain, strict=True):
        x = keep * x + gain * clean
    assert x == pytest.approx(np.sqrt(levels[0]) * clean + np.sqrt(1 - levels[0]) * epsilon)


def test_temporal_bias() -> None:
    assert head_slopes(4).tolist() == [0.25, 0.0625, 0.015625, 0.00390625]
    bias = temporal_bias(65, 4, 30)
    assert bias[0, 64, 64] == 0.0
    assert bias[1, 64, 35] == 0.0
    assert bias[1, 64, 34] == -0.0625
    assert bias[0, 64, 0] == -0.5
    assert bias[0, 0, 1] == -torch.inf
