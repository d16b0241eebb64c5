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
from edgetalker.runtime.talker import Talker
from tests.export.conftest import Commanded
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


def play_features(talker: Talker, features: NDArray[np.float32], schedule: str) -> NDArray[np.float32]:
    frames = []
    for row in features:
        talker.feed("features", row)
        frames.append(talker.make(schedule).motion.copy())
    return np.stack(frames)


def play_sound(talker: Talker, samples: NDArray[np.float32], frames: int, schedule: str) -> NDArray[np.float32]:
    motions: list[NDArray[np.float32]] = []
    while len(motions) < frames:
        talker.hear(samples[:16000] if len(samples) else np.zeros(16000, np.float32))
        samples = samples[16000:]
        while talker.ready() and len(motions) < frames:
            motions.append(talker.make(schedule).motion.copy())
    return np.stack(motions)


def test_the_published_streaming_path_frame_by_frame(covering: ExportReport, reference: Reference) -> None:
    session = Talker(covering.bundle, noise=recorded(reference), poison=True)
    ours = play_features(session, reference["hidden_state"][0], "full")
    apart = np.abs(ours - reference["stream_vertices"]).max(axis=(1, 2))
    assert ours.shape == (89, 60, 3)
    assert apart.max() < VERTEX, f"frame {apart.argmax()} is {apart.max():.2e} away"


@pytest.mark.slow
def test_the_evaluation_path_makes_the_history_anew(rewriting: ExportReport, biwi_reference: Reference) -> None:
    """The latents, as `predict` leaves them: each was made last in the frame in which it left the window."""

    def noise(name: str, frame: int, into: NDArray[np.float32]) -> None:
        rows = biwi_reference[f"predict_noise_{frame:04d}"]
        into[...] = 0.0
        into[:, -rows.shape[1] :] = rows

    session = Talker(rewriting.bundle, noise=noise, poison=True)
    session.set("identity", [float(value) for value in biwi_reference["id_onehot"][0]])
    session.reset()
    ours = play_features(session, biwi_reference["hidden_state"][0], "full")
    assert ours.shape == (74, 60, 3)
    np.testing.assert_allclose(session.read("latents")[0, -60:], biwi_reference["predict_latents"][0, -60:], atol=3e-3)


@pytest.mark.slow
def test_rewriting_from_short_windows(
    rewriting: ExportReport, biwi: StreamingTalker, biwi_reference: Reference
) -> None:
    options = ExportOptions(untold=TINY_UNTOLD, history=60, decode_window=61, past="rewrite")
    features = biwi_reference.tensor("hidden_state")[:, :65]

    def rows_noise(frame: int, rows: int) -> torch.Tensor:
        return torch.randn(1, 60, 48, generator=torch.Generator().manual_seed(frame))[:, -rows:]

    def noise(name: str, frame: int, into: NDArray[np.float32]) -> None:
        into[...] = rows_noise(frame, 60).numpy()

    one_hot, template = torch.eye(6)[0][None], torch.zeros(180)
    frames = windowed_frames(
        biwi, options.contract(biwi.config), features, one_hot, template, rows_noise, make_schedule(50)
    )
    expected = torch.stack(list(frames)).numpy().reshape(65, -1, 3)
    ours = play_features(Talker(rewriting.bundle, noise=noise, poison=True), features[0].numpy(), "full")
    np.testing.assert_allclose(ours, expected, atol=VERTEX)


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
    windowed: Commanded, windowed_reference: NDArray[np.float32], reference: Reference, schedule: str
) -> None:
    session = Talker(windowed.bundle, noise=same_noise, poison=True)
    ours = play_sound(session, reference["wav"], len(windowed_reference), schedule)
    np.testing.assert_allclose(ours, windowed_reference, atol=VERTEX)


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "steps"), [("full", 20), ("fast", 5)])
def test_the_absolute_phase_under_ddim(
    absolute: ExportReport, model: StreamingTalker, reference: Reference, schedule: str, steps: int
) -> None:
    contract = ExportOptions(untold=TINY_UNTOLD, history=20, decode_window=35, phase="absolute").contract(model.config)
    features = reference.tensor("hidden_state")[:, :70]
    expected = torch_frames(model, contract, features, 3, make_schedule(steps, "ddim"))
    session = Talker(absolute.bundle, noise=same_noise, poison=True)
    np.testing.assert_allclose(play_features(session, features[0].numpy(), schedule), expected, atol=VERTEX)


def test_a_reset_gives_the_same_frames_again(windowed: Commanded, reference: Reference) -> None:
    session = Talker(windowed.bundle, seed=5)
    first = play_sound(session, reference["wav"], 30, "full")
    session.reset()
    np.testing.assert_array_equal(play_sound(session, reference["wav"], 30, "full"), first)


@pytest.mark.slow
def test_the_identity_control_is_heard(absolute: ExportReport, model: StreamingTalker, reference: Reference) -> None:
    contract = ExportOptions(untold=TINY_UNTOLD, history=20, decode_window=35, phase="absolute").contract(model.config)
    features = reference.tensor("hidden_state")[:, :5]
    expected = torch_frames(model, contract, features, 6, make_schedule(20, "ddim"))
    session = Talker(absolute.bundle, noise=same_noise)
    session.set("identity", {"identity_3": 0.0, "identity_6": 1.0})
    np.testing.assert_allclose(play_features(session, features[0].numpy(), "full"), expected, atol=VERTEX)
