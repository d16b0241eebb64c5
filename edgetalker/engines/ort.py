"""A stage on the CPU through ONNX Runtime, reading and writing the session's own memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetalker.engines.engine import DTYPES, Binding, Buffer, Device, Layers, TensorSpec
from edgetalker.engines.errors import EngineError, nearest
from edgetalker.engines.host import HostDevice
from edgetalker.engines.lazy import required

if TYPE_CHECKING:
    from edgetalker.engines.bundle import Bundle

__all__ = [
    "OrtBinding",
    "OrtEngine",
    "check_border",
    "check_buffers",
    "check_captured",
    "medians",
    "onnxruntime_module",
    "open_session",
    "ort_engines",
    "run_at",
]

_KERNEL = "_kernel_time"
_TYPES = {f"tensor({'float' if name == 'float32' else name})": name for name in DTYPES}


class OrtBinding:
    """One run of a stage at fixed addresses."""

    __slots__ = ("_buffers", "_run", "_stage")

    def __init__(self, stage: str, run: Any, buffers: Mapping[str, Buffer]) -> None:
        """run: what runs the stage on these buffers, whose addresses live as long as this does."""
        self._stage, self._buffers, self._run = stage, dict(buffers), run
        self._run.stage = stage  # for the message when it fails

    def enqueue(self, device: Device) -> None:
        """Enqueue one run. Raises EngineError on a device that is not the host."""
        if not isinstance(device, HostDevice):
            raise EngineError(
                f"stage `{self._stage}`: ONNX Runtime's CPU engine runs on the host, not on {device.kind}"
            )
        device.call(self._run)


class OrtEngine:
    """A stage compiled by ONNX Runtime for the CPU. One thread by default: frames end sooner and on time."""

    def __init__(
        self,
        name: str,
        path: Path,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        threads: int = 1,
        precision: str = "fp32",
    ) -> None:
        """Load the stage. Raises EngineError when ONNX Runtime refuses it or its border is not the manifest's."""
        self.name = name
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self.file: Path | None = path
        self.precision = precision
        self.threads = threads
        self._session = open_session(path, threads, stage=name)
        found_in = {item.name: _spec(item) for item in self._session.get_inputs()}
        found_out = {item.name: _spec(item) for item in self._session.get_outputs()}
        check_border(name, found_in, found_out, self.inputs, self.outputs)

    def bind(self, buffers: Mapping[str, Buffer]) -> OrtBinding:
        """Give the stage its memory. Raises EngineError naming every missing, unknown or misshapen tensor."""
        check_buffers(self.name, {**self.inputs, **self.outputs}, buffers)
        return OrtBinding(self.name, self._run_at(buffers), buffers)

    def _run_at(self, buffers: Mapping[str, Buffer]) -> Callable[[], object]:
        return run_at(self._session, self.inputs, self.outputs, buffers)

    def layers(self, runs: int) -> Layers:
        """Return each layer's median time, by ONNX Runtime's profiler, under the settings that are played."""
        random = np.random.default_rng(0)
        inputs = {
            name: (0.1 * random.standard_normal(spec.shape)).astype(DTYPES[spec.dtype])
            for name, spec in self.inputs.items()
        }
        assert self.file is not None
        with TemporaryDirectory() as folder:
            session = open_session(self.file, self.threads, stage=self.name, profile=Path(folder) / self.name)
            for _ in range(runs):
                session.run(None, inputs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)]
        return medians((event["name"].removesuffix(_KERNEL), event["dur"] * 1e3) for event in kernels)

    def close(self) -> None:
        """Drop ONNX Runtime's session."""
        self._session = None


def run_at(
    session: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], buffers: Mapping[str, Buffer]
) -> Callable[[], object]:
    """Return what runs an ONNX Runtime session on the buffers of its inputs and outputs."""
    io = session.io_binding()
    for bind, specs in ((io.bind_input, inputs), (io.bind_output, outputs)):
        for name, spec in specs.items():
            bind(name, "cpu", 0, DTYPES[spec.dtype], spec.shape, buffers[name].address)
    return partial(session.run_with_iobinding, io, None)


def ort_engines(
    bundle: Bundle, precision: str = "fp32", *, threads: int = 1, host: bool = False, kind: type[OrtEngine] = OrtEngine
) -> dict[str, Any]:
    """Return an engine for every stage of a bundle. host: see Bundle.onnx. Raises as OrtEngine and Bundle.onnx do."""
    return {
        name: kind(
            name,
            bundle.onnx(name, precision, host=host),
            stage.inputs,
            stage.outputs,
            threads=threads,
            precision=precision,
        )
        for name, stage in bundle.manifest.stages.items()
    }


