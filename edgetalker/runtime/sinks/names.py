"""Names and orders of what is sent: ARKit's 52 shapes, Live Link Face's 61 values, and reading them from a layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout

__all__ = ["ARKIT_SHAPES", "EYE_ANGLES", "HEAD_ANGLES", "LIVELINK_NAMES", "positions", "require_named"]

# Apple gives a dictionary, no order. This is the order of Epic's EARFaceBlendShape, which Live Link Face sends.
ARKIT_SHAPES: tuple[str, ...] = tuple(
    """
    EyeBlinkLeft EyeLookDownLeft EyeLookInLeft EyeLookOutLeft EyeLookUpLeft EyeSquintLeft EyeWideLeft
    EyeBlinkRight EyeLookDownRight EyeLookInRight EyeLookOutRight EyeLookUpRight EyeSquintRight EyeWideRight
    JawForward JawLeft JawRight JawOpen
    MouthClose MouthFunnel MouthPucker MouthLeft MouthRight MouthSmileLeft MouthSmileRight
    MouthFrownLeft MouthFrownRight MouthDimpleLeft MouthDimpleRight MouthStretchLeft MouthStretchRight
    MouthRollLower MouthRollUpper MouthShrugLower MouthShrugUpper MouthPressLeft MouthPressRight
    MouthLowerDownLeft MouthLowerDownRight MouthUpperUpLeft MouthUpperUpRight
    BrowDownLeft BrowDownRight BrowInnerUp BrowOuterUpLeft BrowOuterUpRight
    CheekPuff CheekSquintLeft CheekSquintRight NoseSneerLeft NoseSneerRight TongueOut
    """.split()
)
HEAD_ANGLES: tuple[str, ...] = ("HeadYaw", "HeadPitch", "HeadRoll")
EYE_ANGLES: tuple[str, ...] = tuple(
    f"{side}Eye{angle}" for side in ("Left", "Right") for angle in ("Yaw", "Pitch", "Roll")
)
LIVELINK_NAMES: tuple[str, ...] = ARKIT_SHAPES + HEAD_ANGLES + EYE_ANGLES


def require_named(layout: MotionLayout, receiver: str) -> None:
    """Raise OptionError unless the layout carries ARKit shapes by name, one value a name."""
    if layout.kind == "arkit" and layout.names and layout.shape == (len(layout.names),):
        return
    raise OptionError(
        f"{receiver} takes ARKit shapes, and this model gives `{layout.kind}` of shape {layout.shape}",
        hint="use a model whose motion is ARKit shapes, or a sink that takes any motion (ws://, view, .npz, .jsonl)",
    )


def positions(wanted: Sequence[str], names: Sequence[str]) -> NDArray[np.intp]:
    """Return for each wanted name its place in `names`, shape (len(wanted),); -1 where there is none."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in wanted], dtype=np.intp)
