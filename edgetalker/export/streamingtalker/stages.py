"""The stages of one export: modules, example inputs, and how they are checked against the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.export.onnx_stage import Check, StageFile, compare, export_stage, runner
from edgetalker.export.streamingtalker.audio_stage import AudioStage
from edgetalker.export.streamingtalker.condition_stage import ConditionStage, condition_map
from edgetalker.export.streamingtalker.decode_stage import DecodeStage
from edgetalker.export.streamingtalker.denoise_stage import CollapseStage, DenoiseStage, RewriteStage, schedule_table
from edgetalker.models.streamingtalker.contract import Contract
from edgetalker.models.streamingtalker.model import StreamingTalker
from edgetalker.models.streamingtalker.sampling import sample
from edgetalker.models.streamingtalker.schedule import Rule, Schedule
from edgetalker.models.streamingtalker.windowed import block_features

__all__ = ["Stages"]

Pair = tuple[NDArray[Any], NDArray[Any]]


class Stages:
    """Exports and checks each stage. What a stage is compared with is the published network, not the stage's module:
    the same short, unmasked sequences that `windowed_frames` slices.
    """

    def __init__(self, model: StreamingTalker, contract: Contract, tolerance: float, *, steps_per_row: int = 1) -> None:
        self.model, self.contract, self.tolerance = model, contract, tolerance
        self.steps_per_row = steps_per_row
        self.rows = max(contract.history, contract.decode_window)
        self._random = torch.Generator().manual_seed(1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def _fresh(self, count: int) -> int:
        """Return how many of `count` valid rows a frame makes anew."""
        return 1 if self.contract.past == "append" else count

    def _rows(self, width: int) -> Tensor:
        """Return normal values for what a frame makes anew: (1, width), or (1, history, width)."""
        return (
            self._normal(1, width) if self.contract.past == "append" else self._normal(1, self.contract.history, width)
        )

    def _checked(self, stage: StageFile, pairs: Iterator[Pair]) -> tuple[StageFile, Check]:
        with torch.no_grad():
            return stage, compare(stage.name, list(pairs), self.tolerance)

    def audio(self) -> tuple[StageFile, Check]:
        """Return the audio stage: block 0, later blocks of a filling window, and full windows."""
        module = AudioStage(self.model, self.contract)
        examples = {
            "audio": self._normal(1, self.contract.window),
            "heard": torch.full((1,), 8000.0),
            "floor": torch.full((1, 1), self.contract.floor_db),
        }
        stage = export_stage("audio", module, examples, ["features"])
        return self._checked(stage, self._audio_pairs(stage))

    def _audio_pairs(self, stage: StageFile) -> Iterator[Pair]:
        contract, run = self.contract, runner(stage)
        full = -(-contract.window // contract.block_samples)
        blocks = sorted({0, 1, full, full + 2})
        samples = 0.1 * self._normal(contract.end(blocks[-1]))
        for block, gain in [
            *((block, 1.0) for block in blocks),
            (blocks[-1], 10 ** (contract.floor_db / 20 + 0.8)),
            (blocks[-1], 0.0),
        ]:
            end = contract.end(block)
            heard = min(end, contract.window)
            window = np.zeros((1, contract.window), np.float32)
            window[0, contract.window - heard :] = gain * samples[end - heard : end].numpy()
            floor = np.array([[contract.floor_db]], np.float32)
            found = run({"audio": window, "heard": np.array([heard], np.float32), "floor": floor})["features"]
            yield found, block_features(self.model, contract, gain * samples, block).numpy()

    def condition(self) -> tuple[StageFile, Check]:
        """Return the condition stage: windows of one frame, filling, just full, and slid on."""
        config = self.model.config
        module = ConditionStage(self.model, self.contract, self.rows)
        examples = {
            "history": self._normal(1, self.rows, config.latent_width),
            "features": self._normal(1, self.contract.history, config.audio_width),
            "identity": torch.eye(config.identities)[:1],
            "count": torch.full((1,), 3.0),
        }
        stage = export_stage("condition", module, examples, ["condition"])
        return self._checked(stage, self._condition_pairs(stage))

    def _condition_pairs(self, stage: StageFile) -> Iterator[Pair]:
        config, contract, run = self.model.config, self.contract, runner(stage)
        to_estimate = condition_map(self.model.motion.head)
        for place, frame in enumerate(_frames(contract.history)):
            count = min(frame + 1, contract.history)
            history, features = self._normal(1, count, config.latent_width), self._normal(1, count, config.audio_width)
            identity = torch.eye(config.identities)[place % config.identities][None]
            first = frame + 1 - count if contract.phase == "absolute" else 0
            expected = to_estimate(
                self.model.motion.condition(history, features, identity, first)[:, -self._fresh(count) :]
            )
            found = run(
                {
                    "history": _at_end(history, self.rows),
                    "features": _at_end(features, contract.history),
                    "identity": identity.numpy(),
                    "count": np.array([frame], np.float32),
                }
            )["condition"]
            yield found.reshape(1, -1, config.latent_width)[:, -self._fresh(count) :], expected.numpy()

    def denoise(self, rule: Rule, schedules: dict[str, Schedule]) -> tuple[StageFile, Check]:
        """Return the denoise stage, run over every schedule."""
        width = self.model.config.latent_width
        columns = schedule_table(self.model, schedules["full"], self.steps_per_row).shape[1]
        examples = {"x": self._rows(width), "condition": self._rows(width), "row": self._normal(1, columns)}
        module = DenoiseStage(self.model, rule, self.steps_per_row)
        stage = export_stage("denoise", module, examples, ["x_next"])
        return self._checked(stage, self._denoise_pairs(stage, schedules))

    def _denoise_pairs(self, stage: StageFile, schedules: dict[str, Schedule]) -> Iterator[Pair]:
        for schedule in schedules.values():
            noise, condition = self._rows(self.model.config.latent_width), self._rows(self.model.config.width)
            rows = noise.reshape(1, -1, noise.shape[-1]), condition.reshape(1, -1, condition.shape[-1])
            expected = sample(self.model.motion.head, *rows, schedule)
            yield self._stepped(stage, noise, condition, schedule), expected.numpy()

    def _stepped(self, stage: StageFile, noise: Tensor, condition: Tensor, schedule: Schedule) -> NDArray[Any]:
        run, x = runner(stage), noise.numpy()
        share = condition_map(self.model.motion.head)(condition).numpy()
        for row in schedule_table(self.model, schedule, self.steps_per_row):
            x = run({"x": x, "condition": share, "row": row[None]})["x_next"]
        return x

    def collapse(self, module: CollapseStage, schedule: Schedule, steps: StageFile) -> tuple[StageFile, Check]:
        """Return the collapse stage, `module` of a schedule, compared with the exported step-by-step path."""
        width = self.model.config.latent_width
        examples = {"noise": self._rows(width), "condition": self._rows(width)}
        stage = export_stage("collapse", module, examples, ["latent"])
        return self._checked(stage, self._collapse_pairs(stage, schedule, steps))

    def _collapse_pairs(self, stage: StageFile, schedule: Schedule, steps: StageFile) -> Iterator[Pair]:
        run = runner(stage)
        for _ in range(3):
            noise, condition = self._rows(self.model.config.latent_width), self._rows(self.model.config.width)
            share = condition_map(self.model.motion.head)(condition).numpy()
            found = run({"noise": noise.numpy(), "condition": share})["latent"]
            yield found, self._stepped(steps, noise, condition, schedule)

    def rewrite(self) -> tuple[StageFile, Check]:
        """Return the stage that makes a window's latents anew: windows that fill, are just full, and have slid on."""
        width, history = self.model.config.latent_width, self.contract.history
        examples = {
            "latents": self._normal(1, self.rows, width),
            "fresh": self._normal(1, history, width),
            "count": torch.full((1,), 3.0),
        }
        stage = export_stage("rewrite", RewriteStage(self.contract, self.rows), examples, ["rewritten", "newest"])
        return self._checked(stage, self._rewrite_pairs(stage))

    def _rewrite_pairs(self, stage: StageFile) -> Iterator[Pair]:
        width, run = self.model.config.latent_width, runner(stage)
        for frame in _frames(self.contract.history):
            count = min(frame + 1, self.contract.history)
            before, fresh = self._normal(1, min(frame + 1, self.rows), width), self._normal(1, count, width)
            history = torch.cat([before[:, : before.shape[1] + 1 - count], fresh], dim=1)[:, -self.rows :]
            made = run(
                {
                    "latents": _at_end(before, self.rows),
                    "fresh": _at_end(fresh, self.contract.history),
                    "count": np.array([frame], np.float32),
                }
            )
            yield made["rewritten"][:, -history.shape[1] :], history.numpy()
            yield made["newest"], fresh[:, -1].numpy()

    def decode(self) -> tuple[StageFile, Check]:
        """Return the decode stage: windows that fill, are just full, and have slid on."""
        config = self.model.config
        examples = {
            "latents": self._normal(1, self.rows, config.latent_width),
            "count": torch.full((1,), 3.0),
            "template": self._normal(1, config.vertex_values // 3, 3),
        }
        stage = export_stage("decode", DecodeStage(self.model, self.contract, self.rows), examples, ["vertices"])
        return self._checked(stage, self._decode_pairs(stage))

    def _decode_pairs(self, stage: StageFile) -> Iterator[Pair]:
        config, window, run = self.model.config, self.contract.decode_window, runner(stage)
        template = self._normal(config.vertex_values)
        for frame in _frames(window - 1):
            starts = 2 if self.contract.past == "append" else 1
            latents = self._normal(1, min(max(frame + starts, 2), window), config.latent_width)
            expected = self.model.vae.decoder(latents)[0, -1] + template
            found = run(
                {
                    "latents": _at_end(latents, self.rows),
                    "count": np.array([frame], np.float32),
                    "template": template.reshape(1, -1, 3).numpy(),
                }
            )["vertices"]
            yield found.reshape(-1), expected.numpy()


def _frames(window: int) -> list[int]:
    """Return frames at which a window of so many rows is filling, just full and sliding."""
    return sorted({0, 1, window // 2, window - 1, window, window + 7})


def _at_end(rows: Tensor, length: int) -> NDArray[Any]:
    """Return (1, length, width) with `rows` (1, n, width) at its end and large values before: they must not matter."""
    padded = np.full((1, length, rows.shape[2]), 9.0, np.float32)
    padded[:, length - rows.shape[1] :] = rows.numpy()
    return padded
