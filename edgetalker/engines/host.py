"""The host device: numpy memory and a queue that records and replays as a GPU does.

Outside a capture the work runs at once; inside, it is recorded and nothing runs. A graph is a tuple of calls, so
that captured programs, carries, ladders and traces behave here as they do on a GPU.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from edgetalker.engines.engine import DTYPES, Array, Buffer, Graph, Mark, TensorSpec
from edgetalker.engines.errors import DeviceError, EngineError

__all__ = ["HostBuffer", "HostDevice", "HostGraph", "HostMark"]

Call = Callable[[], Any]
_ALIGNMENT = 64


class HostBuffer:
    """Host memory with a name. `array` is the memory itself; its address never changes."""

    __slots__ = ("address", "array", "name", "spec")

    def __init__(self, name: str, spec: TensorSpec, array: Array) -> None:
        self.name = name
        self.spec = spec
        self.array = array
        self.address: int = array.ctypes.data

    def view(self, name: str, offset: int, spec: TensorSpec) -> HostBuffer:
        """Return a window that starts `offset` bytes in. Raises ValueError when it does not lie inside."""
        if offset < 0 or offset + spec.nbytes > self.spec.nbytes:
            raise ValueError(f"view `{name}` of {spec} at byte {offset} does not lie inside `{self.name}` {self.spec}")
        raw = self.array.reshape(-1).view(np.uint8)[offset : offset + spec.nbytes]
        return HostBuffer(name, spec, raw.view(DTYPES[spec.dtype]).reshape(spec.shape))


class HostGraph:
    """Recorded calls, replayed in their order."""

    __slots__ = ("calls", "name")

    def __init__(self, name: str, calls: tuple[Call, ...]) -> None:
        self.name = name
        self.calls = calls

    @property
    def nodes(self) -> int:
        """Number of calls of one replay."""
        return len(self.calls)


class HostMark:
    """A point in the queue; `ns` is the clock's reading when the queue last came by, -1 before that."""

    __slots__ = ("name", "ns")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ns = -1

    def record(self) -> None:
        """Read the clock."""
        self.ns = time.perf_counter_ns()


