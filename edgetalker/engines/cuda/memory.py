"""Device memory with a name, its page-locked twin on the host, and how other libraries look in without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.cuda.driver import CAPTURE_RELAXED
from edgetalker.engines.cuda.errors import CudaError, OutOfMemoryError
from edgetalker.engines.cuda.resources import BLOCKS, Resources
from edgetalker.engines.engine import DTYPES, Array, Buffer, TensorSpec, poison_value
from edgetalker.engines.errors import EngineError

__all__ = ["CPU", "CUDA", "CudaBuffer", "CudaMemory", "capsule"]


@dataclass(frozen=True)
class HostMemory:
    """Page-locked memory. `array`: its bytes, which own it; `mapped`: the GPU's address of it, 0 when not mapped."""

    array: NDArray[np.uint8]
    address: int
    mapped: int

    def part(self, offset: int, nbytes: int) -> HostMemory:
        """Return a window that starts `offset` bytes in."""
        mapped = self.mapped + offset if self.mapped else 0
        return HostMemory(self.array[offset : offset + nbytes], self.address + offset, mapped)


@dataclass(eq=False)
class Block:
    """One allocation, of the device with these resources. host: its page-locked twin. shared: the twin is the memory
    itself (integrated GPUs)."""

    address: int
    nbytes: int
    ordinal: int
    resources: Resources
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
            "stream": self.block.resources.stream,
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
        if stream not in (-1, self.block.resources.stream):
            self.block.resources.synchronize()
        return capsule(self.address, self.spec, self.__dlpack_device__(), self)


