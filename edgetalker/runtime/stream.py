"""The Python interface for programs that embed a talker.

`stream` pulls frames out of a sound: `for frame in edgetalker.stream("speech.wav"): ...`. A `Talker` is pushed sound as
it comes, `for frame in talker.accept(samples): ...`, and gives back the frames that are ready. For a run on the clock
into sinks see `edgetalker.runtime.live.Live`, which is what `edgetalker live` uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.errors import InputError, OptionError, nearest
from edgetalker.runtime.frame import Frame, MotionLayout, Source
from edgetalker.runtime.open import open_session
from edgetalker.runtime.session import Session
from edgetalker.runtime.sinks.rest import MouthRest
from edgetalker.runtime.sources.convert import Converter
from edgetalker.runtime.window import AudioWindow

__all__ = ["Talker", "stream"]


class Talker:
    """One talker that is given sound as it comes and gives back the frames that are ready. Not on a clock.

    The frames do not depend on how the sound was cut into pieces. Not for use from two threads at once.
    """

    def __init__(
        self,
        bundle: Path | str | Bundle | Session | None = None,
        *,
        rate: int | None = None,
        schedule: str | None = None,
        rest: bool = False,
        **options: Any,
    ) -> None:
        """Open a talker.

        bundle: a folder, the name of a bundle that ships with the package, an open session (which stays the
        caller's), or None for the talker that ships with it. rate: samples a second of what `accept` takes
        (default: the bundle's own; others need `edgetalker[audio]`). schedule: which denoise schedule (default:
        the fullest). rest: ease the mouth to rest while nobody speaks. options: as in `open_session` (device,
        engine, precision, threads, seed, graphs). Raises UserError subclasses.
        """
        self._owned = not isinstance(bundle, Session)
        if not self._owned and options:
            raise OptionError(f"an open session takes no options; got {', '.join(options)}")
        if rate is not None and not 1000 <= rate <= 768_000:
            raise OptionError(f"a rate of {rate} samples a second; 1000 to 768000 were wanted")
        self.session = bundle if isinstance(bundle, Session) else open_session(_bundle(bundle), **options)
        audio = self.session.manifest.audio
        self.rate, self._schedule = rate or audio.rate, schedule
        try:
            _check(self.session, schedule)
            self._converter = Converter(self.rate, audio.rate)
        except BaseException:
            self.close()
            raise
        self.session.reset()
        self._window = AudioWindow(audio.window, backlog=audio.rate + self.session.end(0))
        self._rest = MouthRest(self.session.layout, audio.rate) if rest else None
        self._heard = 0

    @property
    def layout(self) -> MotionLayout:
        """What the numbers of a frame's motion mean."""
        return self.session.layout

    def accept(self, samples: NDArray[Any]) -> list[Frame]:
        """Take new sound and return the frames that are now ready, oldest first, each with its own motion.

        samples: (n,) or (n, channels), n >= 0, float in [-1, 1] or 8, 16 or 32-bit integers, at `rate`.
        """
        return self._hear(self._converter.convert(_array(samples)))

    def flush(self) -> list[Frame]:
        """The sound ended, for now: return the frames that its last part still has, as if silence followed.

        More sound may come afterwards; it continues after that silence.
        """
        frames = self._hear(self._converter.finish())
        session = self.session
        spanned = session.clock.frames_spanned(self._heard)
        while session.index < spanned:
            missing = session.end(session.index) - self._window.total
            if missing > 0:
                self._window.append_silence(missing)
                if self._rest:
                    self._rest.hear(np.zeros(missing, np.float32))
            frames.append(self._step())
        self._converter = Converter(self.rate, session.manifest.audio.rate)
        return frames

    def reset(self) -> None:
        """Begin anew (barge-in): sound and frames so far are forgotten, the next frame has index 0."""
        self.session.reset()
        self._window.reset()
        self._converter = Converter(self.rate, self.session.manifest.audio.rate)
        self._heard = 0
        if self._rest:
            self._rest.reset()

    def set(self, control: str, values: Mapping[str, float] | Sequence[float]) -> None:
        """Change what the bundle hears beside the sound, such as set("emotion", {"joy": 0.7}). It glides."""
        self.session.set(control, values)

    def close(self) -> None:
        """Free the session, unless it was the caller's."""
        if self._owned:
            self.session.close()

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self, samples: NDArray[np.float32]) -> list[Frame]:
        frames = []
        while len(samples):
            # Sound is taken up to the next frame's end, so that the window never has to hold all of it.
            piece = samples[: max(self.session.end(self.session.index) - self._window.total, 0)]
            samples = samples[len(piece) :]
            self._window.append(piece)
            self._heard = self._window.total if len(piece) else self._heard
            if self._rest and len(piece):
                self._rest.hear(piece)
            while self._window.total >= self.session.end(self.session.index):
                frames.append(self._step())
        return frames

    def _step(self) -> Frame:
        session = self.session
        into = session.audio
        heard = 0 if into is None else self._window.read(session.end(session.index), into[0])
        frame = session.step(heard=heard, schedule=self._schedule)
        if self._rest:
            frame = self._rest.apply(frame)
        motion = frame.motion.copy()
        motion.flags.writeable = False
        return replace(frame, motion=motion)


