"""Exported bundles, played by the runtime, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgetalker.export.streamingtalker import ExportOptions, ExportReport
from edgetalker.models.streamingtalker import Schedule, StreamingTalker, make_schedule
from edgetalker.models.streamingtalker.windowed import windowed_features, windowed_frames
from edgetalker.runtime.clock import AudioWindow
from edgetalker.runtime.open import open_session
from edgetalker.runtime.session import Session
from tests.models.streamingtalker.conftest import TINY_UNTOLD, Reference

NoiseSource = Callable[[str, int, NDArray[np.float32]], None]
VERTEX = 5e-4


def recorded(reference: Reference) -> NoiseSource:
    def fill(name: str, frame: int, into: NDArray[np.float32]) -> None:
        into[...] = reference[f"stream_noise_{frame:04d}"].reshape(into.shape)

    return fill


def frame_noise(frame: int, rows: int) -> torch.Tensor:
    return torch.randn(1, rows, 64, generator=torch.Generator().manual_seed(frame))


def same_noise(name: str, frame: int, into: NDArray[np.float32]) -> None:
    into[...] = frame_noise(frame, 1)[0].numpy()


def play_features(session: Session, features: NDArray[np.float32], schedule: str) -> NDArray[np.float32]:
    frames = []
    for row in features:
        session.feed("features", row[None])
        frames.append(session.step(schedule=schedule).motion.copy())
    return np.stack(frames)


def play_sound(session: Session, samples: NDArray[np.float32], frames: int, schedule: str) -> NDArray[np.float32]:
    window = AudioWindow(session.manifest.audio.window)
    window.append(samples)
    window.append_silence(session.end(frames - 1) - len(samples))
    motions = []
    into = np.empty(window.size, np.float32)
    for frame in range(frames):
        heard = window.read(session.end(frame), into)
        motions.append(session.step(into, heard=heard, schedule=schedule).motion.copy())
    return np.stack(motions)


def test_the_published_streaming_path_frame_by_frame(covering: ExportReport, reference: Reference) -> None:
    session = open_session(covering.bundle, noise=recorded(reference), poison=True)
    ours = play_features(session, reference["hidden_state"][0], "full")
    apart = np.abs(ours - reference["stream_vertices"]).max(axis=(1, 2))
    assert ours.shape == (89, 60, 3)
    assert apart.max() < VERTEX, f"frame {apart.argmax()} is {apart.max():.2e} away"


@pytest.fixture(scope="module")
def windowed_reference(model: StreamingTalker, reference: Reference) -> NDArray[np.float32]:
    contract = ExportOptions(untold=TINY_UNTOLD, context_ms=400, history=20, decode_window=12).contract(model.config)
    samples = reference.tensor("wav")
    features = windowed_features(model, contract, samples, frames=90)
    return torch_frames(model, contract, features, 0, make_schedule(50))


def torch_frames(
    model: StreamingTalker, contract: object, features: torch.Tensor, identity: int, schedule: Schedule
) -> NDArray[np.float32]:
    one_hot = torch.eye(model.config.identities)[identity][None]
    template = torch.zeros(model.config.vertex_values)
    frames = windowed_frames(model, contract, features, one_hot, template, frame_noise, schedule)  # type: ignore[arg-type]
    return torch.stack(list(frames)).numpy().reshape(features.shape[1], -1, 3)


@pytest.mark.parametrize("schedule", ["full", "collapsed"])
def test_the_windowed_contract_from_sound(
    windowed: ExportReport, windowed_reference: NDArray[np.float32], reference: Reference, schedule: str
) -> None:
    session = open_session(windowed.bundle, noise=same_noise, poison=True)
    ours = play_sound(session, reference["wav"], len(windowed_reference), schedule)
    np.testing.assert_allclose(ours, windowed_reference, atol=VERTEX)


@pytest.mark.parametrize(("schedule", "steps"), [("full", 20), ("fast", 5)])
def test_the_absolute_phase_under_ddim(
    absolute: ExportReport, model: StreamingTalker, reference: Reference, schedule: str, steps: int
) -> None:
    contract = ExportOptions(untold=TINY_UNTOLD, history=20, decode_window=35, phase="absolute").contract(model.config)
    features = reference.tensor("hidden_state")[:, :70]
    expected = torch_frames(model, contract, features, 3, make_schedule(steps, "ddim"))
    session = open_session(absolute.bundle, noise=same_noise, poison=True)
    np.testing.assert_allclose(play_features(session, features[0].numpy(), schedule), expected, atol=VERTEX)


def test_a_reset_gives_the_same_frames_again(windowed: ExportReport, reference: Reference) -> None:
    session = open_session(windowed.bundle, seed=5)
    first = play_sound(session, reference["wav"], 30, "full")
    session.reset()
    np.testing.assert_array_equal(play_sound(session, reference["wav"], 30, "full"), first)


def test_the_identity_control_is_heard(absolute: ExportReport, model: StreamingTalker, reference: Reference) -> None:
    contract = ExportOptions(untold=TINY_UNTOLD, history=20, decode_window=35, phase="absolute").contract(model.config)
    features = reference.tensor("hidden_state")[:, :5]
    expected = torch_frames(model, contract, features, 6, make_schedule(20, "ddim"))
    session = open_session(absolute.bundle, noise=same_noise)
    session.set("identity", {"identity_3": 0.0, "identity_6": 1.0})
    np.testing.assert_allclose(play_features(session, features[0].numpy(), "full"), expected, atol=VERTEX)
