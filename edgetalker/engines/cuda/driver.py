"""The driver calls that this project makes, all through cuda-bindings: one method a call, every code checked.

Handles and addresses are plain integers, so that no caller depends on the package. A call that takes what the driver
takes and returns nothing is a `partialmethod` under the name of its CUDA function.

Contexts: a GPU's primary context is retained once a process and never released, because PyTorch, TensorRT, pycuda
and other devices of this process live in it too. `enter` makes it current on whatever thread calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any

from edgetalker.engines.cuda.errors import INVALID_VALUE, NOT_READY, CudaError, error_for
from edgetalker.engines.errors import DeviceError, OptionError, install
from edgetalker.engines.lazy import required

__all__ = ["CAPTURE_RELAXED", "TABLE", "Driver"]

TABLE = frozenset(
    """
    cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetCount cuDeviceGetName cuDeviceGetAttribute cuDeviceGetPCIBusId
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease cuDevicePrimaryCtxGetState cuCtxGetCurrent cuCtxSetCurrent
    cuCtxGetDevice cuMemGetInfo cuMemAlloc cuMemFree cuMemHostAlloc cuMemFreeHost cuMemHostGetDevicePointer
    cuStreamCreate cuStreamDestroy cuStreamSynchronize cuStreamQuery cuStreamGetCtx cuMemcpyHtoDAsync cuMemcpyDtoHAsync
    cuMemcpyDtoDAsync cuMemcpy2DAsync cuEventCreate cuEventDestroy cuEventRecordWithFlags cuEventSynchronize
    cuEventElapsedTime cuThreadExchangeStreamCaptureMode cuStreamBeginCapture cuStreamEndCapture cuGraphGetNodes
    cuGraphInstantiate cuGraphUpload cuGraphLaunch cuGraphExecDestroy cuGraphDestroy
    """.split()
)
"""Every entry of libcuda that this project may reach, beside cuGetErrorName and cuGetErrorString."""

_STREAM_NON_BLOCKING = 1
_HOST_DEVICEMAP = 2
_EVENT_BLOCKING_SYNC = 1
_EVENT_DISABLE_TIMING = 2
_RECORD_EXTERNAL = 1
_MEMORY_DEVICE = 2
_CAPTURE_THREAD_LOCAL = 1
CAPTURE_RELAXED = 2
"""In this mode a thread that captures may allocate."""


_primary: dict[int, int] = {}
"""GPU -> its primary context, once it was retained: for the life of the process."""


class Driver:
    """The table. Holds no state of its own, so that any number of devices may have one each."""

    def __init__(self) -> None:
        """Load cuda-bindings and initialize CUDA. Raises MissingPackageError, DeviceError or CudaError."""
        self._cuda = required("cuda.bindings.driver", "the CUDA device", extra="cuda", package="cuda-bindings")
        self.initialize()

    # What every call goes through

    def error(self, call: str, code: int) -> CudaError:
        """Return the error of a failed call."""
        name, text = (self._text(entry, code) for entry in ("cuGetErrorName", "cuGetErrorString"))
        return error_for(call, int(code), name, text)

    def _text(self, entry: str, code: int) -> str:
        try:
            status, text = getattr(self._cuda, entry)(self._cuda.CUresult(code))
        except (ValueError, KeyError):  # a code that this cuda-bindings does not know
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
        except (ValueError, KeyError) as error:  # a newer driver's code, which this cuda-bindings has no name for
            unknown = re.match(r"(\d+)( is not a valid CUresult)?$", str(error.args[0]))
            if unknown is None:
                raise
            raise self.error(entry, int(unknown[1])) from None
        except RuntimeError as error:  # cuda-bindings has a newer form of the call than the driver
            if not re.match(r"function .* not found$", str(error), re.IGNORECASE):
                raise
            raise DeviceError(
                f"{entry}: the NVIDIA driver is older than cuda-bindings: {error}",
                hint=f"{install('cuda12')}, for a driver of CUDA 12; or update the driver",
            ) from None

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
        """Make the primary context of this GPU current on this thread, as CUDA's runtime library does.

        TensorRT and PyTorch work in it, so that addresses and streams are shared. Raises DeviceError when a context
        of another kind is current (pycuda.autoinit makes one): PyTorch would destroy it.
        """
        code, current = self._cuda.cuCtxGetCurrent()
        if code:
            raise self.error("cuCtxGetCurrent", code)
        if gpu in _primary and int(current) == _primary[gpu]:
            return
        if int(current) and not self._is_primary(int(current)):
            raise DeviceError(
                "a context that is not the GPU's primary one is current on this thread; TensorRT and PyTorch work in "
                "the primary one and cannot share the other's memory",
                hint="with pycuda use `import pycuda.autoprimaryctx` instead of `pycuda.autoinit`, and no cuCtxCreate",
            )
        if gpu not in _primary:
            _primary[gpu] = int(self._call("cuDevicePrimaryCtxRetain", gpu))
        self._call("cuCtxSetCurrent", _primary[gpu])

    def _is_primary(self, current: int) -> bool:
        if current in _primary.values():
            return True
        gpu = int(self._call("cuCtxGetDevice"))
        if not self._call("cuDevicePrimaryCtxGetState", gpu)[1]:
            return False
        primary = int(self._call("cuDevicePrimaryCtxRetain", gpu))  # active, so this creates nothing
        self._call("cuDevicePrimaryCtxRelease", gpu)
        return current == primary

    @contextmanager
    def visiting(self, gpu: int) -> Iterator[list[CudaError]]:
        """Work in this GPU's primary context and put back what was current before: for ends that may come anywhere.

        Never raises: yields what went wrong, which stops no end, since the context is most likely current already.
        """
        told: list[CudaError] = []
        before = self._tried(told, "cuCtxGetCurrent")
        moves = before is not None and gpu in _primary and int(before) != _primary[gpu]
        if moves:
            self._tried(told, "cuCtxSetCurrent", _primary[gpu])
        yield told
        if moves:
            self._tried(told, "cuCtxSetCurrent", before)

    def _tried(self, told: list[CudaError], entry: str, *arguments: Any) -> Any:
        try:
            return self._call(entry, *arguments)
        except CudaError as error:
            told.append(error)
        return None

    # Memory

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory."""
        return int(self._call("cuMemAlloc", nbytes))

    def pin(self, nbytes: int, *, mapped: bool) -> tuple[int, int]:
        """Return the address of new page-locked host memory, and the GPU's address of it when it is mapped, else 0."""
        address = int(self._call("cuMemHostAlloc", nbytes, _HOST_DEVICEMAP if mapped else 0))
        try:
            return address, int(self._call("cuMemHostGetDevicePointer", address, 0)) if mapped else 0
        except CudaError:
            self.unpin(address)
            raise

    free = partialmethod(_call, "cuMemFree")
    unpin = partialmethod(_call, "cuMemFreeHost")

    # The queue

    def adopt_stream(self, stream: object, gpu: int) -> int:
        """Return the handle of a stream of somebody else: an integer or an object of pycuda, PyTorch, CuPy, cuda.core.

        Raises OptionError for the default stream, which cannot be captured, for what is no stream, and for a stream
        of another GPU or of a context that is not the primary one.
        """
        handle = _stream_handle(stream)
        if handle is None:
            raise OptionError(
                f"{stream!r} is no CUDA stream",
                hint="pass an integer handle, or a stream of pycuda, torch.cuda, CuPy or cuda.core",
            )
        if handle in (0, 1, 2):
            raise OptionError(
                "the default stream cannot be captured",
                hint="pass a stream of your own, such as torch.cuda.Stream()",
            )
        if int(self._call("cuStreamGetCtx", handle)) != _primary[gpu]:
            raise OptionError(
                f"the stream {handle:#x} belongs to another GPU, or to a context that is not the primary one",
                hint="make it on the GPU that the device is opened on, in its primary context",
            )
        return handle

    def make_stream(self) -> int:
        """Return a new stream that does not wait for the default stream."""
        return int(self._call("cuStreamCreate", _STREAM_NON_BLOCKING))

    drop_stream = partialmethod(_call, "cuStreamDestroy")
    synchronize = partialmethod(_call, "cuStreamSynchronize")

    def idle(self, stream: int) -> bool:
        """Return whether a stream is empty, without waiting."""
        code = self._made("cuStreamQuery", (stream,))[0]
        if code and code != NOT_READY:
            raise self.error("cuStreamQuery", code)
        return not code

    to_device = partialmethod(_call, "cuMemcpyHtoDAsync")
    to_host = partialmethod(_call, "cuMemcpyDtoHAsync")
    on_device = partialmethod(_call, "cuMemcpyDtoDAsync")
    """(target, source, bytes, stream): enqueued; two within the GPU may not overlap."""

    def rows(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int, stream: int) -> None:
        """Enqueue a copy of `height` rows of `width` bytes; `target` and `source` are (address, bytes a row).

        A driver may refuse rows whose distance it did not choose itself (cuda.h, cuMemcpy2DAsync): then one by one.
        """
        plan = self._cuda.CUDA_MEMCPY2D()
        memory = self._cuda.CUmemorytype(_MEMORY_DEVICE)
        plan.srcMemoryType = plan.dstMemoryType = memory
        plan.dstDevice, plan.dstPitch = self._cuda.CUdeviceptr(target[0]), target[1]
        plan.srcDevice, plan.srcPitch = self._cuda.CUdeviceptr(source[0]), source[1]
        plan.WidthInBytes, plan.Height = width, height
        try:
            self._call("cuMemcpy2DAsync", plan, stream)
        except CudaError as error:
            if error.code != INVALID_VALUE:
                raise
            for row in range(height):
                self.on_device(target[0] + row * target[1], source[0] + row * source[1], width, stream)

    # Events

    def make_event(self, *, timed: bool) -> int:
        """Return a new event: a timed one for marks, else one that a thread can sleep on."""
        return int(self._call("cuEventCreate", 0 if timed else _EVENT_BLOCKING_SYNC | _EVENT_DISABLE_TIMING))

    drop_event = partialmethod(_call, "cuEventDestroy")

    def record(self, event: int, stream: int, *, capturing: bool) -> None:
        """Enqueue an event. Under capture it becomes a node that every replay records anew.

        CUDA calls the external flag invalid outside a capture, and without it inside one the event could be
        neither timed nor waited for.
        """
        self._call("cuEventRecordWithFlags", event, stream, _RECORD_EXTERNAL if capturing else 0)

    wait = partialmethod(_call, "cuEventSynchronize")

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

    upload_graph = partialmethod(_call, "cuGraphUpload")
    """(executable, stream): enqueued after capture, so that the first launch costs no more than the others."""

    def launch(self, executable: int, stream: int) -> None:
        """Enqueue one replay."""
        code = self._made("cuGraphLaunch", (executable, stream))[0]
        if code:
            raise self.error("cuGraphLaunch", code)

    drop_executable = partialmethod(_call, "cuGraphExecDestroy")
    drop_graph = partialmethod(_call, "cuGraphDestroy")


def _stream_handle(stream: object) -> int | None:
    protocol = getattr(stream, "__cuda_stream__", None)
    if callable(protocol):
        return int(protocol()[1])
    for attribute in ("handle", "cuda_stream", "ptr"):  # pycuda, PyTorch, CuPy
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    return stream if isinstance(stream, int) else None


def _string(value: bytes | str) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text.split("\0", 1)[0]
