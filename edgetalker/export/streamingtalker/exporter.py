"""From a published checkpoint to a bundle."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.engines.errors import OptionError, Say
from edgetalker.export.draft import Draft, ExportReport, origin_of, try_target
from edgetalker.export.faces.attach import attach
from edgetalker.export.streamingtalker.compare import Clip, Distance, Regions, windowed
from edgetalker.export.streamingtalker.condition_stage import condition_map
from edgetalker.export.streamingtalker.denoise_stage import CollapseStage, schedule_table
from edgetalker.export.streamingtalker.description import describe
from edgetalker.export.streamingtalker.options import ExportOptions
from edgetalker.export.streamingtalker.stages import Stages
from edgetalker.export.streamingtalker.template import read_template
from edgetalker.models.streamingtalker.checkpoint import load_checkpoint
from edgetalker.models.streamingtalker.contract import SAMPLE_RATE, Contract
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Schedule
from edgetalker.models.streamingtalker.windowed import Draw, windowed_features
from edgetalker.runtime.sources.file import read_whole

__all__ = ["export_model", "export_streamingtalker"]

_SPEECH = Path(__file__).resolve().parents[2] / "data" / "speech.wav"
_RUNG_FRAMES = 45


def export_streamingtalker(
    checkpoint: Path | str,
    vae: Path | str | None,
    out: Path | str,
    options: ExportOptions | None = None,
    *,
    replace: bool = False,
    ignore_extra: bool = False,
    say: Say = lambda line: None,
) -> ExportReport:
    """Export a stage-2 checkpoint (and, where it lacks the VAE, a stage-1 file) to the bundle folder `out`.

    ignore_extra: pass over entries of the files that no StreamingTalker has. `say` gets one line a stage. The folder
    appears whole, or not at all.

    Raises:
        CheckpointError: the files do not hold such a network; every fault at once.
        OptionError: choices that do not fit each other or the network.
        ExportError: a stage does not compute what PyTorch computes.
        InputError: `out` exists already, or the template does not fit.
    """
    options = options or ExportOptions()
    try_target(Path(out), replace=replace)
    model = load_checkpoint(checkpoint, vae, options.untold, ignore_extra=ignore_extra, say=say)
    origin = origin_of([Path(path) for path in (checkpoint, vae) if path is not None])
    return export_model(model, out, options, name=Path(checkpoint).stem, origin=origin, replace=replace, say=say)


def export_model(
    model: StreamingTalker,
    out: Path | str,
    options: ExportOptions,
    *,
    name: str,
    origin: str = "",
    replace: bool = False,
    say: Say = lambda line: None,
) -> ExportReport:
    """Export a loaded network; see `export_streamingtalker`."""
    contract, schedules = options.contract(model.config), options.schedules()
    template, triangles = _template(model, options)
    draft = Draft(say)
    draft.attach(
        attach(
            options.face,
            tensor="vertices",
            vertices=template.shape[1],
            rest=template[0] if options.template else None,
            basis=model.vae.decoder.reverse.weight.detach().numpy(),
            tolerance=options.tolerance,
        )
    )
    collapse = CollapseStage(model, schedules["full"]) if options.collapse else None
    _add_stages(draft, model, contract, options, schedules, collapse)
    draft.passed()  # before the minutes that the rungs' distances take
    rungs = _rungs(model, options, schedules, collapse, say)
    manifest = describe(model.config, contract, options, draft.stages, list(schedules), rungs, triangles)
    files: dict[str, Any] = {"template.npy": template, "latents.npy": _initial_latents(model, contract)}
    if triangles is not None:
        files["triangles.npy"] = triangles
    for key, table in schedules.items():
        files[f"schedules/{key}.npy"] = schedule_table(model, table, options.steps_per_row)
    notes = _notes(model, contract, options, schedules)
    return draft.write(out, {"name": name, "origin": origin, **manifest}, notes, files, replace=replace)


def _add_stages(
    draft: Draft,
    model: StreamingTalker,
    contract: Contract,
    options: ExportOptions,
    schedules: dict[str, Schedule],
    collapse: CollapseStage | None,
) -> None:
    maker = Stages(model, contract, options.tolerance, steps_per_row=options.steps_per_row)
    if not options.features_input:
        draft.add(*maker.audio())
    draft.add(*maker.condition())
    steps = draft.add(*maker.denoise(options.rule, schedules))
    if collapse is not None:
        draft.add(*maker.collapse(collapse, schedules["full"], steps))
    if contract.past == "rewrite":
        draft.add(*maker.rewrite())
    draft.add(*maker.decode())


def _template(model: StreamingTalker, options: ExportOptions) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
    """Return the template (1, V, 3), the file's, or zeros, which makes every frame a displacement; and its triangles
    (F, 3), if it is a mesh."""
    size, identities = model.config.vertex_values, model.config.identities
    if not 0 <= options.identity < identities:
        raise OptionError(f"identity {options.identity}; the network has 0 to {identities - 1}")
    if size % 3:
        raise OptionError(f"{size} values a frame are no whole number of vertices")
    if options.template is None:
        return np.zeros((1, size // 3, 3), np.float32), None
    return read_template(options.template, size // 3, options.subject)


@torch.no_grad()
def _initial_latents(model: StreamingTalker, contract: Contract) -> NDArray[np.float32]:
    latents = np.zeros((1, max(contract.history, contract.decode_window), model.config.latent_width), np.float32)
    latents[0, -1] = model.vae.start_token()[0, 0].numpy()
    return latents


def _rungs(
    model: StreamingTalker,
    options: ExportOptions,
    schedules: dict[str, Schedule],
    collapse: CollapseStage | None,
    say: Say,
) -> dict[str, float]:
    """Return how far each lower rung is from `full`, on the packaged speech, as RMS of the difference over RMS of the
    motion: a ladder that changes function in mid-sentence should be known. A network that does not move has none.
    """
    draws: dict[str, Draw] = {name: _sampler(model, table) for name, table in schedules.items()}
    if collapse is not None:
        draws["collapsed"] = _collapsed(model, collapse)
    if len(draws) == 1:
        return {}
    samples = torch.from_numpy(read_whole(_SPEECH, SAMPLE_RATE))
    rest = torch.zeros(model.config.vertex_values)
    identity = torch.eye(model.config.identities)[[options.identity]]
    clip = Clip(samples, _RUNG_FRAMES, identity, rest, schedules["full"])
    features = windowed_features(model, options.contract(model.config), samples, _RUNG_FRAMES)
    takes = {name: windowed(model, clip, options, features, draw) for name, draw in draws.items()}
    full = takes.pop("full")
    rungs = {name: Distance.between(name, take, full, Regions()).ratios["face"] for name, take in takes.items()}
    for name, differs in rungs.items():
        say(f"{name}: differs from full by {differs:.2g} of the motion's RMS on {_RUNG_FRAMES} frames of speech")
    return {name: differs for name, differs in rungs.items() if math.isfinite(differs)}


def _sampler(model: StreamingTalker, schedule: Schedule) -> Draw:
    return lambda noise, condition: sample(model.motion.head, noise, condition, schedule)


def _collapsed(model: StreamingTalker, collapse: CollapseStage) -> Draw:
    share = condition_map(model.motion.head)
    return lambda noise, condition: cast(Tensor, collapse(noise, share(condition)))


def _notes(
    model: StreamingTalker, contract: Contract, options: ExportOptions, schedules: dict[str, Schedule]
) -> dict[str, Any]:
    return {
        "dataset": model.config.dataset,
        "rule": options.rule,
        "steps": {name: len(table) for name, table in schedules.items()},
        "steps_per_row": options.steps_per_row,
        "phase": contract.phase,
        "past": contract.past,
        "floor_db": contract.floor_db,
        "untold": {key: value for key, value in asdict(options.untold).items() if value is not None},
        "history": contract.history,
        "decode_window": contract.decode_window,
        "lookahead_ms": options.lookahead_ms,
        "context_ms": options.context_ms,
        "block_ms": options.block_ms,
        "template": options.template.name if options.template else "none: vertices are displacements",
        "differs": "windowed by contract: not the offline output of the published code (docs/streamingtalker.md)",
    }
