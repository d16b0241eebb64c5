"""Stages as PyTorch operations: the parity reference, and the way onto GPUs that no TensorRT at hand supports.

`graph` reads a stage's ONNX file into operators (`operators`, `arithmetic`); it is no general ONNX runtime: fixed
shapes, and the operators that exported stages use. What it does not know it refuses when the stage is loaded, by name.
`engine` runs them in the session's own capture. Importing this loads no PyTorch.
"""

from edgetalker.engines.torch.engine import TorchBinding, TorchEngine, TorchPool, torch_engines
from edgetalker.engines.torch.graph import OnnxModule

__all__ = ["OnnxModule", "TorchBinding", "TorchEngine", "TorchPool", "torch_engines"]
