"""The windowed streaming contract in plain PyTorch: slow, simple, and what exported bundles are compared with.

Nothing here is masked or padded: each frame slices what it may see and runs the published networks on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.streamingtalker.audio import normalise
from edgetalker.models.streamingtalker.contract import Contract, linear_weights
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.offline import Noise
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule

__all__ = ["Draw", "block_features", "windowed_features", "windowed_frames"]

Draw = Callable[[Tensor, Tensor], Tensor]
"""Latents (1, L, vq) from noise (1, L, vq) and a condition (1, L, D)."""


@contextmanager
def _quietened(model: StreamingTalker, gain: float) -> Iterator[None]:
    """Let the first layer's group norm, which brings any sound to speech's size, give the sound this much of it.

    The waveform's own normalisation comes before it and is undone by it, so that this is where a level can act.
    """
    encoder: Any = model.audio_encoder
    norm = encoder.feature_extractor.conv_layers[0].layer_norm
    bias = norm.bias[:, None]
    hook = norm.register_forward_hook(lambda _module, _inputs, output: bias + gain * (output - bias))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def block_features(model: StreamingTalker, contract: Contract, samples: Tensor, block: int) -> Tensor:
    """Return the features (block, A) of one block from the stream's samples (N,), N >= end(block)."""
    end = contract.end(block)
    start = max(0, end - contract.window)
    heard = samples[None, start:end]
    level = float(heard.var(correction=0).sqrt())
    with _quietened(model, contract.gain(level)):
        tokens: Tensor = model.audio_encoder(normalise(heard)).last_hidden_state[0]
    frames = range(block * contract.block, (block + 1) * contract.block)
    positions = np.array([contract.token_position(frame) - start / contract.hop for frame in frames])
    weights = torch.from_numpy(linear_weights(positions, tokens.shape[0])).to(tokens)
    return weights @ tokens


def windowed_features(model: StreamingTalker, contract: Contract, samples: Tensor, frames: int) -> Tensor:
    """Return the features (1, frames, A) of a stream (N,); silence follows its end."""
    blocks = -(-frames // contract.block)
    missing = max(0, contract.end(blocks - 1) - samples.shape[0])
    padded = torch.cat([samples, samples.new_zeros(missing)])
    features = [block_features(model, contract, padded, block) for block in range(blocks)]
    return torch.cat(features)[None, :frames]


@torch.no_grad()
def windowed_frames(
    model: StreamingTalker,
    contract: Contract,
    features: Tensor,
    identity: Tensor,
    template: Tensor,
    noise: Noise,
    schedule: Schedule,
    draw: Draw | None = None,
) -> Iterator[Tensor]:
    """Yield the vertices (3V,) of each frame of features (1, F, A).

    The history is that of `streaming_inference` or of `predict`, cut to the contract's windows; the newest frame of
    each decoded window is what is seen. draw: in place of `sample` over the schedule.
    """
    draw = draw or (lambda noise, condition: sample(model.motion.head, noise, condition, schedule))
    history = model.vae.start_token()
    appends = contract.past == "append"
    for frame in range(features.shape[1]):
        rows = min(frame + 1, contract.history)
        first = frame + 1 - rows if contract.phase == "absolute" else 0
        seen = features[:, frame + 1 - rows : frame + 1]
        condition = model.motion.condition(history[:, -rows:], seen, identity, first)
        fresh = 1 if appends else rows
        made = draw(noise(frame, fresh), condition[:, -fresh:])
        history = torch.cat([history[:, : frame + 2 - fresh], made], dim=1)
        # `predict` decodes without the start token; one latent alone cannot be decoded.
        latents = history if appends or frame == 0 else history[:, 1:]
        yield model.vae.decoder(latents[:, -contract.decode_window :])[0, -1] + template
