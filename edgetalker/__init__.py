"""Plays trained speech-to-face models on a device, frame by frame, before each frame's deadline.

`stream(source)` yields the frames of a sound. A `Talker` is one speaker, who is given sound as it comes and gives back
the frames that are ready; several share a `Model`, a bundle opened once (`model.talker()`). `Loop` plays a talker from
a source into sinks, `Live` does so beside a program, with barge-in. Names are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""As `typing` has it, which takes milliseconds to import: until then the command cannot answer an interrupt."""

if TYPE_CHECKING:
    from typing import Any

    from edgetalker.engines.errors import (
        BundleError,
        DeviceError,
        EngineError,
        InputError,
        MissingPackageError,
        OptionError,
        OutputError,
        UnsupportedGpuError,
        UserError,
    )
    from edgetalker.runtime.frame import Frame, MotionLayout, Outcome
    from edgetalker.runtime.ladder import rehearse
    from edgetalker.runtime.live import Live, LiveReport
    from edgetalker.runtime.loop import Loop, Observer, Options, Tally, drive
    from edgetalker.runtime.model import Model
    from edgetalker.runtime.options import ModelOptions, TalkerOptions
    from edgetalker.runtime.sinks.sink import Sink
    from edgetalker.runtime.sources.file import FileSource
    from edgetalker.runtime.sources.live import LiveSource, PcmSource, SaidSource
    from edgetalker.runtime.sources.mic import MicSource
    from edgetalker.runtime.sources.source import Source
    from edgetalker.runtime.sources.values import InputSource
    from edgetalker.runtime.stream import stream
    from edgetalker.runtime.talker import Snapshot, Talker

__version__ = "0.1.0"

_PLACES = {
    "edgetalker.engines.errors": (
        "BundleError DeviceError EngineError InputError MissingPackageError OptionError OutputError "
        "UnsupportedGpuError UserError"
    ),
    "edgetalker.runtime.frame": "Frame MotionLayout Outcome",
    "edgetalker.runtime.ladder": "rehearse",
    "edgetalker.runtime.live": "Live LiveReport",
    "edgetalker.runtime.loop": "Loop Observer Options Tally drive",
    "edgetalker.runtime.model": "Model",
    "edgetalker.runtime.options": "ModelOptions TalkerOptions",
    "edgetalker.runtime.sinks.sink": "Sink",
    "edgetalker.runtime.sources.file": "FileSource",
    "edgetalker.runtime.sources.live": "LiveSource PcmSource SaidSource",
    "edgetalker.runtime.sources.mic": "MicSource",
    "edgetalker.runtime.sources.source": "Source",
    "edgetalker.runtime.sources.values": "InputSource",
    "edgetalker.runtime.stream": "stream",
    "edgetalker.runtime.talker": "Snapshot Talker",
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "BundleError",
    "DeviceError",
    "EngineError",
    "FileSource",
    "Frame",
    "InputError",
    "InputSource",
    "Live",
    "LiveReport",
    "LiveSource",
    "Loop",
    "MicSource",
    "MissingPackageError",
    "Model",
    "ModelOptions",
    "MotionLayout",
    "Observer",
    "OptionError",
    "Options",
    "Outcome",
    "OutputError",
    "PcmSource",
    "SaidSource",
    "Sink",
    "Snapshot",
    "Source",
    "Talker",
    "TalkerOptions",
    "Tally",
    "UnsupportedGpuError",
    "UserError",
    "__version__",
    "drive",
    "rehearse",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module `edgetalker` has no attribute `{name}`")


def __dir__() -> list[str]:
    return __all__
