"""Audio encoders of the wav2vec 2.0 family (HuBERT, XLS-R): their sizes, told from the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_LAYERS", "EncoderSizes", "Shapes", "check_sizes", "count_of", "encoder_sizes", "size_of"]

Shapes = Mapping[str, tuple[int, ...]]

MOST_LAYERS = 128
_MOST_VALUES = 2_000_000_000  # of one network, in 8 GB; the published ones have 0.24 to 0.49 thousand million
_KERNELS = (10, 3, 3, 3, 3, 2, 2)
# The convolutions' strides are a function of these kernels, in every published size.
_STRIDES = {10: 5, 3: 2, 2: 2}
_AUDIO = "audio_encoder."


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of an audio encoder; those of a network that has one begin with them."""

    audio_width: int
    audio_layers: int
    audio_heads: int
    audio_feed_forward: int
    conv_widths: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    position_kernel: int
    position_groups: int

    @property
    def hop(self) -> int:
        """Samples between two tokens (320 as published)."""
        product = 1
        for stride in self.conv_strides:
            product *= stride
        return product

    @property
    def receptive_field(self) -> int:
        """Samples that one token of the convolutions covers (400 as published)."""
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

    def settings(self) -> dict[str, Any]:
        """Return the sizes by the names that transformers' configurations have for them."""
        return {
            "hidden_size": self.audio_width,
            "num_hidden_layers": self.audio_layers,
            "num_attention_heads": self.audio_heads,
            "intermediate_size": self.audio_feed_forward,
            "conv_dim": list(self.conv_widths),
            "conv_kernel": list(self.conv_kernels),
            "conv_stride": list(self.conv_strides),
            "num_conv_pos_embeddings": self.position_kernel,
            "num_conv_pos_embedding_groups": self.position_groups,
        }

    def values(self) -> int:
        """Return how many values the encoder's largest tensors hold, about."""
        layer = self.audio_width * (4 * self.audio_width + 2 * self.audio_feed_forward)
        convolutions = max(self.conv_widths) ** 2 * sum(self.conv_kernels)
        return self.audio_layers * layer + convolutions + self.audio_width**2 * self.position_kernel


def size_of(shapes: Shapes, key: str, axis: int, published: int) -> int:
    """Return one size of a tensor; the published one where the tensor is absent or misshapen, so that a loader can
    go on and report every fault of a file at once."""
    shape = shapes.get(key, ())
    return shape[axis] if len(shape) > axis else published


def count_of(shapes: Shapes, pattern: str, published: int) -> int:
    """Return how many layers the keys number (`pattern` has one group). One far beyond any network's is left to be
    unexpected."""
    found = {int(match.group(1)) for key in shapes if (match := re.match(pattern, key)) and len(match.group(1)) < 5}
    return max((place for place in found if place <= 2 * MOST_LAYERS), default=published - 1) + 1


def encoder_sizes(shapes: Shapes, *, width: int, layers: int, feed_forward: int) -> dict[str, Any]:
    """Return an encoder's sizes but its heads, which no tensor tells, as keywords of `EncoderSizes`.

    width, layers, feed_forward: the published ones, for tensors that are not there.
    """
    keys = [f"{_AUDIO}feature_extractor.conv_layers.{place}.conv.weight" for place in range(len(_KERNELS))]
    kernels = tuple(size_of(shapes, key, 2, kernel) for key, kernel in zip(keys, _KERNELS, strict=True))
    width = size_of(shapes, _AUDIO + "feature_projection.projection.weight", 0, width)
    position = _AUDIO + "encoder.pos_conv_embed.conv."
    suffixes = ("parametrizations.weight.original1", "weight_v", "weight")
    position += next((suffix for suffix in suffixes if position + suffix in shapes), "weight")
    intermediate = _AUDIO + "encoder.layers.0.feed_forward.intermediate_dense.weight"
    return {
        "audio_width": width,
        "audio_layers": count_of(shapes, _AUDIO + r"encoder\.layers\.(\d+)\.", layers),
        "audio_feed_forward": size_of(shapes, intermediate, 0, feed_forward),
        "conv_widths": tuple(size_of(shapes, key, 0, 512) for key in keys),
        "conv_kernels": kernels,
        "conv_strides": tuple(_STRIDES.get(kernel, 2) for kernel in kernels),
        "position_kernel": size_of(shapes, position, 2, 128),
        # a convolution of `width` channels sees so many of them
        "position_groups": max(1, width // max(1, size_of(shapes, position, 1, width // 16))),
    }


def check_sizes(config: EncoderSizes, layers: Mapping[str, int], values: Iterable[int]) -> None:
    """Refuse what no network is: a file may claim any size, and a network is built to see what it lacks.

    layers: of each transformer by name; values: of its largest tensors beside the encoder's. Raises ValueError.
    """
    for part, count in layers.items():
        if count > MOST_LAYERS:
            raise ValueError(f"{count} layers in the {part} transformer; at most {MOST_LAYERS} are read")
    for key, value in vars(config).items():
        sizes = value if isinstance(value, tuple) else (value,)
        if any(type(size) is int and size < 1 for size in sizes):
            raise ValueError(f"{key.replace('_', ' ')} of {value}")
    if (total := config.values() + sum(values)) > _MOST_VALUES:
        raise ValueError(f"a network of {total:.2g} values; at most {_MOST_VALUES:.2g} are read")
