"""How the parameters of this package are called in published checkpoints."""

from __future__ import annotations

import re

__all__ = ["published_key"]

_HALVES = {
    "encoder": ("squasher", "encoder_transformer", "encoder_pos_embedding", "encoder_linear_embedding"),
    "decoder": ("expander", "decoder_transformer", "decoder_pos_embedding", "decoder_linear_embedding"),
}
# Position in the published block list: attention at 2 i, MLP at 2 i + 1.
_BLOCK = {
    "attention_norm": (0, "fn.norm"),
    "attention.qkv": (0, "fn.fn.to_qkv"),
    "attention.out": (0, "fn.fn.to_out"),
    "mlp_norm": (1, "fn.norm"),
    "expand": (1, "fn.fn.l1"),
    "contract": (1, "fn.fn.l2"),
}
_MOTION = {
    "latent_map": "vq_latent_map",
    "audio_map": "audio_feature_map",
    "identity": "obj_vector",
    "positions": "PPE.pe",
    "transformer": "transformer_decoder",
    "head.time_embedding.first": "time_emb.mlp.0",
    "head.time_embedding.second": "time_emb.mlp.2",
    "head.denoiser": "denoiser.0",
    "head.output_map": "latent_vq_map",
    "head.latent_map": "vq_latent_map",
}


def published_key(own: str) -> str:
    """Return the published name of one of our parameters or buffers.

    Raises:
        KeyError: no published name belongs to it.
    """
    part, _, rest = own.partition(".")
    if part == "audio_encoder":
        return own
    if part == "motion":
        return "diff_ar_network." + _motion_key(rest)
    if part == "vae":
        return "autoencoder." + _vae_key(rest)
    raise KeyError(own)


def _motion_key(own: str) -> str:
    for mine, theirs in _MOTION.items():
        if own == mine:
            return theirs
        if own.startswith(mine + "."):
            return theirs + own[len(mine) :]
    raise KeyError(own)


def _vae_key(own: str) -> str:
    half, _, rest = own.partition(".")
    if half == "quantizer":
        return "quantize.embedding.weight"
    temporal, transformer, positions, embedding = _HALVES[half]
    plain = {
        "positions": f"{positions}.pe",
        "temporal.convolution": f"{temporal}.0.0",
        "embedding": f"{embedding}.net",
        "mapping": "vertice_mapping.0",
        "reverse": "vertice_map_reverse",
        "post": f"{embedding}_post.net",
        "pre": f"{embedding}_pre.net",
    }
    stem, _, leaf = rest.rpartition(".")
    if rest == "positions":
        return f"{half}.{plain[rest]}"
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", stem):
        offset, name = _BLOCK[match.group(2)]
        return f"{half}.{transformer}.net.{2 * int(match.group(1)) + offset}.{name}.{leaf}"
    return f"{half}.{plain[stem]}.{leaf}"
