"""A stage's PyTorch module as an engine, on the host and on CUDA, inside the session's own capture.

It is the parity reference, the baseline of `bench --against torch`, and the way onto a GPU that no TensorRT at
hand supports. PyTorch allocates while it runs; on CUDA it does so from a pool of its own that lives as long as the
engine, so that what a captured graph touches belongs to nobody else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Buffer, Device, Layers, TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.lazy import LazyModule, required
from edgetalker.engines.ort import check_border, check_buffers, check_captured, medians
from edgetalker.engines.torch.graph import OnnxModule

__all__ = ["TorchBinding", "TorchEngine", "TorchPool", "torch_engines"]

torch: Any = LazyModule("torch")

Module = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
"""Computes the tensors of its second argument in place from those of the first."""

_settings = threading.RLock()
"""Held while PyTorch's settings, which are the process's, are others than the program's."""

_WARM_RUNS = 2  # the first makes cuBLAS and cuDNN handles and grows the pool, the second finds everything there


class TorchPool:
    """Where the engines of one session allocate: they run one after the other, so one pool serves all."""

    def __init__(self, device: Device) -> None:
        """Raises MissingPackageError without PyTorch, EngineError for one that cannot use the device."""
        required("torch", "running stages with PyTorch", extra="export")
        self.device = device
        self.where = "cpu"
        self._memory: Any = None
        if device.kind == "cuda":
            this, self.where = f"PyTorch {torch.__version__}", f"cuda:{device.ordinal}"
            if not torch.cuda.is_available():
                raise EngineError(f"{this} cannot use the GPU", hint="install a PyTorch built for CUDA")
            if not (hasattr(torch.cuda, "MemPool") and hasattr(torch.cuda, "use_mem_pool")):  # 2.5.0a0: the first alone
                raise EngineError(f"{this} has no memory pools", hint="install PyTorch 2.5.0 final or newer")
            # A pool belongs to the GPU that is current when it is made.
            with _told("the first kernel", self.where), torch.cuda.device(self.where):
                torch.ones(1, device=self.where)  # needs PyTorch's allocator, and kernels for this GPU
                torch.cuda.synchronize()
                self._stream = getattr(torch.cuda, "ExternalStream")(device.stream, device=self.where)  # noqa: B009 - untyped
                self._memory = torch.cuda.MemPool()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run PyTorch on the device's stream, from the pool, in full float32."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._memory is not None:
                stack.enter_context(_settings)
                stack.enter_context(torch.cuda.device(self.where))
                stack.enter_context(torch.cuda.stream(self._stream))
                stack.enter_context(torch.cuda.use_mem_pool(self._memory, device=torch.device(self.where)))
                stack.enter_context(_full_precision())
            yield

    def tensor(self, buffer: Buffer) -> Any:
        """Return a tensor over a buffer's own memory."""
        if self.device.kind == "cuda":
            return torch.as_tensor(buffer, device=self.where)
        array: Array = self.device.staging(buffer)  # on the host the buffer itself
        return torch.from_numpy(array)


@contextlib.contextmanager
def _told(what: str, where: str) -> Iterator[None]:
    """Turn what PyTorch raises into an EngineError. where: `cpu` or which GPU."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise EngineError(
            f"{what}: the memory of {where} is full: {_first_line(error)}",
            hint="end what else uses the GPU, or build plans (`edgetalker build`), which take less",
        ) from None
    except RuntimeError as error:
        has = "" if where == "cpu" else ", ".join(torch.cuda.get_arch_list())
        raise EngineError(
            f"{what}: PyTorch {torch.__version__} failed on {where}: {_first_line(error)}",
            hint=f"it has kernels for {has}: install one that has your GPU's, or build plans" if has else None,
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products and convolutions out of TF32, cuDNN's default: this engine is the reference."""
    settings: tuple[Any, ...]
    full: str | bool
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
        name, full = "fp32_precision", "ieee"
    else:  # before PyTorch 2.9, as JetPack 6 has it; `cudnn.conv` is as new
        settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
        name, full = "allow_tf32", False
    before = [getattr(setting, name) for setting in settings]
    try:
        for setting in settings:
            setattr(setting, name, full)
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setattr(setting, name, value)


