from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.cuda import memory as dlpack
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.host import HostDevice


class OnTheHost:
    """The same capsule over host memory, which numpy and PyTorch can read without a GPU."""

    def __init__(self, dtype: str = "float32") -> None:
        device = HostDevice()
        self.buffer = device.allocate("b", TensorSpec(dtype, (2, 3)))
        self.buffer.array[...] = np.arange(6).reshape(2, 3)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **_: object) -> Any:
        return dlpack.capsule(self.buffer.address, self.buffer.spec, self.__dlpack_device__(), self.buffer)


def read_with_numpy(source: OnTheHost) -> np.ndarray:
    array: np.ndarray = np.from_dlpack(source)
    return array


def read_with_torch(source: OnTheHost) -> np.ndarray:
    torch = pytest.importorskip("torch")
    array: np.ndarray = torch.from_dlpack(source).numpy()
    return array


@pytest.mark.parametrize("read", [read_with_numpy, read_with_torch])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64", "uint8"])
def test_consumers_share_the_memory(read: Callable[[OnTheHost], np.ndarray], dtype: str) -> None:
    source = OnTheHost(dtype)
    seen = read(source)
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert seen.dtype == dtype
    source.buffer.array[0, 0] = 9
    assert seen[0, 0] == 9


def test_the_owner_lives_as_long_as_the_consumer() -> None:
    before = len(dlpack._alive)
    seen = np.from_dlpack(OnTheHost())
    gc.collect()
    assert len(dlpack._alive) == before + 1
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    del seen
    gc.collect()
    assert len(dlpack._alive) == before


def test_a_capsule_that_nobody_took_frees_its_owner() -> None:
    before = len(dlpack._alive)
    capsule = OnTheHost().__dlpack__()
    assert len(dlpack._alive) == before + 1
    del capsule
    gc.collect()
    assert len(dlpack._alive) == before
