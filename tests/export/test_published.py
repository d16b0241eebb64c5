"""Checkpoints of published size with random weights: exported, and played as PyTorch computes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetalker.export.streamingtalker import ExportOptions
from edgetalker.export.streamingtalker.compare import Clip, Distance, Regions, play, windowed
from edgetalker.models.streamingtalker import load_checkpoint, make_schedule
from edgetalker.runtime.sources.file import read_whole
from tests.support.published import published

FRAMES = 8  # two blocks of sound
SPEECH = Path(__file__).parents[2] / "edgetalker" / "data" / "speech.wav"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["vocaset", "biwi"])
def test_a_published_size_plays_what_pytorch_computes(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle, checkpoint = published(dataset, tmp_path_factory)
    assert list(bundle.manifest.notes["errors"]) == list(bundle.manifest.stages)  # each of them passed its check
    assert (bundle.manifest.schedules["collapsed"].differs or 0.0) < 1e-3
    model = load_checkpoint(checkpoint)
    config, samples = model.config, torch.from_numpy(read_whole(SPEECH, 16000))
    rest, identity = torch.zeros(config.vertex_values), torch.eye(config.identities)[[0]]
    clip = Clip(samples, FRAMES, identity, rest, make_schedule(50))
    expected = windowed(model, clip, ExportOptions())
    for schedule in ("full", "collapsed"):
        ours = play(bundle, clip, schedule=schedule)
        assert ours.shape == (FRAMES, config.vertex_values // 3, 3)
        assert Distance.between(schedule, ours, expected, Regions()).ratios["face"] < 1e-3
