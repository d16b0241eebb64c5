"""The driver calls that this project makes: one method a call, every code checked.

`Driver` makes all of them through cuda-bindings. `edgetalker.engines.cuda.with_pycuda` makes those through pycuda
that pycuda has. `table.py` lists every entry of libcuda that either may reach.

Handles and addresses are plain integers, so that no caller depends on either package.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np

from edgetalker.engines.cuda.errors import NOT_READY, CudaError, error_for
from edgetalker.engines.cuda.hostmemory import HostMemory
from edgetalker.engines.errors import DeviceError, MissingPackageError, OptionError

__all__ = ["CAPTURE_RELAXED", "Driver"]

_STREAM_NON_BLOCKING = 1
_HOST_DEVICEMAP = 2
_EVENT_BLOCKING_SYNC = 1
_EVENT_DISABLE_TIMING = 2
_RECORD_EXTERNAL = 1
_MEMORY_DEVICE = 2
_CAPTURE_THREAD_LOCAL = 1
CAPTURE_RELAXED = 2
"""In this mode a thread that captures may allocate."""


def load_bindings() -> Any:
    """Import cuda-bindings' driver module. Raises MissingPackageError."""
    try:
        from cuda.bindings import driver
    except ImportError:
        try:
            from cuda import cuda as driver  # cuda-python before 12.6
        except ImportError:
            raise MissingPackageError("cuda-bindings", "the CUDA device", extra="cuda") from None
    return driver


