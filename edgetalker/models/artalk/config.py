"""Sizes of an ARTalk network, told from the tensors of its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.engines.files import read_text
from edgetalker.models.artalk.scales import Scales
from edgetalker.models.wav2vec import EncoderSizes, Shapes, check_sizes, count_of, encoder_sizes, size_of

__all__ = ["SAMPLE_RATE", "Config", "HeadCounts", "config_from_shapes", "read_settings"]

SAMPLE_RATE = 16000
PUBLISHED_PATCHES = (1, 5, 25, 50, 100)
_MOST_TOKENS = 4096  # of a chunk; 181 as published


@dataclass(frozen=True)
class HeadCounts:
    """Numbers of attention heads that no tensor tells; the defaults are the published ones."""

    audio: int = 16
    vae: int = 8
    transformer: int = 12
    style: int = 4


@dataclass(frozen=True)
class Config(EncoderSizes):
    """All sizes of one network. `patches` are tokens a scale, the last of them the frames of a chunk."""

    patches: tuple[int, ...]
    fps: Fraction
    motion: int
    code: int
    vae_width: int
    vae_layers: int
    vae_heads: int
    vae_feed_forward: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    style_width: int
    style_layers: int
    style_heads: int
    style_feed_forward: int
    style_positions: int

    @property
    def scales(self) -> Scales:
        """The scales of a chunk."""
        return Scales(self.patches)

    @property
    def frames(self) -> int:
        """Frames of one chunk (100 as published)."""
        return self.patches[-1]

    @property
    def samples(self) -> int:
        """Samples of one chunk (64,000 as published)."""
        return int(self.frames * SAMPLE_RATE / self.fps)

    @property
    def audio_tokens(self) -> int:
        """Tokens that the audio encoder makes of one chunk (199 as published)."""
        return self.tokens(self.samples)


@dataclass(frozen=True)
class Settings:
    """What a configuration file says: its heads, and every size in it that the tensors must agree with."""

    heads: HeadCounts
    wanted: Mapping[str, object]


def read_settings(path: Path) -> Settings:
    """Read the published `config.json`: one section each for the transformer and the VAE.

    Raises:
        InputError: not JSON, no such sections, or an audio encoder other than wav2vec.
    """
    try:
        document = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON configuration: {error}") from None
    sections: list[dict[str, Any]] = [part for part in _values(document) if isinstance(part, dict)]
    vae = next((part for part in sections if "V_PATCH_NUMS" in part or "V_CODE_DIM" in part), None)
    transformer = next((part for part in sections if "PREV_RATIO" in part), None)
    if vae is None or transformer is None:
        missing = "V_PATCH_NUMS" if vae is None else "PREV_RATIO"
        raise InputError(f"{path}: no section holds {missing}", hint="give the config.json that came with the weights")
    encoder = next((part["AUDIO_ENCODER"] for part in sections if "AUDIO_ENCODER" in part), "wav2vec")
    if encoder != "wav2vec":
        raise InputError(f"{path}: the audio encoder `{encoder}` is not supported; wav2vec was wanted")
    if transformer["PREV_RATIO"] != 1:
        raise InputError(f"{path}: PREV_RATIO is {transformer['PREV_RATIO']}; only 1 is supported")
    defaults = HeadCounts()
    heads = HeadCounts(
        vae=int(vae.get("T_NUM_HEADS", defaults.vae)), transformer=int(transformer.get("T_NUM_HEADS", 12))
    )
    names = {"V_PATCH_NUMS": "patches", "MOTION_DIM": "motion", "V_CODE_DIM": "code", "T_DEPTH": "vae_layers"}
    names["T_HIDDEN_DIM"] = "vae_width"
    wanted: dict[str, object] = {own: vae[key] for key, own in names.items() if key in vae}
    if "T_DEPTH" in transformer:
        wanted["layers"] = transformer["T_DEPTH"]
    if "patches" in wanted:
        wanted["patches"] = tuple(vae["V_PATCH_NUMS"])
    return Settings(heads, wanted)


def _values(document: object) -> list[object]:
    return [document, *document.values()] if isinstance(document, dict) else []


def config_from_shapes(
    shapes: Shapes,
    heads: HeadCounts | None = None,
    *,
    patches: tuple[int, ...] = PUBLISHED_PATCHES,
    fps: Fraction = Fraction(25),
) -> Config:
    """Tell every size from published key names and shapes.

    A size whose tensor is absent or misshapen falls back to the published one, so that the loader can go on and
    report every fault of the file at once. `patches` stand in the file's `lvl_idx`, whose shape does not tell them.

    Raises:
        OptionError: a head count that does not divide its width, or a chunk that is no whole number of samples.
        ValueError: sizes far beyond those of any such network.
    """
    heads = heads or HeadCounts()

    def size(key: str, axis: int, published: int) -> int:
        return size_of(shapes, key, axis, published)

    if (frames := Fraction(patches[-1] * SAMPLE_RATE) / fps).denominator != 1:
        raise OptionError(f"{patches[-1]} frames at {fps} a second are {frames} samples, which is no whole number")
    vae, style = "basic_vae.", "style_encoder.encoder."
    transformer = vae + r"encoder\.encoder_transformer\.(\d+)\."
    config = Config(
        patches=tuple(patches),
        fps=fps,
        motion=size(vae + "motion_mean", 0, 106),
        code=size(vae + "encoder.code_mapping.weight", 0, 32),
        vae_width=size(vae + "encoder.code_mapping.weight", 1, 512),
        vae_layers=(count_of(shapes, transformer, 16) + 1) // 2,
        vae_heads=heads.vae,
        vae_feed_forward=size(vae + "encoder.encoder_transformer.1.0.weight", 0, 768),
        width=size("logits_head.weight", 1, 768),
        layers=count_of(shapes, r"attn_blocks\.(\d+)\.", 12),
        heads=size("attn_blocks.0.attn.scale_mul_1H11", 1, heads.transformer),
        feed_forward=size("attn_blocks.0.ffn.0.weight", 0, 3072),
        **encoder_sizes(shapes, width=1024, layers=24, feed_forward=4096),
        audio_heads=heads.audio,
        style_width=size(style + "motion_proj.weight", 0, 128),
        style_layers=count_of(shapes, style + r"transformer\.layers\.(\d+)\.", 4),
        style_heads=heads.style,
        style_feed_forward=size(style + "transformer.layers.0.linear1.weight", 0, 512),
        style_positions=size("style_encoder.PE.pe", 1, 600),
    )
    _check_heads(config, heads)
    _check_sizes(config)
    return config


def _check_sizes(config: Config) -> None:
    tokens = sum(config.patches)
    if tokens > _MOST_TOKENS:  # masks and interpolations of tokens² are made before the file's own are looked at
        raise ValueError(f"{tokens} tokens a chunk; at most {_MOST_TOKENS} are read")
    values = (
        config.layers * config.width * (4 * config.width + 2 * config.feed_forward + 6 * config.audio_width),
        2 * config.vae_layers * config.vae_width * (4 * config.vae_width + 2 * config.vae_feed_forward),
        config.style_layers * config.style_width * (4 * config.style_width + 2 * config.style_feed_forward),
        config.width * (2 * tokens + 3 * config.code + config.style_width + 2 * config.audio_width),
        config.motion * (2 * config.frames + 2 * config.vae_width + config.style_width),
        config.style_positions * config.style_width,
    )
    layers = {
        "audio": config.audio_layers,
        "VAE": config.vae_layers,
        "scales'": config.layers,
        "style": config.style_layers,
    }
    check_sizes(config, layers, values)


def _check_heads(config: Config, heads: HeadCounts) -> None:
    if config.heads != heads.transformer:
        raise OptionError(
            f"the checkpoint's transformer has {config.heads} heads, not {heads.transformer}",
            hint=f"--heads {config.heads}",
        )
    counts = (
        ("--audio-heads", config.audio_heads, config.audio_width),
        ("--vae-heads", config.vae_heads, config.vae_width),
        ("--heads", config.heads, config.width),
        ("--style-heads", config.style_heads, config.style_width),
    )
    for option, count, width in counts:
        if width % count:
            raise OptionError(f"{count} attention heads do not divide a width of {width}", hint=f"give {option} N")
