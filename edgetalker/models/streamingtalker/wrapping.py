"""Finds the published names in a state dict, whatever was put around them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from edgetalker.models.weights import Found
from edgetalker.models.weights.file import with_new_weight_norm

__all__ = ["Unwrapped", "choose", "unwrap"]

_PARTS = re.compile(r"(?:^|\.)((audio_encoder|diff_ar_network)\..+)$")
_VAE = re.compile(
    r"(?:^|\.)(autoencoder\.)?((?:encoder\.(?:vertice_mapping|squasher|encoder_)|"
    r"decoder\.(?:expander|decoder_|vertice_map)|quantize\.embedding).*)$"
)
# What torch.compile, data parallelism and sharding put into the names of the networks that they wrap.
_WRAPPER = re.compile(r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class Unwrapped:
    """tensors: by published names; strays: those that have none, by their own; notes: what was taken off."""

    tensors: Mapping[str, Tensor]
    strays: Mapping[str, Tensor]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """A key in parts: what stands before the published name, the name, and which network it belongs to."""

    prefix: str
    name: str
    part: str


def _split(key: str) -> _Place | None:
    plain = _WRAPPER.sub("", key)
    if match := _PARTS.search(plain):
        return _Place(plain[: match.start(1)], match.group(1), match.group(2))
    if match := _VAE.search(plain):
        prefix = plain[: match.start(2)].removesuffix("autoencoder.")
        return _Place(prefix, f"autoencoder.{match.group(2)}", "autoencoder")
    return None


def choose(found: tuple[Found, ...]) -> Found:
    """Return the dict with the most published names; the first of equals."""
    return max(found, key=lambda one: sum(_split(key) is not None for key in one.tensors))


def unwrap(found: Found) -> Unwrapped:
    """Return the tensors of one dict by their published names.

    Of several copies of a network (an average beside the weights) the one with the most tensors is taken, the first
    of equals; the others are strays.
    """
    places = {key: place for key in found.tensors if (place := _split(key)) is not None}
    counts: dict[str, Counter[str]] = {}
    for place in places.values():
        counts.setdefault(place.part, Counter())[place.prefix] += 1
    taken = {part: prefixes.most_common(1)[0][0] for part, prefixes in counts.items()}
    tensors: dict[str, Tensor] = {}
    strays: dict[str, Tensor] = {}
    for key, tensor in found.tensors.items():
        place = places.get(key)
        if place is None or place.prefix != taken[place.part] or place.name in tensors:
            strays[key] = tensor
        else:
            tensors[with_new_weight_norm(place.name)] = tensor
    return Unwrapped(tensors, strays, tuple(_notes(found, places, taken)))


def _notes(found: Found, places: Mapping[str, _Place], taken: Mapping[str, str]) -> list[str]:
    notes = []
    if found.place not in ((), ("state_dict",)):
        notes.append(f"the weights lie under `{'.'.join(found.place)}`")
    taken_off = {f"`{prefix}`" for prefix in taken.values() if prefix}
    taken_off |= {f"`{match.group()}`" for key in places for match in _WRAPPER.finditer(key)}
    if taken_off:
        notes.append(f"{', '.join(sorted(taken_off))} was taken off names")
    if any(place.part == "autoencoder" and "autoencoder." not in key for key, place in places.items()):
        notes.append("`autoencoder.` was put before the VAE's names")
    return notes
