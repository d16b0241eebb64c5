"""A talker that hears two eye cameras: `edgetalker export eye-cameras -o BUNDLE`.

Renders our own head as a headset's cameras see it, trains the encoder and the layers that follow it, adds both to a
bundle as stages, plays a session that was held out (other light, another fit, another motion) through the runtime, and
reports how far what is shown is from what was rendered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.engines.bundle import MANIFEST, Bundle, pack
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import checked_target, write_whole
from edgetalker.export.draft import try_target
from edgetalker.export.onnx_stage import ExportError, StageFile, compare, export_stage, runner
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.eyecameras import (
    DEGREES,
    FEATURES,
    SIZE,
    VALUES,
    Encoder,
    EyeViews,
    Follow,
    Session,
    fit_follow,
    shapes_of,
    train_encoder,
    write_sheet,
)
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.talker import Talker

__all__ = ["PICTURES", "add_eye_cameras", "play", "report", "run"]

PICTURES = "eye_pictures"
"""The input that the bundle gets: (1, 2, 48, 48), grey in [0, 1], the left eye's first."""
_HELD_OUT = 1_000_000
_BEGIN = 10
"""Frames of a session that are not counted: the eyes go over to the cameras."""
Array = NDArray[np.float32]


def add_eye_cameras(bundle: Bundle, encoder: Encoder, follow: Follow, out: Path, *, replace: bool = False) -> Bundle:
    """Write a bundle with two stages more: one from pictures to features, one behind the last that follows them.

    Raises InputError for a bundle that has them or makes other motion, ExportError for a stage that differs.
    """
    document = _talker(bundle)
    shown, stages, tensors = document["motion"]["tensor"], document["stages"], document["tensors"]
    held = torch.zeros(1, 1 + len(VALUES))
    made, features, presence = torch.zeros(1, len(MOTION_NAMES)), torch.zeros(1, FEATURES), torch.ones(1, 1)
    seeing = {"pictures": torch.zeros(1, 2, SIZE, SIZE)}
    following = {"made": made, "features": features, "presence": presence, "held": held}
    exported = [
        _stage("eye_encoder", encoder, seeing, ["features", "presence"]),
        _stage("eye_follow", follow, following, ["motion", "still"]),
    ]
    names = {"made": "made", "features": "eye_features", "presence": "eye_presence", "held": "eyes_seen",
             "motion": shown, "still": "eyes_seen_now", "pictures": PICTURES}  # fmt: skip
    for stage in exported:
        stages[stage.name] = {"file": f"{stage.name}.onnx", "inputs": stage.inputs, "outputs": stage.outputs}
        for key, border in {**stage.inputs, **stage.outputs}.items():
            tensors.setdefault(names[key], {"role": "value", **border})
    tensors[PICTURES] |= {"role": "input", "stale": 0.25}
    tensors["eyes_seen"] |= {"role": "state"}
    for step in document["program"]:  # what the talker made is what the new stage changes
        for at in ("inputs", "outputs"):
            step.update({at: {k: "made" if v == shown else v for k, v in step[at].items()}} if at in step else {})
    document["program"] += [
        {
            "stage": stage.name,
            "inputs": {key: names[key] for key in stage.inputs},
            "outputs": {key: names[key] for key in stage.outputs},
        }
        for stage in exported
    ] + [{"carry": "copy", "from": "eyes_seen_now", "to": "eyes_seen"}]
    files: dict[str, Any] = {name: bundle.path / name for name in document["files"]}
    files |= {f"{stage.name}.onnx": stage.content for stage in exported}
    kept = {key: value for key, value in document.items() if key not in ("format", "version", "files")}
    return pack(out, {**kept, "name": f"{document['name']}-eye-cameras"}, files, replace=replace)


def _talker(bundle: Bundle) -> dict[str, Any]:
    """Return a bundle's manifest as JSON. Raises InputError for one that cannot be given cameras."""
    document: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    faults = [
        fault
        for fault, found in (
            (f"it has `{PICTURES}` already", PICTURES in document["tensors"]),
            ("its motion is not this project's", tuple(document["motion"].get("names", ())) != MOTION_NAMES),
            ("it has other precisions", "precisions" in document),
        )
        if found
    ]
    if faults:
        raise InputError(
            f"{bundle.path} cannot be given eye cameras: {'; '.join(faults)}",
            hint="the talker that ships, or one exported by `edgetalker export`; convert it afterwards",
        )
    return document