@dataclass(frozen=True)
class TorchBinding:
    """A module together with tensors over the session's buffers."""

    _stage: str
    _pool: TorchPool
    _run: Callable[[], None]

    def enqueue(self, device: Device) -> None:
        """Enqueue one run, at once or under capture. Raises EngineError on another device."""
        if device is not self._pool.device:
            raise EngineError(f"stage `{self._stage}` was bound on another device than {device.describe()}")
        if device.kind == "host":
            device.call(self._inside)
        else:
            self._inside()

    def _inside(self) -> None:
        with _told(f"stage `{self._stage}`", self._pool.where), self._pool.entered():
            self._run()


class TorchEngine:
    """One stage as a PyTorch module."""

    def __init__(
        self,
        name: str,
        module: Module,
        pool: TorchPool,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        file: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        """Take a module whose weights lie on `pool.where`."""
        self.name = name
        self.file, self.precision = file, precision
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._module: Module | None = module
        self._pool = pool
        self._captured = False

    @classmethod
    def from_onnx(
        cls,
        name: str,
        path: Path,
        pool: TorchPool,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        precision: str = "fp32",
    ) -> TorchEngine:
        """Load a stage's ONNX file. Raises EngineError for what PyTorch cannot run or what is not the manifest's."""
        with _told(f"stage `{name}`", pool.where):
            module = OnnxModule(path, pool.where)
        check_border(name, module.inputs, module.outputs, inputs, outputs)
        return cls(name, module, pool, inputs, outputs, file=path, precision=precision)

    def bind(self, buffers: Mapping[str, Buffer]) -> TorchBinding:
        """Give the stage its memory and warm it. Raises EngineError naming every tensor that does not fit."""
        check_buffers(self.name, {**self.inputs, **self.outputs}, buffers)
        assert self._module is not None
        pool = self._pool
        given = {name: pool.tensor(buffers[name]) for name in self.inputs}
        made = {name: pool.tensor(buffers[name]) for name in self.outputs}
        binding = TorchBinding(self.name, pool, partial(self._module, given, made))
        if pool.device.kind == "cuda":
            for _ in range(_WARM_RUNS):
                binding.enqueue(pool.device)
            pool.device.synchronize()
            if not self._captured:
                check_captured(self.name, "PyTorch", pool.device, binding)
                self._captured = True
        return binding

    def layers(self, runs: int) -> Layers:
        """Return each ONNX operator's median time, by marks between operators that are enqueued one by one."""
        module, device = self._module, self._pool.device
        if not isinstance(module, OnnxModule):
            raise EngineError(f"stage `{self.name}`: a module that was not made from ONNX shows no layers")
        specs = {**self.inputs, **self.outputs}
        tensors = {name: self._pool.tensor(device.allocate(f"layers {name}", spec)) for name, spec in specs.items()}
        given, made = ({name: tensors[name] for name in names} for names in (self.inputs, self.outputs))
        names = module.steps()
        marks = [device.mark(f"layer {place}") for place in range(len(names) + 1)]
        found = []
        for _ in range(runs):
            later = iter(marks)
            device.record(next(later))
            with self._pool.entered():
                module(given, made, after=lambda later=later: device.record(next(later)))  # type: ignore[misc]
            device.synchronize()
            found += [(name, device.elapsed(*marks[place : place + 2])) for place, name in enumerate(names)]
        return medians(found)

    def close(self) -> None:
        """Drop the module."""
        self._module = None


def torch_engines(
    bundle: Bundle, device: Device, precision: str = "fp32", *, threads: int | None = None
) -> dict[str, TorchEngine]:
    """Return a PyTorch engine for every stage of a bundle, on the host or on CUDA. Raises as their parts do.

    threads: PyTorch's threads on the host, which are the process's (default: as they are). Stages as small as a
    denoise step run slower on several, many times slower beside another busy process.
    """
    pool = TorchPool(device)
    if threads is not None:
        torch.set_num_threads(threads)
    return {
        name: TorchEngine.from_onnx(
            name, bundle.onnx(name, precision), pool, stage.inputs, stage.outputs, precision=precision
        )
        for name, stage in bundle.manifest.stages.items()
    }
