"""What is wrong with a checkpoint, said once and shortly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgetalker.engines.errors import InputError, nearest

__all__ = ["CheckpointError", "tensor_faults"]

_SHOWN = 10


class CheckpointError(InputError):
    """A checkpoint that cannot be read or does not fit the network; `faults` lists every reason.

    The message shows the first ten and says how many there are; `whole` is the message with all of them.
    """

    def __init__(self, where: str, faults: Sequence[str], *, hint: str | None = None) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = [f"{where}: {count}", *(f"  - {fault}" for fault in faults)]
        self.whole = "\n".join(lines)
        if len(faults) > _SHOWN:
            lines = [*lines[: _SHOWN + 1], f"  … and {len(faults) - _SHOWN} more (--all shows them)"]
        super().__init__("\n".join(lines), hint=hint)


def tensor_faults(
    wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], *, ignore_extra: bool = False
) -> list[str]:
    """Return what is missing, unexpected (unless passed over), misshapen, no floating-point numbers or not finite."""
    faults = [f"missing: {key} {shape}" for key, shape in wanted.items() if key not in given]
    for key, value in given.items():
        shape = tuple(value.shape)
        if key not in wanted:
            if not ignore_extra:
                faults.append(f"unexpected: {key} {shape}{nearest(key, wanted)}")
        elif shape != wanted[key]:
            faults.append(f"misshapen: {key} is {shape}, wanted {wanted[key]}")
        elif not value.dtype.is_floating_point:
            faults.append(f"misfit: {key} is {value.dtype}, wanted a floating-point type")
        elif not bool(torch.isfinite(value.float() if value.element_size() == 1 else value).all()):
            faults.append(f"not finite: {key} holds NaN or infinite values")
    return faults
