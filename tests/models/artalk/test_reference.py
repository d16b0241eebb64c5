"""Our network against arrays that the published code made with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetalker.models.artalk import ARTalk, Chunk, chunks, finished, generate, model_from_tensors, smoothed
from edgetalker.models.artalk.offline import savgol_weights
from edgetalker.models.artalk.scales import Scales, area_matrix, linear_matrix
from edgetalker.models.artalk.vae import quantised
from tests.support.artalk import DATA, TINY_HEADS, TOY, TOY_HEADS, checkpoint

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> ARTalk:
    return model_from_tensors(checkpoint(), TINY_HEADS)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(DATA / "tiny.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def compare(made: list[Chunk], reference: dict[str, torch.Tensor], name: str, motion: torch.Tensor) -> None:
    assert len(made) == 3
    assert apart(torch.cat([chunk.logits for chunk in made]), reference[f"{name}_logits_final_scale"]) < TOLERANCE
    flipped = torch.cat([chunk.bits for chunk in made]) != reference[f"{name}_bits"].bool()
    assert int(flipped.sum()) == 0
    assert apart(torch.cat([chunk.motion for chunk in made])[: len(motion)], motion) < TOLERANCE


def test_without_style(model: ARTalk, reference: dict[str, torch.Tensor]) -> None:
    made = list(chunks(model, reference["wav"]))
    compare(made, reference, "default", reference["default_motion"])
    assert apart(torch.cat([chunk.features for chunk in made])[:, ::33], reference["audio_features"]) < TOLERANCE


def test_with_style(model: ARTalk, reference: dict[str, torch.Tensor]) -> None:
    vector = model.style_encoder(reference["style_motion"][None])
    assert apart(vector, reference["style_vector"]) < TOLERANCE
    compare(list(chunks(model, reference["wav"], vector)), reference, "style", reference["style_motion_out"])


def test_the_clip_is_cut_to_the_frames_that_its_sound_fills(model: ARTalk, reference: dict[str, torch.Tensor]) -> None:
    motion = generate(model, reference["wav"][:641], reference["style_motion"])
    assert motion.shape == (2, 106)  # 641 samples are one frame and a bit


def test_the_vae(model: ARTalk, reference: dict[str, torch.Tensor]) -> None:
    vae, bits = model.basic_vae, reference["vae_bits"].bool()
    assert apart(vae.scale_features(bits), reference["vae_ms_vqfeat"]) < TOLERANCE
    before, this = vae.decode(vae.fused(bits), vae.fused(bits))
    assert apart(before[0], reference["vae_decode_prev"]) < TOLERANCE
    assert apart(this[0], reference["vae_decode_this"]) < TOLERANCE


def test_smoothing(reference: dict[str, torch.Tensor]) -> None:
    found = torch.from_numpy(smoothed(reference["default_motion"].numpy()))
    assert apart(found, reference["default_smoothed"]) < TOLERANCE


def test_smoothing_is_scipys() -> None:
    from scipy.signal import savgol_coeffs

    np.testing.assert_allclose(savgol_weights(9, 3)[4], savgol_coeffs(9, 3, use="dot"), atol=1e-12)
    np.testing.assert_allclose(savgol_weights(5, 2)[0], savgol_coeffs(5, 2, pos=0, use="dot"), atol=1e-12)
    short = np.ones((3, 106), np.float32)
    np.testing.assert_array_equal(smoothed(short), short)  # shorter than a window: as it is


def test_only_the_opening_of_the_jaw_is_kept() -> None:
    motion = np.ones((2, 106), np.float32)
    assert finished(motion).sum(axis=1).tolist() == [104, 104]
    assert finished(motion, fix_pose=True).sum(axis=1).tolist() == [101, 101]


@pytest.mark.parametrize(("source", "target"), [(199, 100), (199, 1), (100, 25), (49, 25), (25, 12), (5, 5)])
def test_interpolations_are_matrices(source: int, target: int) -> None:
    x = torch.randn(1, 3, source, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    area = torch.nn.functional.interpolate(x, size=target, mode="area")
    np.testing.assert_allclose(area_matrix(source, target) @ x[0].numpy().T, area[0].T, atol=1e-12)
    linear = torch.nn.functional.interpolate(x, size=source + target, mode="linear", align_corners=False)
    np.testing.assert_allclose(linear_matrix(source, source + target) @ x[0].numpy().T, linear[0].T, atol=1e-12)


def test_the_scales_matrices_do_what_the_network_does() -> None:
    model = model_from_tensors(checkpoint(TOY), TOY_HEADS)
    scales, vae = Scales(TOY.patches), model.basic_vae
    bits = torch.rand(1, scales.tokens, TOY.code, generator=torch.Generator().manual_seed(2)) > 0.5
    values = quantised(bits)[0].double().numpy()
    np.testing.assert_allclose(scales.fused @ values, vae.fused(bits)[0], atol=1e-6)
    np.testing.assert_allclose(scales.all_features() @ values, vae.scale_features(bits)[0], atol=1e-6)
    last = scales.features(4) @ values[: scales.starts[4]]
    np.testing.assert_allclose(last, vae.scale_features(bits)[0, -25:], atol=1e-6)


def test_another_window() -> None:
    model = model_from_tensors(checkpoint(TOY), TOY_HEADS)
    config = model.config
    assert (config.patches, config.frames, config.samples, config.audio_tokens) == ((1, 3, 6, 12, 25), 25, 16000, 49)
    motion = generate(model, torch.randn(40000, generator=torch.Generator().manual_seed(3)))
    assert motion.shape == (63, 106)
    assert bool(torch.isfinite(motion).all())
