"""What a device, a buffer, a captured graph and a compiled stage are.

These protocols are the seam between the runtime and the hardware. A device owns memory and one ordered
queue of work. Everything that a frame does is enqueued on that queue, either at once or while the device
captures; a captured graph replays the same work on the same addresses.

Threading: any thread may step a talker, one at a time. Start-up calls of one device come from one thread at a time;
a model sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "Array",
    "Binding",
    "Buffer",
    "Device",
    "Engine",
    "Graph",
    "Layers",
    "Mark",
    "Shape",
    "TensorSpec",
    "poison_value",
]

Shape = tuple[int, ...]
Array = NDArray[Any]
Layers = Sequence[tuple[str, float]]
"""(name, ns) of the layers of one run of a stage, in the order in which they run."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("float32", "float16", "int32", "int64", "bool", "uint8")
}
"""The element types that a manifest may name."""


def poison_value(dtype: np.dtype[Any]) -> Any:
    """Return what fresh buffers of a type are filled with under test, so that a read before a write shows."""
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).max


@dataclass(frozen=True)
class TensorSpec:
    """Element type and fixed shape of one tensor at a stage's border."""

    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Size in bytes of the dense, C-ordered tensor."""
        return DTYPES[self.dtype].itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Buffer(Protocol):
    """A named block of device memory: shape, type and address never change after it was made."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> TensorSpec: ...
    @property
    def address(self) -> int:
        """Device address of the first byte, valid until the device is closed."""
        ...

    def view(self, name: str, offset: int, spec: TensorSpec) -> Buffer:
        """Return a window into this buffer that starts `offset` bytes in; it owns no memory.

        Raises ValueError when the window does not lie inside the buffer.
        """
        ...


class Graph(Protocol):
    """Work that was captured once and can be launched any number of times, always on the same addresses."""

    @property
    def name(self) -> str: ...
    @property
    def nodes(self) -> int:
        """Number of captured operations."""
        ...


class Mark(Protocol):
    """A timed point in a device's queue; recorded anew by every replay of a graph that holds it."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class Device(Protocol):
    """Memory, one ordered queue of work, capture and launch.

    Start-up calls (`allocate`, `staging`, `write`, `mark`, `capture`) may allocate and wait. Frame calls
    (`upload`, `download`, `copy`, `shift`, `record`, `launch`) only enqueue, work under capture (except
    `launch`), allocate nothing and never wait. `synchronize`, `read` and `elapsed` wait.
    """

    @property
    def kind(self) -> str:
        """`host` or `cuda`."""
        ...

    @property
    def stream(self) -> int:
        """The queue's native handle for engines that enqueue by themselves (0 on the host)."""
        ...

    @property
    def ordinal(self) -> int:
        """Number of the GPU (0 on the host)."""
        ...

    @property
    def copies(self) -> bool:
        """Whether `upload` and `download` copy anything: False where staging is always the buffer's own memory."""
        ...

    def describe(self) -> str:
        """One line for people: what this device is."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What is known of the GPU: name, bus, capability, driver, integrated, free, total; nothing on the host."""
        ...

    def call(self, work: Callable[[], Any]) -> None:
        """Enqueue a Python call: how engines of the host put their run into the queue. Raises EngineError on a GPU."""
        ...

    def allocate(self, name: str, spec: TensorSpec, *, staged: bool = False) -> Buffer:
        """Make a buffer. Filled with NaN (floats) or the largest value (integers) under poison, else zeros.

        `staged` says that frames upload to it or download from it: its host memory is made now, and where
        host and device share memory (Jetson) it lies in mapped memory. Everything else stays out of mapped
        memory, which bypasses the GPU's caches. Raises DeviceError that says what was asked for and what is
        free when memory runs out.
        """
        ...

    def staging(self, buffer: Buffer) -> Array:
        """Return the host memory through which `buffer` is uploaded and downloaded.

        Pinned where copies are asynchronous. On the host, and where host and device share memory (Jetson),
        it is the buffer's own memory and `upload` and `download` then cost nothing. The same call always
        returns the same memory.
        """
        ...

    def upload(self, target: Buffer) -> None:
        """Enqueue the copy staging -> `target`."""
        ...

    def download(self, source: Buffer) -> None:
        """Enqueue the copy `source` -> staging; complete after `synchronize`."""
        ...

    def write(self, target: Buffer, values: Array) -> None:
        """Fill `target` with `values` (same shape and type) and wait. For start-up: constants, initial state."""
        ...

    def read(self, source: Buffer) -> Array:
        """Wait for the queue and return a fresh copy of `source`. For tests and reports, not for frames."""
        ...

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Enqueue `target <- source`; equal byte counts, no overlap."""
        ...

    def shift(self, window: Buffer, newest: Buffer) -> None:
        """Enqueue: drop the oldest rows of `window`, append `newest` at its end.

        `window` has shape (talkers, rows, ...); `newest` holds for each talker a whole number of its rows.
        """
        ...

    def capture(self, name: str, work: Callable[[], None]) -> Graph:
        """Run `work`, which only enqueues, and return what it enqueued as a graph. Nothing is executed."""
        ...

    def launch(self, graph: Graph) -> None:
        """Enqueue one replay of `graph`."""
        ...

    def launcher(self, graphs: Sequence[Graph]) -> Callable[[], None]:
        """Return what enqueues one replay of each of `graphs` in order, in the fewest calls that the device knows."""
        ...

    def mark(self, name: str) -> Mark:
        """Make a mark (start-up; a mark owns an event on a GPU)."""
        ...

    def record(self, mark: Mark) -> None:
        """Enqueue the recording of `mark`."""
        ...

    def elapsed(self, first: Mark, last: Mark) -> int:
        """Nanoseconds on the device between two recorded marks. Both must have completed."""
        ...

    def synchronize(self) -> None:
        """Wait until the queue is empty. Raises DeviceError when work on the queue failed."""
        ...

    def close(self) -> None:
        """Free everything. Buffers and graphs of a closed device must not be used."""
        ...


class Binding(Protocol):
    """A stage together with the addresses that it reads and writes, fixed for ever."""

    def enqueue(self, device: Device) -> None:
        """Enqueue one run. Must not allocate device memory, synchronize or read a result."""
        ...


class Engine(Protocol):
    """One stage made runnable on a device."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...
    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...
    @property
    def file(self) -> Path | None:
        """The ONNX file that the stage was made from; None for a module that was made in memory."""
        ...

    @property
    def precision(self) -> str:
        """The bundle's precision that runs, such as `fp32`."""
        ...

    def bind(self, buffers: Mapping[str, Buffer]) -> Binding:
        """Give the stage its memory: one buffer for every input and output name.

        Called at start-up only, once for each set of addresses that the program needs (a denoise stage has
        one binding a row). May allocate and may run the stage to warm it. Raises EngineError that names
        every missing, unknown or misshapen tensor.
        """
        ...

    def layers(self, runs: int) -> Layers:
        """Return each layer's median time over `runs` runs of their own, on made-up values.

        For reports: allocates, runs and waits; not while a session steps. Raises EngineError where none can be told.
        """
        ...

    def close(self) -> None: ...
