"""Stages computed by ONNX Runtime as host functions in the double's queue: a whole talker on the CUDA device.

They are engines of their own (`host_engines`), or what plans of TensorRT's run-time double compute (`plan_engines`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.engine import Buffer, Device, Layers, TensorSpec
from edgetalker.engines.manifest import Stage
from edgetalker.engines.ort import OrtEngine
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.engine import TensorRTEngine, share_scratch
from tests.cuda.double.control import Double
from tests.plans.runtime_double import Context, module_with, stand_in
from tests.plans.runtime_double import Engine as Plan

__all__ = ["host_engines", "plan_engines"]

_Call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _There:
    """A buffer as the host sees it: the double's device memory lies in this process."""

    def __init__(self, name: str, spec: TensorSpec, address: int, double: Double) -> None:
        self.name, self.spec = name, spec
        self.address = double.host_address(address, spec.nbytes)

    def view(self, name: str, offset: int, spec: TensorSpec) -> Buffer:
        raise NotImplementedError


class _Binding:
    def __init__(self, run: Any) -> None:
        self._function = _Call(lambda _: run())

    def enqueue(self, device: Device) -> None:
        """Enqueue the run on the device's stream."""
        self.enqueue_on(device.stream)

    def enqueue_on(self, stream: int) -> None:
        """Enqueue the run as a host function, by the double itself: some cuda-bindings free what they hand it."""
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, _Call, ctypes.c_void_p]
        assert launch(stream, self._function, None) == 0


class _Engine:
    def __init__(self, name: str, bundle: Bundle, stage: Stage, double: Double) -> None:
        self.name, self.inputs, self.outputs = name, stage.inputs, stage.outputs
        self._ort = OrtEngine(name, bundle.onnx(name), stage.inputs, stage.outputs)
        self.file, self.precision = self._ort.file, self._ort.precision
        self._double = double

    def bind(self, buffers: Mapping[str, Buffer]) -> _Binding:
        """Bind ONNX Runtime to the memory behind the device's addresses."""
        there = {n: _There(b.name, b.spec, b.address, self._double) for n, b in buffers.items()}
        return _Binding(self._ort.bind(there)._run)

    def layers(self, runs: int) -> Layers:
        """Time the layers on the host."""
        return self._ort.layers(runs)

    def close(self) -> None:
        """Close the stage."""
        self._ort.close()


def host_engines(bundle: Bundle, device: CudaDevice, double: Double) -> dict[str, _Engine]:
    """Return an engine for every stage."""
    return {name: _Engine(name, bundle, stage, double) for name, stage in bundle.manifest.stages.items()}


class _Kernels:
    """What the contexts of a stage's plan compute, at the addresses that each was given once."""

    def __init__(self, name: str, bundle: Bundle, stage: Stage, double: Double) -> None:
        self._ort = OrtEngine(name, bundle.onnx(name), stage.inputs, stage.outputs)
        self._double = double
        self._runs: dict[Context, _Binding] = {}

    def __call__(self, context: Context, stream: int) -> None:
        """Enqueue a context's run on a stream. Raises ValueError for an address that is no live device memory."""
        if context not in self._runs:
            specs = {**self._ort.inputs, **self._ort.outputs}
            there = {n: _There(n, specs[n], address, self._double) for n, address in context.addresses.items()}
            self._runs[context] = _Binding(self._ort.bind(there)._run)
        self._runs[context].enqueue_on(stream)


def plan_engines(
    bundle: Bundle, device: CudaDevice, double: Double
) -> tuple[dict[str, TensorRTEngine], dict[str, Plan]]:
    """Return TensorRT's engine for every stage, and the run-time double behind each."""
    engines, plans = {}, {}
    for name, stage in bundle.manifest.stages.items():
        plans[name] = plan = stand_in(stage)
        plan.work = _Kernels(name, bundle, stage, double)
        api = Api("tensorrt", module_with(plan))
        engines[name] = TensorRTEngine(name, api, b"plan", device, stage.inputs, stage.outputs, file=bundle.onnx(name))
    share_scratch(engines.values(), device)
    return engines, plans
