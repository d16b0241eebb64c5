"""The manifest: the typed, strict description of a bundle.

`parse` turns JSON into a `Manifest` or raises one BundleError that lists every fault. What the parts mean is in
docs/bundle.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from edgetalker.engines.engine import DTYPES, TensorSpec
from edgetalker.engines.errors import BundleError
from edgetalker.engines.reader import Reader

__all__ = [
    "FORMAT",
    "ROLES",
    "ROW",
    "VERSION",
    "AudioContract",
    "Carry",
    "Manifest",
    "Motion",
    "Reference",
    "Schedule",
    "Stage",
    "Step",
    "Tensor",
    "parse",
    "reference",
    "specs",
]

FORMAT = "edgetalker-bundle"
VERSION = 2
"""What is written. Version 1 is read too: it lacks `every` of carries, parts of tensors, `spread`, `differs` and the
keys of inputs."""
LIMITS: Mapping[str, tuple[int, int]] = {
    "rate": (1_000, 768_000),  # samples a second: below is no speech, above no sound card
    "window": (1, 1 << 26),  # samples: more than a minute at the highest rate
    "lookahead": (0, 1 << 26),
    "block": (1, 4096),  # frames: 68 s at 60 fps
    "spread": (0, 4095),
    "delay": (0, 4095),
    "fps": (1, 1000),  # frames a second
    "limit": (1, 1 << 24),  # a count is a float32, exact up to here
    "every": (1, 4096),
    "rank": (0, 1000),
    "talkers": (1, 4096),
    "bytes": (1, 1 << 34),  # of one tensor: 16 GiB, more than a device here gives one buffer
}
"""Least and most of what a manifest may ask for; beyond it a file is damaged or means harm."""
ROW = "@row"
"""The input reference that stands for the active schedule's row."""

ROLES = ("audio", "heard", "count", "noise", "control", "input", "constant", "state", "value")


@dataclass(frozen=True)
class Tensor:
    """A named buffer of the session.

    role: who fills it. `audio`: the window's samples, float32 (talkers, window). `heard`: number of samples in
    the window that lie after the stream's start, float32 (1,). `count`: min(frames since reset, limit), float32
    (1,), 0 in the first frame. `noise`: standard normal per frame, float32. `control`: a user's setting,
    float32. `input`: values from outside with times on the sound's clock, float32; `default` until the first comes
    and after `stale` seconds without a new one (0: never), between two of them as `between` says, `hold` or `linear`.
    `constant`: from `file`. `state`: kept from frame to frame, starts as zeros or as `file`. `value`: written by a
    stage and read by later ones.
    """

    name: str
    spec: TensorSpec
    role: str
    file: str = ""
    limit: int = 0
    names: tuple[str, ...] = ()
    default: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    glide: float = 0.0
    stale: float = 0.0
    between: str = "hold"


@dataclass(frozen=True)
class Stage:
    """One network: its ONNX file and the tensors at its border, by their ONNX names."""

    name: str
    file: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Step:
    """One stage of the program, once a frame or once for each row of the schedule.

    inputs: ONNX input -> a reference: tensor name, `name[phase]` (row `frame mod rows` of a block), `name[a:b]` (rows
    of the second axis) or `@row`. outputs: ONNX output -> tensor name or `name[a:b]`. rows: run once for each row.
    carry: output -> input handed from row to row; the first row reads what `inputs` names, the last row's output
    lands in what `outputs` names. every: runs in frames whose index is a multiple of it; neighbours with the same
    `every` above 1 are a group. schedules: the schedules in which it takes part (empty: all).
    """

    stage: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    rows: bool = False
    carry: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    schedules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carry:
    """A move between tensors at its place in the program: `copy`, or `shift` into a history's end.

    source: a reference as in a step. target: a tensor, or with `copy` a part `name[a:b]`. every: as in a step.
    """

    kind: str
    source: str
    target: str
    every: int = 1
    schedules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """How a program names what it reads or writes.

    row: the schedule's row. phase: the row `frame mod rows` of a block of rows. part: rows [a, b) of the second axis.
    """

    name: str
    phase: bool = False
    row: bool = False
    part: tuple[int, int] | None = None

    def of(self, spec: TensorSpec) -> TensorSpec:
        """Return what the reference sees of a tensor. Raises ValueError for a part that does not exist."""
        if self.phase:
            return TensorSpec(spec.dtype, (1, *spec.shape[1:]))
        if self.part is None:
            return spec
        first, last = self.part
        if len(spec.shape) < 2 or spec.shape[0] != 1 or not first < last <= spec.shape[1]:
            raise ValueError(
                f"`{self.name}[{first}:{last}]` is no part of {spec}; (1, rows, ...) has parts of its rows"
            )
        return TensorSpec(spec.dtype, (1, last - first, *spec.shape[2:]))


