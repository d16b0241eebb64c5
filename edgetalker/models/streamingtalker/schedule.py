"""Diffusion schedules: times, noise levels and the update rules, as constant tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError

__all__ = ["Rule", "Schedule", "alphas_cumprod", "make_schedule"]

Rule = Literal["legacy_sample", "ddim"]

_TRAINING_STEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.012
_OFFSET = 1


@dataclass(frozen=True)
class Schedule:
    """One row a denoise step: x_next = keep[i] · x + gain[i] · x0(x, times[i]).

    times (S,) int64, keep and gain (S,) float64.
    """

    rule: Rule
    times: NDArray[np.int64]
    keep: NDArray[np.float64]
    gain: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.times)


def alphas_cumprod() -> NDArray[np.float64]:
    """Return ᾱ (1000,) of the scaled-linear betas 0.00085 to 0.012."""
    betas = np.linspace(_BETA_START**0.5, _BETA_END**0.5, _TRAINING_STEPS) ** 2
    return np.asarray(np.cumprod(1.0 - betas), dtype=np.float64)


def make_schedule(steps: int, rule: Rule = "legacy_sample") -> Schedule:
    """Return the schedule of `steps` DDIM steps (eta 0, sample prediction, last ᾱ = ᾱ_0).

    `legacy_sample` is what diffusers 0.11.0 computes in sample mode, and what the published weights were
    evaluated with: x_next = (√ᾱ_prev + √(1 - ᾱ_prev)) · x0. `ddim` is equation 12 of Song et al. 2021,
    x_next = √ᾱ_prev · x0 + √(1 - ᾱ_prev) · (x - √ᾱ_t · x0) / √(1 - ᾱ_t).

    Raises:
        OptionError: fewer than 1 or more than 1000 steps, or an unknown rule.
    """
    if not 1 <= steps <= _TRAINING_STEPS:
        raise OptionError(f"{steps} denoise steps; wanted 1 to {_TRAINING_STEPS}")
    if rule not in ("legacy_sample", "ddim"):
        raise OptionError(f"unknown rule {rule!r}; wanted legacy_sample or ddim")
    stride = _TRAINING_STEPS // steps
    times = (np.arange(steps, dtype=np.int64) * stride)[::-1] + _OFFSET
    times = np.minimum(times, _TRAINING_STEPS - 1)
    levels = alphas_cumprod()
    now = levels[times]
    before = np.where(times >= stride, levels[np.maximum(times - stride, 0)], levels[0])
    if rule == "legacy_sample":
        return Schedule(rule, times, np.zeros(steps), np.sqrt(before) + np.sqrt(1.0 - before))
    keep = np.sqrt((1.0 - before) / (1.0 - now))
    return Schedule(rule, times, keep, np.sqrt(before) - keep * np.sqrt(now))
