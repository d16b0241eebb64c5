"""What the loader accepts and what it says about files that it does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgetalker.engines.errors import OptionError
from edgetalker.models.streamingtalker import (
    CheckpointError,
    Untold,
    load_checkpoint,
    make_schedule,
    model_from_tensors,
    read_tensors,
)
from edgetalker.models.streamingtalker.random_weights import random_tensors
from tests.models.streamingtalker.conftest import DATA, TINY, TINY_BIWI, TINY_UNTOLD

Tensors = dict[str, torch.Tensor]
Wrap = Callable[[Tensors], dict[str, Any]]
CONVOLUTION = "audio_encoder.encoder.pos_conv_embed.conv."


@pytest.fixture
def tensors() -> Tensors:
    return read_tensors(TINY)


def published_shapes(dataset: str) -> dict[str, tuple[int, ...]]:
    lines = (DATA / f"full_{dataset}_state_dict_keys.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    return {key: tuple(int(size) for size in shape.strip("()").split(",") if size.strip()) for key, shape, _ in rows}


def test_sizes_are_told_from_the_tensors() -> None:
    config = load_checkpoint(TINY, untold=TINY_UNTOLD).config
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
        load_checkpoint(TINY, untold=Untold(audio_heads=4, vae_heads=5))


def test_every_fault_is_in_one_error(tensors: Tensors) -> None:
    del tensors["diff_ar_network.denoiser.0.bias"]
    del tensors["autoencoder.quantize.embedding.weight"]
    tensors["diff_ar_network.denoise.0.bias"] = torch.zeros(48)
    tensors["diff_ar_network.latent_vq_map.bias"] = torch.zeros(63)
    tensors["autoencoder.decoder.vertice_map_reverse.bias"] = torch.full((180,), torch.nan)
    tensors["diff_ar_network.obj_vector.weight"] = torch.zeros(8, 48, dtype=torch.int64)
    with pytest.raises(CheckpointError) as caught:
        model_from_tensors(tensors, TINY_UNTOLD)
    assert sorted(fault.split(" ")[0] + " " + fault.split(" ")[1] for fault in caught.value.faults) == [
        "misfit: diff_ar_network.obj_vector.weight",
        "misshapen: diff_ar_network.latent_vq_map.bias",
        "missing: autoencoder.quantize.embedding.weight",
        "missing: diff_ar_network.denoiser.0.bias",
        "not finite:",
        "unexpected: diff_ar_network.denoise.0.bias",
    ]
    assert "did you mean `diff_ar_network.denoiser.0.bias`" in str(caught.value)


def test_an_unrelated_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no StreamingTalker checkpoint: .* \(`fc\.weight`") as caught:
        model_from_tensors({"fc.weight": torch.zeros(2, 2)})
    assert len(caught.value.faults) == 1
    torch.save({"state_dict": {f"layer{place}.weight": torch.zeros(1) for place in range(409)}}, tmp_path / "o.ckpt")
    with pytest.raises(CheckpointError, match=r"none of its 409 tensors") as caught:
        load_checkpoint(tmp_path / "o.ckpt")
    assert len(str(caught.value)) < 400


def test_a_long_list_of_faults_stops_at_ten_lines(tensors: Tensors) -> None:
    for key in [key for key in tensors if key.startswith("audio_encoder.encoder.layers.0")]:
        del tensors[key]
    with pytest.raises(CheckpointError) as caught:
        model_from_tensors(tensors, TINY_UNTOLD)
    assert len(caught.value.faults) == 19
    assert len(caught.value.message.splitlines()) == 12
    assert "and 9 more (--all shows them)" in caught.value.message
    assert all(fault in caught.value.whole for fault in caught.value.faults)


def test_old_weight_norm_keys_load_to_the_same_network(tensors: Tensors, tmp_path: Path) -> None:
    tensors[CONVOLUTION + "weight_g"] = tensors.pop(CONVOLUTION + "parametrizations.weight.original0")
    tensors[CONVOLUTION + "weight_v"] = tensors.pop(CONVOLUTION + "parametrizations.weight.original1")
    torch.save({"state_dict": tensors}, tmp_path / "old.ckpt")
    old = load_checkpoint(tmp_path / "old.ckpt", untold=TINY_UNTOLD)
    new = load_checkpoint(TINY, untold=TINY_UNTOLD)
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
    with pytest.raises(CheckpointError, match=r"missing: autoencoder\.encoder") as caught:
        load_checkpoint(tmp_path / "stage2.ckpt", untold=TINY_UNTOLD)
    assert "--vae" in str(caught.value)
    expected = rest.pop(trained_further)
    torch.save({"state_dict": rest}, tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="lacks the VAE"):
        load_checkpoint(tmp_path / "none.ckpt", untold=TINY_UNTOLD)
    with pytest.raises(CheckpointError, match="is a stage-1 checkpoint"):
        load_checkpoint(tmp_path / "vae.ckpt", untold=TINY_UNTOLD)
    model = load_checkpoint(tmp_path / "stage2.ckpt", tmp_path / "vae.ckpt", TINY_UNTOLD)
    assert torch.equal(model.vae.decoder.reverse.bias, expected)
    assert torch.equal(model.vae.quantizer.codebook.weight, vae["autoencoder.quantize.embedding.weight"])


class Payload:
    """Runs a call when unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_checkpoint_does_not_run(tensors: Tensors, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {**tensors, "b": Payload(marker)}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="unexpected: b"):
        load_checkpoint(tmp_path / "evil.ckpt", untold=TINY_UNTOLD)
    torch.save({"state_dict": tensors, "hyper_parameters": Payload(marker)}, tmp_path / "beside.ckpt")
    load_checkpoint(tmp_path / "beside.ckpt", untold=TINY_UNTOLD)
    assert not marker.exists()