class HostDevice:
    """The CPU as a device. `poison` fills fresh buffers with NaN, so that a read before a write shows."""

    kind = "host"
    stream = 0
    ordinal = 0

    def __init__(self, *, poison: bool = False) -> None:
        self.poison = poison
        self.allocated = 0
        self._recording: list[Call] | None = None
        self._closed = False

    def describe(self) -> str:
        """One line for people."""
        return f"host ({platform.machine()}, numpy {np.__version__})"

    def facts(self) -> Mapping[str, Any]:
        """Nothing: there is no GPU."""
        return {}

    def allocate(self, name: str, spec: TensorSpec, *, staged: bool = False) -> HostBuffer:
        """Make a buffer, aligned to 64 bytes for vector units. Raises DeviceError when memory runs out."""
        if self._closed:
            raise DeviceError(f"buffer `{name}`: the host device is closed")
        try:
            raw = np.zeros(spec.nbytes + _ALIGNMENT, np.uint8)
        except MemoryError:
            raise DeviceError(
                f"buffer `{name}` of {spec} needs {spec.nbytes} bytes, which the host does not have"
            ) from None
        start = -raw.ctypes.data % _ALIGNMENT
        array = raw[start : start + spec.nbytes].view(DTYPES[spec.dtype]).reshape(spec.shape)
        if self.poison:
            array.fill(_poison(array.dtype))
        self.allocated += spec.nbytes
        return HostBuffer(name, spec, array)

    def staging(self, buffer: Buffer) -> Array:
        """Return the buffer's own memory: on the host nothing is copied."""
        return _host(buffer).array

    def upload(self, target: Buffer) -> None:
        """Do nothing: staging is the buffer's own memory."""

    def download(self, source: Buffer) -> None:
        """Do nothing: staging is the buffer's own memory."""

    def write(self, target: Buffer, values: Array) -> None:
        """Fill `target`. Raises ValueError on another shape or type."""
        into = _host(target).array
        if values.shape != into.shape or values.dtype != into.dtype:
            raise ValueError(f"`{target.name}` is {target.spec}; values are {values.dtype}{list(values.shape)}")
        into[...] = values

    def read(self, source: Buffer) -> Array:
        """Return a copy."""
        values: Array = _host(source).array.copy()
        return values

    def call(self, work: Call) -> None:
        """Enqueue a Python call: how host engines put their run into the queue."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Enqueue `target <- source`. Raises ValueError on unequal byte counts."""
        if target.spec.nbytes != source.spec.nbytes:
            raise ValueError(f"copy of `{source.name}` {source.spec} to `{target.name}` {target.spec}")
        self.call(partial(ctypes.memmove, target.address, source.address, target.spec.nbytes))

    def shift(self, window: Buffer, newest: Buffer) -> None:
        """Enqueue the shift of each talker's rows. memmove allows the overlap and allocates nothing."""
        talkers = window.spec.shape[0]
        whole, new = window.spec.nbytes // talkers, newest.spec.nbytes // talkers
        if new >= whole:
            raise ValueError(f"shift of `{newest.name}` {newest.spec} into `{window.name}` {window.spec}")
        for talker in range(talkers):
            start = window.address + talker * whole
            self.call(partial(ctypes.memmove, start, start + new, whole - new))
            self.call(partial(ctypes.memmove, start + whole - new, newest.address + talker * new, new))

    def capture(self, name: str, work: Call) -> HostGraph:
        """Record what `work` enqueues. Raises EngineError inside another capture, as CUDA does."""
        if self._recording is not None:
            raise EngineError(f"graph `{name}`: a capture is under way already")
        self._recording = []
        try:
            work()
            return HostGraph(name, _fused(self._recording))
        finally:
            self._recording = None

    def launch(self, graph: Graph) -> None:
        """Replay. Raises EngineError under capture, as CUDA does."""
        if self._recording is not None:
            raise EngineError(f"graph `{graph.name}` cannot be launched while the device captures")
        for call in graph.calls:  # type: ignore[attr-defined]
            call()

    def launcher(self, graph: Graph) -> Call:
        """Return what launches `graph` in a frame: its only call itself, one Python call less a denoise step."""
        calls: tuple[Call, ...] = graph.calls  # type: ignore[attr-defined]
        return calls[0] if len(calls) == 1 else partial(self.launch, graph)

    def mark(self, name: str) -> HostMark:
        """Make a mark."""
        return HostMark(name)

    def record(self, mark: Mark) -> None:
        """Enqueue the recording of `mark`."""
        assert isinstance(mark, HostMark)
        self.call(mark.record)

    def elapsed(self, first: Mark, last: Mark) -> int:
        """Nanoseconds between two recorded marks. Raises DeviceError when one was never reached."""
        assert isinstance(first, HostMark)
        assert isinstance(last, HostMark)
        for mark in (first, last):
            if mark.ns < 0:
                raise DeviceError(f"mark `{mark.name}` was never reached by the queue")
        return last.ns - first.ns

    def synchronize(self) -> None:
        """Return at once: the host's queue is always empty."""

    def close(self) -> None:
        """Refuse further buffers; memory goes with the last reference."""
        self._closed = True


def _fused(calls: list[Call]) -> tuple[Call, ...]:
    """Make one call of `mark, work, mark`: a Python call less for each mark, in every denoise step."""
    fused: list[Call] = []
    for call in calls:
        first = getattr(fused[-2], "__self__", None) if len(fused) > 1 else None
        last = getattr(call, "__self__", None)
        if isinstance(first, HostMark) and isinstance(last, HostMark) and not _is_mark(fused[-1]):
            fused[-2:] = [_timed(first, fused[-1], last)]
        else:
            fused.append(call)
    return tuple(fused)


def _is_mark(call: Call) -> bool:
    return isinstance(getattr(call, "__self__", None), HostMark)


def _timed(first: HostMark, work: Call, last: HostMark, clock: Callable[[], int] = time.perf_counter_ns) -> Call:
    def call() -> None:
        first.ns = clock()
        work()
        last.ns = clock()

    return call


def _host(buffer: Buffer) -> HostBuffer:
    if not isinstance(buffer, HostBuffer):
        raise EngineError(f"buffer `{buffer.name}` belongs to another device")
    return buffer


def _poison(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).max