_REFERENCE = re.compile(r"(?P<name>[^\[\]@]+)(?:\[(?:(?P<phase>phase)|(?P<first>\d{1,9}):(?P<last>\d{1,9}))\])?")


def reference(text: str) -> Reference:
    """Parse a reference. Raises ValueError when it has none of the forms."""
    if text == ROW:
        return Reference(ROW, row=True)
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is none of `name`, `name[phase]`, `name[first:last]` and `{ROW}`")
    part = (int(match["first"]), int(match["last"])) if match["first"] else None
    return Reference(match["name"], phase=match["phase"] is not None, part=part)


@dataclass(frozen=True)
class Schedule:
    """A named table of rows, float32 (rows, width), in `file`; no file when its steps use no rows.

    rank: place in the ladder, 0 the fullest. The loop goes down the ladder when time is short. differs: RMS of the
    difference from the fullest schedule's motion over RMS of that motion, as the exporter measured it; None where
    nobody did.
    """

    name: str
    rank: int
    file: str = ""
    differs: float | None = None


@dataclass(frozen=True)
class AudioContract:
    """Which samples frame i sees: [end(i) - window, end(i)) with
    end(i) = floor((i // block + 1) * block * rate / fps) + lookahead.

    spread: on a clock, what runs once a block is computed in the slack of this many frames, which delays every frame
    by as much; 0 computes it in the block's first frame.
    """

    rate: int
    window: int
    lookahead: int
    block: int
    spread: int = 0


@dataclass(frozen=True)
class Motion:
    """The tensor that is the frame's result, its exact frame rate and what its numbers mean.

    delay: how many frames the program's motion is behind its sound, such as a smoother's half window.
    """

    tensor: str
    kind: str
    fps: Fraction
    names: tuple[str, ...]
    units: str
    delay: int = 0


@dataclass(frozen=True)
class Manifest:
    """A bundle's whole description. `notes` is free-form and read by people only.

    skipped: what a skipped frame does to the history: `freeze` leaves it, `repeat` shifts the newest rows in
    once more. precisions: for each further precision (such as `fp16`) stage name -> ONNX file that stands in
    for the stage's own. files: every file of the bundle -> its SHA-256.
    """

    name: str
    family: str
    origin: str
    talkers: int
    audio: AudioContract
    motion: Motion
    tensors: Mapping[str, Tensor]
    stages: Mapping[str, Stage]
    program: tuple[Step | Carry, ...]
    schedules: Mapping[str, Schedule]
    skipped: str
    precisions: Mapping[str, Mapping[str, str]]
    files: Mapping[str, str]
    notes: Mapping[str, Any]

    @property
    def ladder(self) -> tuple[str, ...]:
        """Names of the schedules from the fullest to the cheapest."""
        return tuple(sorted(self.schedules, key=lambda name: self.schedules[name].rank))


