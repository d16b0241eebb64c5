"""The two published inference paths, run offline: the references that exported bundles are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule

__all__ = ["Generated", "Noise", "predict", "stream_frames", "streaming_inference"]

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


def streaming_inference(
    model: StreamingTalker,
    features: Tensor,
    identity: Tensor,
    template: Tensor,
    noise: Noise,
    schedule: Schedule,
) -> Generated:
    """Run the published append-only path over features (1, F, A); see `stream_frames`."""
    frames = list(stream_frames(model, features, identity, template, noise, schedule))
    conditions, latents, vertices = (torch.stack(parts, dim=1) for parts in zip(*frames, strict=True))
    return Generated(conditions, latents, vertices)


def stream_frames(
    model: StreamingTalker,
    features: Tensor,
    identity: Tensor,
    template: Tensor,
    noise: Noise,
    schedule: Schedule,
    *,
    all_rows: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield condition (1, D), latent (1, vq) and vertices (1, 3V) of each frame of features (1, F, A).

    The history grows without bound, and each frame decodes the start token and all latents so far and keeps the
    newest: time a frame grows with the utterance. `all_rows` denoises every row of the history, as the published
    code does; without it only the newest, which gives the same frames because rows do not mix.
    """
    with torch.no_grad():
        history = model.vae.start_token()
    for frame in range(features.shape[1]):
        condition, history = _append(model, history, features[:, : frame + 1], identity, noise, schedule, all_rows)
        with torch.no_grad():
            vertices = model.vae.decoder(history)[:, -1] + template
        yield condition[:, -1], history[:, -1], vertices


@torch.no_grad()
def _append(
    model: StreamingTalker,
    history: Tensor,
    features: Tensor,
    identity: Tensor,
    noise: Noise,
    schedule: Schedule,
    all_rows: bool,
) -> tuple[Tensor, Tensor]:
    """Return the condition and the history with the newest latent at its end."""
    condition = model.motion.condition(history, features, identity)
    if not all_rows:
        condition = condition[:, -1:]
    fresh = sample(model.motion.head, noise(features.shape[1] - 1, condition.shape[1]), condition, schedule)
    return condition, torch.cat([history, fresh[:, -1:]], dim=1)
