"""What the loader accepts and what it says about files that it does not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from edgetalker.engines.errors import OptionError
from edgetalker.models.streamingtalker import (
    CheckpointError,
    HeadCounts,
    load_checkpoint,
    make_schedule,
    model_from_tensors,
    read_tensors,
)
from edgetalker.models.streamingtalker.random_weights import random_tensors
from tests.models.streamingtalker.conftest import DATA, TINY, TINY_HEADS

Tensors = dict[str, torch.Tensor]
CONVOLUTION = "audio_encoder.encoder.pos_conv_embed.conv."


@pytest.fixture
def tensors() -> Tensors:
    return read_tensors(TINY)


def published_shapes(dataset: str) -> dict[str, tuple[int, ...]]:
    lines = (DATA / f"full_{dataset}_state_dict_keys.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    return {key: tuple(int(size) for size in shape.strip("()").split(",") if size.strip()) for key, shape, _ in rows}


def test_sizes_are_told_from_the_tensors() -> None:
    config = load_checkpoint(TINY, heads=TINY_HEADS).config
    assert (config.dataset, config.frame_rate, config.period) == ("vocaset", 30, 30)
    assert (config.width, config.audio_width, config.vae_width) == (48, 32, 64)
    assert (config.vertex_values, config.identities, config.codes) == (180, 8, 32)
    assert (config.layers, config.vae_layers, config.audio_layers) == (2, 2, 2)
    assert (config.hop, config.receptive_field) == (320, 400)
    assert config.tokens(16000) == 49


def test_head_counts_that_no_tensor_tells_must_be_given() -> None:
    with pytest.raises(OptionError, match="--audio-heads"):
        load_checkpoint(TINY)
    with pytest.raises(OptionError, match="5 attention heads do not divide"):
        load_checkpoint(TINY, heads=HeadCounts(audio=4, vae=5))


def test_every_fault_is_in_one_error(tensors: Tensors) -> None:
    del tensors["diff_ar_network.denoiser.0.bias"]
    del tensors["autoencoder.quantize.embedding.weight"]
    tensors["diff_ar_network.denoise.0.bias"] = torch.zeros(48)
    tensors["diff_ar_network.latent_vq_map.bias"] = torch.zeros(63)
    tensors["autoencoder.decoder.vertice_map_reverse.bias"] = torch.full((180,), torch.nan)
    tensors["diff_ar_network.obj_vector.weight"] = torch.zeros(8, 48, dtype=torch.int64)
    with pytest.raises(CheckpointError) as caught:
        model_from_tensors(tensors, TINY_HEADS)
    assert sorted(fault.split(" ")[0] + " " + fault.split(" ")[1] for fault in caught.value.faults) == [
        "misfit: diff_ar_network.obj_vector.weight",
        "misshapen: diff_ar_network.latent_vq_map.bias",
        "missing: autoencoder.quantize.embedding.weight",
        "missing: diff_ar_network.denoiser.0.bias",
        "not finite:",
        "unexpected: diff_ar_network.denoise.0.bias",
    ]
    assert "did you mean `diff_ar_network.denoiser.0.bias`" in str(caught.value)


def test_an_unrelated_checkpoint_lists_what_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected: fc\.weight"):
        model_from_tensors({"fc.weight": torch.zeros(2, 2)})


def test_old_weight_norm_keys_load_to_the_same_network(tensors: Tensors, tmp_path: Path) -> None:
    tensors[CONVOLUTION + "weight_g"] = tensors.pop(CONVOLUTION + "parametrizations.weight.original0")
    tensors[CONVOLUTION + "weight_v"] = tensors.pop(CONVOLUTION + "parametrizations.weight.original1")
    torch.save({"state_dict": tensors}, tmp_path / "old.ckpt")
    old = load_checkpoint(tmp_path / "old.ckpt", heads=TINY_HEADS)
    new = load_checkpoint(TINY, heads=TINY_HEADS)
    samples = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(old.audio_encoder(samples).last_hidden_state, new.audio_encoder(samples).last_hidden_state)


def test_a_vae_file_fills_in_what_stage_2_lacks(tensors: Tensors, tmp_path: Path) -> None:
    vae = {key: value for key, value in tensors.items() if key.startswith("autoencoder.")}
    rest = {key: value for key, value in tensors.items() if key not in vae}
    trained_further = "autoencoder.decoder.vertice_map_reverse.bias"
    rest[trained_further] = vae[trained_further] + 1
    torch.save({"state_dict": vae}, tmp_path / "vae.ckpt")
    torch.save({"state_dict": rest}, tmp_path / "stage2.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: autoencoder\.encoder"):
        load_checkpoint(tmp_path / "stage2.ckpt", heads=TINY_HEADS)
    model = load_checkpoint(tmp_path / "stage2.ckpt", tmp_path / "vae.ckpt", TINY_HEADS)
    assert torch.equal(model.vae.decoder.reverse.bias, rest[trained_further])
    assert torch.equal(model.vae.quantizer.codebook.weight, vae["autoencoder.quantize.embedding.weight"])


class Payload:
    """Runs a call when unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_checkpoint_does_not_run(tensors: Tensors, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.zeros(1), "b": Payload(marker)}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"`b` is not a tensor|more than tensors"):
        load_checkpoint(tmp_path / "evil.ckpt")
    torch.save({"state_dict": tensors, "hyper_parameters": Payload(marker)}, tmp_path / "beside.ckpt")
    with contextlib.suppress(CheckpointError):
        load_checkpoint(tmp_path / "beside.ckpt", heads=TINY_HEADS)
    assert not marker.exists()


