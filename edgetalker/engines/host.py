"""The host device: numpy memory and a queue that records and replays as a GPU does.

Outside a capture the work runs at once; inside, it is recorded and nothing runs. A graph is a tuple of calls, so
that captured programs, carries, ladders and traces behave here as they do on a GPU.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from edgetalker.engines.engine import DTYPES, Array, Buffer, Graph, Mark, TensorSpec, poison_value
from edgetalker.engines.errors import DeviceError, EngineError, UserError

__all__ = ["HostBuffer", "HostDevice", "HostGraph", "HostMark"]

Call = Callable[[], Any]
T = TypeVar("T", "HostBuffer", "HostGraph")
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


@dataclass(slots=True, eq=False)
class HostMark:
    """A point in the queue; `ns` is the clock's reading when the queue last came by, -1 before that."""

    name: str
    ns: int = -1


@dataclass(slots=True, eq=False)
class HostGraph:
    """Recorded calls, replayed in their order; a mark among them reads the clock."""

    name: str
    calls: tuple[Call | HostMark, ...] = field(repr=False)

    @property
    def nodes(self) -> int:
        return len(self.calls)


class HostDevice:
    """The CPU as a device. `poison` fills fresh buffers with NaN, so that a read before a write shows."""

    kind = "host"
    stream = 0
    ordinal = 0
    copies = False

    def __init__(self, *, poison: bool = False) -> None:
        self.poison = poison
        self.allocated = 0
        self._captures = threading.local()  # a capture records what its own thread enqueues
        self._closed = False

    @property
    def _recording(self) -> list[Call | HostMark] | None:
        return getattr(self._captures, "calls", None)

    def describe(self) -> str:
        return f"host ({platform.machine()}, numpy {np.__version__})"

    def facts(self) -> Mapping[str, Any]:
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
            array.fill(poison_value(array.dtype))
        self.allocated += spec.nbytes
        return HostBuffer(name, spec, array)

    def staging(self, buffer: Buffer) -> Array:
        """Return the buffer's own memory: on the host nothing is copied."""
        return _own(buffer, HostBuffer).array

    def upload(self, target: Buffer) -> None:
        """Do nothing: staging is the buffer's own memory."""

    def download(self, source: Buffer) -> None:
        """Do nothing: staging is the buffer's own memory."""

    def write(self, target: Buffer, values: Array) -> None:
        """Fill `target`. Raises ValueError on another shape or type."""
        into = _own(target, HostBuffer).array
        if values.shape != into.shape or values.dtype != into.dtype:
            raise ValueError(f"`{target.name}` is {target.spec}; values are {values.dtype}{list(values.shape)}")
        into[...] = values

    def read(self, source: Buffer) -> Array:
        return np.array(_own(source, HostBuffer).array)

    def call(self, work: Call) -> None:
        recording = self._recording
        if recording is None:
            work()
        else:
            recording.append(work)

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
        self._captures.calls = recording = list[Call | HostMark]()
        try:
            work()
            return HostGraph(name, tuple(recording))
        finally:
            self._captures.calls = None

    def launch(self, graph: Graph) -> None:
        """Replay. Raises EngineError under capture, as CUDA does."""
        if self._recording is not None:
            raise EngineError(f"graph `{graph.name}` cannot be launched while the device captures")
        self.launcher([graph])()

    def launcher(self, graphs: Sequence[Graph]) -> Call:
        """Return one call that replays all `graphs`: 50 denoise steps cost a loop and not 50 Python calls.

        It raises EngineError for a stage that fails while it runs.
        """
        return _sequence([call for graph in graphs for call in _own(graph, HostGraph).calls])

    def mark(self, name: str) -> HostMark:
        return HostMark(name)

    def record(self, mark: Mark) -> None:
        assert isinstance(mark, HostMark)
        recording = self._recording
        if recording is None:
            mark.ns = time.perf_counter_ns()
        else:
            recording.append(mark)

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


def _sequence(calls: list[Call | HostMark]) -> Call:
    """Return one call that makes all `calls`. Work between two marks is one turn of a loop, `mark, work, mark`."""
    if not any(isinstance(call, HostMark) for call in calls):
        return partial(_run_all, tuple(cast("list[Call]", calls)))
    turns: list[tuple[HostMark, Call, HostMark]] = []
    unused, work = HostMark("unused"), list[Call]()
    opened: HostMark | None = None
    for call in [*calls, unused]:
        if not isinstance(call, HostMark):
            work.append(call)
            continue
        if work or opened is not None:
            whole = work[0] if len(work) == 1 else _sequence([*work])
            turns.append((opened or unused, whole, unused if opened is None else call))
            opened, work = (call if opened is None else None), []
        else:
            opened = call
    return partial(_run_timed, tuple(turns))


def _run_all(calls: tuple[Call, ...]) -> None:
    call = None
    try:
        for call in calls:
            call()
    except Exception as error:
        raise _failure(call, error) from error


def _run_timed(turns: tuple[tuple[HostMark, Call, HostMark], ...]) -> None:
    clock, work = time.perf_counter_ns, None
    try:
        for first, work, last in turns:
            first.ns = clock()
            work()
            last.ns = clock()
    except Exception as error:
        raise _failure(work, error) from error


def _failure(call: Call | None, error: Exception) -> UserError:
    """Return what a failed run means. ONNX Runtime's exceptions share no base class but Exception."""
    if isinstance(error, UserError):
        return error
    text = str(error).strip().split("\n")[0]
    return EngineError(
        f"stage `{getattr(call, 'stage', '?')}` failed while it ran: {text[:500]}",
        hint="its shapes or values do not fit each other: export the bundle again",
    )


def _own(thing: Buffer | Graph, kind: type[T]) -> T:
    if not isinstance(thing, kind):
        what = kind.__name__.removeprefix("Host").lower()
        raise EngineError(f"{what} `{thing.name}` belongs to another device")
    return thing
