"""CUDA's error codes turned into what failed, CUDA's name for it, and what to do."""

from __future__ import annotations

from edgetalker.engines.errors import DeviceError

__all__ = ["DEVICE_UNAVAILABLE", "STICKY", "CudaError", "OutOfMemoryError", "advice", "error_for"]

INVALID_VALUE = 1
OUT_OF_MEMORY = 2
DEVICE_UNAVAILABLE = 46
INVALID_HANDLE = 400
NOT_READY = 600

STICKY = frozenset({4, 214, 215, 216, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
"""Codes after which every further call of the process on this context fails (cuda.h, CUresult)."""

_RESTART = "the GPU's context is lost: end this process and start it again; "
_ADVICE: dict[int, str] = {
    2: "free GPU memory (nvidia-smi shows who holds it), run fewer talkers, or convert the bundle to fp16",
    3: "call cuInit first: make the device through CudaDevice",
    34: "the libcuda.so.1 that was found is the toolkit's link stub; put the driver's own library first",
    46: "another process has the GPU for itself: nvidia-smi --query-gpu=compute_mode --format=csv",
    100: "no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, or run with --device host",
    101: "there is no GPU of that number: nvidia-smi -L lists them",
    201: "another part of this program destroyed or reset the GPU's primary context: nothing may reset it",
    214: _RESTART + "the memory has an uncorrectable fault: nvidia-smi -q -d ECC",
    400: "a handle of a closed device was used, or an event that no work recorded",
    401: "a capture was begun or ended twice",
    600: "wait with synchronize() before reading a time",
    700: _RESTART + "a kernel left its memory: compute-sanitizer finds which; please report it with the bundle's name",
    702: _RESTART + "a display driver's watchdog stopped a long kernel",
    710: _RESTART + "a kernel's own assertion failed",
    719: _RESTART + "a kernel failed: dmesg shows an Xid code",
    801: "this GPU or driver lacks the function: update the driver, or run with --graphs eager",
    802: "the system is not ready yet (NVSwitch fabric manager): try again, or start nvidia-fabricmanager",
    803: "the driver's kernel and user parts differ in version: reboot after the driver update",
    804: "the installed CUDA compatibility package does not fit this GPU: remove it from LD_LIBRARY_PATH",
    900: "an engine waited or allocated while its work was captured: warm it first, or run with --graphs eager",
    901: "an earlier call broke the capture: the first error tells which; --graphs eager runs without capture",
    904: "an engine left work on a second stream: build it with max_aux_streams=0",
    905: "an engine used a stream that was not joined again: build it with max_aux_streams=0",
    906: "the default stream was used while a stream that waits for it was captured: adopt non-blocking streams "
    "only (pycuda.driver.Stream(1)), and give engines the device's stream",
    907: "an event was recorded as an edge of a graph: record it through the device, which makes it external",
    908: "end a capture on the thread that began it",
    999: _RESTART + "dmesg may show an Xid code",
}
_DEFAULT = "https://docs.nvidia.com/cuda/cuda-driver-api explains the code; --device host runs without the GPU"


class CudaError(DeviceError):
    """A driver call that failed. `sticky`: the context is lost and only a new process helps."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{call} failed: {name} ({code}), {text}", hint=advice(code))
        self.call = call
        self.code = code
        self.name = name

    def during(self, what: str) -> CudaError:
        """Return the same error, saying what was being done."""
        if not self.message.startswith(what):
            self.message = f"{what}: {self.message}"
            self.args = (self.message,)
        return self

    @property
    def sticky(self) -> bool:
        """Whether every further call on this context will fail too."""
        return self.code in STICKY


class OutOfMemoryError(CudaError):
    """The GPU's memory, or the host's pinned memory, ran out."""

    def while_allocating(self, name: str, nbytes: int, memory: tuple[int, int] | None) -> OutOfMemoryError:
        """Return the same error that says what was asked for and what is free."""
        known = "" if memory is None else f"; {memory[0]:,} of {memory[1]:,} bytes are free"
        self.message = f"{name}: {nbytes:,} bytes were asked for{known} ({self.message})"
        self.args = (self.message,)
        return self


def advice(code: int) -> str:
    """Return what a user can do about a code."""
    return _ADVICE.get(code, _DEFAULT)


def error_for(call: str, code: int, name: str, text: str) -> CudaError:
    """Return the error of a failed call."""
    kind = OutOfMemoryError if code == OUT_OF_MEMORY else CudaError
    return kind(call, code, name, text)
