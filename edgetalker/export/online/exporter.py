"""Exports the project's own talker: a checkpoint of `edgetalker.models.online` becomes a bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.errors import UserError
from edgetalker.export.online.stages import AudioStage, ConditionStage, DecodeStage, DenoiseStage, StudentStage
from edgetalker.export.onnx_stage import Check, ExportError, StageFile, compare, export_stage, runner
from edgetalker.export.storage import halve, round_weights
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.features import FPS, RATE, SPAN
from edgetalker.models.online.head import FAST, FULL, HISTORY, RING, rows
from edgetalker.models.online.layout import CHANCE, CHANNELS, CONTROLS, HELD, MADE, NOISE
from edgetalker.models.online.outside import GAZE_PLACES, LID_PLACES
from edgetalker.models.online.talker import Talker, load_talker

__all__ = ["add_arguments", "describe", "export_talker", "lookahead_samples", "main", "run"]

_KEPT = len(CHANNELS)
_GLIDE = 0.3
_STALE = 0.25
"""Seconds without a value after which a tracker counts as gone."""
_DOUBT = (("doubt", "state"), ("doubted", "value"))
"""The veto's state, before a frame and after it."""
ORIGIN = (
    "Trained by this project on synthetic speech (espeak-ng, flite, Festival, RHVoice, SVOX Pico and Open JTalk "
    "voices) with procedurally animated faces; no recording of a real face was used."
)

_NOBODY = (
    "Where nobody speaks it learnt from the same voices and Kokoro-82M's (Apache-2.0), from sounds made by "
    "rules, and from music made by rules and by the contributors of Freedoom (BSD licence), played with recorded "
    "instruments (FluidR3 GM and MuseScore General, MIT licence)."
)


