"""A stage on the CPU through ONNX Runtime, reading and writing the session's own memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgetalker.engines.engine import DTYPES, Buffer, Device, TensorSpec
from edgetalker.engines.errors import EngineError, MissingPackageError, nearest
from edgetalker.engines.host import HostDevice

__all__ = ["OrtBinding", "OrtEngine", "check_border", "check_buffers"]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
}


class OrtBinding:
    """One run of a stage at fixed addresses."""

    __slots__ = ("_buffers", "_run", "_stage")

    def __init__(self, stage: str, session: Any, io: Any, buffers: Mapping[str, Buffer]) -> None:
        self._stage = stage
        self._buffers = dict(buffers)  # the addresses that `io` holds live as long as this does
        self._run = partial(session.run_with_iobinding, io, None)

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
    ) -> None:
        """Load the stage. Raises EngineError when ONNX Runtime refuses it or its border is not the manifest's."""
        self.name = name
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self._session = _load(name, path, threads)
        found_in = {item.name: _spec(item) for item in self._session.get_inputs()}
        found_out = {item.name: _spec(item) for item in self._session.get_outputs()}
        check_border(name, found_in, found_out, self.inputs, self.outputs)

    def bind(self, buffers: Mapping[str, Buffer]) -> OrtBinding:
        """Give the stage its memory. Raises EngineError naming every missing, unknown or misshapen tensor."""
        check_buffers(self.name, {**self.inputs, **self.outputs}, buffers)
        io = self._session.io_binding()
        for name, spec in self.inputs.items():
            io.bind_input(name, "cpu", 0, DTYPES[spec.dtype], spec.shape, buffers[name].address)
        for name, spec in self.outputs.items():
            io.bind_output(name, "cpu", 0, DTYPES[spec.dtype], spec.shape, buffers[name].address)
        return OrtBinding(self.name, self._session, io, buffers)

    def close(self) -> None:
        """Drop ONNX Runtime's session."""
        self._session = None


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


def _spec(item: Any) -> TensorSpec | str:
    """Return a tensor's spec, or its text when a type or a size is not fixed."""
    dtype, shape = _TYPES.get(item.type), tuple(item.shape)
    if dtype is None or not all(isinstance(size, int) for size in shape):
        return f"{item.type}[{','.join(map(str, shape))}]"
    return TensorSpec(dtype, shape)


def _load(name: str, path: Path, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingPackageError("onnxruntime", "running stages on the CPU", extra="cpu") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning workers steal the cores that the sound and the senders need between frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        first = str(error).strip().splitlines()[0]
        raise EngineError(
            f"stage `{name}`: ONNX Runtime {ort.__version__} refuses {path.name}: {first}",
            hint="export the bundle again, or install a newer onnxruntime",
        ) from error
