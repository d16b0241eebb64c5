"""The 52 ARKit shapes and the three head angles, and which shape is which one's mirror image."""

from __future__ import annotations

from edgetalker.runtime.sinks.names import ARKIT_SHAPES, HEAD_ANGLES

__all__ = ["ARKIT_SHAPES", "HEAD_ANGLES", "MOTION_NAMES", "SHAPE_INDEX", "mirrored_name"]

MOTION_NAMES: tuple[str, ...] = ARKIT_SHAPES + HEAD_ANGLES
SHAPE_INDEX: dict[str, int] = {name: index for index, name in enumerate(ARKIT_SHAPES)}


def mirrored_name(name: str) -> str:
    """Return the shape that is `name` seen in a mirror; shapes of the middle are their own mirror."""
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name[: -len(side)] + other
    return name
