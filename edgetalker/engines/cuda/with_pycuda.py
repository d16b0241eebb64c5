"""The same driver calls with pycuda for what pycuda has: context, memory, streams and plain copies.

pycuda has neither graphs nor event records inside them; those stay with cuda-bindings on the same handles.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from edgetalker.engines.cuda.driver import Driver
from edgetalker.engines.cuda.errors import CudaError
from edgetalker.engines.cuda.hostmemory import HostMemory
from edgetalker.engines.errors import MissingPackageError

__all__ = ["PycudaDriver", "load_driver", "pycuda_is_usable"]


class PycudaDriver(Driver):
    """The table, with pycuda where it can."""

    packages = "pycuda and cuda-bindings"

    def __init__(self) -> None:
        """Load both packages and initialize CUDA. Raises MissingPackageError, DeviceError or CudaError."""
        self._pycuda = _load_pycuda()
        self._codes: dict[str, int] = {}
        self._context: Any = None
        self._blocks: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        super().__init__()

    def _through_pycuda(self, entry: str, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call pycuda; raise its errors as CudaError."""
        try:
            return function(*arguments, **options)
        except self._pycuda.Error as error:
            message = str(error)
        raise self._translated(entry, message)

    def _on_stream(self, entry: str, function: Any, stream: int, *arguments: Any) -> Any:
        """Call pycuda with one of its streams, which comes last.

        The stream is in no local variable here: an error's traceback would keep it alive, and pycuda destroys a
        stream only when its last reference goes.
        """
        try:
            return function(*arguments, self._streams[stream])
        except self._pycuda.Error as error:
            message = str(error)
        raise self._translated(entry, message)

    def _translated(self, entry: str, message: str) -> CudaError:
        """Return pycuda's error as ours. It says `ENTRY failed: TEXT` without the code, so the text is looked up."""
        call, _, text = message.partition(" failed: ")
        if not self._codes:
            members = self._cuda.CUresult
            self._codes = {self._text("cuGetErrorString", int(member)): int(member) for member in members}
        code = self._codes.get(text.split(" - ", 1)[0].strip())
        if code is None:
            return CudaError(call or entry, 999, "CUDA_ERROR_UNKNOWN", message)
        return self.error(call or entry, code)

    def enter(self, gpu: int) -> None:
        """Make a context of this GPU current: pycuda's own one that is, or else the primary one, on pycuda's stack."""
        device = self._through_pycuda("cuDeviceGet", self._pycuda.Device, gpu)
        pycuda_context = self._pycuda.Context
        if pycuda_context.get_current() is not None:
            current = self._through_pycuda("cuCtxGetDevice", pycuda_context.get_device)
            if current == device:
                return
        context = self._through_pycuda("cuDevicePrimaryCtxRetain", device.retain_primary_context)
        try:
            self._through_pycuda("cuCtxPushCurrent", context.push)
        except CudaError:
            self._detach(context)
            raise
        self._context = context

    def leave(self) -> None:
        """Undo `enter`: pop first, since pycuda keeps one context at most on CUDA's own stack."""
        self._streams.clear()
        self._blocks.clear()
        context, self._context = self._context, None
        if context is None:
            return
        try:
            self._through_pycuda("cuCtxPopCurrent", context.pop)
        finally:
            self._detach(context)

    def _detach(self, context: Any) -> None:
        """Release the primary context. pycuda pushes it for that and, unlike for its own contexts, leaves it so."""
        self._through_pycuda("cuDevicePrimaryCtxRelease", context.detach)
        with contextlib.suppress(CudaError):
            self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        free, total = self._through_pycuda("cuMemGetInfo", self._pycuda.mem_get_info)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory. pycuda collects garbage and tries again when memory is short."""
        block = self._through_pycuda("cuMemAlloc", self._pycuda.mem_alloc, nbytes)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """Free device memory. pycuda prints a failure to stderr and does not raise it."""
        self._through_pycuda("cuMemFree", self._blocks.pop(address).free)

    def pin(self, nbytes: int, *, mapped: bool) -> HostMemory:
        """Return new page-locked host memory, mapped into the GPU's addresses on request."""
        flags = self._pycuda.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._through_pycuda("cuMemHostAlloc", self._pycuda.pagelocked_empty, nbytes, "uint8", mem_flags=flags)
        owner = array.base
        try:
            on_gpu = int(self._through_pycuda("cuMemHostGetDevicePointer", owner.get_device_pointer)) if mapped else 0
        except CudaError:
            owner.free()
            raise
        return HostMemory(array, array.ctypes.data, on_gpu, owner)

    def unpin(self, memory: HostMemory) -> None:
        """Free page-locked memory. Nothing may look at its arrays afterwards."""
        owner: Any = memory.owner
        self._through_pycuda("cuMemFreeHost", owner.free)

    def adopt_stream(self, stream: object) -> int:
        """Return the handle of a stream of somebody else. Raises OptionError as `Driver.adopt_stream` does."""
        handle = super().adopt_stream(stream)
        if isinstance(stream, self._pycuda.Stream):
            self._streams[handle] = stream
        return handle

    def make_stream(self) -> int:
        """Return a new stream that does not wait for the default stream."""
        stream = self._through_pycuda("cuStreamCreate", self._pycuda.Stream, 1)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def drop_stream(self, stream: int) -> None:
        """Destroy a stream that `make_stream` made: pycuda does it when the last reference goes."""
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is empty."""
        if stream in self._streams:
            self._on_stream("cuStreamSynchronize", self._pycuda.Stream.synchronize, stream)
        else:
            super().synchronize(stream)

    def idle(self, stream: int) -> bool:
        """Return whether a stream is empty, without waiting."""
        if stream in self._streams:
            return bool(self._on_stream("cuStreamQuery", self._pycuda.Stream.is_done, stream))
        return super().idle(stream)

    def to_device(self, target: int, source: HostMemory, stream: int) -> None:
        """Enqueue a copy of pinned memory to the GPU."""
        if stream in self._streams:
            self._on_stream("cuMemcpyHtoDAsync", self._pycuda.memcpy_htod_async, stream, target, source.array)
        else:
            super().to_device(target, source, stream)

    def to_host(self, target: HostMemory, source: int, stream: int) -> None:
        """Enqueue a copy from the GPU to pinned memory."""
        if stream in self._streams:
            self._on_stream("cuMemcpyDtoHAsync", self._pycuda.memcpy_dtoh_async, stream, target.array, source)
        else:
            super().to_host(target, source, stream)

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy within the GPU; the two may not overlap."""
        if stream in self._streams:
            self._on_stream("cuMemcpyDtoDAsync", self._pycuda.memcpy_dtod_async, stream, target, source, nbytes)
        else:
            super().on_device(target, source, nbytes, stream)


def _load_pycuda() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycuda warns before it raises; one message is enough
            import pycuda.driver as pycuda
    except ImportError as error:
        if "libcuda" in str(error):  # pycuda is there, the driver is not: cuda-bindings says it better
            raise MissingPackageError("the NVIDIA driver", "pycuda", extra="cuda") from None
        raise MissingPackageError("pycuda", "the CUDA device", extra="cuda") from None
    return pycuda


def pycuda_is_usable() -> bool:
    """Return whether pycuda can be imported here."""
    try:
        _load_pycuda()
    except MissingPackageError:
        return False
    return True


def load_driver() -> Driver:
    """Return the driver calls with pycuda where it is installed, else through cuda-bindings alone."""
    return PycudaDriver() if pycuda_is_usable() else Driver()
