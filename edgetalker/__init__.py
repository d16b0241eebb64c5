"""Plays trained speech-to-face models on a device, frame by frame, before each frame's deadline.

For programs that embed it: `stream(source)` yields frames, `Talker` takes sound as it comes and returns the frames that
are ready, `Live` runs on the clock beside a program. They are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetalker.runtime.live import Live
    from edgetalker.runtime.stream import Talker, stream

__version__ = "0.1.0"

__all__ = ["Live", "Talker", "__version__", "stream"]

_PLACES = {
    "Live": "edgetalker.runtime.live",
    "Talker": "edgetalker.runtime.stream",
    "stream": "edgetalker.runtime.stream",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module `edgetalker` has no attribute `{name}`")
