"""Device memory with a name, and how other libraries look into it without a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgetalker.engines.cuda.dlpack import CUDA, capsule
from edgetalker.engines.cuda.hostmemory import HostMemory
from edgetalker.engines.engine import DTYPES, Array, TensorSpec
from edgetalker.engines.errors import EngineError

__all__ = ["Block", "CudaBuffer"]


@dataclass
class Block:
    """One allocation. `host`: its page-locked twin; `shared`: the twin is the memory itself (integrated GPUs)."""

    address: int
    nbytes: int
    ordinal: int
    stream: int
    synchronize: Callable[[], None]
    host: HostMemory | None = None
    shared: bool = False


class CudaBuffer:
    """A block of device memory, or a window into one. Its address never changes.

    Libraries that know `__cuda_array_interface__` (Numba, CuPy, PyTorch) or DLPack read it where it lies. The next
    frame overwrites it, and it is gone when the device is closed.
    """

    __slots__ = ("_host", "address", "block", "name", "offset", "spec")

    def __init__(self, name: str, spec: TensorSpec, block: Block, offset: int = 0) -> None:
        self.name = name
        self.spec = spec
        self.block = block
        self.offset = offset
        self.address: int = block.address + offset
        self._host: HostMemory | None = None

    def view(self, name: str, offset: int, spec: TensorSpec) -> CudaBuffer:
        """Return a window that starts `offset` bytes in. Raises ValueError when it does not lie inside."""
        if offset < 0 or offset + spec.nbytes > self.spec.nbytes:
            raise ValueError(f"view `{name}` of {spec} at byte {offset} does not lie inside `{self.name}` {self.spec}")
        return CudaBuffer(name, spec, self.block, self.offset + offset)

    @property
    def host(self) -> HostMemory:
        """The part of the block's page-locked twin that stands for this buffer. Raises EngineError without one."""
        if self._host is None:
            if self.block.host is None:
                raise EngineError(
                    f"buffer `{self.name}` has no host memory to copy through",
                    hint="allocate it with staged=True, or call staging() at start",
                )
            self._host = self.block.host.part(self.offset, self.spec.nbytes)
        return self._host

    def staging(self) -> Array:
        """Return the host twin as an array of this buffer's shape and type."""
        array: Array = self.host.array.view(DTYPES[self.spec.dtype]).reshape(self.spec.shape)
        return array

    def overlaps(self, other: CudaBuffer) -> bool:
        """Return whether the two share a byte."""
        return self.address < other.address + other.spec.nbytes and other.address < self.address + self.spec.nbytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface that Numba defined; `stream` is the queue to wait on."""
        return {
            "version": 3,
            "shape": self.spec.shape,
            "typestr": DTYPES[self.spec.dtype].str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.block.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's device type and number."""
        return CUDA, self.block.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return a DLPack capsule of this memory; waits for the queue unless `stream` is -1 or the queue itself.

        Raises BufferError when a copy or another device is asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("the buffer is handed out where it lies: no copy, no other device")
        if stream not in (-1, self.block.stream):
            self.block.synchronize()
        return capsule(self.address, self.spec, self.__dlpack_device__(), self)
