"""VRCFaceTracking's Unified Expressions from ARKit shapes.

Names: UnifiedExpressions.cs and UnifiedExpressionsParameters.cs of benaclejames/VRCFaceTracking. Which ARKit shape
feeds which expression: its documentation's standard comparison (docs.vrcft.io); a shape that ARKit has once and the
standard by side or by lip feeds all of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BASE", "COMBINED", "LIDS", "mixture"]

Mix = Mapping[str, float]


def _sided(unified: str, arkit: str) -> dict[str, Mix]:
    return {f"{unified}{side}": {f"{arkit}{side}": 1.0} for side in ("Left", "Right")}


def _spread(unified: Sequence[str], arkit: str) -> dict[str, Mix]:
    return {name: {arkit: 1.0} for name in unified}


def _quarters(stem: str) -> list[str]:
    return [f"{stem}{lip}{side}" for lip in ("Upper", "Lower") for side in ("Left", "Right")]


BASE: Mapping[str, Mix] = {
    **_sided("EyeSquint", "EyeSquint"),
    **_sided("EyeWide", "EyeWide"),
    **_sided("BrowPinch", "BrowDown"),
    **_sided("BrowLowerer", "BrowDown"),
    **_spread(("BrowInnerUpLeft", "BrowInnerUpRight"), "BrowInnerUp"),
    **_sided("BrowOuterUp", "BrowOuterUp"),
    **_sided("CheekSquint", "CheekSquint"),
    **_spread(("CheekPuffLeft", "CheekPuffRight"), "CheekPuff"),
    **{name: {name: 1.0} for name in ("JawOpen", "JawLeft", "JawRight", "JawForward")},
    "MouthClosed": {"MouthClose": 1.0},
    **_spread(("LipSuckUpperLeft", "LipSuckUpperRight"), "MouthRollUpper"),
    **_spread(("LipSuckLowerLeft", "LipSuckLowerRight"), "MouthRollLower"),
    **_spread(_quarters("LipFunnel"), "MouthFunnel"),
    **_spread(_quarters("LipPucker"), "MouthPucker"),
    **_sided("MouthUpperUp", "MouthUpperUp"),
    **_sided("MouthLowerDown", "MouthLowerDown"),
    **_sided("NoseSneer", "NoseSneer"),
    **_spread(("MouthUpperLeft", "MouthLowerLeft"), "MouthLeft"),
    **_spread(("MouthUpperRight", "MouthLowerRight"), "MouthRight"),
    **_sided("MouthCornerPull", "MouthSmile"),
    **_sided("MouthCornerSlant", "MouthSmile"),
    **_sided("MouthFrown", "MouthFrown"),
    **_sided("MouthStretch", "MouthStretch"),
    **_sided("MouthDimple", "MouthDimple"),
    "MouthRaiserUpper": {"MouthShrugUpper": 1.0},
    "MouthRaiserLower": {"MouthShrugLower": 1.0},
    **_sided("MouthPress", "MouthPress"),
    "TongueOut": {"TongueOut": 1.0},
}
"""The standard's base expressions that ARKit can feed, each a sum of ARKit shapes."""

COMBINED: Mapping[str, Mix] = {
    "JawX": {"JawRight": 1.0, "JawLeft": -1.0},
    "JawZ": {"JawForward": 1.0},
    "MouthX": {"MouthRight": 1.0, "MouthLeft": -1.0},
    "MouthOpen": {f"Mouth{part}{side}": 0.25 for part in ("UpperUp", "LowerDown") for side in ("Left", "Right")},
    "MouthUpperUp": {"MouthUpperUpLeft": 0.5, "MouthUpperUpRight": 0.5},
    "MouthLowerDown": {"MouthLowerDownLeft": 0.5, "MouthLowerDownRight": 0.5},
    "LipFunnel": {"MouthFunnel": 1.0},
    "LipPucker": {"MouthPucker": 1.0},
    "CheekPuffSuck": {"CheekPuff": 1.0},
    "SmileFrownLeft": {"MouthSmileLeft": 1.0, "MouthFrownLeft": -1.0},
    "SmileFrownRight": {"MouthSmileRight": 1.0, "MouthFrownRight": -1.0},
    "SmileFrown": {
        **{f"MouthSmile{side}": 0.5 for side in ("Left", "Right")},
        **{f"MouthFrown{side}": -0.5 for side in ("Left", "Right")},
    },
}
"""Combined parameters, as many avatars declare only these; VRCFaceTracking computes the same sums."""

LIDS: Mapping[str, Mix] = {
    "EyeClosedLeft": {"EyeBlinkLeft": 1.0},
    "EyeClosedRight": {"EyeBlinkRight": 1.0},
    # 0.75 when open as usual, 1 when wide, 0 when shut. The key "" stands for a constant.
    "EyeLidLeft": {"": 0.75, "EyeBlinkLeft": -0.75, "EyeWideLeft": 0.25},
    "EyeLidRight": {"": 0.75, "EyeBlinkRight": -0.75, "EyeWideRight": 0.25},
}


def mixture(mixes: Mapping[str, Mix], names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a matrix (len(mixes), len(names)) and constants (len(mixes),): mixes = matrix @ values + constants.

    A shape that is not in `names` counts as 0.
    """
    place = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(mixes), len(names)), np.float32)
    constants = np.zeros(len(mixes), np.float32)
    for row, mix in enumerate(mixes.values()):
        for name, weight in mix.items():
            if not name:
                constants[row] = weight
            elif name in place:
                matrix[row, place[name]] += weight
    return matrix, constants
