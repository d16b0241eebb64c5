"""Every buffer of a session, by name; made once, never replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array, Buffer, Device, TensorSpec
from edgetalker.engines.manifest import Tensor
from edgetalker.engines.references import block_row, reference

__all__ = ["INBOUND", "Memory"]

INBOUND = ("audio", "heard", "count", "noise", "control", "input")
"""Roles that the host fills each frame; they share one block, so that a frame is one upload."""

ALIGNMENT = 256  # what GPU copies and TensorRT ask of an address


class Memory:
    """The session's buffers: one block of inputs, the motion, constants, states with their initial values, values,
    the schedules' tables and the twins between which rows alternate."""

    def __init__(self, device: Device, bundle: Bundle, schedules: Iterable[str]) -> None:
        """Allocate and fill everything. Raises DeviceError when memory runs out."""
        manifest = bundle.manifest
        self.device = device
        self._buffers: dict[str, Buffer] = {}
        self._initial: dict[str, Buffer] = {}
        self._rows: dict[tuple[str, int], Buffer] = {}
        self.inbound = self._pack([tensor for tensor in manifest.tensors.values() if tensor.role in INBOUND])
        for tensor in manifest.tensors.values():
            if tensor.role not in INBOUND:
                staged = tensor.name == manifest.motion.tensor
                self._buffers[tensor.name] = device.allocate(tensor.name, tensor.spec, staged=staged)
            if tensor.role in ("constant", "state"):
                self._fill(bundle, tensor)
        self.tables = {name: self._table(name, bundle.table(name)) for name in schedules}

    def _pack(self, tensors: list[Tensor]) -> Buffer | None:
        offsets, size = [], 0
        for tensor in tensors:
            offsets.append(size)
            size += -(-tensor.spec.nbytes // ALIGNMENT) * ALIGNMENT
        if not tensors:
            return None
        block = self.device.allocate("inbound", TensorSpec("uint8", (size,)), staged=True)
        for tensor, offset in zip(tensors, offsets, strict=True):
            self._buffers[tensor.name] = block.view(tensor.name, offset, tensor.spec)
        return block

    def _fill(self, bundle: Bundle, tensor: Tensor) -> None:
        dtype = np.dtype(tensor.spec.dtype)
        values = bundle.array(tensor.file) if tensor.file else np.zeros(tensor.spec.shape, dtype)
        if tensor.role == "constant":
            self.device.write(self._buffers[tensor.name], values)
            return
        self._initial[tensor.name] = self.device.allocate(f"{tensor.name}~initial", tensor.spec)
        self.device.write(self._initial[tensor.name], values)
        self.device.write(self._buffers[tensor.name], values)

    def _table(self, schedule: str, rows: Array) -> tuple[Buffer, ...]:
        if not len(rows):
            return ()
        spec = TensorSpec("float32", (1, rows.shape[1]))
        # Each row starts on its own aligned line: TensorRT wants aligned addresses, and rows are bound, not copied.
        stride = -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        padded = np.zeros((len(rows), stride // 4), np.float32)
        padded[:, : rows.shape[1]] = rows
        block = self.device.allocate(f"schedule {schedule}", TensorSpec("float32", padded.shape))
        self.device.write(block, padded)
        return tuple(block.view(f"{schedule}[{row}]", row * stride, spec) for row in range(len(rows)))

    def buffer(self, name: str) -> Buffer:
        """Return the buffer of a tensor."""
        return self._buffers[name]

    def source(self, text: str, phase: int, row: Buffer | None) -> Buffer:
        """Return the buffer that a program reference reads at this phase and schedule row."""
        ref = reference(text)
        if ref.row:
            assert row is not None
            return row
        if not ref.phase:
            return self._buffers[ref.name]
        place = phase % self._buffers[ref.name].spec.shape[0]
        return self._block_row(ref.name, place)

    def aligned(self, row: Buffer) -> Buffer:
        """Return a buffer for a copy of a block's row whose own address suits no GPU engine, or the row itself."""
        if row.spec.nbytes % ALIGNMENT == 0:
            return row
        name = f"{row.name.partition('[')[0]}~row"
        if name not in self._buffers:
            self._buffers[name] = self.device.allocate(name, row.spec)
        return self._buffers[name]

    def _block_row(self, name: str, place: int) -> Buffer:
        if (name, place) not in self._rows:
            block = self._buffers[name]
            spec = block_row(block.spec)
            self._rows[name, place] = block.view(f"{name}[{place}]", place * spec.nbytes, spec)
        return self._rows[name, place]

    def twin(self, name: str) -> Buffer:
        """Return the second buffer of a tensor, with which a carry from row to row alternates without a copy."""
        twin = f"{name}~twin"
        if twin not in self._buffers:
            self._buffers[twin] = self.device.allocate(twin, self._buffers[name].spec)
        return self._buffers[twin]

    def reset(self) -> None:
        """Enqueue the initial values of every state."""
        for name, initial in self._initial.items():
            self.device.copy(self._buffers[name], initial)

    def addresses(self) -> Mapping[str, int]:
        """Return the address of every buffer; the same for the whole life of the session."""
        return {name: buffer.address for name, buffer in self._buffers.items()}

    def nbytes(self) -> int:
        """Return the bytes of all buffers that own memory."""
        owned = sum(buffer.spec.nbytes for name, buffer in self._buffers.items())
        return owned + sum(buffer.spec.nbytes for buffer in self._initial.values())
