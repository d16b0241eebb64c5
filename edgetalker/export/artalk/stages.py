"""The stages of one export: modules, example inputs, and how they are checked against the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.export.artalk.audio_stage import AudioStage, layer_ranges
from edgetalker.export.artalk.transformer_stages import ConditionStage, ScaleStage, StyleStage
from edgetalker.export.artalk.vae_stages import TAIL, DecodeStage, EncodeStage, FinishStage
from edgetalker.export.onnx_stage import Check, StageFile, compare, export_stage, runner
from edgetalker.models.artalk.model import ARTalk
from edgetalker.models.artalk.offline import finished, smoothed
from edgetalker.models.artalk.vae import quantised

__all__ = ["Stages", "audio_names"]

Array = NDArray[Any]
Made = tuple[StageFile, Check]


def audio_names(parts: int) -> list[str]:
    """Return the audio stages' names, `audio` for one."""
    return ["audio"] if parts == 1 else [f"audio_{part + 1}" for part in range(parts)]


class Stages:
    """Exports and checks each stage, in the program's order. What a stage is compared with is the published network
    (`models.artalk`), which recomputes all that the stages keep.
    """

    def __init__(self, model: ARTalk, *, tolerance: float, audio_parts: int, smooth: bool, style_frames: int) -> None:
        self.model, self.tolerance = model, tolerance
        self.audio_parts, self.smooth, self.style_frames = audio_parts, smooth, style_frames
        self._random = torch.Generator().manual_seed(1)

    def make(self) -> Iterator[Made]:
        """Yield every stage and its check."""
        with torch.no_grad():
            yield from self._audio()
            yield self._style()
            yield from self._transformer()
            yield self._decode()
            yield self._encode()
            yield self._finish()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def _bits(self) -> Tensor:
        config = self.model.config
        return torch.rand(1, config.scales.tokens, config.code, generator=self._random) > 0.5

    def _checked(self, stage: StageFile, pairs: Sequence[tuple[Array, Tensor]]) -> Made:
        return stage, compare(stage.name, [(found, wanted.numpy()) for found, wanted in pairs], self.tolerance)

    def _audio(self) -> Iterator[Made]:
        """A chunk with sound to its end, and one filled up with zeros; each part ends where the network's layers do."""
        config = self.model.config
        full = 0.1 * self._normal(1, config.samples)
        short = torch.where(torch.arange(config.samples) < config.samples // 3, full, 0.0)
        reached: list[Array] = [full.numpy(), short.numpy()]
        ranges = layer_ranges(config.audio_layers, self.audio_parts)
        wanted = [self._layer_outputs(chunk, ranges) for chunk in (full, short)]
        for place, name in enumerate(audio_names(self.audio_parts)):
            given, result = ("audio" if place == 0 else "before"), ("features" if place + 1 == len(ranges) else "after")
            stage = export_stage(
                name, AudioStage(self.model, ranges[place]), {given: torch.from_numpy(reached[0])}, [result]
            )
            run = runner(stage)
            reached = [run({given: values})[result] for values in reached]
            yield self._checked(stage, [(found, parts[place]) for found, parts in zip(reached, wanted, strict=True)])

    def _layer_outputs(self, chunk: Tensor, ranges: Sequence[range]) -> list[Tensor]:
        """Return what each range of the network's own layers leaves, the last after the final norm."""
        left: list[Tensor] = []
        layers = self.model.audio_encoder.encoder.layers
        hooks = [
            layers[one.stop - 1].register_forward_hook(
                lambda _module, _given, result: left.append(result[0] if isinstance(result, tuple) else result)
            )
            for one in ranges
        ]
        features = self.model.audio_features(chunk)
        for hook in hooks:
            hook.remove()
        return [*left[:-1], features]

    def _style(self) -> Made:
        clip, fed = (self._normal(1, self.style_frames, self.model.config.motion) for _ in range(2))
        given = {"clip": clip, "fed": fed, "weights": torch.ones(1, 2)}
        stage = export_stage("style", StyleStage(self.model), given, ["style"])
        run, pairs = runner(stage), []
        styles = [self.model.style(self.model.style_encoder(motion)) for motion in (clip, fed)]
        for weights, expected in (((1, 0), styles[0]), ((1, 1), styles[1]), ((0, 0), self.model.style(None))):
            found = run(_arrays(given) | {"weights": np.array([weights], np.float32)})["style"]
            pairs.append((found, expected))
        return self._checked(stage, pairs)

    def _transformer(self) -> Iterator[Made]:
        """The condition and each scale, with the same past given: cached keys and values against none."""
        model, config = self.model, self.model.config
        features = self._normal(1, config.audio_tokens, config.audio_width)
        style, past_bits, bits = self._normal(1, 1, config.width), self._bits(), self._bits()
        inputs = {"features": features, "codes": quantised(past_bits), "style": style}
        condition = export_stage("condition", ConditionStage(model), inputs, ["adaptors", "past"])
        told = runner(condition)({name: value.numpy() for name, value in inputs.items()})
        past, sound = model.past(past_bits, style), model.sound(features)
        wanted = _told(model, past, sound)
        yield self._checked(condition, [(told["adaptors"], wanted[0]), (told["past"], wanted[1])])
        cache, codes = told["past"], quantised(bits)
        for scale, patch in enumerate(config.patches):
            rows = config.scales.rows(scale)
            given = {
                "before": codes[:, : rows.start] if scale else style,
                "adaptors": torch.from_numpy(told["adaptors"][:, rows].copy()),
                "cache": torch.from_numpy(cache),
            }
            last = scale + 1 == len(config.patches)
            names = ["logits", "codes"] if last else ["logits", "codes", "kept"]
            stage = export_stage(f"scale_{scale + 1}", ScaleStage(model, scale), given, names)
            found = runner(stage)({name: value.numpy() for name, value in given.items()})
            expected = model.logits(bits[:, : rows.start] if scale else None, past, sound, style)[:, rows]
            zero, one = found["logits"].reshape(1, patch, -1, 2).transpose(3, 0, 1, 2)
            signs = torch.from_numpy(np.where(one > zero, 1, -1) * np.float32(config.code**-0.5))
            yield self._checked(stage, [(found["logits"], expected), (found["codes"], signs)])
            if not last:
                cache = np.concatenate([cache, found["kept"]], axis=1)

    def _decode(self) -> Made:
        vae, bits, before = self.model.basic_vae, self._bits(), self._bits()
        given = {"before": quantised(before), "codes": quantised(bits)}
        stage = export_stage("decode", DecodeStage(self.model), given, ["motion"])
        expected = vae.decode(vae.fused(before), vae.fused(bits))[1].transpose(0, 1)
        return self._checked(stage, [(runner(stage)(_arrays(given))["motion"], expected)])

    def _encode(self) -> Made:
        """Codes must be the network's own, all of them, for motion such as the decoder makes and for a still face."""
        model, vae = self.model, self.model.basic_vae
        moving = vae.decode(vae.fused(self._bits()), vae.fused(self._bits()))[1].transpose(0, 1).contiguous()
        stage = export_stage("encode", EncodeStage(model), {"motion": moving}, ["codes"])
        run, pairs = runner(stage), []
        for motion in (moving, torch.zeros_like(moving)):
            expected = quantised(vae.bits(vae.encode(motion.transpose(0, 1))))
            pairs.append((run({"motion": motion.numpy()})["codes"], expected))
        return self._checked(stage, pairs)

    def _finish(self) -> Made:
        """Three chunks in a row against the clip smoothed at once; its first frames stand before its beginning."""
        config = self.model.config
        clip = self._normal(3 * config.frames, config.motion)
        given = {"motion": clip[: config.frames, None], "turning": torch.ones(1, 1)}
        state = {"tail": torch.zeros(1, TAIL, config.motion), "count": torch.zeros(1)} if self.smooth else {}
        outputs = ["finished", "tail_next"] if self.smooth else ["finished"]
        stage = export_stage("finish", FinishStage(self.model, smooth=self.smooth), {**given, **state}, outputs)
        run, tail, made = runner(stage), np.zeros((1, TAIL, config.motion), np.float32), []
        for place, chunk in enumerate(torch.split(clip, config.frames)):
            values = {"motion": chunk[:, None].numpy(), "turning": np.ones((1, 1), np.float32)}
            if self.smooth:
                values |= {"tail": tail, "count": np.array([place], np.float32)}
            result = run(values)
            made.append(result["finished"][:, 0])
            tail = result.get("tail_next", tail)
        whole = finished(smoothed(clip.numpy())) if self.smooth else finished(clip.numpy())
        found, delay = np.concatenate(made), TAIL // 2 if self.smooth else 0
        # A chunk shorter than the filter smooths a stream's first frames over fewer frames than a clip's.
        skip = 0 if config.frames > TAIL else TAIL // 2
        return self._checked(stage, [(found[delay + skip :], torch.from_numpy(whole[skip : len(whole) - delay]))])


def _arrays(values: dict[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in values.items()}


def _told(model: ARTalk, past: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `ConditionStage` must tell, from the network's own maps: adaptors, and keys and values."""
    rows: list[Tensor] = []
    kept: list[Tensor] = []
    for block in cast(Any, model.attn_blocks):
        parts = list(block.ada_lin(sound).chunk(6, dim=-1))
        rows += [*parts[:2], parts[2] + 1, parts[3] + 1, *parts[4:]]
        keys = block.attn.key(past).unflatten(-1, (model.config.heads, -1))
        kept += [F.normalize(keys, dim=-1).flatten(2), block.attn.value(past)]
    scale, shift = cast(nn.Module, model.cond_logits_head.ada_lin)(sound).chunk(2, dim=-1)
    return torch.cat([*rows, scale + 1, shift], dim=-1), torch.cat(kept, dim=-1)
