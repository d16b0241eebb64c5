"""Checkpoint files: what lies in them, read as data."""

from __future__ import annotations

from edgetalker.models.weights.errors import CheckpointError, tensor_faults
from edgetalker.models.weights.file import Found, WeightsFile, read_tensors, read_weights

__all__ = ["CheckpointError", "Found", "WeightsFile", "read_tensors", "read_weights", "tensor_faults"]
