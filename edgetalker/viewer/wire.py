"""What goes over the viewer's WebSocket, little-endian.

| message | layout |
|---|---|
| frames | `ETV1`, uint32 take, uint32 n, uint32 width, float64 time[n], uint32 index[n], uint32 outcome[n], float32 cost_ms[n], float32 late_ms[n], float32 values[n * width] |
| sound | `ETA1`, uint32 take, uint32 rate, uint32 n, float64 first sample, float32 samples[n] |
| all else | JSON text with a `type`: to the page `hello`, `take`, `status`, `end`, `ok`, `error`; from the page `set`, `reset`, `say` |

late_ms: how long after its deadline a frame was done, negative when before, NaN when it had none. Every request is answered
by `ok` or `error`, with the `id` that it brought. docs/viewer.md has the requests.
"""  # noqa: E501 - a table

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError, UserError
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.sources.convert import RATES

__all__ = [
    "OUTCOMES",
    "Request",
    "Shown",
    "answer_message",
    "frames_message",
    "parse_request",
    "read_request",
    "shown",
    "sound_message",
]

OUTCOMES = tuple(outcome.value for outcome in Outcome)
_LARGEST = 1e30
_NUMBER = {outcome: number for number, outcome in enumerate(Outcome)}


@dataclass(frozen=True)
class Shown:
    """One frame as the page needs it; values is a flat float32 copy."""

    index: int
    time: float
    outcome: int
    cost_ms: float
    late_ms: float
    values: NDArray[np.float32]


def shown(frame: Frame) -> Shown:
    """Copy what the page needs out of a frame."""
    late = (frame.done_ns - frame.due_ns) * 1e-6 if frame.due_ns else math.nan
    values = np.array(frame.motion, np.float32).ravel()
    return Shown(frame.index, float(frame.time), _NUMBER[frame.outcome], frame.cost_ns * 1e-6, late, values)


def frames_message(take: int, frames: Sequence[Shown]) -> bytes:
    """Return the binary message of some frames of equal width."""
    width = len(frames[0].values)
    parts = [
        struct.pack("<4sIII", b"ETV1", take, len(frames), width),
        np.array([f.time for f in frames], "<f8").tobytes(),
        np.array([f.index for f in frames], "<u4").tobytes(),
        np.array([f.outcome for f in frames], "<u4").tobytes(),
        np.array([f.cost_ms for f in frames], "<f4").tobytes(),
        np.array([f.late_ms for f in frames], "<f4").tobytes(),
        np.concatenate([f.values for f in frames]).astype("<f4", copy=False).tobytes(),
    ]
    return b"".join(parts)


def sound_message(take: int, rate: int, first: int, samples: NDArray[np.float32]) -> bytes:
    """Return the binary message of samples that begin at sample number `first`."""
    head = struct.pack("<4sIIId", b"ETA1", take, rate, len(samples), float(first))
    return head + samples.astype("<f4", copy=False).tobytes()


@dataclass(frozen=True)
class Request:
    """What a page asks for: `set` (a control and its values), `reset`, or `say` (samples (n,) int16, rate in Hz)."""

    type: str
    name: str = ""
    values: dict[str, float] | None = None
    samples: NDArray[np.int16] | None = None
    rate: int = 0


def parse_request(text: str | bytes) -> object:
    """Return a message's JSON value. Raises OptionError for what is none."""
    if isinstance(text, bytes):
        raise OptionError("a binary message came; JSON text was wanted")
    try:
        message: object = json.loads(text)
    except (ValueError, RecursionError):
        raise OptionError("a message that is no JSON came") from None
    return message


def answer_message(message: object, fault: UserError | None) -> str:
    """Return what a request is answered with: `ok`, or `error` with a word for programs, and the request's own `id`."""
    number = message.get("id") if isinstance(message, dict) else None
    content: dict[str, Any] = {"type": "ok"}
    if fault is not None:
        code = type(fault).__name__.removesuffix("Error").lower()
        content = {"type": "error", "code": code, "message": fault.message, "hint": fault.hint}
    if isinstance(number, (str, int)) and len(str(number)) <= 100:
        content["id"] = number
    return json.dumps(content, allow_nan=False)


def read_request(message: object) -> Request:
    """Read what a page asks for. Raises OptionError for anything but a known, well-formed request, InputError for
    sound that is none."""
    if isinstance(message, dict):
        if message.get("type") == "reset":
            return Request("reset")
        if message.get("type") == "set":
            return _set(message)
        if message.get("type") == "say":
            return _say(message)
    raise OptionError("a message of an unknown type came; known are set, reset and say")


def _set(message: dict[str, Any]) -> Request:
    name, values = message.get("control"), message.get("values")
    if not isinstance(name, str) or not isinstance(values, dict) or not values:
        raise OptionError("`set` needs a control and values by name")
    # JSON's whole numbers have any length; `<=` takes those, too, and refuses NaN.
    if not all(type(value) in (int, float) and abs(value) <= _LARGEST for value in values.values()):
        raise OptionError(f"control {name[:40]!r}: a value is no finite number")
    return Request("set", name, {str(key): float(value) for key, value in values.items()})


def _say(message: dict[str, Any]) -> Request:
    rate, audio = message.get("rate"), message.get("audio")
    if type(rate) is not int or not RATES[0] <= rate <= RATES[1]:
        raise OptionError(f"`say` needs a rate of {RATES[0]} to {RATES[1]} samples a second")
    try:
        data = base64.b64decode(audio if isinstance(audio, str) else "", validate=True)
    except binascii.Error:
        data = b""
    if not data or len(data) % 2:
        raise InputError("`say` needs audio: base64 of 16-bit little-endian mono samples")
    return Request("say", samples=np.frombuffer(data, "<i2"), rate=rate)
