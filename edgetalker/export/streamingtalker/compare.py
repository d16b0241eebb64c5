"""How far a bundle is from the two published paths on the same weights, speech and noise, with yardsticks beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.engines.arrays import read_arrays
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError, Say
from edgetalker.engines.files import read_text
from edgetalker.export.streamingtalker.options import ExportOptions
from edgetalker.models.streamingtalker.audio import SAMPLE_RATE, encode_clip, normalise
from edgetalker.models.streamingtalker.config import Config, Untold
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.offline import Noise, predict, stream_frames
from edgetalker.models.streamingtalker.schedule import Schedule
from edgetalker.models.streamingtalker.windowed import Draw, windowed_features, windowed_frames
from edgetalker.runtime.inputs import NormalNoise
from edgetalker.runtime.model import Model

__all__ = [
    "Clip",
    "Distance",
    "Regions",
    "Tried",
    "bundle_options",
    "compare",
    "play",
    "published",
    "regions_of",
    "sweep",
    "untold_of",
]

Frames = NDArray[np.float32]
"""Vertices (F, V, 3)."""


# Pairs of lip vertices that the published mouth opening is measured between (upper, then lower), by 3 V.
_LIPS: Mapping[int, tuple[int, ...]] = {
    15069: (2865, 2866, 3546, 1751, 1750, 2907, 2938, 3504, 1849, 1804),
    70110: (366, 12773, 21688, 10235, 10117, 21538, 10665, 22962, 21152, 14028),
}


@dataclass(frozen=True)
class Regions:
    """Indices of vertices; None where nobody knows them."""

    lips: NDArray[np.int64] | None = None
    upper: NDArray[np.int64] | None = None

    def named(self) -> dict[str, NDArray[np.int64] | None]:
        """Return every region by the name of its column; the whole face first, as None."""
        some = {"lips": self.lips, "upper face": self.upper}
        return {"face": None, **{name: indices for name, indices in some.items() if indices is not None}}


def regions_of(config: Config, lips: Path | None = None, upper: Path | None = None) -> Regions:
    """Return the regions of files of whole numbers (.npy or text); without one, the published ten lip vertices.

    Raises InputError for a file that is no list of vertices of this face.
    """
    count = config.vertex_values // 3
    published = _LIPS.get(config.vertex_values)
    given = np.array(published, np.int64) if published else None
    return Regions(
        _indices(lips, count) if lips else given,
        _indices(upper, count) if upper else None,
    )


def _indices(path: Path, count: int) -> NDArray[np.int64]:
    try:
        if path.suffix == ".npy":
            values = read_arrays(path)
        else:
            values = np.array([int(word) for word in read_text(path, 1 << 24).replace(",", " ").split()])
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no list of vertices: {error}") from None
    if isinstance(values, dict) or values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        raise InputError(f"{path} is no list of vertices: whole numbers, .npy or text, were wanted")
    if values.min() < 0 or values.max() >= count:
        raise InputError(f"{path} names vertices {values.min()} to {values.max()}; the face has 0 to {count - 1}")
    return np.asarray(values, np.int64)


@dataclass(frozen=True)
class Distance:
    """RMS of the difference over RMS of the motion, by region. The motion is what moves: without the mean face."""

    name: str
    ratios: Mapping[str, float]

    @classmethod
    def between(cls, name: str, ours: Frames, theirs: Frames, regions: Regions) -> Distance:
        """Compare two takes; the second is the one whose motion is the measure."""
        frames = min(len(ours), len(theirs))
        ratios = {}
        for region, indices in regions.named().items():
            one, two = (take[:frames] if indices is None else take[:frames, indices] for take in (ours, theirs))
            motion = _rms(two - two.mean(axis=0))
            ratios[region] = float(_rms(one - two) / motion) if motion else float("nan")
        return cls(name, ratios)


def _rms(values: Frames) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@dataclass(frozen=True)
class Clip:
    """What both sides are given: speech (N,) at 16 kHz, frames to make, identity, template (3V,), seed, schedule."""

    samples: Tensor
    frames: int
    identity: Tensor
    template: Tensor
    schedule: Schedule
    seed: int = 0

    def noise(self, width: int) -> Noise:
        """Return the bundle's noise for the newest row, and noise of its own for the rows before it."""
        newest, before = NormalNoise(self.seed), NormalNoise(self.seed, stream=1)

        def rows(frame: int, count: int) -> Tensor:
            # From the newest row back, so that a row's noise does not depend on how many are before it.
            values = np.empty((count, width), np.float32)
            newest.fill(frame, values[:1])
            if count > 1:
                before.fill(frame, values[1:])
            return torch.from_numpy(values[::-1].copy())[None]

        return rows


