"""Noise as a function of (seed, stream, frame, tensor), not of call order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoiseSource", "NormalNoise", "counter_noise"]

NoiseSource = Callable[[str, int, NDArray[np.float32]], None]
"""Fills the noise of tensor `name` for frame `index` into an array; what tests use to replay recorded noise."""


class NormalNoise:
    """Standard normal noise by counter (Philox 4x64; Salmon et al. 2011).

    The key is (seed, stream); the counter's upper words are the frame and the tensor's place, so that any frame's
    noise can be made again at any time, in any order, and streams never overlap.
    """

    def __init__(self, seed: int, stream: int = 0, place: int = 0) -> None:
        """Raises ValueError unless 0 <= seed, stream, place < 2**64."""
        for name, value in (("seed", seed), ("stream", stream), ("place", place)):
            if not 0 <= value < 1 << 64:
                raise ValueError(f"{name} is {value}; 0 to 2**64 - 1 was wanted")
        self._bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state
        self._state["state"]["counter"][3] = place

    def fill(self, frame: int, into: NDArray[np.float32]) -> None:
        """Fill a C-ordered float32 array of any shape with the noise of `frame`."""
        counter = self._state["state"]["counter"]
        counter[0] = 0
        counter[2] = frame
        self._state["buffer_pos"] = 4
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        self._generator.standard_normal(out=into, dtype=np.float32)


def counter_noise(names: Sequence[str], seed: int, stream: int, talkers: int) -> NoiseSource:
    """Return the noise of a session's tensors: talker k's row of each is that of stream `stream` + k."""
    makers = {
        name: [NormalNoise(seed, stream + talker, place) for talker in range(talkers)]
        for place, name in enumerate(names)
    }

    def fill(name: str, frame: int, into: NDArray[np.float32]) -> None:
        for maker, row in zip(makers[name], into, strict=True):
            maker.fill(frame, row)

    return fill
