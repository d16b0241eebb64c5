"""The reference arrays and the tiny checkpoint that they were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgetalker.models.streamingtalker import HeadCounts, StreamingTalker, load_checkpoint

DATA = Path(__file__).parents[2] / "data" / "streamingtalker"
TINY = DATA / "tiny_voca.ckpt"
TINY_HEADS = HeadCounts(audio=4, vae=4)


class Reference:
    """Arrays of `tiny_voca.npz`, as NumPy by `[name]` and as tensors by `tensor(name)`."""

    def __init__(self) -> None:
        with np.load(DATA / "tiny_voca.npz") as arrays:
            self._arrays: dict[str, NDArray[np.float32]] = {name: arrays[name] for name in arrays.files}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._arrays[name]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name].copy())


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def model() -> StreamingTalker:
    return load_checkpoint(TINY, heads=TINY_HEADS)