def _stage(name: str, module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> StageFile:
    stage = export_stage(name, module, inputs, outputs)
    dice, pairs = torch.Generator().manual_seed(2), []
    for size in (1.0, 0.1, 0.0):
        values = {key: size * torch.rand(value.shape, generator=dice) for key, value in inputs.items()}
        with torch.no_grad():
            wanted = module(*values.values())
        found = runner(stage)({key: value.numpy() for key, value in values.items()})
        pairs += [(found[key], value.numpy()) for key, value in zip(outputs, wanted, strict=True)]
    if not (check := compare(name, pairs, 2e-4)).passed:
        raise ExportError(f"stage `{name}` differs from PyTorch: {check}")
    return stage


def play(bundle: Bundle | Path, session: Session, *, blind: bool = False) -> Array:
    """Return the motion (T, 55) that the runtime makes in silence of a session's pictures; blind: without them."""
    shown = []
    with Talker(bundle, seed=3, schedules=["one"]) as talker:
        for pictures in session.pictures:
            if not blind:
                talker.feed(PICTURES, pictures.astype(np.float32) / 255.0)
            talker.pad()
            shown.append(talker.make().motion.copy())
    return np.array(shown)


def _angles(motion: Array) -> Array:
    """Return where both eyes look, (T, 2, 2): degrees inwards and up."""
    column = {name: motion[:, MOTION_NAMES.index(name)] for name in MOTION_NAMES}
    sides = [
        [
            -DEGREES[0] * column[f"EyeLookIn{side}"] - DEGREES[2] * column[f"EyeLookOut{side}"],
            -DEGREES[1] * column[f"EyeLookUp{side}"] - DEGREES[3] * column[f"EyeLookDown{side}"],
        ]
        for side in ("Left", "Right")
    ]
    angles: Array = np.asarray(sides, np.float32).transpose(2, 0, 1)
    return angles


def report(sessions: Sequence[Session], shown: Sequence[Array], blind: Sequence[Array]) -> dict[str, dict[str, float]]:
    """Return errors against what was rendered: of the cameras, of eyes that rest (the sessions' mean), and of the
    talker without cameras.

    gaze: mean and 95th percentile in degrees, over both eyes, while they are at least half open; the others: mean
    absolute errors of shapes. blinks: of the frames whose lids are shut (over 0.8), those shown shut (over 0.6).
    """
    truth = np.concatenate([shapes_of(s.truth)[_BEGIN:] for s in sessions])
    mean = np.broadcast_to(truth.mean(0), truth.shape)
    ways = {"cameras": shown, "mean": None, "talker alone": blind}
    found: dict[str, dict[str, float]] = {}
    for way, motions in ways.items():
        motion = mean if motions is None else np.concatenate([m[_BEGIN:] for m in motions])
        off = np.linalg.norm(_angles(motion) - _angles(truth), axis=-1)
        lids = [MOTION_NAMES.index(f"EyeBlink{side}") for side in ("Left", "Right")]
        opened, closed = truth[:, lids] < 0.5, truth[:, lids] > 0.8
        row = {"gaze": float(off[opened].mean()), "gaze p95": float(np.percentile(off[opened], 95))}
        for name in ("EyeBlink", "EyeWide", "EyeSquint", "BrowDown", "BrowInnerUp", "BrowOuterUp", "CheekSquint"):
            at = [place for place, known in enumerate(MOTION_NAMES) if known.startswith(name)]
            row[name] = float(np.abs(motion - truth)[:, at].mean())
        row["blinks"] = float((motion[:, lids][closed] > 0.6).mean()) if closed.any() else float("nan")
        found[way] = {key: round(value, 4) for key, value in row.items()}
    return found


def run(options: argparse.Namespace) -> int:
    """Train, write a bundle and report, as the options of `edgetalker export eye-cameras` say. Raises UserError."""
    try_target(options.out, replace=options.force)
    for file in (options.report, options.picture):
        if file is not None:
            checked_target(file)
    source = Bundle.open(find_bundle(options.bundle))
    _talker(source)  # before the training, not after it
    torch.set_num_threads(1)
    views = EyeViews()
    sessions = [Session.render(views, seed, 10, moving=False) for seed in range(options.sessions)]
    print(f"{sum(len(s.truth) for s in sessions)} frames of {len(sessions)} wearings rendered", flush=True)
    encoder = train_encoder(sessions, options.steps)
    bundle = add_eye_cameras(source, encoder, fit_follow(encoder, sessions), options.out, replace=options.force)
    held_out = [Session.render(views, _HELD_OUT + seed, 200, moving=True) for seed in range(3)]
    shown = [play(bundle, session) for session in held_out]
    errors = report(held_out, shown, [play(bundle, session, blind=True) for session in held_out])
    text = json.dumps(errors, indent=1)
    print(text)
    if options.report is not None:
        with write_whole(options.report) as file:
            file.write(f"{text}\n".encode())
    if options.picture is not None:
        write_sheet(options.picture, views, held_out[0], shown[0])
    return 0
