"""Runs an ONNX stage as PyTorch operations: the parity reference, and the way onto GPUs without TensorRT.

Not a general ONNX runtime: fixed shapes, and the operators that exported stages use. What it does not know it
refuses when the stage is loaded, by name.
"""

from edgetalker.engines.onnxtorch.graph import OnnxModule

__all__ = ["OnnxModule"]