class Settings:
    """What a training run may keep beside its weights."""

    def __init__(self) -> None:
        self.width = 48


def test_objects_beside_the_weights_are_passed_over(tensors: Tensors, tmp_path: Path) -> None:
    extra = {"epoch": 3, "hyper_parameters": {"cfg": Settings()}, "callbacks": {"best": Path("a.ckpt")}}
    torch.save({"state_dict": tensors, **extra}, tmp_path / "lightning.ckpt")
    assert load_checkpoint(tmp_path / "lightning.ckpt", heads=TINY_HEADS).config.width == 48


@pytest.mark.parametrize("size", [0, 1, 100, 40_000])
def test_truncated_files(tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.ckpt").write_bytes(TINY.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "cut.ckpt")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        load_checkpoint(tmp_path / "list.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1), "b": 3}}, tmp_path / "mixed.ckpt")
    with pytest.raises(CheckpointError, match="`b` is not a tensor"):
        load_checkpoint(tmp_path / "mixed.ckpt")


@pytest.mark.parametrize(("steps", "rule"), [(0, "ddim"), (1001, "ddim"), (50, "euler")])
def test_impossible_schedules(steps: int, rule: str) -> None:
    with pytest.raises(OptionError):
        make_schedule(steps, rule)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "parameters", "frame_rate"), [("vocaset", 242_772_829, 30), ("biwi", 372_456_798, 25)]
)
def test_a_checkpoint_of_published_size(dataset: str, parameters: int, frame_rate: int, tmp_path: Path) -> None:
    tensors = random_tensors(dataset)
    listed = published_shapes({"vocaset": "voca"}.get(dataset, dataset))
    assert {key: tuple(value.shape) for key, value in tensors.items()} == listed
    torch.save({"state_dict": tensors}, tmp_path / "published.ckpt")
    model = load_checkpoint(tmp_path / "published.ckpt")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (model.config.dataset, model.config.frame_rate) == (dataset, frame_rate)
    with torch.no_grad():
        token = model.vae.start_token()
    assert token.shape == (1, 1, 1024)
    assert bool(torch.isfinite(token).all())


def test_an_unknown_published_size() -> None:
    with pytest.raises(OptionError, match="known are vocaset, biwi"):
        random_tensors("voca")
