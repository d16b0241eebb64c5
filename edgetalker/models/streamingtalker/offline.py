"""The two published inference paths, run offline: the references that exported bundles are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule

__all__ = ["Generated", "Noise", "predict", "streaming_inference"]

Noise = Callable[[int, int], Tensor]
"""Gives the noise (1, rows, vq) of frame i, called with (i, rows)."""


@dataclass(frozen=True)
class Generated:
    """What a path made of F frames: newest condition (1, F, D), latents (1, F, vq), vertices (1, F, 3V)."""

    condition: Tensor
    latents: Tensor
    vertices: Tensor


@torch.no_grad()
def predict(
    model: StreamingTalker,
    features: Tensor,
    identity: Tensor,
    template: Tensor,
    noise: Noise,
    schedule: Schedule,
    window: int = 60,
) -> Generated:
    """Run the published evaluation path over features (1, F, A); F >= 2.

    Each frame denoises its whole window of up to `window` rows and overwrites the history with all of them;
    the decoder runs once at the end, without the start token. template (3V,), identity one-hot (1, I).
    """
    history = model.vae.start_token()
    conditions = []
    for frame in range(features.shape[1]):
        rows = min(frame + 1, window)
        condition = model.motion.condition(history[:, -rows:], features[:, frame + 1 - rows : frame + 1], identity)
        conditions.append(condition[:, -1])
        fresh = sample(model.motion.head, noise(frame, rows), condition, schedule)
        # Rows of the window are frames frame+1-rows .. frame, one behind their latents in the history.
        history = torch.cat([history[:, : frame + 2 - rows], fresh], dim=1)
    latents = history[:, 1:]
    return Generated(torch.stack(conditions, dim=1), latents, model.vae.decoder(latents) + template)


@torch.no_grad()
def streaming_inference(
    model: StreamingTalker,
    features: Tensor,
    identity: Tensor,
    template: Tensor,
    noise: Noise,
    schedule: Schedule,
) -> Generated:
    """Run the published append-only path over features (1, F, A).

    The history grows without bound, and each frame decodes the start token and all latents so far and keeps the
    newest: time a frame grows with the utterance. Only the newest row is denoised, because rows do not mix.
    """
    history = model.vae.start_token()
    conditions, vertices = [], []
    for frame in range(features.shape[1]):
        condition = model.motion.condition(history, features[:, : frame + 1], identity)[:, -1:]
        newest = sample(model.motion.head, noise(frame, 1), condition, schedule)
        history = torch.cat([history, newest], dim=1)
        conditions.append(condition[:, 0])
        vertices.append(model.vae.decoder(history)[:, -1] + template)
    return Generated(torch.stack(conditions, dim=1), history[:, 1:], torch.stack(vertices, dim=1))
