"""Sizes of an ARTalk network, told from the tensors of its checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import InputError, OptionError
from edgetalker.models.artalk.scales import Scales

__all__ = ["SAMPLE_RATE", "Config", "HeadCounts", "Shapes", "config_from_shapes", "read_settings"]

SAMPLE_RATE = 16000
PUBLISHED_PATCHES = (1, 5, 25, 50, 100)
# The convolution strides are a function of the kernels (10, 3, 3, 3, 3, 2, 2) of every wav2vec 2.0 encoder.
_STRIDES = {10: 5, 3: 2, 2: 2}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class HeadCounts:
    """Numbers of attention heads that no tensor tells; the defaults are the published ones."""

    audio: int = 16
    vae: int = 8
    transformer: int = 12
    style: int = 4


@dataclass(frozen=True)
class Config:
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
    audio_width: int
    audio_layers: int
    audio_heads: int
    audio_feed_forward: int
    conv_widths: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    position_kernel: int
    position_groups: int
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
    def conv_strides(self) -> tuple[int, ...]:
        """Strides of the audio encoder's convolutions."""
        return tuple(_STRIDES.get(kernel, 2) for kernel in self.conv_kernels)

    @property
    def audio_tokens(self) -> int:
        """Tokens that the audio encoder makes of one chunk (199 as published)."""
        length = self.samples
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            length = max(0, (length - kernel) // stride + 1)
        return length


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
        document = json.loads(path.read_text(encoding="utf-8"))
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
    """
    heads = heads or HeadCounts()

    def size(key: str, axis: int, published: int) -> int:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) > axis else published

    def layers(prefix: str, published: int) -> int:
        found = [int(match[1]) for key in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))]
        return max(found) + 1 if found else published

    if (frames := Fraction(patches[-1] * SAMPLE_RATE) / fps).denominator != 1:
        raise OptionError(f"{patches[-1]} frames at {fps} a second are {frames} samples, which is no whole number")
    audio, vae, style = "audio_encoder.", "basic_vae.", "style_encoder.encoder."
    position = audio + "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    convolutions = [
        (f"{audio}feature_extractor.conv_layers.{place}.conv.weight", kernel)
        for place, kernel in enumerate((10, 3, 3, 3, 3, 2, 2))
    ]
    config = Config(
        patches=tuple(patches),
        fps=fps,
        motion=size(vae + "motion_mean", 0, 106),
        code=size(vae + "encoder.code_mapping.weight", 0, 32),
        vae_width=size(vae + "encoder.code_mapping.weight", 1, 512),
        vae_layers=(layers(vae + "encoder.encoder_transformer.", 16) + 1) // 2,
        vae_heads=heads.vae,
        vae_feed_forward=size(vae + "encoder.encoder_transformer.1.0.weight", 0, 768),
        width=size("logits_head.weight", 1, 768),
        layers=layers("attn_blocks.", 12),
        heads=size("attn_blocks.0.attn.scale_mul_1H11", 1, heads.transformer),
        feed_forward=size("attn_blocks.0.ffn.0.weight", 0, 3072),
        audio_width=size(audio + "feature_projection.projection.weight", 0, 1024),
        audio_layers=layers(audio + "encoder.layers.", 24),
        audio_heads=heads.audio,
        audio_feed_forward=size(audio + "encoder.layers.0.feed_forward.intermediate_dense.weight", 0, 4096),
        conv_widths=tuple(size(key, 0, 512) for key, _ in convolutions),
        conv_kernels=tuple(size(key, 2, kernel) for key, kernel in convolutions),
        position_kernel=size(position, 2, 128),
        position_groups=max(1, size(position, 0, 1024) // max(1, size(position, 1, 64))),
        style_width=size(style + "motion_proj.weight", 0, 128),
        style_layers=layers(style + "transformer.layers.", 4),
        style_heads=heads.style,
        style_feed_forward=size(style + "transformer.layers.0.linear1.weight", 0, 512),
        style_positions=size("style_encoder.PE.pe", 1, 600),
    )
    _check_heads(config, heads)
    return config


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
