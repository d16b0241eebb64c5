"""The manifest of an exported ARTalk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetalker.export.artalk.stages import audio_names
from edgetalker.export.artalk.vae_stages import TAIL
from edgetalker.export.onnx_stage import StageFile
from edgetalker.models.artalk.config import SAMPLE_RATE, Config

__all__ = ["Layout", "describe"]


@dataclass(frozen=True)
class Layout:
    """What of the bundle is the user's choice: parts of the audio encoder, smoothing, spread in frames, and frames
    and default weight of the style clip, and the default weight of the head's rotation."""

    audio_parts: int
    smooth: bool
    spread: int
    style_frames: int
    style_weight: float
    head_weight: float


def describe(config: Config, layout: Layout, stages: Sequence[StageFile]) -> dict[str, Any]:
    """Return the manifest without name, origin, notes and digests, for `pack`.

    A chunk is one group of steps that runs once every `config.frames` frames; a frame then takes its row of the
    chunk's motion.
    """
    return {
        "family": "artalk",
        "audio": {
            "rate": SAMPLE_RATE,
            "window": config.samples,
            "lookahead": 0,
            "block": config.frames,
            "spread": layout.spread,
        },
        "motion": {
            "tensor": "motion",
            "kind": "other",
            "fps": str(config.fps),
            "names": _names(config),
            "delay": TAIL // 2 if layout.smooth else 0,
        },
        "tensors": _tensors(config, layout),
        "stages": {
            stage.name: {"file": f"{stage.name}.onnx", "inputs": dict(stage.inputs), "outputs": dict(stage.outputs)}
            for stage in stages
        },
        "program": _program(config, layout),
        "schedules": {"full": {"rank": 0}},
        "skipped": "freeze",
    }


def _names(config: Config) -> list[str]:
    turns = [f"{part}_{axis}" for part in ("head", "jaw") for axis in "xyz"]
    return [f"expression_{place}" for place in range(config.motion - len(turns))] + turns


def _tensor(role: str, *shape: int, **options: Any) -> dict[str, Any]:
    return {"role": role, "dtype": "float32", "shape": list(shape), **options}


def _weights(**defaults: float) -> dict[str, Any]:
    places = len(defaults)
    return _tensor(
        "control",
        1,
        places,
        names=list(defaults),
        default=[*defaults.values()],
        low=[0.0] * places,
        high=[1.0] * places,
    )


def _tensors(config: Config, layout: Layout) -> dict[str, Any]:
    scales, width = config.scales, config.width
    kept = 2 * config.layers * width
    tensors = {
        "audio": _tensor("audio", 1, config.samples),
        "style_clip": _tensor("constant", 1, layout.style_frames, config.motion, file="style_clip.npy"),
        "style_motion": _tensor("input", 1, layout.style_frames, config.motion),
        "style": _weights(style=layout.style_weight, fed=0.0),
        "head": _weights(head=layout.head_weight),
        "features": _tensor("value", 1, config.audio_tokens, config.audio_width),
        "style_token": _tensor("value", 1, 1, width),
        "past_codes": _tensor("state", 1, scales.tokens, config.code, file="past_codes.npy"),
        "adaptors": _tensor("value", 1, scales.tokens, (6 * config.layers + 2) * width),
        "cache": _tensor("value", 1, scales.tokens + scales.starts[-1], kept),
        "logits": _tensor("value", 1, scales.tokens, 2 * config.code),
        "codes": _tensor("value", 1, scales.tokens, config.code),
        "raw": _tensor("value", config.frames, 1, config.motion),
        "chunk": _tensor("value", config.frames, 1, config.motion),
        "motion": _tensor("value", 1, config.motion),
    }
    for name in audio_names(layout.audio_parts)[:-1]:
        tensors[f"{name}_tokens"] = _tensor("value", 1, config.audio_tokens, config.audio_width)
    if layout.smooth:
        tensors["tail"] = _tensor("state", 1, TAIL, config.motion)
        tensors["tail_next"] = _tensor("value", 1, TAIL, config.motion)
        tensors["count"] = _tensor("count", 1, limit=1)
    return tensors


def _program(config: Config, layout: Layout) -> list[dict[str, Any]]:
    chunk: list[dict[str, Any]] = []

    def step(stage: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        chunk.append({"stage": stage, "inputs": dict(inputs), "outputs": dict(outputs), "every": config.frames})

    scales, names = config.scales, audio_names(layout.audio_parts)
    for place, name in enumerate(names):
        last = place + 1 == len(names)
        step(
            name,
            {"audio": "audio"} if place == 0 else {"before": f"{names[place - 1]}_tokens"},
            {"features": "features"} if last else {"after": f"{name}_tokens"},
        )
    step("style", {"clip": "style_clip", "fed": "style_motion", "weights": "style"}, {"style": "style_token"})
    tokens = scales.tokens
    step(
        "condition",
        {"features": "features", "codes": "past_codes", "style": "style_token"},
        {"adaptors": "adaptors", "past": f"cache[0:{tokens}]"},
    )
    for scale in range(len(scales)):
        first, last = scales.rows(scale).start, scales.rows(scale).stop
        inputs = {
            "before": f"codes[0:{first}]" if scale else "style_token",
            "adaptors": f"adaptors[{first}:{last}]",
            "cache": f"cache[0:{tokens + first}]",
        }
        outputs = {"logits": f"logits[{first}:{last}]", "codes": f"codes[{first}:{last}]"}
        if scale + 1 < len(scales):
            outputs["kept"] = f"cache[{tokens + first}:{tokens + last}]"
        step(f"scale_{scale + 1}", inputs, outputs)
    step("decode", {"before": "past_codes", "codes": "codes"}, {"motion": "raw"})
    step("encode", {"motion": "raw"}, {"codes": "past_codes"})
    smoothing = {"tail": "tail", "count": "count"} if layout.smooth else {}
    step(
        "finish",
        {"motion": "raw", "turning": "head", **smoothing},
        {"finished": "chunk"} | ({"tail_next": "tail_next"} if layout.smooth else {}),
    )
    if layout.smooth:
        chunk.append({"carry": "copy", "from": "tail_next", "to": "tail", "every": config.frames})
    return [*chunk, {"carry": "copy", "from": "chunk[phase]", "to": "motion"}]
