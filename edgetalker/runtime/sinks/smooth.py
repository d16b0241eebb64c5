"""Smoothing of motion values from frame to frame: causal, with a stated delay."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Smoother"]


class Smoother:
    """A first-order low-pass: y += (1 - exp(-dt / tau)) * (x - y), tau in seconds; 0 lets everything pass.

    A slow movement comes out tau later. A blink of 100 ms loses about a third of its depth at tau = 50 ms, and a
    lip closure more, so values above 30 ms cost articulation.
    """

    def __init__(self, shape: tuple[int, ...], tau: float) -> None:
        self.tau = tau
        self._state = np.zeros(shape, np.float32)
        self._started = False

    def apply(self, values: NDArray[np.float32], dt: float) -> NDArray[np.float32]:
        """Return the smoothed values, an array of the smoother's own; dt: seconds since the values before."""
        if self.tau <= 0 or not self._started:
            np.copyto(self._state, values)
            self._started = True
        else:
            self._state += np.float32(-math.expm1(-max(dt, 0.0) / self.tau)) * (values - self._state)
        return self._state

    def reset(self) -> None:
        """Let the next values pass as they are."""
        self._started = False