class Settings:
    """What a training run may keep beside its weights."""

    def __init__(self) -> None:
        self.width = 48


class Config(dict[str, object]):
    """A dict whose entries are attributes too, as EasyDict, yacs' CfgNode and Lightning's AttributeDict are."""

    def __getattr__(self, name: str) -> object:
        return self[name]


class Values(list[int]):
    """A list with something of its own."""


def test_objects_beside_the_weights_are_passed_over(tensors: Tensors, tmp_path: Path) -> None:
    values = Values([1, 2])
    values.name = "values"  # type: ignore[attr-defined]
    extra = {
        "epoch": 3,
        "hyper_parameters": Config(cfg=Settings(), lists=values, nested=Config(counts=defaultdict(list, a=[1]))),
        "callbacks": {"best": Path("a.ckpt"), "seen": {1, 2}, "scalar": np.float64(0.5), "array": np.arange(3)},
        "loops": Counter("abc"),
    }
    torch.save({"state_dict": tensors, **extra}, tmp_path / "lightning.ckpt")
    assert load_checkpoint(tmp_path / "lightning.ckpt", untold=TINY_UNTOLD).config.width == 48

    torch.save({"state_dict": tensors, **extra}, tmp_path / "newer.ckpt", pickle_protocol=4)
    assert load_checkpoint(tmp_path / "newer.ckpt", untold=TINY_UNTOLD).config.width == 48


def prefixed(prefix: str) -> Wrap:
    return lambda tensors: {"state_dict": {prefix + key: value for key, value in tensors.items()}}


def folded(tensors: Tensors) -> Tensors:
    tensors = dict(tensors)
    gain = tensors.pop(CONVOLUTION + "parametrizations.weight.original0")
    direction = tensors.pop(CONVOLUTION + "parametrizations.weight.original1")
    return {**tensors, CONVOLUTION + "weight": gain * direction / direction.norm(dim=(0, 1), keepdim=True)}


