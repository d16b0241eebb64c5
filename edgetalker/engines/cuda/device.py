"""The CUDA device: memory, one stream, capture and launch of graphs, behind the `Device` protocol."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.cuda.errors import CudaError
from edgetalker.engines.cuda.memory import CudaMemory
from edgetalker.engines.cuda.resources import CudaGraph, CudaMark, Resources, capture, elapsed
from edgetalker.engines.engine import Buffer, Graph, Mark
from edgetalker.engines.errors import DeviceError, EngineError, unknown

__all__ = ["WAITS", "CudaDevice"]

WAITS = ("spin", "yield", "block")
"""How `synchronize` waits: by CUDA's own wait, which spins unless the context was made otherwise (soonest back,
a core busy); by asking and giving way to other threads; by sleeping until the driver wakes the thread (no core
busy, some tens of microseconds later)."""


class CudaDevice(CudaMemory):
    """One NVIDIA GPU with one stream. Any thread may use it, one at a time.

    It works in the GPU's primary context, so that TensorRT, PyTorch and pycuda share its addresses and may share a
    stream; each call makes that context current on its thread and leaves it so, as CUDA's runtime library does.
    Nothing is allocated after start except by `allocate`, `staging`, `mark` and `capture`. A buffer, a graph or a mark
    is given back with its last reference, or when the device is closed.
    """

    kind = "cuda"
    copies = True

    def __init__(
        self,
        ordinal: int = 0,
        *,
        stream: object | None = None,
        wait: str = "spin",
        poison: bool = False,
    ) -> None:
        """Open a GPU. `stream`: somebody else's stream to work on. `poison`: fill fresh buffers with NaN.

        Raises MissingPackageError without cuda-bindings, DeviceError without a driver or GPU or when a context that
        is not the primary one is current, OptionError for an unknown `wait` or a stream that cannot be captured.
        """
        if wait not in WAITS:
            raise unknown("wait policy", wait, WAITS)
        driver = Driver()
        integrated = self._look_up(driver, ordinal)
        driver.enter(self._gpu)
        resources = Resources(driver, self._gpu, wait)
        try:
            resources.open_stream(stream)
        except BaseException:
            resources.release()
            raise
        super().__init__(resources, ordinal, integrated=integrated, poison=poison)
        self._finalizer = weakref.finalize(self, resources.release)

    def _look_up(self, driver: Driver, ordinal: int) -> bool:
        count = driver.count()
        if not 0 <= ordinal < count:
            raise DeviceError(f"there is no GPU {ordinal}: {count} visible", hint="nvidia-smi -L lists them")
        self._gpu = gpu = driver.find(ordinal)
        self.name = driver.name(gpu)
        self.bus = driver.bus(gpu)
        self.capability = tuple(driver.attribute(gpu, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
        return bool(driver.attribute(gpu, "INTEGRATED") and driver.attribute(gpu, "CAN_MAP_HOST_MEMORY"))

    def describe(self) -> str:
        capability, cuda = (".".join(map(str, pair)) for pair in (self.capability, self._driver.version()))
        return f"{self.name} (compute {capability}, driver for CUDA {cuda})"

    def facts(self) -> Mapping[str, Any]:
        """Return name, PCI address, compute capability and the driver's CUDA of this GPU; free and total bytes."""
        free, total = self.memory()
        return {
            "name": self.name,
            "bus": self.bus,
            "capability": self.capability,
            "driver": self._driver.version(),
            "integrated": self.integrated,
            "free": free,
            "total": total,
        }

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        with self._resources.watched():
            return self._driver.memory()

    def call(self, work: Callable[[], Any]) -> None:
        """Refuse: Python cannot run in a GPU's queue. Raises EngineError."""
        raise EngineError(
            f"an engine of the host cannot run on {self.describe()}",
            hint="run it with --device host, or take --engine torch, tensorrt or rtx",
        )

    # Frame

    def upload(self, target: Buffer) -> None:
        """Enqueue staging -> `target`; nothing to do where they are the same memory."""
        own = self._own(target)
        host = own.host
        if not own.block.shared:
            with self._resources.watched():
                self._driver.to_device(own.address, host.address, own.spec.nbytes, self.stream)

    def download(self, source: Buffer) -> None:
        """Enqueue `source` -> staging; nothing to do where they are the same memory."""
        own = self._own(source)
        host = own.host
        if not own.block.shared:
            with self._resources.watched():
                self._driver.to_host(host.address, own.address, own.spec.nbytes, self.stream)

    # Graphs and marks

    def capture(self, name: str, work: Callable[[], None]) -> CudaGraph:
        """Capture what `work` enqueues, instantiate and upload it. Raises EngineError inside another capture."""
        return capture(self._resources, name, work)

    def launch(self, graph: Graph) -> None:
        """Enqueue one replay. Raises EngineError under capture."""
        resources = self._resources
        if resources.closed or resources.capturing:
            resources.refuse_capture(f"graph `{graph.name}` cannot be launched")
        assert isinstance(graph, CudaGraph)
        try:  # as `watched` does, without its cost: this is the call of every denoise step
            self._driver.enter(self._gpu)
            self._driver.launch(graph.executable, self.stream)
        except CudaError as error:
            resources.note(error)
            raise

    def launcher(self, graphs: Sequence[Graph]) -> Callable[[], None]:
        """Return what enqueues one replay of each graph in order: a launch each."""
        if len(graphs) == 1:
            return partial(self.launch, graphs[0])

        def launch() -> None:
            for graph in graphs:
                self.launch(graph)

        return launch

    def mark(self, name: str) -> CudaMark:
        self._resources.refuse_capture(f"mark `{name}` cannot be made")
        with self._resources.watched():
            return self._resources.new_mark(name)

    def record(self, mark: Mark) -> None:
        assert isinstance(mark, CudaMark)
        resources = self._resources
        with resources.watched():
            self._driver.record(mark.event, self.stream, capturing=resources.capturing)
        if resources.capturing:
            resources.recorded.append(mark)

    def elapsed(self, first: Mark, last: Mark) -> int:
        assert isinstance(first, CudaMark)
        assert isinstance(last, CudaMark)
        return elapsed(self._resources, first, last)

    # Waiting and ending

    def idle(self) -> bool:
        """Return whether the queue is empty, without waiting. Raises CudaError when work on it failed."""
        with self._resources.watched():
            return self._driver.idle(self.stream)

    def synchronize(self) -> None:
        """Wait by the wait policy until the queue is empty. Raises CudaError when work on it failed."""
        self._resources.synchronize()

    def close(self) -> None:
        """Free everything, once. Raises the first failure to do so, unless the GPU was lost before."""
        self._finalizer.detach()
        error = self._resources.release()
        if error is not None:
            raise error

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close; an error that is on its way goes before one of closing."""
        with suppress(*() if kind is None else (CudaError,)):
            self.close()
