"""OSC 1.0 packets whose form is fixed and whose floats change: encoded once, then only the floats are written.

The python-osc package builds a packet anew from its parts: measured 0.78 ms for 52 shapes, all of it under the
interpreter's lock that the talker needs too; writing the floats into a finished packet takes 0.002 ms. Hence these few
lines, and python-osc as the independent reader in the tests. Format: OSC 1.0 specification (opensoundcontrol.org).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_DATAGRAM", "Message", "Packet", "bundles"]

MAX_DATAGRAM = 1472
"""Bytes of UDP payload in an Ethernet frame of 1500: what every path carries in one piece."""

BUNDLE_HEAD = b"#bundle\0" + struct.pack(">Q", 1)  # time tag 1: at once


def _padded(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return raw + b"\0" * (-len(raw) % 4)


@dataclass(frozen=True)
class Message:
    """An address with its arguments. A float argument is a slot: the place in the value vector that fills it.

    arguments: str and int are sent as they are; `Message.Value(place)` is a float of the frame.
    """

    @dataclass(frozen=True)
    class Value:
        """The float argument that is filled with value number `place`."""

        place: int

    address: str
    arguments: tuple[str | int | Message.Value, ...] = ()

    def encode(self) -> tuple[bytes, list[tuple[int, int]]]:
        """Return the bytes and, for each float, its offset in them and its place in the values."""
        tags = "," + "".join("s" if isinstance(a, str) else "i" if isinstance(a, int) else "f" for a in self.arguments)
        raw = _padded(self.address) + _padded(tags)
        slots: list[tuple[int, int]] = []
        for argument in self.arguments:
            if isinstance(argument, Message.Value):
                slots.append((len(raw), argument.place))
                raw += bytes(4)
            else:
                raw += _padded(argument) if isinstance(argument, str) else struct.pack(">i", argument)
        return raw, slots


@dataclass
class Packet:
    """A finished datagram whose floats can be written again."""

    data: bytearray
    slots: Sequence[tuple[int, int]]
    _bytes: NDArray[np.uint8] = field(init=False)
    _offsets: NDArray[np.intp] = field(init=False)
    _places: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        offsets = np.array([offset for offset, _ in self.slots], dtype=np.intp).reshape(-1, 1)
        self._bytes = np.frombuffer(self.data, np.uint8)
        self._offsets = offsets + np.arange(4, dtype=np.intp)
        self._places = np.array([place for _, place in self.slots], dtype=np.intp)

    @classmethod
    def of(cls, message: Message) -> Packet:
        """Return the datagram of a single message."""
        raw, slots = message.encode()
        return cls(bytearray(raw), slots)

    def write(self, values: NDArray[np.float32]) -> bytearray:
        """Write the floats (big-endian) of the value vector and return the datagram, which is reused."""
        if len(self.slots):
            chosen = values[self._places].astype(">f4")
            self._bytes[self._offsets] = chosen.view(np.uint8).reshape(-1, 4)
        return self.data


def bundles(messages: Sequence[Message], limit: int = MAX_DATAGRAM) -> list[Packet]:
    """Pack messages in order into as few bundles of at most `limit` bytes as going forward allows."""
    packets: list[Packet] = []
    data, slots = bytearray(BUNDLE_HEAD), list[tuple[int, int]]()
    for message in messages:
        raw, own = message.encode()
        if len(data) + 4 + len(raw) > limit and len(data) > len(BUNDLE_HEAD):
            packets.append(Packet(data, slots))
            data, slots = bytearray(BUNDLE_HEAD), []
        start = len(data) + 4
        data += struct.pack(">i", len(raw)) + raw
        slots += [(start + offset, place) for offset, place in own]
    return [*packets, Packet(data, slots)]
