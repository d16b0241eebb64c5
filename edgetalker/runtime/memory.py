"""Every buffer of a talker, by name; made once, never replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Buffer, Device, TensorSpec
from edgetalker.engines.manifest import Tensor, reference

__all__ = ["INBOUND", "Memory"]

INBOUND = ("audio", "heard", "count", "noise", "control", "input")
"""Roles that the host fills each frame; they share one block, so that a frame is one upload."""

ALIGNMENT = 256  # what GPU copies and TensorRT ask of an address
ROWS_BOUND = 16  # rows of a block that are bound each for itself; a binding is a context on a GPU, a copy is not


class Memory:
    """The talker's buffers: one block of inputs, the motion, constants, states with their initial values, values,
    the schedules' tables, and the seconds of those that need one (`name~twin`, `~held`, `~shown`, `~row`)."""

    def __init__(self, device: Device, bundle: Bundle, schedules: Iterable[str]) -> None:
        """Allocate and fill everything. Raises DeviceError when memory runs out."""
        manifest = bundle.manifest
        self.device = device
        self._buffers: dict[str, Buffer] = {}
        self._states: dict[str, tuple[Buffer, Buffer]] = {}
        self._views: dict[tuple[str, int, int], Buffer] = {}
        self._copied: list[Buffer] = []
        self.inbound = self._pack([tensor for tensor in manifest.tensors.values() if tensor.role in INBOUND])
        for tensor in manifest.tensors.values():
            if tensor.role not in INBOUND:
                staged = tensor.name == manifest.motion.tensor
                self._buffers[tensor.name] = device.allocate(tensor.name, tensor.spec, staged=staged)
            if tensor.role in ("constant", "state"):
                self._fill(bundle, tensor)
        self.tables = {name: self._table(name, bundle.table(name)) for name in schedules}

    def _pack(self, tensors: list[Tensor]) -> Buffer | None:
        if not tensors:
            return None
        *offsets, size = accumulate((_aligned(tensor.spec.nbytes) for tensor in tensors), initial=0)
        block = self.device.allocate("inbound", TensorSpec("uint8", (size,)), staged=True)
        for tensor, offset in zip(tensors, offsets, strict=True):
            self._buffers[tensor.name] = block.view(tensor.name, offset, tensor.spec)
        return block

    def _fill(self, bundle: Bundle, tensor: Tensor) -> None:
        dtype = np.dtype(tensor.spec.dtype)
        values = bundle.array(tensor.file) if tensor.file else np.zeros(tensor.spec.shape, dtype)
        self.device.write(self._buffers[tensor.name], values)
        if tensor.role == "state":
            initial = self.device.allocate(f"{tensor.name}~initial", tensor.spec)
            self.device.write(initial, values)
            self._states[tensor.name] = self._buffers[tensor.name], initial

    def _table(self, schedule: str, rows: Array) -> tuple[Buffer, ...]:
        if not len(rows):
            return ()
        spec = TensorSpec("float32", (1, rows.shape[1]))
        # Each row starts on its own aligned line: TensorRT wants aligned addresses, and rows are bound, not copied.
        stride = _aligned(spec.nbytes)
        padded = np.zeros((len(rows), stride // 4), np.float32)
        padded[:, : rows.shape[1]] = rows
        block = self.device.allocate(f"schedule {schedule}", TensorSpec("float32", padded.shape))
        self.device.write(block, padded)
        return tuple(block.view(f"{schedule}[{row}]", row * stride, spec) for row in range(len(rows)))

    def buffer(self, name: str) -> Buffer:
        """Return the buffer of a tensor."""
        return self._buffers[name]

    def part(self, text: str, phase: int, whole: Buffer | None = None) -> Buffer:
        """Return what a reference (not `@row`) sees at this phase, of `whole` (default: the tensor's buffer)."""
        ref = reference(text)
        whole = whole or self._buffers[ref.name]
        if not (ref.phase or ref.part):
            return whole
        spec = ref.of(whole.spec)
        first = ref.part[0] if ref.part else phase % whole.spec.shape[0]
        offset = first * spec.nbytes // (ref.part[1] - first if ref.part else 1)
        key = (whole.name, offset, spec.nbytes)
        if key not in self._views:
            label = f"{whole.name}[{first}]" if ref.phase else f"{whole.name}[{first}:{ref.part and ref.part[1]}]"
            self._views[key] = whole.view(label, offset, spec)
            if (spec.nbytes if ref.phase else offset) % ALIGNMENT or (ref.phase and whole.spec.shape[0] > ROWS_BOUND):
                self._copied.append(self._views[key])
        return self._views[key]

    def aligned(self, buffer: Buffer) -> Buffer:
        """Return the buffer itself, or one for a copy of it where engines are not given a part's own address."""
        if not any(part is buffer for part in self._copied):
            return buffer
        return self.second(buffer.name.partition("[")[0], f"row{buffer.spec.nbytes}", buffer.spec)

    def second(self, name: str, use: str, spec: TensorSpec | None = None) -> Buffer:
        """Return another buffer of a tensor: `twin` to alternate with from row to row, `held`, `shown`."""
        key = f"{name}~{use}"
        if key not in self._buffers:
            self._buffers[key] = self.device.allocate(key, spec or self._buffers[name].spec, staged=use == "shown")
        return self._buffers[key]

    def reset(self) -> None:
        """Enqueue the initial values of every state."""
        for buffer, initial in self._states.values():
            self.device.copy(buffer, initial)

    def save(self) -> dict[str, Array]:
        """Return a copy of every tensor that one frame leaves for the next."""
        return {name: self.device.read(buffer) for name, buffer in self._buffers.items()}

    def fits(self, values: Mapping[str, Array]) -> bool:
        """Return whether `values` are of these buffers."""
        return {name: array.shape for name, array in values.items()} == {
            n: b.spec.shape for n, b in self._buffers.items()
        }

    def restore(self, values: Mapping[str, Array]) -> None:
        """Write what `save` returned."""
        for name, array in values.items():
            self.device.write(self._buffers[name], array)

    def addresses(self) -> Mapping[str, int]:
        """Return the address of every buffer; the same for the whole life of the talker."""
        return {name: buffer.address for name, buffer in self._buffers.items()}

    def nbytes(self) -> int:
        """Return the bytes of all buffers that own memory."""
        return sum(b.spec.nbytes for b in self._buffers.values()) + sum(b.spec.nbytes for _, b in self._states.values())


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
