"""What a user may choose: of a model, of its talkers. Checked by name and by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

from edgetalker.engines.engine import Device
from edgetalker.engines.errors import OptionError, unknown
from edgetalker.runtime.inputs import NoiseSource
from edgetalker.runtime.program import Granularity

if TYPE_CHECKING:
    from edgetalker.runtime.sinks.play import Player

__all__ = ["ModelOptions", "TalkerOptions", "given", "split"]

T = TypeVar("T")


@dataclass(frozen=True)
class ModelOptions:
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
class TalkerOptions:
    """How a talker is made.

    seed, stream: key of the noise (default 0, 0). With a seed every utterance, the sound between two resets, has
    the same noise; without one each has its own, so that no two turns blink alike. Row k of a lock-step bundle uses
    stream + k. graphs: `step` captures a graph for each stage run and schedule row, `frame` one for the whole
    frame, `eager` none; all give the same frames (default: `frame` on cuda, where a launch costs; `step` on the
    host). timings: bracket every piece with marks, so that `durations` can tell where the frame's time went.
    schedules: those to prepare (default: all); the others cannot be played. schedule: the one that `make` plays by
    default (default: the fullest). rate: samples a second of what `hear` takes (default: the bundle's; others need
    `edgetalker[audio]`). rest: ease the mouth to rest while nobody speaks. voice: which
    detector says that somebody speaks: `energy`, or `silero`, which knows music, typing and coughs and wants ONNX
    Runtime. play: where the sound is played at its own pace, however fast it comes: the number or name of a sound card
    (`` is the default one), a file `.wav`, `null`, or a Player; `position` says which second can be heard. noise: fills
    the noise instead of the counter's (tests).
    """

    seed: int | None = None
    stream: int = 0
    graphs: Granularity | None = None
    timings: bool = False
    schedules: Sequence[str] | None = None
    schedule: str | None = None
    rate: int | None = None
    rest: bool = False
    voice: str = "energy"
    play: str | Player | None = None
    noise: NoiseSource | None = None


def given(kind: type[T], options: Mapping[str, Any]) -> T:
    """Return the options as a `kind`. Raises OptionError for a name that it does not have, and naming every value that
    is of another kind than was wanted."""
    found, faults = dict[str, Any](), list[str]()
    for name, value in split(options, kind)[0].items():
        read, wanted = _READERS.get(name, (_as_it_is, ""))
        try:
            found[name] = None if value is None and name in _MAY_BE_NONE else read(value)
        except ValueError:
            faults.append(f"{name} is {value!r}; {wanted} was wanted")
    if faults:
        raise OptionError("; ".join(faults))
    return kind(**found)


def _as_it_is(value: Any) -> Any:
    return value


def _whole(value: Any) -> int:
    """Return a whole number of any library's; 16000.0 is one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError
    if isinstance(value, Integral):
        return int(value)
    if not (number := float(value)).is_integer():
        raise ValueError
    return int(number)


def _switch(value: Any) -> bool:
    """Return True or False, of any library's; `"no"` would be true."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError
    return bool(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError
    return tuple(map(_name, value))


_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("seed", "stream", "rate", "threads", "gpu"), (_whole, "a whole number")),
    **dict.fromkeys(("timings", "rest", "poison"), (_switch, "True or False")),
    **dict.fromkeys(("graphs", "schedule", "voice", "engine", "precision", "wait"), (_name, "a name")),
    "schedules": (_names, "a list of one or more names"),
}
_MAY_BE_NONE = frozenset({"seed", "rate", "graphs", "schedule", "schedules"})


def split(options: Mapping[str, Any], *kinds: type[Any]) -> list[dict[str, Any]]:
    """Return those of the options that are each kind's. Raises OptionError for a name that none of them has."""
    names = [[field.name for field in fields(kind)] for kind in kinds]
    known = sorted({name for of_kind in names for name in of_kind})
    for name in options:
        if name not in known:
            raise unknown("option", name, known)
    return [{name: value for name, value in options.items() if name in of_kind} for of_kind in names]
