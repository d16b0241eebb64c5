"""A user's setting that a model hears: it glides to its target, so that a change never jumps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.engines.manifest import Tensor

__all__ = ["Control"]


class Control:
    """Values of one control tensor, moved towards their targets by at most a fixed stride a frame.

    The stride is (high - low) / (glide * fps): a value crosses its whole range in `glide` seconds.
    """

    def __init__(self, tensor: Tensor, fps: Fraction, into: NDArray[np.float32]) -> None:
        """`into` is the staging memory, shape (..., places), that every frame uploads."""
        self.tensor = tensor
        self.target = np.array(tensor.default, np.float32)
        self._into = into.reshape(-1, len(tensor.default))
        self._value = self.target.copy()
        self._move = np.empty_like(self.target)
        span = np.subtract(tensor.high or (1.0,) * len(self.target), tensor.low or (0.0,) * len(self.target))
        frames = tensor.glide * float(fps)
        self._stride = np.abs(span).astype(np.float32) / np.float32(frames) if frames > 0 else None
        self._back = -self._stride if self._stride is not None else None
        self.settle()

    def set(self, values: Mapping[str, float] | Sequence[float]) -> None:
        """Set targets: by name (the others keep theirs) or all places in order.

        Raises OptionError for an unknown name, a wrong count, NaN or a value outside the range.
        """
        wanted = self.target.copy()
        for place, value in self._places(values):
            self._check(place, value)
            wanted[place] = value
        self.target[...] = wanted

    def _places(self, values: Mapping[str, float] | Sequence[float]) -> list[tuple[int, float]]:
        names = self.tensor.names
        if not isinstance(values, Mapping):
            if len(values) != len(self.target):
                raise OptionError(f"control `{self.tensor.name}` takes {len(self.target)} values, {len(values)} came")
            return list(enumerate(values))
        for name in values:
            if name not in names:
                raise OptionError(
                    f"control `{self.tensor.name}` has no `{name}`; it has {', '.join(names)}{nearest(name, names)}"
                )
        return [(names.index(name), value) for name, value in values.items()]

    def _check(self, place: int, value: float) -> None:
        low = self.tensor.low[place] if self.tensor.low else -math.inf
        high = self.tensor.high[place] if self.tensor.high else math.inf
        if not low <= value <= high:
            name = self.tensor.names[place] if self.tensor.names else f"place {place}"
            raise OptionError(f"control `{self.tensor.name}`: {name} is {value:g}; {low:g} to {high:g} was wanted")

    def settle(self) -> None:
        """Jump to the targets: at a reset there is no past to glide from."""
        self._value[...] = self.target
        self._into[...] = self._value

    def advance(self) -> None:
        """Glide one frame and leave the values in the staging memory. Allocates nothing."""
        if self._stride is None or self._back is None:
            self._into[...] = self.target
            return
        np.subtract(self.target, self._value, out=self._move)
        np.minimum(self._move, self._stride, out=self._move)
        np.maximum(self._move, self._back, out=self._move)
        self._value += self._move
        self._into[...] = self._value
