"""Builds one stage's plan in this process: ONNX in, bytes out.

Precision is in the graph, so there is no precision flag here: every network is strongly typed. A built plan
runs on one stream, with fixed shapes, in memory that its user gives it, and so inside a captured graph.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError, OptionError, Progress, UnsupportedGpuError, UserError, unheard
from edgetalker.engines.machine import require_gpu
from edgetalker.engines.targets import PORTABLE, Target
from edgetalker.engines.tensorrt.api import Api, spec_of
from edgetalker.engines.tensorrt.log import check_header, log_of

__all__ = ["RECIPE", "BuildCancelledError", "BuildOptions", "Built", "build", "flags_of"]

RECIPE = 1
"""Number of the rules below; raised when they change, so that older plans show as stale."""


@dataclass(frozen=True)
class BuildOptions:
    """What a user may choose. The defaults fit a Jetson that shares 8 GB between CPU and GPU.

    level: how long the builder looks for kernels, 0 to 5. workspace: MiB that a kernel may ask for. tf32: let
    FP32 matrix products round to 10 bits on the tensor cores; off, so that FP32 means FP32. version_compatible:
    a plan that newer versions of the lean runtime run too (full TensorRT only). timing_cache: reuse measured
    kernel times from build to build (full TensorRT only).
    """

    level: int = 3
    workspace: int = 512
    tf32: bool = False
    version_compatible: bool = False
    timing_cache: bool = True

    def __post_init__(self) -> None:
        """Raise OptionError for a value that no builder takes."""
        if not 0 <= self.level <= 5:
            raise OptionError(f"optimization level {self.level}: 0 to 5 was wanted")
        if self.workspace < 1:
            raise OptionError(f"workspace of {self.workspace} MiB: at least 1 was wanted")


@dataclass(frozen=True)
class Built:
    """A plan and what is known about it. types: element type -> number of the network's tensors that have it."""

    plan: bytes
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    types: Mapping[str, int]
    seconds: float
    timing_cache: bytes = field(default=b"", repr=False)


class BuildCancelledError(UserError):
    """The build was cancelled; nothing was written."""

    exit_code = 130


def flags_of(flavour: str, options: BuildOptions) -> dict[str, int | bool]:
    """Return everything about a build, beside network, library and target, that shapes the plan."""
    flags: dict[str, int | bool] = {"recipe": RECIPE, **asdict(options)}
    if flavour == "rtx":  # these two mean nothing to it
        del flags["timing_cache"], flags["version_compatible"]
    return dict(sorted(flags.items()))


def build(
    api: Api,
    onnx: Path,
    target: Target,
    options: BuildOptions | None = None,
    *,
    progress: Progress = unheard,
    cancelled: Callable[[], bool] = lambda: False,
    timing_cache: bytes = b"",
) -> Built:
    """Build the plan of one ONNX file. Full TensorRT needs the GPU itself; TensorRT-RTX needs none.

    Raises BuildCancelledError when `cancelled` says so, EngineError or DeviceError explained by TensorRT's log.
    """
    if not api.has("Builder"):
        raise EngineError(f"`{api.flavour}` {api.version} runs plans, it builds none", hint="build with `tensorrt`")
    if api.flavour != "rtx":
        require_gpu(f"building with {api.flavour} {api.version}")  # before the library is asked for anything
    return _Job(api, target, options or BuildOptions(), progress, cancelled).run(onnx, timing_cache)


