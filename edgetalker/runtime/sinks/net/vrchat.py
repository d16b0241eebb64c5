"""VRChat over OSC: avatar parameters by Unified Expressions, and the native eye-tracking addresses.

Native eyes (docs.vrchat.com, OSC eye tracking): EyesClosedAmount 0 to 1; LeftRightPitchYaw in degrees, positive pitch
down, positive yaw to the right; both fall back to the avatar's own behaviour 10 s after the last message. Parameters
that the avatar does not declare have no effect. VRChat's newer native face-tracking input is not used: its addresses
were not to be found in a source to rely on.

Unified Expressions: names from UnifiedExpressions.cs and UnifiedExpressionsParameters.cs of
benaclejames/VRCFaceTracking. Which ARKit shape feeds which expression: its documentation's standard comparison
(docs.vrcft.io); a shape that ARKit has once and the standard by side or by lip feeds all of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.names import require_named
from edgetalker.runtime.sinks.net.osc import Message, Packet, bundles
from edgetalker.runtime.sinks.net.pump import Encoder, Stamp
from edgetalker.runtime.sinks.net.sender import UdpSink
from edgetalker.runtime.sinks.options import Option, choice, number, read_endpoint, switch, text

__all__ = ["BASE", "COMBINED", "LIDS", "VrchatEncoder", "VrchatSink", "from_url", "mixture"]

DEFAULT = ("127.0.0.1", 9000)
LEAST_GAZE = 0.5
"""Degrees. A model that never moves the eyes sends no gaze, so that VRChat's own eye movement goes on."""
REFRESH = 1.0
"""Seconds after which values are sent again that did not change, for an avatar that was loaded meanwhile."""


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


def _prefix(value: object) -> str:
    prefix = text(value).strip("/")
    if any(letter in prefix for letter in " #*,?[]{}"):
        raise ValueError("wants an OSC address part, such as v2 or FT/v2")
    return prefix


OPTIONS = {
    "prefix": Option(_prefix, "v2", "between /avatar/parameters/ and the name: v2, or FT/v2 as some templates use"),
    "combined": Option(switch, True, "also JawX, MouthX, SmileFrown and the like"),
    "eyes": Option(
        choice("native", "parameters", "none"),
        "native",
        "native: lids and gaze by VRChat's own addresses; parameters: lids as avatar parameters, no gaze",
    ),
    "gaze": Option(number(0, 90), 25.0, "degrees of eye rotation at EyeLook* = 1; ARKit states no angle"),
    "bundle": Option(switch, False, "one OSC bundle instead of one message a parameter"),
}


def _gaze(degrees: float) -> dict[str, dict[str, float]]:
    """Left pitch, left yaw, right pitch, right yaw. The left eye looking in looks to its owner's right."""
    angles = {}
    for side, inward in (("Left", 1.0), ("Right", -1.0)):
        angles[f"{side}Pitch"] = {f"EyeLookDown{side}": degrees, f"EyeLookUp{side}": -degrees}
        angles[f"{side}Yaw"] = {f"EyeLookIn{side}": inward * degrees, f"EyeLookOut{side}": -inward * degrees}
    return angles


class _Channels:
    """What is sent, one row a value: messages, and values = clip(matrix @ shapes + constants, -limits, limits)."""

    def __init__(self, layout: MotionLayout, options: Mapping[str, Any]) -> None:
        combined = COMBINED if options["combined"] else {}
        mixes = {**BASE, **combined, **(LIDS if options["eyes"] == "parameters" else {})}
        chosen = options["map"].select(list(mixes), "VRChat")
        matrix, constants = mixture(mixes, layout.names)
        base = f"/avatar/parameters/{options['prefix']}/".replace("//", "/")  # the prefix may be empty
        self.messages = [Message(base + name, (Message.Value(place),)) for place, name in enumerate(chosen.names)]
        self.matrix = matrix[chosen.places] * chosen.gains[:, None]
        self.constants = constants[chosen.places] * chosen.gains
        self.limits = np.ones(len(chosen.names), np.float32)
        self.gaze: slice | None = None
        if options["eyes"] == "native":
            self._add_eyes(layout, options["gaze"])

    def _add_eyes(self, layout: MotionLayout, degrees: float) -> None:
        """Add the native addresses: how far the eyes are closed, and four angles."""
        first = len(self.limits)
        self.gaze = slice(first + 1, first + 5)
        closed = {"closed": {"EyeBlinkLeft": 0.5, "EyeBlinkRight": 0.5}}
        matrix, constants = mixture({**closed, **_gaze(degrees)}, layout.names)
        self.matrix = np.concatenate([self.matrix, matrix])
        self.constants = np.concatenate([self.constants, constants])
        self.limits = np.concatenate([self.limits, np.array([1, 90, 90, 90, 90], np.float32)])
        angles = tuple(Message.Value(first + 1 + axis) for axis in range(4))
        self.messages.append(Message("/tracking/eye/EyesClosedAmount", (Message.Value(first),)))
        self.messages.append(Message("/tracking/eye/LeftRightPitchYaw", angles))


class VrchatEncoder:
    """Encodes named ARKit motion: a message a parameter, sent when its value changed and every second anyway."""

    def __init__(self, layout: MotionLayout, options: Mapping[str, Any]) -> None:
        self._channels = channels = _Channels(layout, options)
        bundled = options["bundle"]
        self._packets = bundles(channels.messages) if bundled else [Packet.of(message) for message in channels.messages]
        self._owner = np.zeros(len(channels.limits), np.intp)
        for index, packet in enumerate(self._packets):
            self._owner[[place for _, place in packet.slots]] = index
        self._still = None if bundled else channels.gaze
        self._before = np.full(len(channels.limits), np.nan, np.float32)
        self._refreshed = -REFRESH

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytearray]:
        """Return the datagrams of what changed."""
        channels = self._channels
        mixed = np.clip(channels.matrix @ values + channels.constants, -channels.limits, channels.limits)
        if self._still is not None and np.abs(mixed[self._still]).max() > LEAST_GAZE:
            self._still = None
        fresh = stamp.seconds - self._refreshed >= REFRESH
        if fresh:
            self._refreshed = stamp.seconds
        moved = np.ones(len(mixed), np.bool_) if fresh else mixed != self._before
        if self._still is not None:
            moved[self._still] = False
        changed = np.unique(self._owner[moved])
        self._before = mixed
        return [self._packets[index].write(mixed) for index in changed]


class VrchatSink(UdpSink):
    """Sends to VRChat."""

    def _encoder(self, layout: MotionLayout) -> Encoder:
        require_named(layout, "VRChat")
        return VrchatEncoder(layout, self.endpoint.options)


def from_url(url: str, options: Mapping[str, object] | None = None) -> VrchatSink:
    """Return the sink of `vrchat://host:port?prefix=FT/v2&eyes=native`. Raises OptionError."""
    return VrchatSink(read_endpoint(url, "vrchat", DEFAULT, OPTIONS, options))
