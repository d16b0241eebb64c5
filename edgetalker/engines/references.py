"""How a program step names the tensor that it reads: `name`, `name[phase]` or `@row`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.manifest import ROW

__all__ = ["Reference", "block_row", "reference"]

_FORM = re.compile(r"(?P<name>[^\[\]@]+)(?P<phase>\[phase\])?")


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `row`: the schedule's row. `phase`: the row `frame mod rows` of a block of rows."""

    name: str
    phase: bool = False
    row: bool = False


def reference(text: str) -> Reference:
    """Parse a reference. Raises ValueError when it has neither of the three forms."""
    if text == ROW:
        return Reference(ROW, row=True)
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is none of `name`, `name[phase]` and `{ROW}`")
    return Reference(match["name"], phase=match["phase"] is not None)


def block_row(spec: TensorSpec) -> TensorSpec:
    """Return the spec of one row of a block: shape (rows, ...) gives (1, ...)."""
    return TensorSpec(spec.dtype, (1, *spec.shape[1:]))