def medians(times: Iterable[tuple[str, float]]) -> Layers:
    """Return (name, median ns) of layers that were timed in several runs, in the order of their first."""
    by_name: dict[str, list[float]] = {}
    for name, ns in times:
        by_name.setdefault(name, []).append(ns)
    return [(name, float(np.median(values))) for name, values in by_name.items()]


def check_border(
    stage: str,
    found_in: Mapping[str, object],
    found_out: Mapping[str, object],
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> None:
    """Raise EngineError unless a network's tensors are exactly the manifest's, naming every difference."""
    faults: list[str] = []
    for what, found, wanted in (("input", found_in, inputs), ("output", found_out, outputs)):
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                faults.append(
                    f"{what} `{name}` is {found.get(name, 'absent')} in the network, "
                    f"{wanted.get(name, 'absent')} in the manifest"
                )
    if faults:
        raise EngineError(f"stage `{stage}`: " + "; ".join(faults), hint="export the bundle again")


def check_buffers(stage: str, wanted: Mapping[str, TensorSpec], buffers: Mapping[str, Buffer]) -> None:
    """Raise EngineError unless there is one fitting buffer for every tensor, naming every fault."""
    faults = [f"`{name}` has no buffer" for name in sorted(wanted.keys() - buffers.keys())]
    faults += [f"`{name}` is no tensor of it{nearest(name, wanted)}" for name in sorted(buffers.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & buffers.keys()):
        if buffers[name].spec != wanted[name]:
            faults.append(f"`{name}` wants {wanted[name]}, buffer `{buffers[name].name}` is {buffers[name].spec}")
    if faults:
        raise EngineError(f"stage `{stage}`: " + "; ".join(faults))


def check_captured(stage: str, library: str, device: Device, binding: Binding, hint: str | None = None) -> None:
    """Capture one run that is never launched: an empty graph would leave every frame's output as it was.

    Raises EngineError for one.
    """
    if not device.capture(f"{stage}, tried", lambda: binding.enqueue(device)).nodes:
        where = f"the stream of {device.describe()}"
        raise EngineError(f"stage `{stage}`: {library} enqueued nothing on {where}", hint=hint)


def _spec(item: Any) -> TensorSpec | str:
    """Return a tensor's spec, or its text when a type or a size is not fixed."""
    dtype, shape = _TYPES.get(item.type), tuple(item.shape)
    if dtype is None or not all(isinstance(size, int) for size in shape):
        return f"{item.type}[{','.join(map(str, shape))}]"
    return TensorSpec(dtype, shape)


def onnxruntime_module() -> Any:
    """Import ONNX Runtime so that it talks to nobody. Raises MissingPackageError."""
    # From 1.29 on ONNX Runtime makes a device id and looks its maker's collector up, unless this stands before it is
    # imported. Who wants that sets ORT_DISABLE_TELEMETRY=0 (docs/concepts.md).
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return required("onnxruntime", "running stages on the CPU", extra="cpu")


@cache
def has_vnni() -> bool:
    """Return whether this CPU is known to have x86's instructions for products of u8 by s8, which do not overflow.

    Only Linux tells; elsewhere they are taken for missing, which is slower and never wrong.
    """
    if sys.platform != "linux":
        return False
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def open_session(model: Path | bytes, threads: int = 1, *, stage: str = "network", profile: Path | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU: the one way in which this project opens one.

    profile: prefix of the file into which its own profiler writes. Raises EngineError when it refuses the model,
    MissingPackageError without onnxruntime.
    """
    ort = onnxruntime_module()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors come as exceptions; its own lines beside them are a second message
    # Spinning workers steal the cores that the sound and the senders need between frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # On x86 without VNNI its products of u8 by s8 add pairs up in 16 bits, which overflow (4 % of error). With this it
    # makes the weights u8, whose products are exact. With VNNI it would do so too, and take up to three times as long.
    options.add_session_config_entry("session.x64quantprecision", "0" if has_vnni() else "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    given, called = (model, "it") if isinstance(model, bytes) else (_named(model), model.name)
    try:
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(
            f"stage `{stage}`: ONNX Runtime {ort.__version__} refuses {called}: {first}",
            hint="export or convert the bundle again, or install a newer onnxruntime",
        ) from error


def _named(model: Path) -> str | bytes:
    """Return the file's name, or its content where the name is not UTF-8: ONNX Runtime takes no other."""
    try:
        str(model).encode()
    except UnicodeEncodeError:
        return model.read_bytes()
    return str(model)