def published(model: StreamingTalker, clip: Clip, path: str, features: Tensor | None = None) -> Frames:
    """Return what a published path, `predict` or `streaming_inference`, makes of the whole clip's features."""
    features = whole_features(model, clip) if features is None else features
    arguments = (features, clip.identity, clip.template, clip.noise(model.config.latent_width), clip.schedule)
    if path == "predict":
        return _frames(predict(model, *arguments).vertices[0])
    return _frames(torch.stack([vertices[0] for _, _, vertices in stream_frames(model, *arguments)]))


def whole_features(model: StreamingTalker, clip: Clip) -> Tensor:
    """Return the features (1, F, A) that the published code makes of the whole clip, cut to the clip's frames."""
    with torch.no_grad():
        features = encode_clip(model.audio_encoder, normalise(clip.samples[None]), model.config.frame_rate)
    return features[:, : clip.frames]


def windowed(
    model: StreamingTalker,
    clip: Clip,
    options: ExportOptions,
    features: Tensor | None = None,
    draw: Draw | None = None,
) -> Frames:
    """Return what the contract of these options makes of the clip, in plain PyTorch."""
    contract = options.contract(model.config)
    if features is None:
        features = windowed_features(model, contract, clip.samples, clip.frames)
    noise = clip.noise(model.config.latent_width)
    frames = windowed_frames(model, contract, features, clip.identity, clip.template, noise, clip.schedule, draw)
    return _frames(torch.stack(list(frames)))


def _frames(vertices: Tensor) -> Frames:
    return vertices.numpy().reshape(len(vertices), -1, 3)


def play(bundle: Bundle, clip: Clip, *, precision: str = "fp32", schedule: str | None = None) -> Frames:
    """Return what the runtime makes of the clip with this bundle; silence follows the clip's end."""
    rows = clip.noise(bundle.manifest.tensors["noise"].spec.shape[-1])

    def noise(_name: str, frame: int, into: NDArray[np.float32]) -> None:
        into[...] = rows(frame, into.shape[1] if into.ndim == 3 else 1).numpy().reshape(into.shape)

    with Model(bundle, precision=precision) as model:
        talker = model.talker(noise=noise)
        talker.set("identity", [float(value) for value in clip.identity[0]])
        talker.reset()
        samples = clip.samples.numpy()
        made: list[NDArray[np.float32]] = []
        while len(made) < clip.frames:
            piece, samples = samples[:SAMPLE_RATE], samples[SAMPLE_RATE:]
            talker.hear(piece if len(piece) else np.zeros(SAMPLE_RATE, np.float32))
            while talker.ready() and len(made) < clip.frames:
                made.append(talker.make(schedule).motion.copy())
        return np.stack(made)


def compare(
    bundle: Bundle, model: StreamingTalker, clip: Clip, regions: Regions, say: Say = lambda line: None
) -> tuple[list[Distance], dict[str, Frames]]:
    """Return the distances, what is compared first and the yardsticks after it, and the takes by name.

    Raises OptionError when the bundle was not exported from a network of these sizes.
    """
    options = bundle_options(bundle, model.config)
    say(f"{clip.frames} frames: the bundle")
    takes = {"bundle": play(bundle, clip)}
    features = whole_features(model, clip)
    for path in ("streaming_inference", "predict"):
        say(f"{clip.frames} frames: {path}")
        takes[path] = published(model, clip, path, features)
    say(f"{clip.frames} frames: yardsticks")
    streaming = takes["streaming_inference"]
    between = [
        ("bundle against streaming_inference", takes["bundle"], streaming),
        ("bundle against predict", takes["bundle"], takes["predict"]),
        ("predict against streaming_inference", takes["predict"], streaming),
        ("another seed", play(bundle, replace(clip, seed=clip.seed + 1)), takes["bundle"]),
        ("the contract in PyTorch", windowed(model, clip, options), takes["bundle"]),
        ("half the windows", windowed(model, clip, _halved(options)), takes["bundle"]),
    ]
    if len(clip.schedule) == bundle.manifest.notes["steps"]["full"]:
        rungs = [name for name in bundle.manifest.ladder if name != "full"]
        between += [(f"schedule {name}", play(bundle, clip, schedule=name), takes["bundle"]) for name in rungs]
    between += [
        (f"precision {name}", play(bundle, clip, precision=name), takes["bundle"])
        for name in bundle.manifest.precisions
    ]
    if not bundle.manifest.precisions:
        between.append(("weights rounded to FP16", _with_halves(model, clip, features), streaming))
    return [Distance.between(name, one, two, regions) for name, one, two in between], takes