def lookahead_samples(lookahead: int) -> int:
    """Return the samples after a frame's end that `lookahead` frames of sound take, rounded up."""
    return -(-lookahead * RATE // FPS)


def export_talker(talker: Talker, out: Path, *, fitted: str = "", replace: bool = False) -> Bundle:
    """Write the bundle and return it opened; weights are stored in half precision, computed in single.

    fitted: what it learnt from beside the project's own training, a sentence for its origin.
    Raises ExportError when a stage computes something else than PyTorch does.
    """
    rounded = round_weights
    modules = {
        "audio": rounded(AudioStage(talker.trunk, talker.lookahead, talker.veto), ("cosine", "sine", "filters")),
        "condition": rounded(ConditionStage(talker.head.condition), ("weights", "condition.pooling")),
        "denoise": rounded(DenoiseStage(talker.head.teacher)),
        "student": rounded(StudentStage(talker.head.student)),
        "decode": DecodeStage(talker.decoder),
    }
    stages = [_stage(name, module, talker) for name, module in modules.items()]
    dice = torch.Generator().manual_seed(1)
    rest = talker.decoder.rest().repeat(1, HISTORY, 1)
    files: dict[str, bytes | Path | Any] = {f"{stage.name}.onnx": stage.content for stage in stages}
    files["history.npy"] = rest.numpy()
    files["ring.npy"] = torch.randn(1, RING, NOISE, generator=dice).numpy()
    files["full.npy"], files["fast.npy"] = rows(FULL).numpy(), rows(FAST).numpy()
    return pack(out, describe(talker, stages, fitted), files, replace=replace)


def _inputs(name: str, talker: Talker) -> tuple[dict[str, Tensor], list[str]]:
    """Return example inputs by name, and the names of the outputs."""
    width, cond = talker.trunk.size.width, talker.head.size.width
    memory = tuple(talker.trunk.begin(1).shape)
    shapes: dict[str, tuple[dict[str, tuple[int, ...]], list[str]]] = {
        "audio": ({"window": (1, SPAN), "memory": memory}, ["features", "mouth", "logits", "kept"]),
        "condition": (
            {"features": (1, width), "mouth": (1, 14), "logits": (1, 3), "history": (1, HISTORY, _KEPT)}
            | {"emotion": (1, 4), "style": (1, 2), "ring": (1, RING, NOISE)},
            ["cond", "smooth", "chance"],
        ),
        "denoise": ({"x": (1, MADE), "cond": (1, cond), "row": (1, 5)}, ["cleaner"]),
        "student": ({"noise": (1, MADE), "cond": (1, cond)}, ["clean"]),
        "decode": (
            {"clean": (1, MADE), "logits": (1, 3), "mouth": (1, 14), "history": (1, HISTORY, _KEPT)}
            | {"chance": (1, CHANCE), "held": (1, HELD), "gaze": (1, len(GAZE_PLACES)), "lids": (1, len(LID_PLACES))}
            | {"emotion": (1, 4)},
            ["motion", "newest", "still"],
        ),
    }
    inputs, outputs = shapes[name]
    if name == "audio" and talker.veto:
        inputs, outputs = inputs | {"doubt": tuple(talker.veto.begin(1).shape)}, [*outputs, "doubted"]
    return {key: torch.zeros(shape) for key, shape in inputs.items()}, outputs


def _stage(name: str, module: nn.Module, talker: Talker) -> StageFile:
    inputs, outputs = _inputs(name, talker)
    stage = halve(export_stage(name, module, inputs, outputs))
    check = _check(stage, module, inputs)
    if not check.passed:
        raise ExportError(f"stage `{name}` differs from PyTorch: {check}")
    return stage


def _check(stage: StageFile, module: nn.Module, inputs: Mapping[str, Tensor]) -> Check:
    run_stage, dice = runner(stage), torch.Generator().manual_seed(3)
    pairs = []
    for size in (0.5, 0.01, 0.0):  # digital silence too
        values = {key: size * torch.randn(value.shape, generator=dice) for key, value in inputs.items()}
        if "row" in values:
            values["row"] = rows(FULL)[3:4]
        with torch.no_grad():
            wanted = module(*values.values())
        found = run_stage({key: value.numpy() for key, value in values.items()})
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        pairs += [(found[key], value.numpy()) for key, value in zip(stage.outputs, wanted, strict=True)]
    return compare(stage.name, pairs, 2e-4)


def _tensor(role: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {"role": role, "dtype": "float32", "shape": list(shape), **more}


def describe(talker: Talker, stages: list[StageFile], fitted: str = "") -> dict[str, Any]:
    """Return the manifest of a talker without digests."""
    return {
        "name": "talker",
        "family": "online",
        "origin": " ".join(filter(None, (ORIGIN, _NOBODY if talker.veto else "", fitted))),
        "audio": {"rate": RATE, "window": SPAN, "lookahead": lookahead_samples(talker.lookahead), "block": 1},
        "motion": {
            "tensor": "motion",
            "kind": "arkit",
            "fps": str(FPS),
            "names": list(MOTION_NAMES),
            "units": "shapes 0 to 1, head angles in radians",
        },
        "tensors": _tensors(talker),
        "stages": {s.name: {"file": f"{s.name}.onnx", "inputs": s.inputs, "outputs": s.outputs} for s in stages},
        "program": _program(talker.trunk.memory.carry, talker.veto is not None),
        "schedules": {
            "full": {"rank": 0, "file": "full.npy"},
            "fast": {"rank": 1, "file": "fast.npy"},
            "one": {"rank": 2},
        },
        "skipped": "repeat",
        "notes": {},
    }


def _tensors(talker: Talker) -> dict[str, Any]:
    width, cond, memory = talker.trunk.size.width, talker.head.size.width, talker.trunk.begin(1)
    kept = memory[:, :1] if talker.trunk.memory.carry == "shift" else memory
    return {
        "window": _tensor("audio", 1, SPAN),
        "memory": _tensor("state", *memory.shape),
        "kept": _tensor("value", *kept.shape),
        **({name: _tensor(role, *talker.veto.begin(1).shape) for name, role in _DOUBT} if talker.veto else {}),
        "features": _tensor("value", 1, width),
        "mouth": _tensor("value", 1, 14),
        "logits": _tensor("value", 1, 3),
        "noise": _tensor("noise", 1, NOISE),
        "ring": _tensor("state", 1, RING, NOISE, file="ring.npy"),
        "history": _tensor("state", 1, HISTORY, _KEPT, file="history.npy"),
        "emotion": _control(CONTROLS[:4], 0.0, 0.0, 1.0),
        "style": _control(CONTROLS[4:], 1.0, 0.0, 2.0),
        "cond": _tensor("value", 1, cond),
        "smooth": _tensor("value", 1, MADE),
        "chance": _tensor("value", 1, CHANCE),
        "clean": _tensor("value", 1, MADE),
        "gaze": _tracked(GAZE_PLACES, (0.0, 0.0, 0.0, 0.0, 0.0)),
        "lids": _tracked(LID_PLACES, (0.75, 0.75, 0.0)),
        "held": _tensor("state", 1, HELD),
        "still": _tensor("value", 1, HELD),
        "motion": _tensor("value", 1, len(MOTION_NAMES)),
        "newest": _tensor("value", 1, _KEPT),
    }


def _tracked(names: tuple[str, ...], default: tuple[float, ...]) -> dict[str, Any]:
    """An input that nobody need feed: its default says that there is no tracker."""
    return _tensor("input", 1, len(names), names=list(names), default=list(default), stale=_STALE)


def _control(names: tuple[str, ...], default: float, low: float, high: float) -> dict[str, Any]:
    size = len(names)
    limits = {"default": [default] * size, "low": [low] * size, "high": [high] * size}
    return _tensor("control", 1, size, names=list(names), **limits, glide=_GLIDE)


def _program(carry: str, vetoed: bool) -> list[dict[str, Any]]:
    heard = {name: name for name in ("features", "mouth", "logits")}
    history = {"history": "history", "emotion": "emotion", "style": "style", "ring": "ring"}
    return [
        {"carry": "shift", "from": "noise", "to": "ring"},
        {
            "stage": "audio",
            "inputs": {"window": "window", "memory": "memory", **({"doubt": "doubt"} if vetoed else {})},
            "outputs": {**heard, "kept": "kept", **({"doubted": "doubted"} if vetoed else {})},
        },
        {
            "stage": "condition",
            "inputs": {**heard, **history},
            "outputs": {"cond": "cond", "smooth": "smooth", "chance": "chance"},
        },
        {
            "stage": "denoise",
            "inputs": {"x": "smooth", "cond": "cond", "row": "@row"},
            "outputs": {"cleaner": "clean"},
            "rows": True,
            "carry": {"cleaner": "x"},
            "schedules": ["full", "fast"],
        },
        {
            "stage": "student",
            "inputs": {"noise": "smooth", "cond": "cond"},
            "outputs": {"clean": "clean"},
            "schedules": ["one"],
        },
        {
            "stage": "decode",
            "inputs": {
                name: name
                for name in ("clean", "logits", "mouth", "history", "chance", "held", "gaze", "lids", "emotion")
            },
            "outputs": {"motion": "motion", "newest": "newest", "still": "still"},
        },
        {"carry": "shift", "from": "newest", "to": "history"},
        {"carry": carry, "from": "kept", "to": "memory"},
        *([{"carry": "copy", "from": "doubted", "to": "doubt"}] if vetoed else []),
        {"carry": "copy", "from": "still", "to": "held"},
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the recipe's `export` stage."""
    parser.add_argument("--work", type=Path, required=True, help="folder with talker.pt (or teacher.pt)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; an older bundle is replaced")


def run(options: argparse.Namespace) -> int:
    """Export `work`/talker.pt."""
    bundle = export_talker(load_talker(options.work / "talker.pt"), options.out, replace=True)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.2f} MB, schedules {', '.join(bundle.manifest.ladder)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as `python -m edgetalker.export.online`: the recipe's last stage. A user's mistake is one line, status 2."""
    parser = argparse.ArgumentParser(prog="python -m edgetalker.export.online", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except (FileNotFoundError, UserError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
