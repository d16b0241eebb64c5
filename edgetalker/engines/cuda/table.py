"""Every entry of libcuda that this project may reach, and through which package. A test holds the code to it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TABLE"]

_BOTH, _ONLY_BINDINGS = "pycuda or cuda-bindings", "cuda-bindings"
TABLE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "cuInit",
            "cuDriverGetVersion",
            "cuDeviceGet",
            "cuDeviceGetCount",
            "cuDeviceGetName",
            "cuDeviceGetAttribute",
            "cuDeviceGetPCIBusId",
            "cuDevicePrimaryCtxRetain",
            "cuDevicePrimaryCtxRelease",
            "cuCtxPushCurrent",
            "cuCtxPopCurrent",
            "cuCtxGetDevice",
            "cuMemGetInfo",
            "cuMemAlloc",
            "cuMemFree",
            "cuMemHostAlloc",
            "cuMemFreeHost",
            "cuMemHostGetDevicePointer",
            "cuStreamCreate",
            "cuStreamDestroy",
            "cuStreamSynchronize",
            "cuStreamQuery",
            "cuMemcpyHtoDAsync",
            "cuMemcpyDtoHAsync",
            "cuMemcpyDtoDAsync",
        ),
        _BOTH,
    ),
    **dict.fromkeys(
        (
            "cuCtxGetCurrent",
            "cuMemcpy2DAsync",
            "cuEventCreate",
            "cuEventDestroy",
            "cuEventRecordWithFlags",
            "cuEventSynchronize",
            "cuEventElapsedTime",
            "cuThreadExchangeStreamCaptureMode",
            "cuStreamBeginCapture",
            "cuStreamEndCapture",
            "cuGraphGetNodes",
            "cuGraphInstantiate",
            "cuGraphUpload",
            "cuGraphLaunch",
            "cuGraphExecDestroy",
            "cuGraphDestroy",
        ),
        _ONLY_BINDINGS,
    ),
}
"""Entry of libcuda -> the packages that can make the call. cuGetErrorName and cuGetErrorString come with any."""