def parse(text: str | bytes, where: str) -> Manifest:
    """Read a manifest. Raises BundleError listing every fault of form; contradictions are found by `verify`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(where, [f"not JSON: {error}"], hint="export the bundle again") from None
    faults: list[str] = []
    root = Reader(value, "", faults)
    _check_version(root, where)
    manifest = _manifest(root)
    root.finish()
    if faults:
        raise BundleError(where, faults, hint="see docs/bundle.md for what a manifest holds")
    return manifest


def _check_version(root: Reader, where: str) -> None:
    form, version = root.take("format", str), root.take("version", int)
    if form == FORMAT and not 1 <= version <= VERSION:
        raise BundleError(
            where,
            [f"manifest version {version}; this edgetalker reads versions 1 to {VERSION}"],
            hint="export the bundle again with this edgetalker, or install the one that wrote it",
        )
    if root.has("format") and form != FORMAT:
        root.fault(f"`format` is `{form}` where `{FORMAT}` was wanted")


def _manifest(root: Reader) -> Manifest:
    return Manifest(
        name=root.take("name", str),
        family=root.take("family", str),
        origin=root.take("origin", str, ""),
        talkers=_number(root, "talkers", default=1),
        audio=_audio(root.child("audio")),
        motion=_motion(root.child("motion")),
        tensors={name: _tensor(name, reader) for name, reader in root.objects("tensors")},
        stages={name: _stage(name, reader) for name, reader in root.objects("stages")},
        program=tuple(_step(reader) for reader in root.items("program")),
        schedules={name: _schedule(name, reader) for name, reader in root.objects("schedules")},
        skipped=root.choice("skipped", ("freeze", "repeat"), "freeze"),
        precisions={name: reader.texts() for name, reader in root.objects("precisions", {})},
        files=root.mapping("files"),
        notes=root.take("notes", dict, {}),
    )


def _number(reader: Reader, key: str, **default: int) -> int:
    """Return a whole number within its LIMITS; a fault otherwise."""
    value, (least, most) = reader.take(key, int, **default), LIMITS[key]
    if reader.has(key) and not least <= value <= most:
        reader.fault(f"`{key}` is {value}; {least} to {most} was wanted")
        return least
    return value


def _audio(reader: Reader) -> AudioContract:
    return AudioContract(
        rate=_number(reader, "rate"),
        window=_number(reader, "window"),
        lookahead=_number(reader, "lookahead", default=0),
        block=_number(reader, "block", default=1),
        spread=_number(reader, "spread", default=0),
    )


def _motion(reader: Reader) -> Motion:
    return Motion(
        tensor=reader.take("tensor", str),
        kind=reader.choice("kind", ("arkit", "vertices", "other")),
        fps=_fps(reader),
        names=reader.strings("names", ()),
        units=reader.take("units", str, ""),
        delay=_number(reader, "delay", default=0),
    )


def _fps(reader: Reader) -> Fraction:
    fps, (least, most) = reader.fraction("fps"), LIMITS["fps"]
    if not least <= fps <= most or fps.denominator > 1_000_000:
        reader.fault(f"`fps` is {fps}; {least} to {most} frames a second were wanted")
        return Fraction(30)
    return fps


def _spec(reader: Reader) -> TensorSpec:
    spec = TensorSpec(reader.choice("dtype", tuple(DTYPES)), reader.shape("shape"))
    if spec.nbytes > LIMITS["bytes"][1]:
        reader.fault(f"`shape` of {spec} is {spec.nbytes} bytes; at most {LIMITS['bytes'][1]} were wanted")
        return TensorSpec(spec.dtype, (1,) * len(spec.shape))
    return spec


def _tensor(name: str, reader: Reader) -> Tensor:
    role = reader.choice("role", ROLES)
    options: dict[str, Any] = {}
    if role in ("constant", "state"):
        options["file"] = reader.take("file", str, *([""] if role == "state" else []))
    if role == "count":
        options["limit"] = _number(reader, "limit")
    if role == "control":
        options["names"] = reader.strings("names", ())
        options["default"] = reader.numbers("default")
        options["low"] = reader.numbers("low", ())
        options["high"] = reader.numbers("high", ())
        options["glide"] = reader.number("glide", 0.0)
    if role == "input":
        options["names"] = reader.strings("names", ())
        options["default"] = reader.numbers("default", ())
        options["stale"] = reader.number("stale", 0.0)
        options["between"] = reader.choice("between", ("hold", "linear"), "hold")
    return Tensor(name, _spec(reader), role, **options)


def specs(reader: Reader, key: str) -> dict[str, TensorSpec]:
    """Read the tensors at a border, by name."""
    return {name: _spec(below) for name, below in reader.objects(key)}


def _stage(name: str, reader: Reader) -> Stage:
    return Stage(name, reader.take("file", str), specs(reader, "inputs"), specs(reader, "outputs"))


def _step(reader: Reader) -> Step | Carry:
    schedules = reader.strings("schedules", ())
    every = _number(reader, "every", default=1)
    if reader.has("stage"):
        return Step(
            stage=reader.take("stage", str),
            inputs=reader.mapping("inputs"),
            outputs=reader.mapping("outputs"),
            rows=reader.take("rows", bool, False),
            carry=reader.mapping("carry", {}),
            every=every,
            schedules=schedules,
        )
    kind = reader.choice("carry", ("copy", "shift"))
    return Carry(kind, reader.take("from", str), reader.take("to", str), every, schedules)


def _schedule(name: str, reader: Reader) -> Schedule:
    differs = reader.number("differs") if reader.has("differs") else None
    if differs is not None and differs < 0:
        reader.fault(f"`differs` is {differs}; a share of the motion, 0 or more, was wanted")
    return Schedule(name, _number(reader, "rank"), reader.take("file", str, ""), differs)