WRAPPINGS: dict[str, Wrap] = {
    "bare": lambda tensors: tensors,
    "module.": prefixed("module."),
    "model.": prefixed("model."),
    "_orig_mod.": prefixed("_orig_mod."),
    "net.": prefixed("net."),
    "model._orig_mod.module.": prefixed("model._orig_mod.module."),
    "compiled parts": lambda tensors: {
        key.replace("network.", "network._orig_mod.", 1): v for key, v in tensors.items()
    },
    "nested: model": lambda tensors: {"model": tensors, "epoch": 1},
    "nested: model_state_dict": lambda tensors: {"model_state_dict": tensors, "optimizer": {"state": {0: {"a": 1}}}},
    "nested: module": lambda tensors: {"module": tensors},
    "nested twice": lambda tensors: {"best": {"weights": tensors}},
    "a moving average beside": lambda tensors: {
        "state_dict": {**tensors, **{"ema." + key: value + 1 for key, value in list(tensors.items())[:9]}}
    },
    "a copy for each optimizer": lambda tensors: {
        "state_dict": tensors,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "folded weight norm": folded,
    "half": lambda tensors: {key: value.half() for key, value in tensors.items()},
    "parameters": lambda tensors: {key: torch.nn.Parameter(value) for key, value in tensors.items()},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_wrappings(name: str, tensors: Tensors, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[name](tensors), tmp_path / "wrapped.ckpt")
    said: list[str] = []
    extra = "beside" in name
    model = load_checkpoint(tmp_path / "wrapped.ckpt", untold=TINY_UNTOLD, say=said.append, ignore_extra=extra)
    bias = model.motion.head.denoiser.bias
    expected = tensors["diff_ar_network.denoiser.0.bias"]
    torch.testing.assert_close(bias, expected, atol=1e-3 if name == "half" else 0.0, rtol=0.0)
    assert len(said) == (name not in ("bare", "folded weight norm", "half", "parameters", "a copy for each optimizer"))
    if extra:
        with pytest.raises(CheckpointError, match=r"unexpected: ema\.") as caught:
            load_checkpoint(tmp_path / "wrapped.ckpt", untold=TINY_UNTOLD)
        assert "--ignore-extra" in str(caught.value)


def test_folded_weight_norm_is_the_same_network(tensors: Tensors, tmp_path: Path) -> None:
    torch.save(folded(tensors), tmp_path / "folded.ckpt")
    ours, theirs = (load_checkpoint(path, untold=TINY_UNTOLD) for path in (tmp_path / "folded.ckpt", TINY))
    samples = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        results = [one.audio_encoder(samples).last_hidden_state for one in (ours, theirs)]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_a_vae_without_its_prefix_and_safetensors(tensors: Tensors, tmp_path: Path) -> None:
    vae = {key.removeprefix("autoencoder."): value for key, value in tensors.items() if key.startswith("autoencoder.")}
    save_file({key: value for key, value in tensors.items() if "autoencoder" not in key}, tmp_path / "2.safetensors")
    torch.save({"state_dict": vae}, tmp_path / "vae.ckpt")
    model = load_checkpoint(tmp_path / "2.safetensors", tmp_path / "vae.ckpt", TINY_UNTOLD)
    assert torch.equal(model.vae.quantizer.codebook.weight, vae["quantize.embedding.weight"])


def test_the_vae_of_another_network_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors}, tmp_path / "stage2.ckpt")
    rest = {key: value for key, value in tensors.items() if "autoencoder" not in key}
    torch.save({"state_dict": rest}, tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match=r"misfit: latents of 64|misshapen: autoencoder"):
        load_checkpoint(tmp_path / "bare.ckpt", TINY_BIWI, TINY_UNTOLD)
    other = {key: value for key, value in tensors.items() if "autoencoder" in key}
    other["autoencoder.decoder.vertice_map_reverse.bias"] = torch.zeros(70110)
    other["autoencoder.decoder.vertice_map_reverse.weight"] = torch.zeros(70110, 64)
    torch.save({"state_dict": other}, tmp_path / "vae.ckpt")
    with pytest.raises(CheckpointError, match=r"the VAE is BIWI's; .*bare.ckpt is VOCASET's"):
        load_checkpoint(tmp_path / "bare.ckpt", tmp_path / "vae.ckpt", TINY_UNTOLD)
    with pytest.raises(CheckpointError, match=r"vertice_map_reverse.bias is \(70110,\) in .*vae.ckpt"):
        load_checkpoint(tmp_path / "stage2.ckpt", tmp_path / "vae.ckpt", TINY_UNTOLD)


def test_a_whole_vae_is_not_mixed_with_maps_of_another(tensors: Tensors, tmp_path: Path) -> None:
    """Published VOCASET and BIWI files have equal widths, so that BIWI's extra maps would fit in silently."""
    torch.save({"state_dict": tensors}, tmp_path / "stage2.ckpt")
    other = {key: value for key, value in tensors.items() if "autoencoder" in key}
    for name in ("encoder.encoder_linear_embedding_post", "decoder.decoder_linear_embedding_pre"):
        other |= {f"autoencoder.{name}.net.weight": torch.ones(64, 64), f"autoencoder.{name}.net.bias": torch.ones(64)}
    torch.save({"state_dict": other}, tmp_path / "vae.ckpt")
    said: list[str] = []
    model = load_checkpoint(tmp_path / "stage2.ckpt", tmp_path / "vae.ckpt", TINY_UNTOLD, say=said.append)
    assert (model.config.dataset, model.config.frame_rate, model.config.vae_extra_linear) == ("vocaset", 30, False)
    assert "adds nothing" in said[0]


def test_what_no_tensor_tells(tensors: Tensors) -> None:
    untold = Untold(audio_heads=4, vae_heads=4, frame_rate=60, period=20, activation="gelu")
    config = model_from_tensors(tensors, untold).config
    assert (config.frame_rate, config.period, config.activation) == (60, 20, "gelu")
    table = tensors["diff_ar_network.PPE.pe"]
    tensors["diff_ar_network.PPE.pe"] = table[:, :12].repeat(1, 400, 1)
    assert model_from_tensors(tensors, TINY_UNTOLD).config.period == 12
    for wrong in ({"frame_rate": 0}, {"frame_rate": 100000}, {"period": -1}, {"activation": "tanh"}):
        with pytest.raises(OptionError):
            model_from_tensors(tensors, Untold(audio_heads=4, vae_heads=4, **wrong))


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
        noise = torch.randn((1, 8000), generator=torch.Generator().manual_seed(0))
        extractor: Any = model.audio_encoder.feature_extractor
        heard, silence = extractor(noise), extractor(0 * noise)
    assert 0.1 < float(heard.square().mean().sqrt()) < 2.0, "a random network must not lose its sound on the way"
    assert not silence.any()
    assert token.shape == (1, 1, 1024)
    assert bool(torch.isfinite(token).all())


def test_an_unknown_published_size() -> None:
    with pytest.raises(OptionError, match="known are vocaset, biwi"):
        random_tensors("voca")