class _Job:
    """Keeps log, builder, network, parser, configuration and monitor alive until the plan is there.

    TensorRT's objects do not hold each other: a parser whose network was collected crashes the process.
    """

    def __init__(
        self, api: Api, target: Target, options: BuildOptions, progress: Progress, cancelled: Callable[[], bool]
    ) -> None:
        self.api, self.target, self.options = api, target, options
        trt = api.module
        self.log = log_of(api)
        self.log.clear()
        self.monitor = _monitor_class(api)(progress, cancelled)
        try:
            self.builder = trt.Builder(self.log.logger)
        except TypeError:  # what the bindings raise when the library gives no object
            raise self.log.error(f"{api.flavour} {api.version} gives no builder") from None
        self.network = self.builder.create_network(_network_flags(api))
        self.parser = trt.OnnxParser(self.network, self.log.logger)
        self.config = self.builder.create_builder_config()
        self.cache: Any = None

    def run(self, onnx: Path, timing_cache: bytes) -> Built:
        self._parse(onnx)
        inputs, outputs = _border(self.network)
        self._configure()
        # TensorRT-RTX has the calls as well, does nothing with them and asks for a GPU.
        if self.options.timing_cache and self.api.flavour == "tensorrt":
            self._attach(timing_cache)
        started = time.perf_counter()
        serialized = self.builder.build_serialized_network(self.network, self.config)
        seconds = time.perf_counter() - started
        if serialized is None:
            raise self._failure(onnx)
        plan = bytes(serialized)
        faults = check_header(self.api, plan)
        if faults:
            raise self.log.error(f"the plan that was built from {onnx.name} has a bad header", faults)
        measured = bytes(self.cache.serialize()) if self.cache else b""
        return Built(plan, inputs, outputs, self._census(), seconds, measured)

    def _parse(self, onnx: Path) -> None:
        try:
            model = onnx.read_bytes()  # a path beyond ASCII is one that TensorRT itself cannot open on Windows
        except OSError as error:
            raise EngineError(f"{onnx} cannot be read: {error.strerror}") from None
        if self.parser.parse(model, str(onnx)):
            return
        reasons = [_parser_words(self.parser.get_error(i)) for i in range(self.parser.num_errors)]
        raise self.log.error(f"{onnx.name} cannot be imported by {self.api.flavour} {self.api.version}", reasons)

    def _configure(self) -> None:
        trt, config, options = self.api.module, self.config, self.options
        config.progress_monitor = self.monitor
        config.builder_optimization_level = options.level
        config.max_aux_streams = 0  # one stream: a captured frame is one ordered queue
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.version_compatible:
            self._make_compatible()
        if self.api.has("BuilderFlag.REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else TensorRT-RTX cannot be captured
        if self.api.has("IBuilderConfig.set_compute_capability"):
            self._aim()

    def _make_compatible(self) -> None:
        """The lean runtime is left out: it would be host code inside a plan, which is never allowed to run."""
        if self.api.flavour != "tensorrt":
            raise OptionError("version-compatible plans are made by full TensorRT alone")
        flags = self.api.module.BuilderFlag
        self.config.set_flag(flags.VERSION_COMPATIBLE)
        self.config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)

    def _aim(self) -> None:
        names = [name for name in self.target.capabilities if name != PORTABLE]
        kinds = self.api.module.ComputeCapability
        missing = [name for name in names if not hasattr(kinds, name.upper())]
        if missing:
            raise UnsupportedGpuError(f"{self.api.flavour} {self.api.version} does not know {', '.join(missing)}")
        if names:
            self.config.num_compute_capabilities = len(names)
        for place, name in enumerate(names):
            if not self.config.set_compute_capability(getattr(kinds, name.upper()), place):
                raise self.log.error(f"target {name} was refused")

    def _attach(self, saved: bytes) -> None:
        """Take the saved kernel times; those of another GPU or version are refused and measured again."""
        self.cache = self.config.create_timing_cache(saved)
        if not (self.cache and self.config.set_timing_cache(self.cache, ignore_mismatch=False)):
            self.cache = self.config.create_timing_cache(b"")
            self.config.set_timing_cache(self.cache, ignore_mismatch=False)

    def _failure(self, onnx: Path) -> UserError:
        if self.monitor.cancelled:
            return BuildCancelledError(f"the build of {onnx.name} was cancelled", hint="nothing was written")
        return self.log.error(f"{onnx.name} cannot be built for {self.target} by {self.api.version}")

    def _census(self) -> dict[str, int]:
        layers = [self.network.get_layer(i) for i in range(self.network.num_layers)]
        counts = Counter(
            layer.get_output(i).dtype.name for layer in layers for i in range(layer.num_outputs) if layer.get_output(i)
        )
        return dict(sorted(counts.items()))


def _border(network: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Return a parsed network's inputs and outputs. Raises EngineError for a free size or an unknown type."""
    sides = []
    for get, count in ((network.get_input, network.num_inputs), (network.get_output, network.num_outputs)):
        tensors = [get(i) for i in range(count)]
        sides.append({tensor.name: spec_of(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors})
    return sides[0], sides[1]


def _parser_words(error: Any) -> str:
    node = f" at {error.node_operator()} `{error.node_name()}`" if error.node_operator() else ""
    return f"{error.code().name}{node}: {error.desc()}"


def _network_flags(api: Api) -> int:
    """Strongly typed, by the flag where there is one: TensorRT 10 asks for it, later ones know nothing else."""
    if not api.has("NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
        return 0
    return 1 << int(api.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _monitor_class(api: Api) -> Any:
    """IProgressMonitor is a different class in every flavour."""

    base: Any = api.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        """Reports the outermost phases. Called from several of TensorRT's threads; never raises into them."""

        def __init__(self, progress: Progress, asked: Callable[[], bool]) -> None:
            super().__init__()
            self._progress, self._asked = progress, asked
            self._steps: dict[str, int] = {}
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            share = (step + 1) / max(1, self._steps.get(phase_name, 0))
            if phase_name in self._steps:
                self._progress(phase_name, min(1.0, share))
            self.cancelled = self.cancelled or self._asked()
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor
