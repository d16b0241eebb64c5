"""What a user may choose: of a model, of its talkers. Checked by name, type and range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from edgetalker.engines.engine import Device
from edgetalker.engines.errors import OptionError, real, unknown, whole
from edgetalker.runtime.inputs import NoiseSource
from edgetalker.runtime.program import Granularity

if TYPE_CHECKING:
    from edgetalker.runtime.sinks.play import Player

__all__ = ["Checked", "ModelOptions", "TalkerOptions", "given", "split"]

T = TypeVar("T")


class Checked:
    """A dataclass of options whose values are checked as it is made, by what their annotations say.

    bounds: least and most of a number, where there are some. Raises OptionError for another type, for NaN and Inf, and
    outside the bounds. Whole floats (48000.0) and numpy's numbers become Python's.
    """

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            kinds = [kind.strip() for kind in str(option.type).split("|")]
            value = _fitting(option.name, getattr(self, option.name), kinds, self.bounds.get(option.name, ()))
            object.__setattr__(self, option.name, value)


@dataclass(frozen=True)
class ModelOptions(Checked):
    """Where and how stages run.

    device: `host`, `cuda`, or an open device (which stays the caller's). engine: on cuda `auto`, `tensorrt`, `rtx`,
    `lean` or `torch`; on the host `auto`, `ort` or `torch`. precision: `fp32` or one that `convert` added. threads: of
    an engine on the CPU. gpu: which GPU. wait: how the host waits for it (`spin`, `yield`, `block`). poison: fill fresh
    buffers with NaN, so that a read before a write shows (tests).
    """

    device: str | Device = "host"
    engine: str = "auto"
    precision: str = "fp32"
    threads: int = 1
    gpu: int = 0
    wait: str = "spin"
    poison: bool = False


@dataclass(frozen=True)
class TalkerOptions(Checked):
    """How a talker is made.

    seed, stream: key of the noise (default 0, 0). With a seed every utterance, the sound between two resets, has
    the same noise; without one each has its own, so that no two turns blink alike. Row k of a lock-step bundle uses
    stream + k. graphs: `step` captures a graph for each stage run and schedule row, `frame` one for the whole
    frame, `eager` none; all give the same frames (default: `frame` on cuda, where a launch costs; `step` on the
    host). timings: bracket every piece with marks, so that `durations` can tell where the frame's time went.
    schedules: those to prepare (default: all); the others cannot be played. schedule: the one that `make` plays by
    default (default: the fullest). rate: samples a second of what `hear` takes (default: the bundle's; others need
    `edgetalker[audio]`). rest: ease the mouth to rest while nobody speaks (default: where a voice is named).
    voice: which detector says that somebody speaks: `energy` (default), or `silero`, which knows music, typing and
    coughs and wants ONNX Runtime. play: where the sound is played at its own pace, however fast it comes: the number or
    name of a sound card (`` is the default one), a file `.wav`, `null`, or a Player; `position` says which second can
    be heard. noise: fills the noise instead of the counter's (tests).
    """

    seed: int | None = None
    stream: int = 0
    graphs: Granularity | None = None
    timings: bool = False
    schedules: Sequence[str] | None = None
    schedule: str | None = None
    rate: int | None = None
    rest: bool | None = None
    voice: str | None = None
    play: str | Player | None = None
    noise: NoiseSource | None = None


def given(kind: type[T], options: Mapping[str, Any]) -> T:
    """Return the options as a `kind`. Raises OptionError for a name that it does not have."""
    return kind(**split(options, kind)[0])


def split(options: Mapping[str, Any], *kinds: type[Any]) -> list[dict[str, Any]]:
    """Return those of the options that are each kind's. Raises OptionError for a name that none of them has."""
    names = [[field.name for field in fields(kind)] for kind in kinds]
    known = sorted({name for of_kind in names for name in of_kind})
    for name in options:
        if name not in known:
            raise unknown("option", name, known)
    return [{name: value for name, value in options.items() if name in of_kind} for of_kind in names]


_METHODS = {
    "Device": ("allocate", "capture"),
    "Player": ("open", "hear", "reset", "close"),
    "NoiseSource": ("__call__",),
}
"""What an object has that may be given as an option."""
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "True or False",
    "Sequence[str]": "a list of names",
    "Sequence[int]": "a list of whole numbers", "None": "None", "NoiseSource": "a function",
}  # fmt: skip


def _fitting(name: str, value: Any, kinds: Sequence[str], bounds: Sequence[float]) -> Any:
    """Return the value as one of the kinds. Raises OptionError for what is none of them."""
    if value is None and "None" in kinds:
        return None
    least, most = bounds or (-math.inf, math.inf)
    for kind in kinds:
        if kind == "int":
            return whole(f"`{name}`", value, least=least, most=most)
        if kind == "float":
            return float(real(f"`{name}`", value, least=least, most=most))
        if _is(kind, value):
            return bool(value) if kind == "bool" else value
    wanted = " or ".join(
        _WORDS.get(kind, "a text" if kind[0].isupper() and kind not in _METHODS else f"a {kind}") for kind in kinds
    )
    raise OptionError(f"`{name}` is {repr(value)[:60]}; {wanted} was wanted")


def _is(kind: str, value: Any) -> bool:
    """Return whether a value is of the kind that an annotation names; names of choices (Granularity) are texts."""
    if kind == "bool":
        return isinstance(value, (bool, np.bool_))
    if kind in _METHODS:
        return not isinstance(value, type) and all(hasattr(value, method) for method in _METHODS[kind])
    if kind.startswith("Sequence["):
        wanted = str if kind == "Sequence[str]" else int
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(isinstance(v, wanted) for v in value)
        )
    return isinstance(value, str) and kind != "None"
