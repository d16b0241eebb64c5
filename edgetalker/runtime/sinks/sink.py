"""What a sink is: where motion goes, and what became of the frames that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.files import PartFile, checked_target, reported
from edgetalker.runtime.clock import Durations
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.sinks.options import Option, read_table

if TYPE_CHECKING:
    from edgetalker.runtime.talker import Talker

__all__ = ["HOOKS", "FileSink", "Running", "Sink", "SinkStatistics"]

HOOKS = ("open", "attach", "hear", "send", "reset", "close")
"""What the loop calls. Each is a method of Sink, so that a subclass overrides only what it needs."""


class Running(Protocol):
    """What can begin anew: a `Loop` or a `Live`."""

    def reset(self) -> None: ...


class Sink:
    """Where motion goes. Called from the loop's thread; `send` must not block on a slow receiver.

    Subclasses override what they need; every hook but `send` does nothing by itself. name: what messages and the
    summary call it.
    """

    name: str = ""

    def __init_subclass__(cls) -> None:
        """A hook that is misspelt would never be called: refuse it when the class is made."""
        for name in cls.__dict__:
            close = get_close_matches(name, HOOKS, n=1, cutoff=0.75)
            if close and name not in HOOKS and callable(cls.__dict__[name]):
                raise TypeError(f"{cls.__qualname__}.{name} is no hook of a sink; did you mean `{close[0]}`?")

    def attach(self, talker: Talker, running: Running) -> None:
        """Take what the motion comes from, once and before `open`: a page has sliders and a button to begin anew."""

    def open(self, layout: MotionLayout) -> None:
        """Called once before the first frame. Raises UserError when this layout cannot be sent there."""

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        """Take a piece of sound as the loop reads it: mono float32, valid only during the call."""

    def send(self, frame: Frame) -> None:
        """Take one frame. The motion array is only valid during the call."""
        raise NotImplementedError(f"{type(self).__name__} has no `send`")

    def reset(self) -> None:
        """The talker begins anew: samples and frames are counted from 0 again."""

    def close(self) -> None:
        """Finish: files take their name now. Called once, also after an interrupt or an error."""


class FileSink(Sink):
    """Writes one file, which takes its name when the sink is closed; without any frame there is none.

    OPTIONS: what may follow the file's name. frames: how many were written.
    """

    OPTIONS: Mapping[str, Option] = {}

    def __init__(self, path: Path | str, options: Mapping[str, object] | None = None) -> None:
        """Raises OptionError for an option that it does not have, OutputError when nothing can be written there."""
        self.options = read_table(str(path), self.OPTIONS, options)
        self.path = checked_target(path)
        self.frames = 0

    def close(self) -> None:
        """Finish the file and give it its name. Raises OutputError."""
        try:
            if self.frames:
                with reported(self.path):
                    self.finish()
                self._part.keep()
        finally:
            self._part.discard()

    def begin(self, *, seekable: bool = False) -> PartFile:
        """Open the part that becomes the file, and return it."""
        self._part = PartFile(self.path, seekable=seekable)
        return self._part

    def finish(self) -> None:
        """Write what comes after the last frame."""


@dataclass
class SinkStatistics:
    """Counts of one sink. After `close`, `frames == sent + dropped + failed`.

    frames: given to `send`. sent: handed to the network (with a fixed rate: taken into what was sent). dropped:
    pushed out of the full queue by newer ones, stale after a fault, or left at the end. failed: their packets were
    refused by the system. errors: faults of any kind (name resolution, refused ports, send errors). packets,
    bytes: datagrams or messages that left. ticks_missed: sending times of a fixed rate that passed while the
    machine was busy or the receiver unreachable. late_ns: the most that a fixed-rate packet left after its time.
    refused: the last fault was a port that nobody listens on. delay: from `send` to the packet's leaving; with a fixed
    rate, of the newest frame in it. notes: what only this kind of sink counts, by what it is called in the summary.
    """

    frames: int = 0
    sent: int = 0
    dropped: int = 0
    failed: int = 0
    errors: int = 0
    packets: int = 0
    bytes: int = 0
    ticks_missed: int = 0
    late_ns: int = 0
    last_error: str = ""
    refused: bool = False
    notes: dict[str, int] = field(default_factory=dict)
    delay: Durations = field(default_factory=Durations, repr=False)

    @property
    def accounted(self) -> int:
        """Frames whose end is known."""
        return self.sent + self.dropped + self.failed

    def error(self, fault: BaseException | str) -> None:
        """Count a fault and keep its text for the summary."""
        self.errors += 1
        self.last_error = str(fault) or type(fault).__name__
        # Windows calls it a reset (10054), in words of its own language.
        self.refused = isinstance(fault, ConnectionRefusedError | ConnectionResetError)

    def note(self, what: str) -> None:
        """Count something that only this kind of sink has."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def __str__(self) -> str:
        counts = f"{self.frames} frames: {self.sent} sent, {self.dropped} dropped, {self.failed} failed"
        traffic = f"{self.packets} packets, {self.errors} errors"
        if self.ticks_missed:
            traffic += f", {self.ticks_missed} sending times missed"
        traffic += "".join(f", {count} {what}" for what, count in self.notes.items())
        return f"{counts}; {traffic}" + (f" (last: {self.last_error})" if self.last_error else "")
