"""The manifest: the typed, strict description of a bundle.

`parse` turns JSON into a `Manifest` or raises one BundleError that lists every fault. What the parts mean is in
docs/bundle.md.
"""

from __future__ import annotations

import json
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
    "Schedule",
    "Stage",
    "Step",
    "Tensor",
    "parse",
]

FORMAT = "edgetalker-bundle"
VERSION = 1
ROW = "@row"
"""The input reference that stands for the active schedule's row."""

ROLES = ("audio", "heard", "count", "noise", "control", "input", "constant", "state", "value")


@dataclass(frozen=True)
class Tensor:
    """A named buffer of the session.

    role: who fills it. `audio`: the window's samples, float32 (talkers, window). `heard`: number of samples in
    the window that lie after the stream's start, float32 (1,). `count`: min(frames since reset, limit), float32
    (1,), 0 in the first frame. `noise`: standard normal per frame, float32. `control`: a user's setting,
    float32. `input`: fed by the caller before each frame. `constant`: from `file`. `state`: kept from frame to
    frame, starts as zeros or as `file`. `value`: written by a stage and read by later ones.
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

    inputs: ONNX input -> tensor name, `name[phase]` (row `frame mod rows` of a block) or `@row`. outputs: ONNX
    output -> tensor name. rows: run once for each row. carry: output -> input handed from row to row; the
    first row reads what `inputs` names, the last row's output lands in what `outputs` names. every: runs in
    frames whose index is a multiple of it. schedules: the schedules in which it takes part (empty: all).
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
    """A move between tensors at its place in the program: `copy`, or `shift` into a history's end."""

    kind: str
    source: str
    target: str
    schedules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """A named table of rows, float32 (rows, width), in `file`; no file when its steps use no rows.

    rank: place in the ladder, 0 the fullest. The loop goes down the ladder when time is short.
    """

    name: str
    rank: int
    file: str = ""


@dataclass(frozen=True)
class AudioContract:
    """Which samples frame i sees: [end(i) - window, end(i)) with
    end(i) = floor((i // block + 1) * block * rate / fps) + lookahead."""

    rate: int
    window: int
    lookahead: int
    block: int


@dataclass(frozen=True)
class Motion:
    """The tensor that is the frame's result, its exact frame rate and what its numbers mean."""

    tensor: str
    kind: str
    fps: Fraction
    names: tuple[str, ...]
    units: str


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
    if form == FORMAT and version != VERSION:
        raise BundleError(
            where,
            [f"manifest version {version}; this edgetalker reads version {VERSION}"],
            hint="export the bundle again with this edgetalker, or install the one that wrote it",
        )
    if root.has("format") and form != FORMAT:
        root.fault(f"`format` is `{form}` where `{FORMAT}` was wanted")


def _manifest(root: Reader) -> Manifest:
    return Manifest(
        name=root.take("name", str),
        family=root.take("family", str),
        origin=root.take("origin", str, ""),
        talkers=_at_least(root, "talkers", 1, default=1),
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


def _at_least(reader: Reader, key: str, least: int, **default: int) -> int:
    value = reader.take(key, int, **default)
    if value < least and reader.has(key):
        reader.fault(f"`{key}` is {value}; at least {least} was wanted")
    return value


def _audio(reader: Reader) -> AudioContract:
    contract = AudioContract(
        rate=_at_least(reader, "rate", 1),
        window=_at_least(reader, "window", 1),
        lookahead=_at_least(reader, "lookahead", 0, default=0),
        block=_at_least(reader, "block", 1, default=1),
    )
    reader.finish()
    return contract


def _motion(reader: Reader) -> Motion:
    motion = Motion(
        tensor=reader.take("tensor", str),
        kind=reader.choice("kind", ("arkit", "vertices", "other")),
        fps=reader.fraction("fps"),
        names=reader.strings("names", ()),
        units=reader.take("units", str, ""),
    )
    reader.finish()
    return motion


def _spec(reader: Reader) -> TensorSpec:
    return TensorSpec(reader.choice("dtype", tuple(DTYPES)), reader.shape("shape"))


def _tensor(name: str, reader: Reader) -> Tensor:
    role = reader.choice("role", ROLES)
    options: dict[str, Any] = {}
    if role in ("constant", "state"):
        options["file"] = reader.take("file", str, *([""] if role == "state" else []))
    if role == "count":
        options["limit"] = _at_least(reader, "limit", 1)
    if role == "control":
        options["names"] = reader.strings("names", ())
        options["default"] = reader.numbers("default")
        options["low"] = reader.numbers("low", ())
        options["high"] = reader.numbers("high", ())
        options["glide"] = reader.number("glide", 0.0)
    tensor = Tensor(name, _spec(reader), role, **options)
    reader.finish()
    return tensor


def _specs(reader: Reader, key: str) -> dict[str, TensorSpec]:
    specs = {}
    for name, below in reader.objects(key):
        specs[name] = _spec(below)
        below.finish()
    return specs


def _stage(name: str, reader: Reader) -> Stage:
    stage = Stage(name, reader.take("file", str), _specs(reader, "inputs"), _specs(reader, "outputs"))
    reader.finish()
    return stage


def _step(reader: Reader) -> Step | Carry:
    step: Step | Carry
    schedules = reader.strings("schedules", ())
    if reader.has("stage"):
        step = Step(
            stage=reader.take("stage", str),
            inputs=reader.mapping("inputs"),
            outputs=reader.mapping("outputs"),
            rows=reader.take("rows", bool, False),
            carry=reader.mapping("carry", {}),
            every=_at_least(reader, "every", 1, default=1),
            schedules=schedules,
        )
    else:
        kind = reader.choice("carry", ("copy", "shift"))
        step = Carry(kind, reader.take("from", str), reader.take("to", str), schedules)
    reader.finish()
    return step


def _schedule(name: str, reader: Reader) -> Schedule:
    schedule = Schedule(name, _at_least(reader, "rank", 0), reader.take("file", str, ""))
    reader.finish()
    return schedule
