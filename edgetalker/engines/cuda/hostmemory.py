"""The host's side of a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HostMemory"]


@dataclass(frozen=True)
class HostMemory:
    """Host memory of a copy. `array`: its bytes; `mapped`: the GPU's address of page-locked ones, 0 when not mapped."""

    array: NDArray[np.uint8]
    address: int
    mapped: int
    owner: object

    def part(self, offset: int, nbytes: int) -> HostMemory:
        """Return a window that starts `offset` bytes in; it owns nothing."""
        mapped = self.mapped + offset if self.mapped else 0
        return HostMemory(self.array[offset : offset + nbytes], self.address + offset, mapped, self.owner)

    @classmethod
    def of(cls, array: NDArray[Any]) -> HostMemory:
        """Return the memory of a C-ordered array, which is not page-locked: for copies that are waited for."""
        raw = array.reshape(-1).view(np.uint8)
        return cls(raw, raw.ctypes.data, 0, array)
