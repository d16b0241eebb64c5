"""Sizes of a StreamingTalker network, told from the tensors of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgetalker.engines.errors import OptionError
from edgetalker.models.wav2vec import EncoderSizes, Shapes, check_sizes, count_of, encoder_sizes, size_of

__all__ = ["ACTIVATIONS", "Config", "Shapes", "Untold", "config_from_shapes", "dataset_of"]

Dataset = Literal["vocaset", "biwi"]
Activation = Literal["relu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu")

# What the tensors cannot tell, for the widths that were published: head counts by width.
_AUDIO_HEADS = {768: 12}
_VAE_HEADS = {1024: 8}

# Values of one frame's vertices, and rows of the motion network's position table, as published.
_VERTEX_VALUES: dict[int, Dataset] = {15069: "vocaset", 70110: "biwi"}
_POSITION_ROWS: dict[int, Dataset] = {5010: "vocaset", 5025: "biwi"}
_FRAME_RATES = (1, 240)


@dataclass(frozen=True)
class Untold:
    """What no tensor tells. None takes what was published for the width (heads) or the dataset (the rest).

    period: rows after which the motion network's positions and its temporal bias repeat; files that hold the
    published table tell it.
    """

    audio_heads: int | None = None
    vae_heads: int | None = None
    condition_heads: int = 4
    frame_rate: int | None = None
    period: int | None = None
    activation: Activation | None = None


@dataclass(frozen=True)
class Config(EncoderSizes):
    """All sizes of one network. `vertex_values` is 3 V; `frame_rate` is in frames a second.

    latent_width: of the latents, the noise and the histories: slots × code_width. It is the VAE's width unless
    the VAE has an extra linear map on either side of its quantiser.
    """

    dataset: Dataset
    frame_rate: int
    period: int
    activation: Activation
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
    latent_width: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    identities: int
    time_frequencies: int


def dataset_of(shapes: Shapes, part: Literal["motion", "vae"]) -> Dataset | None:
    """Tell which published dataset the motion network or the VAE was trained on; None when its sizes are neither's."""
    if part == "motion":
        shape = shapes.get("diff_ar_network.PPE.pe", ())
        return _POSITION_ROWS.get(shape[1]) if len(shape) == 3 else None
    for key in ("autoencoder.decoder.vertice_map_reverse.weight", "autoencoder.decoder.vertice_map_reverse.bias"):
        if shape := shapes.get(key, ()):
            return _VERTEX_VALUES.get(shape[0])
    return None


def config_from_shapes(shapes: Shapes, untold: Untold | None = None) -> Config:
    """Tell every size from published key names and shapes.

    A size whose tensor is absent or misshapen falls back to the published one, so that the loader can go on and
    report every fault of the file at once.

    Raises:
        OptionError: what the shapes do not tell and `untold` does not give, or what does not fit them.
        ValueError: sizes far beyond those of any such network.
    """
    untold = untold or Untold()
    extra = any("encoder_linear_embedding_post" in key or "decoder_linear_embedding_pre" in key for key in shapes)
    dataset = dataset_of(shapes, "motion") or dataset_of(shapes, "vae") or ("biwi" if extra else "vocaset")
    biwi = dataset == "biwi"

    def size(key: str, axis: int, published: int) -> int:
        return size_of(shapes, key, axis, published)

    audio = encoder_sizes(shapes, width=768, layers=12, feed_forward=3072)
    vae = "autoencoder.decoder."
    network = "diff_ar_network."
    vae_width = size(vae + "vertice_map_reverse.weight", 1, 1024)
    width = size(network + "vq_latent_map.weight", 0, 1024 if biwi else 768)
    _check_untold(untold)
    config = Config(
        dataset=dataset,
        frame_rate=untold.frame_rate or (25 if biwi else 30),
        period=untold.period or (25 if biwi else 30),
        activation=untold.activation or ("gelu" if biwi else "relu"),
        **audio,
        audio_heads=_heads("audio", audio["audio_width"], untold.audio_heads, _AUDIO_HEADS),
        vertex_values=size(vae + "vertice_map_reverse.weight", 0, 70110 if biwi else 15069),
        vae_width=vae_width,
        vae_layers=count_of(shapes, vae + r"decoder_transformer\.net\.(\d+)\.", 12) // 2,
        vae_heads=_heads("vae", vae_width, untold.vae_heads, _VAE_HEADS),
        vae_feed_forward=size(vae + "decoder_transformer.net.1.fn.fn.l1.weight", 0, 1536),
        vae_kernel=size(vae + "expander.0.0.weight", 2, 5),
        vae_positions=size(vae + "decoder_pos_embedding.pe", 0, 5000),
        vae_extra_linear=extra,
        codes=size("autoencoder.quantize.embedding.weight", 0, 512 if biwi else 256),
        code_width=size("autoencoder.quantize.embedding.weight", 1, 128 if biwi else 64),
        latent_width=size(network + "vq_latent_map.weight", 1, vae_width),
        width=width,
        layers=count_of(shapes, network + r"transformer_decoder\.layers\.(\d+)\.", 2),
        heads=_heads("condition", width, untold.condition_heads, {}),
        feed_forward=size(network + "transformer_decoder.layers.0.linear1.weight", 0, 2048 if biwi else 1024),
        positions=size(network + "PPE.pe", 1, 5025 if biwi else 5010),
        identities=size(network + "obj_vector.weight", 0, 6 if biwi else 8),
        time_frequencies=size(network + "time_emb.mlp.0.weight", 1, 256),
    )
    values = (
        2 * config.vae_layers * config.vae_width * (4 * config.vae_width + 2 * config.vae_feed_forward),
        2 * config.vae_width * config.vertex_values,
        2 * config.vae_width * (config.vae_width * config.vae_kernel + config.vae_positions),
        config.layers * config.width * (8 * config.width + 2 * config.feed_forward),
        config.width * (config.positions + config.identities + config.time_frequencies + config.latent_width),
        config.codes * config.code_width,
    )
    layers = {"audio": config.audio_layers, "VAE": config.vae_layers, "condition": config.layers}
    check_sizes(config, layers, values)
    return config


def _check_untold(untold: Untold) -> None:
    low, high = _FRAME_RATES
    if untold.frame_rate is not None and not low <= untold.frame_rate <= high:
        raise OptionError(f"{untold.frame_rate} frames a second; {low} to {high} were wanted")
    if untold.period is not None and untold.period < 1:
        raise OptionError(f"a period of {untold.period} frames; at least 1 was wanted")
    if untold.activation is not None and untold.activation not in ACTIVATIONS:
        raise OptionError(f"unknown activation `{untold.activation}`; known are {', '.join(ACTIVATIONS)}")


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
