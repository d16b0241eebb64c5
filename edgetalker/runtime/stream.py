"""The shortest way in: `for frame in edgetalker.stream("speech.wav"): ...`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.model import Model
from edgetalker.runtime.sources.source import Source
from edgetalker.runtime.talker import Talker

__all__ = ["stream"]

_log = logging.getLogger("edgetalker.run")


def stream(
    source: Path | str | Source | NDArray[Any] | Iterable[NDArray[Any]],
    bundle: Path | str | Bundle | Model | None = None,
    **options: Any,
) -> Iterator[Frame]:
    """Return an iterator over the frames of a sound, as soon as each can be made.

    source: a sound file's name, `"mic"`, a Source at the bundle's rate, an array, or an iterable of arrays
    (packets as they come). bundle: as in Talker, an open Model too. options: as in Talker; `rate` is that of arrays
    (default: the bundle's), `schedule` which denoise schedule (default: the fullest). A file is played as fast as it
    goes, a live source as it comes; what was wrong with its sound is logged at its end (`edgetalker.run`). Raises
    UserError subclasses, at once and not at the first frame.
    """
    made = Talker(bundle, **options)
    try:
        pieces = _pieces(source, made)
    except BaseException:
        made.close()
        raise
    return _frames(made, pieces)


def _frames(made: Talker, pieces: Iterable[NDArray[Any]]) -> Iterator[Frame]:
    with made:
        for samples in pieces:
            yield from made.accept(samples)
        yield from made.flush()


def _pieces(source: Any, made: Talker) -> Iterable[NDArray[Any]]:
    own = made.manifest.audio.rate
    if isinstance(source, np.ndarray):
        return [source]
    if isinstance(source, (str, Path)):
        if made.rate != own:
            raise OptionError("`rate` is for arrays; a file and a microphone say their own")
        return _read(_opened(source, own), own)
    if hasattr(source, "read") and hasattr(source, "ended"):
        if source.rate != own or made.rate != own:
            raise OptionError(f"the source gives {source.rate} samples a second; the bundle hears {own}")
        return _read(source, own)
    if isinstance(source, Iterable):
        return source
    raise InputError(f"{type(source).__name__} is no sound", hint="a file name, `mic`, a Source, or arrays")


def _opened(source: Path | str, rate: int) -> Source:
    if str(source) == "mic":
        from edgetalker.runtime.sources.mic import MicSource

        return MicSource(rate)
    from edgetalker.runtime.sources.file import FileSource

    return FileSource(source, rate)


def _read(source: Source, rate: int) -> Iterator[NDArray[np.float32]]:
    try:
        while not source.ended:
            yield source.read(rate // 100, 0.1)
        for text in source.warnings():
            _log.warning("%s", text)
    finally:
        source.close()
