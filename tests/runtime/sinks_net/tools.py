"""What the tests of network sinks share: frames, and receivers that know nothing of the project's encoders."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import Frame, MotionLayout, Outcome

# Written out here, not imported: the order that receivers expect is what is tested.
SHAPES = (
    "EyeBlinkLeft EyeLookDownLeft EyeLookInLeft EyeLookOutLeft EyeLookUpLeft EyeSquintLeft EyeWideLeft EyeBlinkRight "
    "EyeLookDownRight EyeLookInRight EyeLookOutRight EyeLookUpRight EyeSquintRight EyeWideRight JawForward JawLeft "
    "JawRight JawOpen MouthClose MouthFunnel MouthPucker MouthLeft MouthRight MouthSmileLeft MouthSmileRight "
    "MouthFrownLeft MouthFrownRight MouthDimpleLeft MouthDimpleRight MouthStretchLeft MouthStretchRight "
    "MouthRollLower MouthRollUpper MouthShrugLower MouthShrugUpper MouthPressLeft MouthPressRight "
    "MouthLowerDownLeft MouthLowerDownRight MouthUpperUpLeft MouthUpperUpRight BrowDownLeft BrowDownRight "
    "BrowInnerUp BrowOuterUpLeft BrowOuterUpRight CheekPuff CheekSquintLeft CheekSquintRight NoseSneerLeft "
    "NoseSneerRight TongueOut"
).split()
NAMES = (*SHAPES, "HeadYaw", "HeadPitch", "HeadRoll")
LAYOUT = MotionLayout("arkit", (55,), Fraction(30), NAMES)


def frame(index: int, motion: NDArray[np.float32] | None = None, outcome: Outcome = Outcome.ON_TIME) -> Frame:
    """A frame at 30 fps; by default its values are its index."""
    values = np.full(55, index, np.float32) if motion is None else motion
    return Frame(index, index * 533, Fraction(index, 30), values, outcome)


def motion(**shapes: float) -> NDArray[np.float32]:
    """Named values, the rest 0."""
    values = np.zeros(len(NAMES), np.float32)
    for name, value in shapes.items():
        values[NAMES.index(name)] = value
    return values


@contextmanager
def receiver() -> Iterator[socket.socket]:
    """A bound UDP socket on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(10)
        yield bound


def unused_port() -> int:
    """A UDP port that nothing listens on (it was free a moment ago)."""
    with receiver() as bound:
        return int(bound.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; fail when it does not come, which takes long enough for a very busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)


def sender_threads() -> list[str]:
    """Names of the sinks' threads that are alive."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("edgetalker-")]
    return [
        name for name in names if not name.startswith("edgetalker-aside")
    ]  # a talker's own, which ends with the talker


@dataclass(frozen=True)
class LiveLinkPacket:
    """What a version 6 datagram says."""

    device: str
    subject: str
    frame: int
    subframe: float
    rate: Fraction
    values: tuple[float, ...]


def read_live_link(data: bytes) -> LiveLinkPacket:
    """Decode by the layout: bytes are taken one field after the other, and none may be left."""

    def take(form: str) -> tuple[object, ...]:
        nonlocal data
        size = struct.calcsize(form)
        part, data = data[:size], data[size:]
        return struct.unpack(form, part)

    def take_text() -> str:
        nonlocal data
        (length,) = take(">i")
        assert isinstance(length, int)
        part, data = data[:length], data[length:]
        return part.decode()

    assert take(">B") == (6,)
    device, subject = take_text(), take_text()
    (number, subframe, numerator, denominator) = take(">ifii")
    assert take(">B") == (61,)
    values = take(">61f")
    assert data == b""
    assert isinstance(number, int)
    assert isinstance(subframe, float)
    assert isinstance(numerator, int)
    assert isinstance(denominator, int)
    floats = tuple(value for value in values if isinstance(value, float))
    return LiveLinkPacket(device, subject, number, subframe, Fraction(numerator, denominator), floats)
