"""Allocation, start-up copies and moves between buffers of one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgetalker.engines.cuda.buffers import Block, CudaBuffer
from edgetalker.engines.cuda.driver import CAPTURE_RELAXED
from edgetalker.engines.cuda.errors import CudaError, OutOfMemoryError
from edgetalker.engines.cuda.hostmemory import HostMemory
from edgetalker.engines.cuda.resources import Resources
from edgetalker.engines.engine import DTYPES, Array, TensorSpec

__all__ = ["Memory"]


class Memory:
    """The memory of one device. `integrated`: host and GPU share memory, so staged buffers are mapped, not copied."""

    def __init__(self, resources: Resources, ordinal: int, *, integrated: bool, poison: bool) -> None:
        self._resources = resources
        self._driver = resources.driver
        self._stream = resources.stream
        self._ordinal = ordinal
        self._synchronize = resources.synchronize
        self._integrated = integrated
        self._poison = poison
        self._scratch: list[CudaBuffer] = []
        self.allocated = 0

    def allocate(self, name: str, spec: TensorSpec, *, staged: bool) -> CudaBuffer:
        """Make a buffer, filled with poison or zeros. Raises OutOfMemoryError."""
        self._resources.refuse_capture(f"buffer `{name}` cannot be made")
        with self._resources.watched():
            block = self._new_block(f"buffer `{name}` of {spec}", spec.nbytes, staged)
        buffer = CudaBuffer(name, spec, block)
        self._fill(buffer)
        self.allocated += spec.nbytes
        return buffer

    def _new_block(self, what: str, nbytes: int, staged: bool) -> Block:
        shared = staged and self._integrated
        try:
            host = self._driver.pin(nbytes, mapped=shared) if staged else None
            address = host.mapped if shared and host else self._allocate_beside(host, nbytes)
        except OutOfMemoryError as error:
            raise error.while_allocating(what, nbytes, self._memory_or_none()) from None
        block = Block(address, nbytes, self._ordinal, self._stream, self._synchronize, host, shared)
        self._resources.blocks.append(block)
        return block

    def _allocate_beside(self, host: HostMemory | None, nbytes: int) -> int:
        try:
            return self._driver.allocate(nbytes)
        except CudaError:
            if host is not None:
                self._driver.unpin(host)
            raise

    def _memory_or_none(self) -> tuple[int, int] | None:
        try:
            return self._driver.memory()
        except CudaError:
            return None

    def _fill(self, buffer: CudaBuffer) -> None:
        dtype = DTYPES[buffer.spec.dtype]
        value = _poison(dtype) if self._poison else 0
        self.write(buffer, np.full(buffer.spec.shape, value, dtype))

    def staging(self, buffer: CudaBuffer) -> Array:
        """Return the page-locked twin, made now when there is none."""
        if buffer.block.host is None:
            self._resources.refuse_capture(f"host memory of `{buffer.name}` cannot be made")
            with self._resources.watched():
                buffer.block.host = self._driver.pin(buffer.block.nbytes, mapped=False)
        return buffer.staging()

    def write(self, target: CudaBuffer, values: Array) -> None:
        """Fill `target` and wait. Raises ValueError on another shape or type."""
        if values.shape != target.spec.shape or values.dtype != DTYPES[target.spec.dtype]:
            raise ValueError(f"`{target.name}` is {target.spec}; values are {values.dtype}{list(values.shape)}")
        if target.block.shared:
            self._synchronize()
            target.staging()[...] = values
            return
        source = HostMemory.of(np.ascontiguousarray(values))  # lives until the copy is done
        with self._resources.watched():
            self._driver.to_device(target.address, source, self._stream)
        self._synchronize()

    def read(self, source: CudaBuffer) -> Array:
        """Wait and return a fresh copy."""
        self._synchronize()
        values: Array
        if source.block.shared:
            values = source.staging().copy()
            return values
        values = np.empty(source.spec.shape, DTYPES[source.spec.dtype])
        with self._resources.watched():
            self._driver.to_host(HostMemory.of(values), source.address, self._stream)
        self._synchronize()
        return values

    def copy(self, target: CudaBuffer, source: CudaBuffer) -> None:
        """Enqueue `target <- source`. Raises ValueError on unequal byte counts or an overlap."""
        if target.spec.nbytes != source.spec.nbytes or target.overlaps(source):
            raise ValueError(f"copy of `{source.name}` {source.spec} to `{target.name}` {target.spec}")
        with self._resources.watched():
            self._driver.on_device(target.address, source.address, target.spec.nbytes, self._stream)

    def shift(self, window: CudaBuffer, newest: CudaBuffer) -> None:
        """Enqueue the shift of each talker's rows, through scratch memory since copies may not overlap.

        Three copies for any number of talkers. Raises ValueError when `newest` does not fit.
        """
        talkers = window.spec.shape[0]
        whole, fresh = window.spec.nbytes // talkers, newest.spec.nbytes // talkers
        if fresh >= whole or newest.overlaps(window):
            raise ValueError(f"shift of `{newest.name}` {newest.spec} into `{window.name}` {window.spec}")
        kept = whole - fresh
        scratch = self._scratch_for(talkers * kept)
        with self._resources.watched():
            self._rows((scratch, kept), (window.address + fresh, whole), kept, talkers)
            self._rows((window.address, whole), (scratch, kept), kept, talkers)
            self._rows((window.address + kept, whole), (newest.address, fresh), fresh, talkers)

    def _rows(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int) -> None:
        if height == 1:
            self._driver.on_device(target[0], source[0], width, self._stream)
        else:
            self._driver.rows(target, source, width, height, self._stream)

    def _scratch_for(self, nbytes: int) -> int:
        """Return the address of scratch memory; made at the first shift of its size: the warm run or the capture."""
        for buffer in self._scratch:
            if buffer.spec.nbytes >= nbytes:
                return buffer.address
        what = "scratch memory for shifts"
        with self._resources.watched(), self._allocation_allowed():
            block = self._new_block(what, nbytes, staged=False)
        self._scratch.append(CudaBuffer(what, TensorSpec("uint8", (nbytes,)), block))
        return block.address

    @contextmanager
    def _allocation_allowed(self) -> Iterator[None]:
        """Let this thread allocate although it captures: the address is fixed before the copy that uses it."""
        before = self._driver.exchange_capture_mode(CAPTURE_RELAXED)
        try:
            yield
        finally:
            self._driver.exchange_capture_mode(before)


def _poison(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).max
