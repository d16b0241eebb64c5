"""Names of a frame of motion: the 52 ARKit shapes in Epic's order, then yaw, pitch and roll of the head."""

from __future__ import annotations

from edgetalker.runtime.sinks.names import ARKIT_SHAPES, HEAD_ANGLES

__all__ = ["HEAD_ANGLES", "MOTION_NAMES"]

MOTION_NAMES: tuple[str, ...] = ARKIT_SHAPES + HEAD_ANGLES
