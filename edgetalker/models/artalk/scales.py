"""The scales of a chunk, and its interpolations as constant matrices (F.interpolate's rules, in float64)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scales", "area_matrix", "linear_matrix"]

Matrix = NDArray[np.float64]


def area_matrix(source: int, target: int) -> Matrix:
    """Return (target, source): each row the mean of its bin, [floor(i s / t), ceil((i + 1) s / t)).

    The rule of adaptive average pooling, which `mode="area"` is.
    """
    matrix = np.zeros((target, source))
    for row in range(target):
        first, last = row * source // target, -(-(row + 1) * source // target)
        matrix[row, first:last] = 1 / (last - first)
    return matrix


def linear_matrix(source: int, target: int) -> Matrix:
    """Return (target, source): linear interpolation between the centres of samples, edges held.

    The rule of `mode="linear", align_corners=False`: row i reads place (i + 1/2) s / t - 1/2, at least 0.
    """
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, None)
    low = np.minimum(np.floor(place).astype(int), source - 1)
    high, share = np.minimum(low + 1, source - 1), place - low
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - share)
    np.add.at(matrix, (np.arange(target), high), share)
    return matrix


class Scales:
    """Where the tokens of each scale lie among a chunk's, and the linear maps between scales.

    With q (tokens, code) the quantised values ±1/√code of all scales, coarse ones first:
    `fused` @ q is f̂ (frames, code), and `features(k)` @ q[:starts[k]] is what scale k >= 1 reads.
    """

    def __init__(self, patches: Sequence[int]) -> None:
        self.patches = tuple(patches)
        self.frames, self.tokens = self.patches[-1], sum(self.patches)
        ends = np.cumsum(self.patches)
        self.starts = tuple(int(end) - patch for end, patch in zip(ends, self.patches, strict=True))
        self.fused = np.concatenate([linear_matrix(patch, self.frames) for patch in self.patches], axis=1)

    @property
    def levels(self) -> list[int]:
        """The scale of each token."""
        return [scale for scale, patch in enumerate(self.patches) for _ in range(patch)]

    def __len__(self) -> int:
        return len(self.patches)

    def rows(self, scale: int) -> slice:
        """Return the places of a scale's tokens."""
        return slice(self.starts[scale], self.starts[scale] + self.patches[scale])

    def features(self, scale: int) -> Matrix:
        """Return (patch, tokens of coarser scales): what scale >= 1 reads of the values before it."""
        return np.asarray(area_matrix(self.frames, self.patches[scale]) @ self.fused[:, : self.starts[scale]])

    def all_features(self) -> Matrix:
        """Return (tokens - 1, tokens): the features of all scales but the first, of all values."""
        matrix = np.zeros((self.tokens - self.patches[0], self.tokens))
        for scale in range(1, len(self)):
            rows = self.rows(scale)
            matrix[rows.start - self.patches[0] : rows.stop - self.patches[0], : rows.start] = self.features(scale)
        return matrix
