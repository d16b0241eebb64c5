"""The 52 ARKit shapes and the three head angles, in the order that this project uses everywhere."""

from __future__ import annotations

__all__ = ["ARKIT_SHAPES", "HEAD_ANGLES", "MOTION_NAMES", "SHAPE_INDEX", "mirrored_name"]

# The order of Epic's EARFaceBlendShape and of NVIDIA's Audio2Face message; Apple gives a dictionary, no order.
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
MOTION_NAMES: tuple[str, ...] = ARKIT_SHAPES + HEAD_ANGLES
SHAPE_INDEX: dict[str, int] = {name: index for index, name in enumerate(ARKIT_SHAPES)}


def mirrored_name(name: str) -> str:
    """Return the shape that is `name` seen in a mirror; shapes of the middle are their own mirror."""
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name[: -len(side)] + other
    return name
