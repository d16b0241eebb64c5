"""Stages computed by ONNX Runtime as host functions in the double's queue: a whole talker on the CUDA device."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.engine import Buffer, Device, Layers, TensorSpec
from edgetalker.engines.manifest import Stage
from edgetalker.engines.ort import OrtEngine
from tests.cuda.double.control import Double

__all__ = ["host_engines"]

_Call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _There:
    """A buffer as the host sees it: the double's device memory lies in this process."""

    def __init__(self, buffer: Buffer, double: Double) -> None:
        self.name, self.spec = buffer.name, buffer.spec
        self.address = double.host_address(buffer.address, buffer.spec.nbytes)

    def view(self, name: str, offset: int, spec: TensorSpec) -> Buffer:
        raise NotImplementedError


class _Binding:
    def __init__(self, run: Any) -> None:
        self._function = _Call(lambda _: run())

    def enqueue(self, device: Device) -> None:
        """Enqueue the run as a host function, by the double itself: some cuda-bindings free what they hand it."""
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, _Call, ctypes.c_void_p]
        assert launch(device.stream, self._function, None) == 0


class _Engine:
    def __init__(self, name: str, bundle: Bundle, stage: Stage, double: Double) -> None:
        self.name, self.inputs, self.outputs = name, stage.inputs, stage.outputs
        self._ort = OrtEngine(name, bundle.onnx(name), stage.inputs, stage.outputs)
        self.file, self.precision = self._ort.file, self._ort.precision
        self._double = double

    def bind(self, buffers: Mapping[str, Buffer]) -> _Binding:
        """Bind ONNX Runtime to the memory behind the device's addresses."""
        binding = self._ort.bind({name: _There(buffer, self._double) for name, buffer in buffers.items()})
        return _Binding(binding._run)

    def layers(self, runs: int) -> Layers:
        """Time the layers on the host."""
        return self._ort.layers(runs)

    def close(self) -> None:
        """Close the stage."""
        self._ort.close()


def host_engines(bundle: Bundle, device: CudaDevice, double: Double) -> dict[str, _Engine]:
    """Return an engine for every stage."""
    return {name: _Engine(name, bundle, stage, double) for name, stage in bundle.manifest.stages.items()}
