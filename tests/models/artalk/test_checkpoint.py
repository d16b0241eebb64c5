"""What the loader accepts, and what it says about files that it does not."""

from __future__ import annotations

import ast
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.models.artalk import (
    ARTalk,
    CheckpointError,
    HeadCounts,
    load_checkpoint,
    model_from_tensors,
    read_settings,
)
from tests.support.artalk import DATA, PUBLISHED, TOY, TOY_HEADS, checkpoint

SETTINGS: dict[str, dict[str, object]] = {
    "AR_CONFIG": {"T_DEPTH": 2, "T_NUM_HEADS": 4, "PREV_RATIO": 1},
    "VAE_CONFIG": {
        "MOTION_DIM": 106, "V_CODE_DIM": 8, "T_DEPTH": 2, "T_NUM_HEADS": 4, "T_HIDDEN_DIM": 64,
        "V_PATCH_NUMS": [1, 3, 6, 12, 25],
    },
}  # fmt: skip
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tensors() -> Tensors:
    return checkpoint(TOY)


def test_the_published_keys_are_the_network() -> None:
    with torch.device("meta"):
        ours = {key: (tuple(value.shape), str(value.dtype)) for key, value in ARTalk(PUBLISHED).state_dict().items()}
    rows = [line.split("\t") for line in (DATA / "full_state_dict_keys.txt").read_text().splitlines()]
    assert len(rows) == 814
    assert ours == {key: (ast.literal_eval(shape), f"torch.{dtype}") for key, shape, dtype in rows}
    assert (PUBLISHED.samples, PUBLISHED.audio_tokens, PUBLISHED.scales.tokens) == (64000, 199, 181)


def test_sizes_are_told_from_the_tensors(tensors: Tensors, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "toy.pt")
    assert load_checkpoint(tmp_path / "toy.pt", TOY_HEADS).config == TOY


def test_every_fault_is_in_one_error(tensors: Tensors) -> None:
    del tensors["logits_head.bias"]
    tensors["logits_hat.bias"] = torch.zeros(16)
    tensors["attn_blocks.1.attn.key.weight"] = torch.zeros(32, 31)
    tensors["basic_vae.motion_std"] = torch.full((106,), torch.nan)
    tensors["basic_vae.attn_mask"] = torch.zeros(1, 1, 50, 50)
    with pytest.raises(CheckpointError) as caught:
        model_from_tensors(tensors, TOY_HEADS)
    assert sorted(fault.split(" ")[0] + " " + fault.split(" ")[1] for fault in caught.value.faults) == [
        "misfit: basic_vae.attn_mask",
        "misshapen: attn_blocks.1.attn.key.weight",
        "missing: logits_head.bias",
        "not finite:",
        "unexpected: logits_hat.bias",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lvl_idx", torch.zeros(1, 200_000, dtype=torch.int64), "200000 tokens a chunk; at most 4096 are read"),
        ("attn_blocks.200.attn.proj.bias", torch.zeros(32), "201 layers in the scales' transformer"),
        ("attn_blocks.0.ffn.0.weight", torch.zeros(1, 32).expand(1 << 28, 32), "a network of"),
        ("logits_head.weight", torch.zeros(16, 0), "width of 0"),
    ],
)
def test_sizes_of_no_network_are_refused_before_it_is_built(
    tensors: Tensors, key: str, value: torch.Tensor, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_from_tensors(tensors | {key: value}, TOY_HEADS)


def test_a_configuration_gives_the_heads_and_must_agree(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SETTINGS))
    settings = read_settings(path)
    assert (settings.heads.vae, settings.heads.transformer) == (4, 4)
    heads = HeadCounts(audio=4, vae=4, transformer=4, style=4)
    model_from_tensors(tensors, heads, settings=settings)
    path.write_text(json.dumps(SETTINGS | {"VAE_CONFIG": {**SETTINGS["VAE_CONFIG"], "T_DEPTH": 3, "V_CODE_DIM": 9}}))
    with pytest.raises(CheckpointError) as caught:
        model_from_tensors(tensors, heads, settings=read_settings(path))
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON configuration"),
        ("[]", "V_PATCH_NUMS"),
        ('{"VAE": {"V_CODE_DIM": 8}}', "PREV_RATIO"),
        ('{"VAE": {"V_CODE_DIM": 8}, "AR": {"PREV_RATIO": 2}}', "only 1 is supported"),
        ('{"VAE": {"V_CODE_DIM": 8}, "AR": {"PREV_RATIO": 1, "AUDIO_ENCODER": "mimi"}}', "`mimi` is not supported"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path / "config.json")


def test_heads_and_rates_that_do_not_fit(tensors: Tensors) -> None:
    with pytest.raises(OptionError, match="the checkpoint's transformer has 4 heads, not 12"):
        model_from_tensors(tensors)
    with pytest.raises(OptionError, match="5 attention heads do not divide a width of 64"):
        model_from_tensors(tensors, HeadCounts(audio=4, vae=5, transformer=4))
    with pytest.raises(OptionError, match="no whole number"):
        model_from_tensors(tensors, TOY_HEADS, fps=Fraction(30000, 1001))
