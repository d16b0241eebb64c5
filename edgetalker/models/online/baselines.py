"""What a talker must beat: the mean face, and a mouth driven by loudness alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.sessions import Session
from edgetalker.models.online.features import PER_FRAME

__all__ = ["LoudnessMouth", "MeanMouth", "loudness"]

Array = NDArray[np.float32]


def loudness(mel: Array) -> Array:
    """Return a causal loudness (T, 3) from ln mel power (4T, 80): of this frame and of its two smoothed pasts."""
    power = np.exp(mel).sum(1).reshape(-1, PER_FRAME).mean(1)
    level = np.clip(np.log10(power + 1e-7) + 7.0, 0.0, None) / 5.0
    tracks = [level]
    for keep in (0.6, 0.85):
        smooth = np.empty_like(level)
        state = level[0]
        for index, value in enumerate(level):
            state = keep * state + (1 - keep) * value
            smooth[index] = state
        tracks.append(smooth)
    return np.column_stack(tracks).astype(np.float32)


class MeanMouth:
    """Shows the mean of speech frames always."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.mean: Array = np.concatenate([s.mouth[s.speech > 0.5] for s in sessions]).mean(0)

    def __call__(self, session: Session) -> Array:
        return np.tile(self.mean, (session.mouth.shape[0], 1))


class LoudnessMouth:
    """Ridge regression of mouth channels on loudness. only_jaw: the jaw moves, everything else stays at rest."""

    def __init__(self, sessions: Sequence[Session], *, only_jaw: bool) -> None:
        self.only_jaw = only_jaw
        inputs = np.concatenate([self._inputs(s.mel) for s in sessions])
        targets = np.concatenate([s.mouth for s in sessions])
        gram = inputs.T @ inputs + 1e-3 * np.eye(inputs.shape[1])
        self.weights: Array = np.linalg.solve(gram, inputs.T @ targets).astype(np.float32)

    @staticmethod
    def _inputs(mel: Array) -> Array:
        tracks = loudness(mel)
        return np.column_stack([tracks, np.ones(tracks.shape[0], np.float32)])

    def __call__(self, session: Session) -> Array:
        mouth: Array = np.clip(self._inputs(session.mel) @ self.weights, 0.0, 1.0)
        if self.only_jaw:
            mouth[:, 1:] = 0.0
        return mouth
