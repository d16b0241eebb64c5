"""The reference arrays and the tiny checkpoints that they were made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgetalker.models.streamingtalker import StreamingTalker, Untold, load_checkpoint

DATA = Path(__file__).parents[2] / "data" / "streamingtalker"
TINY = DATA / "tiny_voca.ckpt"
TINY_BIWI = DATA / "tiny_biwi.ckpt"
TINY_UNTOLD = Untold(audio_heads=4, vae_heads=4)


class Reference:
    """Arrays that the published code computed, as NumPy by `[name]` and as tensors by `tensor(name)`."""

    def __init__(self, case: str = "tiny_voca") -> None:
        with np.load(DATA / f"{case}.npz") as arrays:
            self._arrays: dict[str, NDArray[np.float32]] = {name: arrays[name] for name in arrays.files}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._arrays[name]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name].copy())


@dataclass(frozen=True)
class Case:
    model: StreamingTalker
    reference: Reference
    latents: float


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def model() -> StreamingTalker:
    return load_checkpoint(TINY, untold=TINY_UNTOLD)


@pytest.fixture(scope="session")
def biwi_reference() -> Reference:
    return Reference("tiny_biwi")


@pytest.fixture(scope="session")
def biwi() -> StreamingTalker:
    """A network of BIWI's form whose latents (48) are narrower than its VAE (64)."""
    return load_checkpoint(TINY_BIWI, untold=TINY_UNTOLD)


@pytest.fixture(params=["tiny_voca", "tiny_biwi"])
def case(request: pytest.FixtureRequest) -> Case:
    """Both tiny networks, each with its arrays and the error that its latents may have."""
    if request.param == "tiny_voca":
        return Case(request.getfixturevalue("model"), request.getfixturevalue("reference"), latents=1e-4)
    # BIWI's form amplifies rounding: the published code itself is 1.4e-3 away from a float64 restatement.
    return Case(request.getfixturevalue("biwi"), request.getfixturevalue("biwi_reference"), latents=3e-3)