def stream(
    source: Path | str | Source | NDArray[Any] | Iterable[NDArray[Any]],
    bundle: Path | str | Bundle | Session | None = None,
    *,
    rate: int | None = None,
    rest: bool = False,
    schedule: str | None = None,
    **options: Any,
) -> Iterator[Frame]:
    """Return an iterator over the frames of a sound, as soon as each can be made.

    source: a sound file's name, `"mic"`, a Source at the bundle's rate, an array, or an iterable of arrays
    (packets as they come). rate: samples a second of arrays (default: the bundle's). The rest as in Talker. A file
    is played as fast as it goes, a live source as it comes. Raises UserError subclasses, at once and not at the
    first frame.
    """
    talker = Talker(bundle, rate=rate, schedule=schedule, rest=rest, **options)
    try:
        pieces = _pieces(source, talker)
    except BaseException:
        talker.close()
        raise
    return _frames(talker, pieces)


def _check(session: Session, schedule: str | None) -> None:
    talkers, known = session.manifest.talkers, session.schedules
    if talkers != 1:
        raise OptionError(f"the bundle plays {talkers} talkers in lock-step; this plays one")
    if schedule is not None and schedule not in known:
        raise OptionError(f"no schedule `{schedule}`; the bundle has {', '.join(known)}{nearest(schedule, known)}")


def _frames(talker: Talker, pieces: Iterable[NDArray[Any]]) -> Iterator[Frame]:
    with talker:
        for samples in pieces:
            yield from talker.accept(samples)
        yield from talker.flush()


def _pieces(source: Any, talker: Talker) -> Iterable[NDArray[Any]]:
    own = talker.session.manifest.audio.rate
    if isinstance(source, np.ndarray):
        return [source]
    if isinstance(source, (str, Path)):
        if talker.rate != own:
            raise OptionError("`rate` is for arrays; a file and a microphone say their own")
        return _read(_opened(source, own), own)
    if hasattr(source, "read") and hasattr(source, "ended"):
        if source.rate != own or talker.rate != own:
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
    finally:
        source.close()


def _array(samples: Any) -> NDArray[Any]:
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.dtype not in (np.uint8, np.int16, np.int32, np.float32, np.float64):
        raise InputError(
            f"sound of shape {array.shape} and type {array.dtype}; (n,) or (n, channels) was wanted",
            hint="float32 in [-1, 1], or 8, 16 or 32-bit integers",
        )
    return array


def _bundle(bundle: Path | str | Bundle | None) -> Path | Bundle:
    """Resolve the names of bundles that ship with the package."""
    if isinstance(bundle, Bundle):
        return bundle
    shipped = Path(__file__).resolve().parents[1] / "bundles"
    if bundle is None:
        found = sorted(path.parent for path in shipped.glob(f"*/{MANIFEST}"))
        if not found:
            raise InputError("no bundle was named and none ships with this install", hint="name a bundle's folder")
        return shipped / "talker" if shipped / "talker" in found else found[0]
    if not Path(bundle).exists() and (shipped / str(bundle) / MANIFEST).exists():
        return shipped / str(bundle)
    return Path(bundle)
