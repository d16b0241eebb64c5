"""Many talkers in one process: in Python (`Batch`, `Session`), over WebSocket and HTTP, and over gRPC."""

from __future__ import annotations

from edgetalker.serve.batch import Batch, BatchOptions
from edgetalker.serve.seat import Event, SeatOptions
from edgetalker.serve.session import Session

__all__ = ["Batch", "BatchOptions", "Event", "SeatOptions", "Session"]
