"""The GPU kernels of one frame through CUPTI, where its Python package (cupti-python) is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgetalker.engines.errors import MissingPackageError
from edgetalker.runtime.session import Session

__all__ = ["kernels_of"]

_BUFFER = 8 << 20


def kernels_of(session: Session, schedule: str) -> Sequence[tuple[str, int, float]]:
    """Return (name, count, ns) of the kernels of one frame, the dearest first. Raises MissingPackageError."""
    cupti = _load()
    records: list[Any] = []
    kind = cupti.ActivityKind.CONCURRENT_KERNEL
    cupti.activity_register_callbacks(lambda: (_BUFFER, 0), records.extend)
    cupti.activity_enable(kind)
    try:
        _step(session, schedule)
        cupti.activity_flush_all(1)
    finally:
        cupti.activity_disable(kind)
    return _by_name(records)


def _load() -> Any:
    try:
        from cupti import cupti
    except ImportError:
        missing = MissingPackageError("cupti-python", "--kernels", extra="cuda")
        missing.hint = "pip install cupti-python"  # too large for an extra that everybody with a GPU installs
        raise missing from None
    return cupti


def _step(session: Session, schedule: str) -> None:
    sound = None if session.audio is None else np.full(session.audio.shape, 0.01, np.float32)
    session.step(sound, schedule=schedule)


def _by_name(records: Sequence[Any]) -> Sequence[tuple[str, int, float]]:
    totals: dict[str, tuple[int, float]] = {}
    for record in records:
        count, ns = totals.get(record.name, (0, 0.0))
        totals[record.name] = (count + 1, ns + record.end - record.start)
    return sorted(((name, *figures) for name, figures in totals.items()), key=lambda item: -item[2])
