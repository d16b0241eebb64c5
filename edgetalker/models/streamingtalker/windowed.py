"""The windowed streaming contract in plain PyTorch: slow, simple, and what exported bundles are compared with.

Nothing here is masked or padded: each frame slices what it may see and runs the published networks on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.streamingtalker.audio import normalise
from edgetalker.models.streamingtalker.contract import Contract, linear_weights
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.offline import Noise
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule

__all__ = ["block_features", "windowed_features", "windowed_frames"]


@torch.no_grad()
def block_features(model: StreamingTalker, contract: Contract, samples: Tensor, block: int) -> Tensor:
    """Return the features (block, A) of one block from the stream's samples (N,), N >= end(block)."""
    end = contract.end(block)
    start = max(0, end - contract.window)
    tokens: Tensor = model.audio_encoder(normalise(samples[None, start:end])).last_hidden_state[0]
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
) -> Iterator[Tensor]:
    """Yield the vertices (3V,) of each frame of features (1, F, A).

    The history is append-only, as in `streaming_inference`, and cut to the contract's windows.
    """
    history = model.vae.start_token()
    for frame in range(features.shape[1]):
        rows = min(frame + 1, contract.history)
        first = frame + 1 - rows if contract.phase == "absolute" else 0
        seen = features[:, frame + 1 - rows : frame + 1]
        condition = model.motion.condition(history[:, -rows:], seen, identity, first)[:, -1:]
        newest = sample(model.motion.head, noise(frame, 1), condition, schedule)
        history = torch.cat([history, newest], dim=1)
        decoded = model.vae.decoder(history[:, -contract.decode_window :])
        yield decoded[0, -1] + template
