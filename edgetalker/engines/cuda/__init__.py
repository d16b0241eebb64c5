"""The CUDA device: the only folder that calls CUDA. Importing it does not load cuda-bindings."""

from edgetalker.engines.cuda.device import WAITS, CudaDevice
from edgetalker.engines.cuda.errors import CudaError, OutOfMemoryError
from edgetalker.engines.cuda.memory import CudaBuffer
from edgetalker.engines.cuda.resources import CudaGraph, CudaMark

__all__ = ["WAITS", "CudaBuffer", "CudaDevice", "CudaError", "CudaGraph", "CudaMark", "OutOfMemoryError"]
