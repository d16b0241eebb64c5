"""What is being shown: the scene, the newest frames and sound, and the tally, for any number of readers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.runtime.frame import MotionLayout, Outcome
from edgetalker.viewer.ring import Ring
from edgetalker.viewer.wire import OUTCOMES, Shown, frames_message, sound_message

__all__ = ["Mode", "Reader", "Stream"]

Mode = Literal["clip", "live"]
LIVE_FRAMES = 64
LIVE_SOUNDS = 256
BLOCK = 128 * 1024  # bytes of frames in one message, at most, unless one frame alone is larger


@dataclass
class _Take:
    """One run through the sound: a new one begins at a reset, or when a clip is animated anew."""

    number: int
    frames: Ring[Shown]
    sounds: Ring[tuple[int, int, NDArray[np.float32]]]
    heard: int = 0
    last: int = -1
    done: bool = False
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))


class Stream:
    """Written by one thread, read by the server's; a write takes a lock for microseconds and never waits for readers.

    A `clip` keeps all its frames, so that a page can scrub and late pages see everything; `live` keeps the newest.
    """

    def __init__(self, mode: Mode, title: str = "") -> None:
        self.mode, self.title = mode, title
        self._hello: dict[str, Any] | None = None
        self._version = 0
        self._take = self._new_take(0)
        self._notify: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def _new_take(self, number: int) -> _Take:
        live = self.mode == "live"
        return _Take(number, Ring(LIVE_FRAMES if live else None), Ring(LIVE_SOUNDS))

    def listen(self, notify: Callable[[], None] | None) -> None:
        """Call `notify` after each change, from the writer's thread; it must be quick."""
        self._notify = notify

    def _changed(self) -> None:
        if self._notify is not None:
            self._notify()

    def describe(
        self,
        layout: MotionLayout,
        *,
        audio: Mapping[str, Any] | None = None,
        mesh: str | None = None,
        controls: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Say what is shown. audio and mesh are URL paths of the server's assets; pages that are open start anew."""
        count = int(np.prod(layout.shape))
        self._hello = {
            "mode": self.mode,
            "title": self.title,
            "layout": {
                "kind": layout.kind,
                "names": list(layout.names),
                "fps": [layout.fps.numerator, layout.fps.denominator],
                "count": count,
            },
            "outcomes": list(OUTCOMES),
            "audio": audio,
            "mesh": mesh,
            "controls": list(controls),
        }
        with self._lock:
            self._version += 1
        self._changed()

    def begin(self) -> None:
        """Begin a new take: what was shown before no longer counts."""
        self._take = self._new_take(self._take.number + 1)
        self._changed()

    def frame(self, frame: Shown) -> None:
        """Show one frame. An index that goes back begins a new take by itself (a talker that was reset)."""
        if frame.index < self._take.last:
            self.begin()
        take = self._take
        skipped = max(frame.index - take.last - 1, 0)
        take.outcomes[Outcome.SKIPPED.value] += skipped
        take.outcomes[OUTCOMES[frame.outcome]] += 1
        take.last = frame.index
        take.frames.append(frame)
        self._changed()

    def sound(self, samples: NDArray[np.float32], rate: int) -> None:
        """Let pages hear what the talker hears (live only; a clip's sound is a file)."""
        take = self._take
        take.sounds.append((take.heard, rate, np.array(samples, np.float32)))
        take.heard += len(samples)
        self._changed()

    def finish(self) -> None:
        """Say that this take has no more frames."""
        self._take.done = True
        self._changed()

    def status(self) -> dict[str, Any]:
        """Return the take's number, its outcomes (they add up to the frames due) and whether it is complete."""
        take = self._take
        return {"take": take.number, "outcomes": dict(take.outcomes), "done": take.done}


class Reader:
    """One page's place in the stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._version = 0
        self._take: _Take | None = None
        self._frame = self._sound = 0
        self.dropped = 0
        self.behind = False
        """Whether there was more to send than `messages` returned."""

    def messages(self) -> list[str | bytes]:
        """Return what this page should be sent next: a bounded piece, oldest first."""
        stream, out = self._stream, []
        hello, version = stream._hello, stream._version
        if hello is None:
            return []
        if version != self._version:
            self._version, self._take = version, None
            out.append(json.dumps({"type": "hello", **hello}, allow_nan=False))
        if stream._take is not self._take:
            self._take, self._frame, self._sound = stream._take, 0, 0
            out.append(json.dumps({"type": "take", "take": self._take.number}))
        return [*out, *self._sounds(self._take), *self._frames(self._take, hello["layout"]["count"])]

    def _sounds(self, take: _Take) -> list[bytes]:
        pieces, self._sound, _ = take.sounds.since(self._sound, LIVE_SOUNDS)
        return [sound_message(take.number, rate, first, samples) for first, rate, samples in pieces]

    def _frames(self, take: _Take, width: int) -> list[bytes]:
        most = max(1, BLOCK // (4 * width + 28))
        frames, self._frame, missed = take.frames.since(self._frame, most)
        self.dropped += missed
        self.behind = take.frames.end > self._frame
        return [frames_message(take.number, frames)] if frames else []