class Driver:
    """The table, through cuda-bindings alone."""

    packages = "cuda-bindings"

    def __init__(self) -> None:
        """Load the packages and initialize CUDA. Raises MissingPackageError, DeviceError or CudaError."""
        self._cuda = load_bindings()
        self._retained: int | None = None
        self._pushed = False
        self.initialize()

    # What every call goes through

    def error(self, call: str, code: int) -> CudaError:
        """Return the error of a failed call."""
        name, text = (self._text(entry, code) for entry in ("cuGetErrorName", "cuGetErrorString"))
        return error_for(call, int(code), name, text)

    def _text(self, entry: str, code: int) -> str:
        try:
            status, text = getattr(self._cuda, entry)(self._cuda.CUresult(code))
        except ValueError:  # a code that this cuda-bindings does not know
            return f"CUresult {code}"
        return text.decode() if status == 0 and text else f"CUresult {code}"

    def _call(self, entry: str, *arguments: Any) -> Any:
        """Make one call; return its single result, the tuple of its results, or None. Raises CudaError."""
        code, *results = self._made(entry, arguments)
        if code:
            raise self.error(entry, code)
        return results[0] if len(results) == 1 else (tuple(results) or None)

    def _made(self, entry: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self._cuda, entry)(*arguments)
        except ValueError as error:  # a newer driver's code, which this cuda-bindings has no name for
            unknown = re.match(r"(\d+) is not a valid CUresult", str(error))
            if unknown is None:
                raise
            raise self.error(entry, int(unknown[1])) from None

    # The GPU and its context

    def initialize(self) -> None:
        """Initialize CUDA. Raises DeviceError where there is no driver."""
        try:
            self._call("cuInit", 0)
        except CudaError:
            raise
        except Exception as error:  # cuda-pathfinder's DynamicLibNotFoundError, RuntimeError in older versions
            raise DeviceError(
                f"the NVIDIA driver's library cannot be loaded: {str(error).splitlines()[0]}",
                hint="install the NVIDIA driver (nvidia-smi must work), or run with --device host",
            ) from None

    def version(self) -> tuple[int, int]:
        """Return the CUDA version of the driver, such as (13, 0)."""
        number = int(self._call("cuDriverGetVersion"))
        return number // 1000, number % 1000 // 10

    def count(self) -> int:
        """Return the number of visible GPUs."""
        return int(self._call("cuDeviceGetCount"))

    def find(self, ordinal: int) -> int:
        """Return the handle of a GPU."""
        return int(self._call("cuDeviceGet", ordinal))

    def name(self, gpu: int) -> str:
        """Return a GPU's name."""
        return _string(self._call("cuDeviceGetName", 256, gpu))

    def bus(self, gpu: int) -> str:
        """Return a GPU's PCI address, such as `0000:01:00.0`."""
        return _string(self._call("cuDeviceGetPCIBusId", 32, gpu))

    def attribute(self, gpu: int, name: str) -> int:
        """Return an attribute by the end of its CUDA name, such as `INTEGRATED`."""
        names = self._cuda.CUdevice_attribute
        return int(self._call("cuDeviceGetAttribute", getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}"), gpu))

    def enter(self, gpu: int) -> None:
        """Make a context of this GPU current on this thread: the one that is, or else the primary context.

        CUDA's runtime library (TensorRT, PyTorch) uses the same one, so that addresses and streams are shared.
        """
        if int(self._call("cuCtxGetCurrent")) and int(self._call("cuCtxGetDevice")) == gpu:
            return
        context = self._call("cuDevicePrimaryCtxRetain", gpu)
        try:
            self._call("cuCtxPushCurrent", context)
        except CudaError:
            self._call("cuDevicePrimaryCtxRelease", gpu)
            raise
        self._retained, self._pushed = gpu, True

    def leave(self) -> None:
        """Undo `enter`."""
        if self._pushed:
            self._pushed = False
            self._call("cuCtxPopCurrent")
        if self._retained is not None:
            gpu, self._retained = self._retained, None
            self._call("cuDevicePrimaryCtxRelease", gpu)

    # Memory

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory."""
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cuMemFree", address)

    def pin(self, nbytes: int, *, mapped: bool) -> HostMemory:
        """Return new page-locked host memory, mapped into the GPU's addresses on request."""
        address = int(self._call("cuMemHostAlloc", nbytes, _HOST_DEVICEMAP if mapped else 0))
        try:
            on_gpu = int(self._call("cuMemHostGetDevicePointer", address, 0)) if mapped else 0
        except CudaError:
            self._call("cuMemFreeHost", address)
            raise
        raw: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        return HostMemory(np.frombuffer(raw, np.uint8), address, on_gpu, None)

    def unpin(self, memory: HostMemory) -> None:
        """Free page-locked memory. Nothing may look at its arrays afterwards."""
        self._call("cuMemFreeHost", memory.address)

    # The queue

    def adopt_stream(self, stream: object) -> int:
        """Return the handle of a stream of somebody else: an integer or an object of pycuda, PyTorch, cuda.core.

        Raises OptionError for the default stream, which cannot be captured, and for what is no stream.
        """
        handle = _stream_handle(stream)
        if handle is None:
            raise OptionError(
                f"{stream!r} is no CUDA stream",
                hint="pass an integer handle, or a stream of pycuda, torch.cuda or cuda.core",
            )
        if handle in (0, 1, 2):
            raise OptionError(
                "the default stream cannot be captured",
                hint="pass a stream of your own, such as torch.cuda.Stream()",
            )
        return handle

    def make_stream(self) -> int:
        """Return a new stream that does not wait for the default stream."""
        return int(self._call("cuStreamCreate", _STREAM_NON_BLOCKING))

    def drop_stream(self, stream: int) -> None:
        """Destroy a stream that `make_stream` made."""
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is empty."""
        self._call("cuStreamSynchronize", stream)

    def idle(self, stream: int) -> bool:
        """Return whether a stream is empty, without waiting."""
        code = self._made("cuStreamQuery", (stream,))[0]
        if code and code != NOT_READY:
            raise self.error("cuStreamQuery", code)
        return not code

    def to_device(self, target: int, source: HostMemory, stream: int) -> None:
        """Enqueue a copy of pinned memory to the GPU."""
        self._call("cuMemcpyHtoDAsync", target, source.address, source.array.nbytes, stream)

    def to_host(self, target: HostMemory, source: int, stream: int) -> None:
        """Enqueue a copy from the GPU to pinned memory."""
        self._call("cuMemcpyDtoHAsync", target.address, source, target.array.nbytes, stream)

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy within the GPU; the two may not overlap."""
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def rows(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int, stream: int) -> None:
        """Enqueue a copy of `height` rows of `width` bytes; `target` and `source` are (address, bytes a row)."""
        plan = self._cuda.CUDA_MEMCPY2D()
        memory = self._cuda.CUmemorytype(_MEMORY_DEVICE)
        plan.srcMemoryType = plan.dstMemoryType = memory
        plan.dstDevice, plan.dstPitch = self._cuda.CUdeviceptr(target[0]), target[1]
        plan.srcDevice, plan.srcPitch = self._cuda.CUdeviceptr(source[0]), source[1]
        plan.WidthInBytes, plan.Height = width, height
        self._call("cuMemcpy2DAsync", plan, stream)

    # Events

    def make_event(self, *, timed: bool) -> int:
        """Return a new event: a timed one for marks, else one that a thread can sleep on."""
        return int(self._call("cuEventCreate", 0 if timed else _EVENT_BLOCKING_SYNC | _EVENT_DISABLE_TIMING))

    def drop_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int, *, capturing: bool) -> None:
        """Enqueue an event. Under capture it becomes a node that every replay records anew.

        CUDA calls the external flag invalid outside a capture, and without it inside one the event could be
        neither timed nor waited for.
        """
        self._call("cuEventRecordWithFlags", event, stream, _RECORD_EXTERNAL if capturing else 0)

    def wait(self, event: int) -> None:
        """Sleep until an event was reached."""
        self._call("cuEventSynchronize", event)

    def elapsed(self, first: int, last: int) -> int:
        """Return nanoseconds between two events (CUDA's resolution is about half a microsecond)."""
        return round(float(self._call("cuEventElapsedTime", first, last)) * 1e6)

    # Graphs

    def exchange_capture_mode(self, mode: int) -> int:
        """Set what this thread may do while it captures; return what held before."""
        wanted = self._cuda.CUstreamCaptureMode(mode)
        return int(self._call("cuThreadExchangeStreamCaptureMode", wanted))

    def begin_capture(self, stream: int) -> None:
        """Begin a capture in which other threads may allocate and wait, this one may not."""
        self._call("cuStreamBeginCapture", stream, self._cuda.CUstreamCaptureMode(_CAPTURE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """End a capture and return its graph."""
        return int(self._call("cuStreamEndCapture", stream))

    def nodes(self, graph: int) -> int:
        """Return the number of nodes of a graph."""
        return int(self._call("cuGraphGetNodes", graph, 0)[-1])

    def instantiate(self, graph: int) -> int:
        """Return the executable form of a graph."""
        return int(self._call("cuGraphInstantiate", graph, 0))

    def upload_graph(self, executable: int, stream: int) -> None:
        """Enqueue the upload of an executable graph, so that its first launch costs no more than the others."""
        self._call("cuGraphUpload", executable, stream)

    def launch(self, executable: int, stream: int) -> None:
        """Enqueue one replay."""
        code = self._made("cuGraphLaunch", (executable, stream))[0]
        if code:
            raise self.error("cuGraphLaunch", code)

    def drop_executable(self, executable: int) -> None:
        """Destroy an executable graph."""
        self._call("cuGraphExecDestroy", executable)

    def drop_graph(self, graph: int) -> None:
        """Destroy a graph."""
        self._call("cuGraphDestroy", graph)


def _stream_handle(stream: object) -> int | None:
    protocol = getattr(stream, "__cuda_stream__", None)
    if callable(protocol):
        return int(protocol()[1])
    for attribute in ("handle", "cuda_stream"):  # pycuda, PyTorch
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    return stream if isinstance(stream, int) else None


def _string(value: bytes | str) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text.split("\0", 1)[0]