class CudaMemory:
    """The memory of a device, which is one. integrated: host and GPU share memory: staged buffers are mapped."""

    def __init__(self, resources: Resources, ordinal: int, *, integrated: bool, poison: bool) -> None:
        self._resources, self._driver = resources, resources.driver
        self.stream, self.ordinal, self.integrated = resources.stream, ordinal, integrated
        self._poison = poison
        self._scratch: list[Block] = []
        self.allocated = 0

    def allocate(self, name: str, spec: TensorSpec, *, staged: bool = False) -> CudaBuffer:
        """Make a buffer; `staged` makes its page-locked twin too, or maps it where host and GPU share memory.

        Raises OutOfMemoryError that says what was asked for and what is free.
        """
        self._resources.refuse_capture(f"buffer `{name}` cannot be made")
        with self._resources.watched():
            block = self._new_block(f"buffer `{name}` of {spec}", spec.nbytes, staged)
        buffer = CudaBuffer(name, spec, block)
        dtype = DTYPES[spec.dtype]
        self.write(buffer, np.full(spec.shape, poison_value(dtype) if self._poison else 0, dtype))
        self.allocated += spec.nbytes
        return buffer

    def _own(self, buffer: Buffer) -> CudaBuffer:
        if not isinstance(buffer, CudaBuffer) or buffer.block.resources is not self._resources:
            raise EngineError(f"buffer `{buffer.name}` belongs to another device")
        return buffer

    def _new_block(self, what: str, nbytes: int, staged: bool) -> Block:
        shared = staged and self.integrated
        try:
            host = self._pinned(nbytes, mapped=shared) if staged else None
            address = host.mapped if shared and host else self._driver.allocate(nbytes)
        except OutOfMemoryError as error:
            raise error.while_allocating(what, nbytes, self._memory_or_none()) from None
        block = Block(address, nbytes, self.ordinal, self._resources, host, shared)
        if not shared:
            self._resources.own(block, self._driver.free, address, BLOCKS)
        return block

    def _pinned(self, nbytes: int, *, mapped: bool) -> HostMemory:
        """Return page-locked memory that lives as long as the last array over it: a frame may outlive its device."""
        address, on_gpu = self._driver.pin(nbytes, mapped=mapped)
        raw: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        self._resources.own_pinned(raw, address)
        return HostMemory(np.frombuffer(raw, np.uint8), address, on_gpu)

    def _memory_or_none(self) -> tuple[int, int] | None:
        try:
            return self._driver.memory()
        except CudaError:
            return None

    def staging(self, buffer: Buffer) -> Array:
        """Return the page-locked twin, made now when there is none; staged on an integrated GPU, the memory itself."""
        own = self._own(buffer)
        if own.block.host is None:
            self._resources.refuse_capture(f"host memory of `{own.name}` cannot be made")
            with self._resources.watched():
                own.block.host = self._pinned(own.block.nbytes, mapped=False)
        return own.staging()

    def write(self, target: Buffer, values: Array) -> None:
        """Fill `target` and wait. Raises ValueError on another shape or type."""
        own = self._own(target)
        if values.shape != own.spec.shape or values.dtype != DTYPES[own.spec.dtype]:
            raise ValueError(f"`{own.name}` is {own.spec}; values are {values.dtype}{list(values.shape)}")
        if own.block.shared:
            self._resources.synchronize()
            own.staging()[...] = values
            return
        source = np.ascontiguousarray(values)  # lives until the copy is done
        with self._resources.watched():
            self._driver.to_device(own.address, source.ctypes.data, source.nbytes, self.stream)
        self._resources.synchronize()

    def read(self, source: Buffer) -> Array:
        own = self._own(source)
        self._resources.synchronize()
        if own.block.shared:
            return np.array(own.staging())
        values = np.empty(own.spec.shape, DTYPES[own.spec.dtype])
        with self._resources.watched():
            self._driver.to_host(values.ctypes.data, own.address, values.nbytes, self.stream)
        self._resources.synchronize()
        return values

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Enqueue `target <- source`. Raises ValueError on unequal byte counts or an overlap."""
        into, given = self._own(target), self._own(source)
        if into.spec.nbytes != given.spec.nbytes or into.overlaps(given):
            raise ValueError(f"copy of `{given.name}` {given.spec} to `{into.name}` {into.spec}")
        with self._resources.watched():
            self._driver.on_device(into.address, given.address, into.spec.nbytes, self.stream)

    def shift(self, window: Buffer, newest: Buffer) -> None:
        """Enqueue the shift of each talker's rows, through scratch memory since copies may not overlap.

        Three copies for any number of talkers. Raises ValueError when `newest` does not fit.
        """
        rows, new = self._own(window), self._own(newest)
        talkers = rows.spec.shape[0]
        whole, fresh = rows.spec.nbytes // talkers, new.spec.nbytes // talkers
        if fresh >= whole or new.overlaps(rows):
            raise ValueError(f"shift of `{new.name}` {new.spec} into `{rows.name}` {rows.spec}")
        kept = whole - fresh
        scratch = self._scratch_for(talkers * kept)
        with self._resources.watched():
            self._rows((scratch, kept), (rows.address + fresh, whole), kept, talkers)
            self._rows((rows.address, whole), (scratch, kept), kept, talkers)
            self._rows((rows.address + kept, whole), (new.address, fresh), fresh, talkers)

    def _rows(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int) -> None:
        if height == 1:
            self._driver.on_device(target[0], source[0], width, self.stream)
        else:
            self._driver.rows(target, source, width, height, self.stream)

    def _scratch_for(self, nbytes: int) -> int:
        """Return the address of scratch memory; made at the first shift of its size: the warm run or the capture."""
        for block in self._scratch:
            if block.nbytes >= nbytes:
                return block.address
        with self._resources.watched(), self._allocation_allowed():
            self._scratch.append(self._new_block("scratch memory for shifts", nbytes, staged=False))
        return self._scratch[-1].address

    @contextmanager
    def _allocation_allowed(self) -> Iterator[None]:
        """Let this thread allocate although it captures: the address is fixed before the copy that uses it."""
        before = self._driver.exchange_capture_mode(CAPTURE_RELAXED)
        try:
            yield
        finally:
            self._driver.exchange_capture_mode(before)


# DLPack

CPU, CUDA = 1, 2
"""DLPack's device types."""
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_alive: dict[int, tuple[Any, ...]] = {}
"""What a consumer still holds, by the number in its context field."""
_numbers = count(1)


def _delete(managed: int) -> None:
    _alive.pop(_Managed.from_address(managed).context, None)


def _drop_unused(handle: int) -> None:
    """Free what no consumer took: one that took it has renamed the capsule to `used_dltensor`."""
    if _is_valid(handle, _NAME):
        _delete(_pointer(handle, _NAME))


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop_unused)
_make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def capsule(address: int, spec: TensorSpec, device: tuple[int, int], owner: object) -> object:
    """Return a DLPack capsule (version 0, `DLManagedTensor` of github.com/dmlc/dlpack's dlpack.h) of dense memory.

    `owner` lives until the consumer lets go. device: DLPack's type and number.
    """
    dtype = DTYPES[spec.dtype]
    shape = (ctypes.c_int64 * len(spec.shape))(*spec.shape)
    number = next(_numbers)
    managed = _Managed(
        _Tensor(address, *device, len(spec.shape), _CODES[dtype.kind], dtype.itemsize * 8, 1, shape, None, 0),
        number,
        ctypes.cast(_deleter, ctypes.c_void_p),
    )
    _alive[number] = (managed, shape, owner)
    result: object = _make(ctypes.addressof(managed), _NAME, ctypes.cast(_destructor, ctypes.c_void_p))
    return result
