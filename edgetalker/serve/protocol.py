"""What clients and the server say to each other over a WebSocket; docs/serve.md describes it.

A client sends sound as binary messages and everything else as JSON with a `type`; unknown keys and values of the wrong
kind are faults. The server answers JSON, or frames as packed float32 where the client asked for them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from edgetalker.engines.errors import InputError, UserError, nearest
from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.runtime.sources.convert import RATES
from edgetalker.serve.seat import Event

__all__ = ["MAGIC", "VERSION", "ProtocolError", "encode_frame", "fault_message", "layout_message", "read_message"]

VERSION = 1
MAGIC = b"ETS1"
HEAD = struct.Struct("<4sIdIII")
"""magic, index, time in seconds of the utterance's sound, outcome's place in `outcomes`, serial, count of floats."""
OUTCOMES = tuple(outcome.value for outcome in Outcome)

Check = Callable[[Any], bool]


class ProtocolError(InputError):
    """A message that is no message of the protocol. code: a word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _values(value: Any) -> bool:
    """Return whether a control's values are numbers by name or in order."""
    numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return numbers is not None and len(value) <= 1024 and all(map(_number(-1e6, 1e6), numbers))


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200


def _rate(value: Any) -> bool:
    # JSON does not tell 16000.0 from 16000.
    return _number(*RATES)(value) and float(value).is_integer()


_TIMED: Mapping[str, tuple[Check, str]] = {
    "values": (_values, "numbers by name or in order"),
    "time": (_number(0, 1e6), "seconds of the utterance's sound, 0 or more,"),
}
MESSAGES: Mapping[str, Mapping[str, tuple[Check, str]]] = {
    "start": {
        "utterance": (_text, "a text of at most 200 characters"),
        "rate": (_rate, f"whole samples a second, {RATES[0]} to {RATES[1]},"),
        "format": (lambda value: value in ("json", "binary"), "`json` or `binary`"),
    },
    "set": {"control": (_text, "the name of a control"), **_TIMED},
    "emotion": _TIMED,
    "style": _TIMED,
    "flush": {},
    "reset": {},
    "position": {"seconds": (_number(-1e6, 1e6), "seconds of the utterance's sound")},
}
"""Type of message -> key -> (whether a value fits, what was wanted)."""
NEEDED = {"set": ("control", "values"), "emotion": ("values",), "style": ("values",), "position": ("seconds",)}


def read_message(text: str) -> tuple[str, dict[str, Any]]:
    """Return a message's type and its content. Raises ProtocolError, with every fault, for what is none."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("malformed", f"not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise ProtocolError("malformed", "a JSON object with a `type` was wanted")
    kind = content.pop("type", None)
    if not isinstance(kind, str) or kind not in MESSAGES:
        known = ", ".join(MESSAGES)
        raise ProtocolError(
            "unknown_type", f"no message `{str(kind)[:50]}`{nearest(str(kind)[:50], MESSAGES)}; known: {known}"
        )
    keys = MESSAGES[kind]
    faults = [f"no key `{str(key)[:50]}`{nearest(key, keys)}" for key in content if key not in keys]
    faults += [
        f"`{key}`: {wanted} was wanted"
        for key, (fits, wanted) in keys.items()
        if key in content and not fits(content[key])
    ]
    faults += [f"`{key}` is missing" for key in NEEDED.get(kind, ()) if key not in content]
    if faults:
        raise ProtocolError("invalid", f"`{kind}`: " + "; ".join(faults))
    return kind, content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def dump(kind: str, /, **content: Any) -> str:
    """Return a message of the server."""
    return json.dumps({"type": kind, **content}, allow_nan=False, separators=(",", ":"))


def layout_message(layout: MotionLayout, rate: int, controls: Mapping[str, Any]) -> str:
    """Return what a connection begins with: what the numbers mean."""
    return dump(
        "layout",
        protocol=VERSION,
        kind=layout.kind,
        names=list(layout.names),
        shape=list(layout.shape),
        units=layout.units,
        fps=str(layout.fps),
        rate=rate,
        outcomes=list(OUTCOMES),
        controls={name: list(tensor.names) for name, tensor in controls.items()},
    )


def encode_frame(event: Event, layout: MotionLayout, *, binary: bool) -> bytes | str:
    """Return a frame's message."""
    frame = event.frame
    assert frame is not None
    time = float(event.time)
    if binary:
        place = OUTCOMES.index(frame.outcome.value)
        head = HEAD.pack(MAGIC, frame.index, time, place, event.serial, frame.motion.size)
        return head + frame.motion.astype("<f4").tobytes()
    numbers = [round(value, 5) for value in frame.motion.ravel().tolist()]
    named = frame.motion.shape == (len(layout.names),)
    content: dict[str, Any] = (
        {"shapes": dict(zip(layout.names, numbers, strict=True))} if named else {"values": numbers}
    )
    return dump(
        "frame",
        utterance=event.utterance,
        serial=event.serial,
        index=frame.index,
        time=round(time, 6),
        outcome=frame.outcome.value,
        **content,
    )


def fault_message(error: UserError) -> str:
    """Return an error's message. code: a word for programs."""
    code = getattr(error, "code", type(error).__name__.removesuffix("Error").lower())
    return dump("error", code=code, message=error.message, hint=error.hint)
