"""A stand-in for TensorRT's run-time half that checks how it is used, for machines without a GPU.

Its classes hold exactly the calls that the adapter may make; tests/plans/test_conformance.py checks that the real
bindings have them. It fails, as the library would, when an address, the scratch memory or the stream is missing,
or an address is no multiple of 256. What a run computes is an engine's `work`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.host import HostBuffer, HostDevice, HostGraph
from edgetalker.engines.machine import Gpu
from edgetalker.engines.manifest import Stage

GPU = Gpu("Test GPU", "sm86", 8 << 30, "13.0")


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    FP8 = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


ENQUEUED: list[int] = []
"""Stream of everything that any context enqueued."""


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.streams: list[int] = []

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= max(self.engine.device_memory_size_v2, self.engine.wanted)
        self.memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert not self.streams, "an address changed after the context had run"
        self.addresses[name] = memory
        return name in self.engine.tensors and memory % 256 == 0 and name not in self.engine.refused

    def infer_shapes(self) -> list[str]:
        return self.engine.open_shapes

    def update_device_memory_size_for_shapes(self) -> int:
        return self.engine.wanted

    def execute_async_v3(self, stream_handle: int) -> bool:
        ready = self.memory is not None or not self.engine.device_memory_size_v2
        ready = ready and self.addresses.keys() == self.engine.tensors.keys() and self.engine.healthy
        if ready:
            self.engine.work(self, stream_handle)
        self.streams.append(stream_handle)
        return ready


class RtxContext(Context):
    """TensorRT-RTX's, which can be asked one thing more."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.capturable[bool(self.streams)]


class Engine:
    num_aux_streams = 0
    device_memory_size_v2 = 1000

    def __init__(self, tensors: Mapping[str, tuple[TensorIOMode, DataType, tuple[int, ...]]]) -> None:
        self.tensors = dict(tensors)
        self.contexts: list[Context] = []
        self.refused: set[str] = set()
        self.open_shapes: list[str] = []
        self.healthy = True
        self.work: Callable[[Context, int], None] = lambda context, stream: ENQUEUED.append(stream)
        self.wanted = 0
        self.capturable = (True, True)  # before and after the first run
        self.config = SimpleNamespace()
        self.config.set_execution_context_allocation_strategy = lambda kind: setattr(self.config, "strategy", kind)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy | SimpleNamespace) -> Context:
        if isinstance(strategy, SimpleNamespace):  # TensorRT-RTX's runtime configuration
            assert strategy is self.config
            strategy = strategy.strategy
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(RtxContext(self))
        return self.contexts[-1]


class RtxEngine(Engine):
    """TensorRT-RTX's, which has a runtime configuration."""

    def create_runtime_config(self) -> SimpleNamespace:
        return self.config


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def stand_in(stage: Stage) -> Engine:
    """Return an engine with a stage's tensors."""
    types = {"float32": DataType.FLOAT, "float16": DataType.HALF}
    sides = ((TensorIOMode.INPUT, stage.inputs), (TensorIOMode.OUTPUT, stage.outputs))
    return Engine({n: (mode, types[spec.dtype], spec.shape) for mode, specs in sides for n, spec in specs.items()})


def module_with(engine: Engine | None, *, rtx: bool = False) -> Any:
    """Return a module-like object whose Runtime deserializes any plan into `engine`."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if engine is None:
                self.logger.log(ILogger.ERROR, "Version tag does not match")
            return engine

    class Module:
        __version__ = "10.3.0"

    if rtx:
        Module.IExecutionContext = RtxContext  # type: ignore[attr-defined]
        Module.IRuntimeCache = object  # type: ignore[attr-defined]
        Module.CudaGraphStrategy = SimpleNamespace(DISABLED="no graphs")  # type: ignore[attr-defined]
        Module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(NONE="none")  # type: ignore[attr-defined]
    for item in (Runtime, TensorIOMode, DataType, ExecutionContextAllocationStrategy, ILogger):
        setattr(Module, item.__name__, item)
    return Module


class CudaLike(HostDevice):
    """The host device under the name of a GPU, with a stream and addresses that are aligned as a GPU's."""

    kind = "cuda"
    stream = 4242

    def allocate(self, name: str, spec: TensorSpec, *, staged: bool = False) -> HostBuffer:
        block = super().allocate(name, TensorSpec("uint8", (spec.nbytes + 512,)), staged=staged)
        return block.view(name, -block.address % 256, spec)

    def capture(self, name: str, work: Callable[[], Any]) -> HostGraph:
        """Count what TensorRT enqueues on this device's stream as the nodes of the graph."""
        before = len(ENQUEUED)
        recorded = super().capture(name, work)
        nodes = [stream for stream in ENQUEUED[before:] if stream == self.stream]
        return HostGraph(name, (*recorded.calls, *([lambda: None] * len(nodes))))
