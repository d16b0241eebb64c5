"""The CUDA device: the only folder that calls CUDA. Importing it loads neither pycuda nor cuda-bindings."""

from edgetalker.engines.cuda.buffers import CudaBuffer
from edgetalker.engines.cuda.device import WAITS, CudaDevice
from edgetalker.engines.cuda.errors import CudaError, OutOfMemoryError
from edgetalker.engines.cuda.graphs import CudaGraph, CudaMark

__all__ = ["WAITS", "CudaBuffer", "CudaDevice", "CudaError", "CudaGraph", "CudaMark", "OutOfMemoryError"]
