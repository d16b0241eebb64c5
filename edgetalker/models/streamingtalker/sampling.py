"""Draws latents by running the diffusion head over a schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetalker.models.streamingtalker.network import Head
from edgetalker.models.streamingtalker.schedule import Schedule

__all__ = ["sample"]


def sample(head: Head, noise: Tensor, condition: Tensor, schedule: Schedule) -> Tensor:
    """Return latents (1, L, vq) from standard normal noise (1, L, vq) and a condition (1, L, D).

    Rows do not mix: row k of the result depends on row k of the noise and of the condition alone.
    """
    x = noise
    for time, keep, gain in zip(schedule.times, schedule.keep, schedule.gain, strict=True):
        estimate = head(x, condition, torch.tensor([int(time)]))
        x = float(keep) * x + float(gain) * estimate
    return x
