"""Live Link Face over UDP, version 6: what Unreal Engine's Live Link Face source and several other programs read.

Layout, all in network byte order: uint8 6 | int32 length + device id | int32 length + subject name | int32 frame |
float32 subframe | int32 rate numerator | int32 rate denominator | uint8 61 | 61 float32: 52 ARKit shapes in Epic's
order, HeadYaw/Pitch/Roll, then yaw, pitch, roll of the left and of the right eye. It was decoded by PyLiveLinkFace and
by the reader in the tests; it was not tried against Unreal Engine itself.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.runtime.frame import MotionLayout
from edgetalker.runtime.sinks.names import LIVELINK_NAMES, NameMap, positions, require_named
from edgetalker.runtime.sinks.net.pump import Encoder, Stamp
from edgetalker.runtime.sinks.net.sender import UdpSink
from edgetalker.runtime.sinks.options import Option, read_endpoint, text

__all__ = ["LiveLinkEncoder", "LiveLinkSink", "from_url"]

DEFAULT = ("127.0.0.1", 11111)


def _device() -> str:
    """Return an id of 36 characters that stays the same on this machine: some readers expect that length."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{uuid.getnode()}.edgetalker")).upper()


def _label(value: object) -> str:
    label = text(value)
    if not 0 < len(label.encode()) <= 256:
        raise ValueError("wants 1 to 256 bytes")
    return label


OPTIONS = {
    "subject": Option(_label, "edgetalker", "subject name that the receiver shows"),
    "device": Option(_label, None, "device id; by default one of 36 characters that stays the same on this machine"),
}


class LiveLinkEncoder:
    """Encodes named ARKit motion as version 6 packets.

    Head angles pass as they come (radians). Values that the model does not give are 0, the eye angles always:
    the receiver turns the eyes by the 8 EyeLook shapes, and angles beside them would turn them twice.
    """

    def __init__(self, layout: MotionLayout, subject: str, device: str | None, names: NameMap) -> None:
        sent = [name for name in LIVELINK_NAMES if name in layout.names]
        chosen = names.select(sent, "Live Link Face")
        for name in chosen.names:
            if name not in LIVELINK_NAMES:
                raise OptionError(f"Live Link Face has no value `{name}`{nearest(name, LIVELINK_NAMES)}")
        self._from = positions(sent, layout.names)[chosen.places]
        self._to = positions(chosen.names, LIVELINK_NAMES)
        self._gains = chosen.gains
        identity, shown = (device or _device()).encode(), subject.encode()
        self._head = struct.pack(f">Bi{len(identity)}si{len(shown)}s", 6, len(identity), identity, len(shown), shown)
        self._values = np.zeros(61, np.float32)

    def encode(self, values: NDArray[np.float32], stamp: Stamp) -> Sequence[bytes]:
        """Return one datagram. The frame number is the packet's own; at a fixed rate it is the exact time line."""
        self._values[self._to] = values[self._from] * self._gains
        rate = stamp.rate
        time = struct.pack(">ifiiB", stamp.number & 0x7FFFFFFF, 0.0, rate.numerator, rate.denominator, 61)
        return (self._head + time + self._values.astype(">f4").tobytes(),)


class LiveLinkSink(UdpSink):
    """Sends to a Live Link Face receiver."""

    def _encoder(self, layout: MotionLayout) -> Encoder:
        require_named(layout, "Live Link Face")
        options = self.endpoint.options
        return LiveLinkEncoder(layout, options["subject"], options["device"], options["map"])


def from_url(url: str, options: Mapping[str, object] | None = None) -> LiveLinkSink:
    """Return the sink of `livelink://host:port?subject=Kiosk&device=ID&rate=60`. Raises OptionError."""
    return LiveLinkSink(read_endpoint(url, "livelink", DEFAULT, OPTIONS, options))
