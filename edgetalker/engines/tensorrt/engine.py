"""Runs plans: one deserialized engine a stage, one execution context a binding, one scratch memory for all.

NVIDIA asks for one context for each captured graph, because a graph holds the state of the context that it was
captured from. The contexts of a session run one after the other on one stream, so they share their scratch
memory (`USER_MANAGED`), and a denoise stage with fifty bindings costs little more than one.

Only calls that TensorRT 10.3, 10.16, 11.4, the lean runtime and TensorRT-RTX share are used here; what one
flavour has alone is asked for with `Api.has`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgetalker.engines.engine import Buffer, Device, Layers, TensorSpec
from edgetalker.engines.errors import EngineError, OutputError
from edgetalker.engines.files import write_whole
from edgetalker.engines.machine import driver_fault, require_gpu
from edgetalker.engines.ort import check_border, check_buffers, check_captured, medians
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.log import header_faults, log_of

__all__ = ["ALIGNMENT", "RuntimeCache", "TensorRTBinding", "TensorRTEngine", "share_scratch"]

ALIGNMENT = 256
"""Bytes; what TensorRT asks of every address."""


class RuntimeCache:
    """The file with the kernels that TensorRT-RTX compiled for a plan on this machine, so that the next start is quick.

    A cache that the library rejects is deleted; the kernels are compiled again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = False
        self._cache: Any = None
        self._saved = b""

    def attach(self, config: Any) -> None:
        """Load the file into a runtime configuration of TensorRT-RTX. A CUDA context must be current."""
        self._cache = config.create_runtime_cache()
        with suppress(OSError):  # absent, or not ours to read: compile
            self._saved = self.path.read_bytes()
        if self._saved and not self._cache.deserialize(self._saved):
            self.rejected = True
            self.path.unlink(missing_ok=True)
            self._saved = b""
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file when kernels were added since it was read. A folder that refuses is no error: the next
        start then compiles again."""
        if self._cache is None:
            return
        blob = self._cache.serialize()
        now = b"" if blob is None else bytes(blob)
        if not now or now == self._saved:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(self.path) as file:
                file.write(now)
        except (OSError, OutputError):
            return
        self._saved = now


class TensorRTBinding:
    """One execution context with its addresses, which were set once."""

    __slots__ = ("__weakref__", "_buffers", "_context", "_device", "_engine", "_run")

    def __init__(self, engine: TensorRTEngine, context: Any, buffers: Mapping[str, Buffer], device: Device) -> None:
        self._engine = engine
        self._context = context
        self._buffers = dict(buffers)
        self._device = device
        self._run: Callable[[int], bool] = context.execute_async_v3

    def enqueue(self, device: Device) -> None:
        """Enqueue one run on the device's stream, at once or under capture.

        Raises EngineError when TensorRT refuses, or when `device` is not the one that the stage was opened on.
        """
        if device is not self._device:
            raise EngineError(f"stage `{self._engine.name}` was opened on another device than {device.describe()}")
        if not self._run(device.stream):
            raise self._engine.error("cannot be enqueued")

    def observe(self, profiler: Any) -> None:
        """Attach an IProfiler that hears of the layers only when `report` asks, as a captured graph needs it."""
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = False

    def report(self) -> bool:
        """Let the profiler hear of the last launch; False when TensorRT knows nothing of it."""
        return bool(self._context.report_to_profiler())

    def release(self) -> None:
        """Destroy the context, which must go before its engine. The binding cannot be enqueued after it."""
        self._run = self._closed
        self._context = None
        self._buffers.clear()

    def _closed(self, stream: int) -> bool:
        raise EngineError(f"stage `{self._engine.name}` is closed")


class TensorRTEngine:
    """One stage's plan on one device."""

    def __init__(
        self,
        name: str,
        api: Api,
        plan: bytes,
        device: Device,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        cache: RuntimeCache | None = None,
        file: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        """Deserialize the plan. The caller has checked its digest.

        Raises DeviceError without a GPU, EngineError when the plan is refused or its border is not the manifest's.
        """
        _check_device(name, device)
        gpu = require_gpu(f"stage `{name}`", device.ordinal)  # before a Runtime exists: see machine.py
        old = driver_fault(api.flavour, gpu)
        if old is not None:
            raise old
        self.name = name
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.file, self.precision = file, precision
        self._api, self._device, self._cache = api, device, cache
        self._log = log_of(api)
        self._log.clear()
        try:
            self._runtime: Any = api.module.Runtime(self._log.logger)
        except TypeError:  # what the bindings raise when the library gives no object
            raise self.error("cannot be opened") from None
        self._engine: Any = self._deserialize(plan)
        check_border(name, *api.tensors(self._engine), self.inputs, self.outputs)
        if self._engine.num_aux_streams:
            raise EngineError(f"stage `{name}`: the plan wants more streams than one", hint=_REBUILD)
        self._config: Any = self._make_config()
        self._scratch: Buffer | None = None
        self._bindings: weakref.WeakSet[TensorRTBinding] = weakref.WeakSet()
        self._warm = False

    def _deserialize(self, plan: bytes) -> Any:
        faults = header_faults(self._api, self._runtime, plan)
        if faults:
            raise self._log.error(f"stage `{self.name}`: the plan does not run here", faults)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self.error("cannot be deserialized")
        return engine

    def _make_config(self) -> Any:
        """Return TensorRT-RTX's runtime configuration; the others have none of what it sets."""
        if not self._api.has("IRuntimeCache"):
            return None
        trt = self._api.module
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the session captures by itself
        if self._api.has("DynamicShapesKernelSpecializationStrategy"):
            # Shapes are fixed. The default compiles kernels in a thread of its own later, which no capture may meet.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.NONE
        if self._cache is not None:
            self._cache.attach(config)
        return config

    @property
    def scratch_bytes(self) -> int:
        """Device memory that one run needs for its intermediate results."""
        return int(self._engine.device_memory_size_v2)

    def use_scratch(self, scratch: Buffer) -> None:
        """Take the memory for intermediate results; engines that never run at once may share it."""
        if scratch.spec.nbytes < self.scratch_bytes:
            raise EngineError(f"stage `{self.name}` needs {self.scratch_bytes} bytes of scratch memory")
        self._check_alignment("scratch memory", scratch.address)
        self._scratch = scratch

    def bind(self, buffers: Mapping[str, Buffer]) -> TensorRTBinding:
        """Make a context with these addresses and run it once, so that nothing is left to do under capture.

        The run leaves its results in the outputs. Raises EngineError naming every missing, unknown, misshapen or
        misaligned tensor.
        """
        check_buffers(self.name, {**self.inputs, **self.outputs}, buffers)
        for name, buffer in buffers.items():
            self._check_alignment(f"tensor `{name}`", buffer.address)
        self._log.clear()
        context = self._make_context()
        for name, buffer in buffers.items():
            if not context.set_tensor_address(name, buffer.address):
                raise self.error(f"takes no address for tensor `{name}`")
        unset = context.infer_shapes()
        if unset:
            raise EngineError(f"stage `{self.name}`: the plan leaves {', '.join(unset)} open", hint=_REBUILD)
        scratch = self._give_scratch(context)
        binding = TensorRTBinding(self, context, {**buffers, "": scratch}, self._device)
        self._bindings.add(binding)
        cold = self._is_capturable(context)
        binding.enqueue(self._device)
        self._device.synchronize()
        self._check_capturable(context, cold=cold)
        if not self._warm:
            check_captured(self.name, "TensorRT", self._device, binding, _ELSEWHERE)
            if self._cache is not None:
                self._cache.save()  # the first context compiles the kernels, later ones find them
        self._warm = True
        return binding

    def layers(self, runs: int) -> Layers:
        """Return each layer's median time, by TensorRT's profiler on a graph that is captured for it.

        Events between layers cost time, so a context of its own has them; it reports after each launch.
        """
        specs = {**self.inputs, **self.outputs}
        binding = self.bind({name: self._device.allocate(f"layers {name}", spec) for name, spec in specs.items()})
        profiler = _profiler(self._api)
        binding.observe(profiler)
        graph = self._device.capture(f"layers of {self.name}", lambda: binding.enqueue(self._device))
        for _ in range(runs):
            self._device.launch(graph)
            self._device.synchronize()
            if not binding.report():
                raise EngineError(f"stage `{self.name}`: TensorRT reports no layers of a captured graph")
        return medians(profiler.found)

    def _make_context(self) -> Any:
        kinds = self._api.module.ExecutionContextAllocationStrategy
        how = kinds.USER_MANAGED if self._config is None else self._config
        context = self._engine.create_execution_context(how)
        if context is None:
            raise self.error("gives no execution context")
        return context

    def _give_scratch(self, context: Any) -> Buffer:
        """Give a context its scratch memory: the shared one, or more where compiled kernels want more than the plan."""
        if self._scratch is None:
            share_scratch([self], self._device)
        assert self._scratch is not None
        wanted = int(context.update_device_memory_size_for_shapes())
        if wanted > self._scratch.spec.nbytes:
            self._scratch = self._device.allocate(f"scratch of {self.name}", TensorSpec("uint8", (wanted,)))
        if max(wanted, self.scratch_bytes):
            context.set_device_memory(self._scratch.address, self._scratch.spec.nbytes)
        return self._scratch

    def _is_capturable(self, context: Any) -> bool:
        """Ask TensorRT-RTX; the others can always be captured."""
        if not self._api.has("IExecutionContext.is_stream_capturable"):
            return True
        return bool(context.is_stream_capturable(self._device.stream))

    def _check_capturable(self, context: Any, *, cold: bool) -> None:
        if not self._is_capturable(context):
            when = "once it has run" if cold else "neither before its first run nor after it"
            raise EngineError(f"stage `{self.name}`: the plan cannot be captured into a graph, {when}", hint=_REBUILD)

    def _check_alignment(self, what: str, address: int) -> None:
        if address % ALIGNMENT:
            raise EngineError(f"stage `{self.name}`: {what} lies at {address:#x}, a multiple of {ALIGNMENT} was wanted")

    def error(self, what: str) -> Exception:
        """Return the error for what TensorRT just refused, explained by its log."""
        return self._log.error(f"stage `{self.name}` {what}")

    def close(self) -> None:
        """Destroy contexts, configuration, engine and runtime, in this order, before or after the device."""
        for binding in list(self._bindings):
            binding.release()
        self._config = self._scratch = None
        self._engine = None
        self._runtime = None


_ELSEWHERE = "it was loaded for another GPU: open the stages on that GPU first, or use one GPU a process"
_REBUILD = "build it again: `edgetalker build BUNDLE --target auto --force`"


def _profiler(api: Api) -> Any:
    base: Any = api.module.IProfiler

    class Profiler(base):  # type: ignore[misc]
        """Keeps what TensorRT reports, in ns."""

        def __init__(self) -> None:
            base.__init__(self)
            self.found: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer."""
            self.found.append((layer_name, ms * 1e6))

    return Profiler()


def share_scratch(engines: Iterable[TensorRTEngine], device: Device) -> None:
    """Give engines that run one after the other one scratch memory, as large as the hungriest needs."""
    listed = list(engines)
    size = max([ALIGNMENT, *(engine.scratch_bytes for engine in listed)])
    scratch = device.allocate("tensorrt scratch", TensorSpec("uint8", (size,)))
    for engine in listed:
        engine.use_scratch(scratch)


def _check_device(name: str, device: Device) -> None:
    if device.kind != "cuda":
        raise EngineError(
            f"stage `{name}`: plans run on a GPU, not on {device.describe()}",
            hint="run with `--device cuda`, or on the CPU with ONNX Runtime: `--device host`",
        )
    if not device.stream:
        raise EngineError(f"stage `{name}`: plans are not run on the default stream, which synchronizes")
