"""Sizes of a StreamingTalker network, told from the tensors of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgetalker.engines.errors import OptionError

__all__ = ["Config", "HeadCounts", "Shapes", "config_from_shapes"]

Shapes = Mapping[str, tuple[int, ...]]

# What the tensors cannot tell, for the widths that were published: head counts by width.
_AUDIO_HEADS = {768: 12}
_VAE_HEADS = {1024: 8}
# HuBERT's convolution strides are a function of the kernels (10, 3, 3, 3, 3, 2, 2) of every published size.
_STRIDES = {10: 5, 3: 2, 2: 2}


@dataclass(frozen=True)
class HeadCounts:
    """Numbers of attention heads, which no tensor tells; None takes the published number for the width."""

    audio: int | None = None
    vae: int | None = None
    condition: int = 4


@dataclass(frozen=True)
class Config:
    """All sizes of one network. `vertex_values` is 3 V; `frame_rate` is in frames a second."""

    dataset: Literal["vocaset", "biwi"]
    frame_rate: int
    period: int
    activation: Literal["relu", "gelu"]
    audio_width: int
    audio_layers: int
    audio_heads: int
    audio_feed_forward: int
    conv_widths: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    position_kernel: int
    position_groups: int
    vertex_values: int
    vae_width: int
    vae_layers: int
    vae_heads: int
    vae_feed_forward: int
    vae_kernel: int
    vae_positions: int
    vae_extra_linear: bool
    codes: int
    code_width: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    identities: int
    time_frequencies: int

    @property
    def hop(self) -> int:
        """Samples between two tokens of the audio encoder (320 as published)."""
        product = 1
        for stride in self.conv_strides:
            product *= stride
        return product

    @property
    def receptive_field(self) -> int:
        """Samples that one token of the audio encoder's convolutions covers (400 as published)."""
        field, jump = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            field += (kernel - 1) * jump
            jump *= stride
        return field

    def tokens(self, samples: int) -> int:
        """Return how many tokens the convolutions make of that many samples."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples


def config_from_shapes(shapes: Shapes, heads: HeadCounts | None = None) -> Config:
    """Tell every size from published key names and shapes.

    A size whose tensor is absent or misshapen falls back to the published one, so that the loader can go on and
    report every fault of the file at once.

    Raises:
        OptionError: a head count that the width does not tell and `heads` does not give, or that does not divide it.
    """
    heads = heads or HeadCounts()
    biwi = any("encoder_linear_embedding_post" in key or "decoder_linear_embedding_pre" in key for key in shapes)

    def size(key: str, axis: int, published: int) -> int:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) > axis else published

    audio = "audio_encoder."
    vae = "autoencoder.decoder."
    network = "diff_ar_network."
    audio_width = size(audio + "feature_projection.projection.weight", 0, 768)
    vae_width = size(vae + "vertice_map_reverse.weight", 1, 1024)
    width = size(network + "vq_latent_map.weight", 0, 1024 if biwi else 768)
    convolutions = [
        (audio + f"feature_extractor.conv_layers.{index}.conv.weight", kernel)
        for index, kernel in enumerate((10, 3, 3, 3, 3, 2, 2))
    ]
    kernels = tuple(size(key, 2, kernel) for key, kernel in convolutions)
    position = _position_key(shapes)
    in_group = size(position, 1, 48)
    return Config(
        dataset="biwi" if biwi else "vocaset",
        frame_rate=25 if biwi else 30,
        period=25 if biwi else 30,
        activation="gelu" if biwi else "relu",
        audio_width=audio_width,
        audio_layers=_count(shapes, audio + r"encoder\.layers\.(\d+)\.", 12),
        audio_heads=_heads("audio", audio_width, heads.audio, _AUDIO_HEADS),
        audio_feed_forward=size(audio + "encoder.layers.0.feed_forward.intermediate_dense.weight", 0, 3072),
        conv_widths=tuple(size(key, 0, 512) for key, _ in convolutions),
        conv_kernels=kernels,
        conv_strides=tuple(_STRIDES.get(kernel, 2) for kernel in kernels),
        position_kernel=size(position, 2, 128),
        position_groups=max(1, audio_width // max(1, in_group)),
        vertex_values=size(vae + "vertice_map_reverse.weight", 0, 70110 if biwi else 15069),
        vae_width=vae_width,
        vae_layers=_count(shapes, vae + r"decoder_transformer\.net\.(\d+)\.", 12) // 2,
        vae_heads=_heads("vae", vae_width, heads.vae, _VAE_HEADS),
        vae_feed_forward=size(vae + "decoder_transformer.net.1.fn.fn.l1.weight", 0, 1536),
        vae_kernel=size(vae + "expander.0.0.weight", 2, 5),
        vae_positions=size(vae + "decoder_pos_embedding.pe", 0, 5000),
        vae_extra_linear=biwi,
        codes=size("autoencoder.quantize.embedding.weight", 0, 512 if biwi else 256),
        code_width=size("autoencoder.quantize.embedding.weight", 1, 128 if biwi else 64),
        width=width,
        layers=_count(shapes, network + r"transformer_decoder\.layers\.(\d+)\.", 2),
        heads=_heads("condition", width, heads.condition, {}),
        feed_forward=size(network + "transformer_decoder.layers.0.linear1.weight", 0, 2048 if biwi else 1024),
        positions=size(network + "PPE.pe", 1, 5025 if biwi else 5010),
        identities=size(network + "obj_vector.weight", 0, 6 if biwi else 8),
        time_frequencies=size(network + "time_emb.mlp.0.weight", 1, 256),
    )


def _position_key(shapes: Shapes) -> str:
    convolution = "audio_encoder.encoder.pos_conv_embed.conv."
    for suffix in ("parametrizations.weight.original1", "weight_v", "weight"):
        if convolution + suffix in shapes:
            return convolution + suffix
    return convolution + "weight"


def _count(shapes: Shapes, pattern: str, published: int) -> int:
    found = [int(match.group(1)) for key in shapes if (match := re.match(pattern, key))]
    return max(found) + 1 if found else published


def _heads(part: str, width: int, given: int | None, published: Mapping[int, int]) -> int:
    heads = given if given is not None else published.get(width)
    option = f"--{part}-heads"
    if heads is None:
        raise OptionError(
            f"no tensor tells how many attention heads the {part} transformer of width {width} has",
            hint=f"give {option}; published: "
            + ", ".join(f"{count} at width {known}" for known, count in published.items()),
        )
    if heads < 1 or width % heads:
        raise OptionError(
            f"{heads} attention heads do not divide the {part} transformer's width {width}",
            hint=f"give {option} with a divisor of {width}",
        )
    return heads
