"""From a published checkpoint to a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetalker.engines.arrays import read_clip
from edgetalker.engines.errors import OptionError, Say
from edgetalker.export.artalk.description import Layout, describe
from edgetalker.export.artalk.stages import Stages
from edgetalker.export.artalk.vae_stages import TAIL
from edgetalker.export.draft import CommonOptions, Draft, ExportReport, origin_of, try_target
from edgetalker.export.faces.attach import attach
from edgetalker.models.artalk.checkpoint import load_checkpoint
from edgetalker.models.artalk.config import HeadCounts, read_settings
from edgetalker.models.artalk.model import ARTalk
from edgetalker.models.artalk.offline import start_bits
from edgetalker.models.artalk.vae import quantised

__all__ = ["ExportOptions", "export_artalk", "export_model"]

_STYLE_FRAMES = 50
_LAYERS_A_PART = 6


@dataclass(frozen=True)
class ExportOptions(CommonOptions):
    """Choices of an export.

    heads: None takes those of `config`, or the published ones. config: the published config.json, checked against
    the tensors. style_motion: a clip that the talker moves like. fix_pose: the head is still unless asked to move.
    smooth: Savitzky-Golay as published, four frames later. spread: frames of the chunk before over which a chunk is
    computed (None: a quarter of a chunk). audio_parts: stages that the audio encoder is cut into, so that none of
    them takes longer than a frame (None: one for six layers).
    """

    heads: HeadCounts | None = None
    config: Path | None = None
    fps: Fraction = Fraction(25)
    style_motion: Path | None = None
    fix_pose: bool = False
    smooth: bool = True
    spread: int | None = None
    audio_parts: int | None = None


def export_artalk(
    checkpoint: Path | str,
    out: Path | str,
    options: ExportOptions | None = None,
    *,
    replace: bool = False,
    say: Say = lambda line: None,
) -> ExportReport:
    """Export a published checkpoint to the bundle folder `out`, which appears whole, or not at all.

    `say` gets one line a stage.

    Raises:
        CheckpointError: the file does not hold such a network; every fault at once.
        OptionError: choices that do not fit each other or the network.
        ExportError: a stage does not compute what PyTorch computes.
        InputError: `out` exists already, or the configuration or the style clip cannot be used.
    """
    options = options or ExportOptions()
    try_target(Path(out), replace=replace)
    settings = read_settings(options.config) if options.config else None
    model = load_checkpoint(checkpoint, options.heads, settings=settings, fps=options.fps)
    origin = origin_of([Path(checkpoint)])
    return export_model(model, out, options, name=Path(checkpoint).stem, origin=origin, replace=replace, say=say)


def export_model(
    model: ARTalk,
    out: Path | str,
    options: ExportOptions,
    *,
    name: str,
    origin: str = "",
    replace: bool = False,
    say: Say = lambda line: None,
) -> ExportReport:
    """Export a loaded network; see `export_artalk`."""
    layout, clip = _layout(model, options)
    draft = Draft(say)
    draft.attach(attach(options.face, width=model.config.motion, tolerance=options.tolerance))
    maker = Stages(
        model,
        tolerance=options.tolerance,
        audio_parts=layout.audio_parts,
        smooth=layout.smooth,
        style_frames=layout.style_frames,
    )
    for stage, check in maker.make():
        draft.add(stage, check)
    manifest = describe(model.config, layout, draft.stages)
    with torch.no_grad():
        files = {"style_clip.npy": clip, "past_codes.npy": quantised(start_bits(model)).numpy()}
    notes = _notes(model, layout, options)
    return draft.write(out, {"name": name, "origin": origin, **manifest}, notes, files, replace=replace)


def _layout(model: ARTalk, options: ExportOptions) -> tuple[Layout, NDArray[np.float32]]:
    config = model.config
    spread = config.frames // 4 if options.spread is None else options.spread
    if not 0 <= spread < config.frames:
        raise OptionError(f"a spread of {spread} frames; 0 to {config.frames - 1} were wanted", hint="give --spread N")
    parts = -(-config.audio_layers // _LAYERS_A_PART) if options.audio_parts is None else options.audio_parts
    if not 1 <= parts <= config.audio_layers:
        raise OptionError(f"{parts} audio parts; the encoder has {config.audio_layers} layers")
    if options.smooth and config.frames < TAIL:
        raise OptionError(f"chunks of {config.frames} frames are too short to smooth", hint="add --no-smooth")
    if options.style_motion is None:
        clip = np.zeros((_STYLE_FRAMES, config.motion), np.float32)
    else:
        clip = read_clip(options.style_motion, config.motion, config.style_positions - 1)
    layout = Layout(
        audio_parts=parts,
        smooth=options.smooth,
        spread=spread,
        style_frames=len(clip),
        style_weight=float(options.style_motion is not None),
        head_weight=float(not options.fix_pose),
    )
    return layout, clip[None]


def _notes(model: ARTalk, layout: Layout, options: ExportOptions) -> dict[str, Any]:
    config = model.config
    return {
        "patches": list(config.patches),
        "token_evaluations": config.scales.tokens,
        "token_evaluations_published": sum(config.scales.starts) + config.scales.tokens,
        "smoothing": "Savitzky-Golay, 5 frames of order 2, head 9 of order 3" if layout.smooth else "none",
        "style": options.style_motion.name if options.style_motion else "none",
    }