def _halved(options: ExportOptions) -> ExportOptions:
    context = max(20, options.context_ms // 2 // 20 * 20)
    return replace(
        options,
        context_ms=context,
        history=max(2, options.history // 2),
        decode_window=max(2, options.decode_window // 2),
    )


def _with_halves(model: StreamingTalker, clip: Clip, features: Tensor) -> Frames:
    """Return streaming_inference with every weight rounded to float16; the network is put back as it was."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(value.half().float())
        return published(model, clip, "streaming_inference", features)
    finally:
        model.load_state_dict(kept)


def bundle_options(bundle: Bundle, config: Config) -> ExportOptions:
    """Return the options that a bundle was exported with. Raises OptionError when it is of another network."""
    manifest, notes = bundle.manifest, bundle.manifest.notes
    if manifest.family != "streamingtalker":
        raise OptionError(f"{bundle.path} is of the family {manifest.family}; a streamingtalker bundle is compared")
    latents, vertices = manifest.tensors["latents"].spec.shape, manifest.tensors["vertices"].spec.shape
    if manifest.motion.tensor != "vertices":
        raise OptionError(f"{bundle.path} gives {manifest.motion.kind}; a bundle of vertices is compared")
    if (latents[2], vertices[1] * 3, manifest.motion.fps) != (
        config.latent_width,
        config.vertex_values,
        Fraction(config.frame_rate),
    ):
        raise OptionError(
            f"{bundle.path} makes {vertices[1]} vertices from latents of {latents[2]} at {manifest.motion.fps} fps; "
            f"the checkpoint {config.vertex_values // 3} from {config.latent_width} at {config.frame_rate}",
            hint="give the checkpoint that the bundle was exported from",
        )
    if "audio" not in manifest.tensors:
        raise OptionError(f"{bundle.path} hears no sound (its features are fed)", hint="compare one that hears sound")
    keys = ("block_ms", "lookahead_ms", "context_ms", "history", "decode_window", "phase", "past", "floor_db", "rule")
    return ExportOptions(**{key: notes[key] for key in keys}, full_steps=notes["steps"]["full"], fast_steps=0)


def untold_of(bundle: Bundle) -> Untold:
    """Return what the exporter was told beside the tensors, so that it need not be told again."""
    return Untold(**bundle.manifest.notes.get("untold", {}))


@dataclass(frozen=True)
class Tried:
    """One contract of a sweep: its latency in ms, what it hears in ms, and its distances from the target."""

    options: ExportOptions
    distance: Distance

    @property
    def latency_ms(self) -> int:
        """From the first sound of a block to when its frames can be made."""
        return self.options.block_ms + self.options.lookahead_ms

    @property
    def cost(self) -> tuple[int, int, int, int]:
        """What a shorter contract has less of: latency first, then rows, then sound."""
        options = self.options
        return self.latency_ms, options.history, options.decode_window, options.context_ms


def sweep(
    model: StreamingTalker,
    clip: Clip,
    base: ExportOptions,
    choices: Mapping[str, Sequence[Any]],
    regions: Regions,
    target: str = "streaming_inference",
) -> Iterator[Tried]:
    """Try every combination of `choices` (option -> values) against a published path, in plain PyTorch.

    A bundle of the same contract is within the export's tolerance of that. Raises OptionError for lengths that do
    not fit, before anything is tried.
    """
    combined = [
        replace(base, **dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())
    ]
    for options in combined:
        options.contract(model.config)
    theirs = published(model, clip, target)
    heard: dict[tuple[int, int, int], Tensor] = {}
    for options in combined:
        sound = (options.block_ms, options.lookahead_ms, options.context_ms)
        if sound not in heard:
            heard[sound] = windowed_features(model, options.contract(model.config), clip.samples, clip.frames)
        ours = windowed(model, clip, options, heard[sound])
        yield Tried(options, Distance.between("", ours, theirs, regions))
