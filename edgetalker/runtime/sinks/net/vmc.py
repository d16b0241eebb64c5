"""VMC protocol (OSC over UDP): shapes for VRM avatars in the programs that play a motion-capture performer.

Addresses and the VRM0 names: the protocol's Marionette page (sh-akira/VirtualMotionCaptureProtocol, docs). Perfect Sync
means 52 VRM clips named as the ARKit shapes. Values go in bundles of at most 1472 bytes, the last ending with Apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.names import ARKIT_SHAPES, HEAD_ANGLES, positions, require_named
from edgetalker.runtime.sinks.net.osc import Message, bundles
from edgetalker.runtime.sinks.net.pump import Encoder, Stamp
from edgetalker.runtime.sinks.net.sender import UdpSink
from edgetalker.runtime.sinks.options import CASE, Option, camel, choice, choices, read_endpoint

__all__ = ["PRESETS", "Presets", "VmcEncoder", "VmcSink", "from_url"]

PRESETS: Mapping[str, tuple[str, ...]] = {
    "vrm0": ("A", "I", "U", "E", "O", "Blink_L", "Blink_R"),
    "vrm1": ("aa", "ih", "ou", "ee", "oh", "blinkLeft", "blinkRight"),
}

_NEEDED = (
    "JawOpen MouthClose MouthFunnel MouthPucker MouthStretchLeft MouthStretchRight MouthSmileLeft MouthSmileRight "
    "EyeBlinkLeft EyeBlinkRight"
).split()

DEFAULT = ("127.0.0.1", 39540)
ASSISTANT_PORT = 39540
"""Where a Performer listens for an Assistant, such as a face alone."""

OPTIONS = {
    "names": Option(
        choices("perfectsync", "vrm0", "vrm1"),
        ("perfectsync", "vrm0"),
        "which clips: perfectsync (52 ARKit names), vrm0 (A I U E O Blink_L Blink_R), vrm1 (aa ih ou ee oh ...)",
    ),
    "case": CASE,
    "bones": Option(choice("none", "head"), "none", "`head` also turns the Head bone"),
    "role": Option(choice("auto", "performer", "assistant"), "auto", "performer also sends OK and the time"),
}


class Presets:
    """A rule of this project, not of a standard: how open, how round and how wide the mouth is gives the vowel.

    O takes funnel, U takes pucker, I takes a wide and E a wide and open mouth, A what opening remains. The five
    never add up to more than 1, as the clips of most avatars are made to be used one at a time.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._places = positions(_NEEDED, names)
        self._out = np.zeros(7, np.float32)

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return A, I, U, E, O, left blink, right blink in [0, 1], shape (7,), reused by the next call."""
        given = np.where(self._places < 0, np.float32(0), values[self._places]).clip(0, 1)
        jaw, close, funnel, pucker = (float(value) for value in given[:4])
        wide = float(given[4:8].sum()) / 2
        opened = max(jaw - close, 0.0)
        wide = min(wide, 1.0)
        o, u, i, e = funnel, pucker, wide * (1 - min(2 * opened, 1)), wide * min(2 * opened, 1)
        a = min(2 * opened, 1) * (1 - min(o + u + e, 1))
        scale = 1 / max(a + i + u + e + o, 1.0)
        self._out[:5] = np.array([a, i, u, e, o], np.float32) * np.float32(scale)
        self._out[5:] = given[8:]
        return self._out


class VmcEncoder:
    """Encodes named ARKit motion. The packets' values: clips, the time, the head's quaternion, a zero."""

    def __init__(self, layout: MotionLayout, options: Mapping[str, Any], performer: bool) -> None:
        kinds = options["names"]
        if not kinds:
            raise OptionError("VMC: `names` leaves nothing to send")
        shapes = [name for name in ARKIT_SHAPES if name in layout.names] if "perfectsync" in kinds else []
        clips = list(map(camel, shapes)) if options["case"] == "camel" else list(shapes)
        clips += [preset for kind in PRESETS if kind in kinds for preset in PRESETS[kind]]
        chosen = options["map"].select(clips, "VMC")
        self._shapes = positions(shapes, layout.names)
        self._presets = Presets(layout.names)
        self._sets = sum(kind in kinds for kind in PRESETS)
        self._places, self._gains = chosen.places, chosen.gains
        self._count = len(chosen.names)
        self._clips = np.zeros(len(clips), np.float32)
        self._values = np.zeros(self._count + 6, np.float32)
        self._head = positions(HEAD_ANGLES, layout.names) if options["bones"] == "head" else None
        if self._head is not None and (self._head < 0).any():
            raise OptionError("VMC: `bones=head` wants a model that gives HeadYaw, HeadPitch and HeadRoll")
        self._packets = bundles(self._messages(chosen.names, performer))

    def _messages(self, names: Sequence[str], performer: bool) -> list[Message]:
        value, n = Message.Value, self._count
        messages = [Message("/VMC/Ext/OK", (1,)), Message("/VMC/Ext/T", (value(n),))] if performer else []
        messages += [Message("/VMC/Ext/Blend/Val", (name, value(place))) for place, name in enumerate(names)]
        messages.append(Message("/VMC/Ext/Blend/Apply"))
        if self._head is not None:
            # The protocol wants a position with a bone; n + 5 is a zero that nothing writes.
            turn = tuple(value(n + 1 + axis) for axis in range(4))
            still = (value(n + 5),) * 3
            messages.append(Message("/VMC/Ext/Bone/Pos", ("Head", *still, *turn)))
        return messages

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytearray]:
        """Return the bundles of one frame, in sending order."""
        n, shapes = self._count, len(self._shapes)
        self._clips[:shapes] = values[self._shapes]
        if self._sets:
            self._clips[shapes:] = np.tile(self._presets.of(values), self._sets)
        np.clip(self._clips[self._places] * self._gains, 0, 1, out=self._values[:n])
        self._values[n] = stamp.seconds
        if self._head is not None:
            self._values[n + 1 : n + 5] = unity_rotation(*values[self._head])
        return [packet.write(self._values) for packet in self._packets]


def unity_rotation(yaw: float, pitch: float, roll: float) -> tuple[float, float, float, float]:
    """Return x, y, z, w of the head's rotation in Unity's left-handed axes; angles in radians.

    Here as in the project's glTF: right-handed, the face looks along +Z; yaw about +Y (positive to the face's own
    left), pitch about +X (positive down), roll about +Z, applied roll first. Unity's axes are these with X mirrored,
    which turns the signs of the y and z parts.
    """
    sy, cy = np.sin(yaw / 2), np.cos(yaw / 2)
    sp, cp = np.sin(pitch / 2), np.cos(pitch / 2)
    sr, cr = np.sin(roll / 2), np.cos(roll / 2)
    x = cy * sp * cr + sy * cp * sr
    y = sy * cp * cr - cy * sp * sr
    z = cy * cp * sr - sy * sp * cr
    w = cy * cp * cr + sy * sp * sr
    return float(x), float(-y), float(-z), float(w)


class VmcSink(UdpSink):
    """Sends to a VMC Marionette, or as an Assistant to a Performer."""

    def _encoder(self, layout: MotionLayout) -> Encoder:
        require_named(layout, "VMC")
        role = self.endpoint.options["role"]
        performer = role == "performer" or (role == "auto" and self.endpoint.port != ASSISTANT_PORT)
        return VmcEncoder(layout, self.endpoint.options, performer)


def from_url(url: str, options: Mapping[str, object] | None = None) -> VmcSink:
    """Return the sink of `vmc://host:port?names=perfectsync,vrm0&bones=head&rate=60`. Raises OptionError."""
    return VmcSink(read_endpoint(url, "vmc", DEFAULT, OPTIONS, options))
