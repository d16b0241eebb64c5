"""The exported talker: plays in the runtime, frame by frame what PyTorch computes, on every schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.engines.bundle import Bundle
from edgetalker.export.online import export_talker, lookahead_samples
from edgetalker.export.online.exporter import main
from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.features import SPAN, window_mel
from edgetalker.models.online.head import RING
from edgetalker.models.online.layout import MADE, NOISE
from edgetalker.models.online.recover import recover
from edgetalker.models.online.rollout import Runner, sampler
from edgetalker.models.online.talker import Talker, load_talker, store_talker
from edgetalker.runtime.talker import Talker as Playing
from tests.models.online.conftest import TRANSFORMER, small_talker

FRAMES = 40


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Talker]:
    talker = small_talker()
    return export_talker(talker, tmp_path_factory.mktemp("bundle") / "talker"), talker


@pytest.fixture
def bundle(exported: tuple[Bundle, Talker]) -> Bundle:
    return exported[0]


@pytest.fixture
def talker(exported: tuple[Bundle, Talker]) -> Talker:
    return exported[1]


def sound() -> np.ndarray:
    noise = 0.1 * np.random.default_rng(3).standard_normal(16000 * 2)
    noise[6000:12000] = 0.0  # digital silence
    return noise.astype(np.float32)


def windows(session: Playing, samples: np.ndarray) -> list[np.ndarray]:
    padded = np.concatenate([np.zeros(SPAN, np.float32), samples, np.zeros(4000, np.float32)])
    return [padded[session.end(i) : session.end(i) + SPAN] for i in range(FRAMES)]


@pytest.mark.parametrize("schedule", ["full", "fast", "one"])
def test_the_bundle_plays_what_pytorch_computes(bundle: Bundle, talker: Talker, schedule: str) -> None:
    compare(bundle, talker, schedule)


def test_a_transformer_plays_from_its_ring_what_pytorch_computes(tmp_path: Path) -> None:
    """FRAMES are five times the ring."""
    store_talker(tmp_path / "talker.pt", small_talker(TRANSFORMER), 0.0, 0)
    out = tmp_path / "talker"
    assert main(["--work", str(tmp_path), "--out", str(out)]) == 0
    bundle, talker, found = Bundle.open(out), load_talker(tmp_path / "talker.pt"), recover(out)
    assert bundle.manifest.tensors["memory"].spec.shape == (1, 8, 5, 16)
    compare(bundle, found, "one")  # the weights as the bundle rounded them
    assert found.trunk.size == talker.trunk.size
    for name, value in talker.trunk.memory.state_dict().items():
        torch.testing.assert_close(found.trunk.memory.state_dict()[name], value, atol=2e-3, rtol=1e-3, msg=name)


def compare(bundle: Bundle, talker: Talker, schedule: str) -> None:
    """Play FRAMES frames in the runtime and in PyTorch."""
    fresh = np.random.default_rng(8).standard_normal((FRAMES, 1, NOISE)).astype(np.float32)
    fresh[[5, 24], 0, MADE] = 3.0  # two blinks begin
    fresh[12, 0, MADE + 1] = 3.0  # the eyes look elsewhere

    def noise(name: str, frame: int, into: np.ndarray) -> None:
        into[...] = fresh[frame]

    session = Playing(bundle, noise=noise)
    session.set("emotion", {"joy": 0.7})
    session.reset()  # settles the glide
    found = np.stack([session.make(schedule, window=window).motion.copy() for window in windows(session, sound())])
    mel = np.stack([window_mel(window).reshape(-1) for window in windows(session, sound())])
    runner = Runner(talker.decoder, 1, 0)
    runner.ring = torch.tensor(np.load(bundle.path / "ring.npy"))
    wish = torch.tensor([[0.7, 0.0, 0.0, 0.0, 1.0, 1.0]])
    with torch.no_grad():
        features, _ = talker.trunk.listen(torch.tensor(mel)[None], talker.trunk.begin(1))
        logits = [track[0] for track in talker.trunk.mouth(features, talker.lookahead)]
        for t in range(FRAMES):
            runner.ring = torch.cat([runner.ring[:, 1:], torch.tensor(fresh[t : t + 1, 0][None])], 1)
            mouth, contact = logits[0][t : t + 1], logits[1][t : t + 1]
            condition = talker.head.condition(features[0, t : t + 1], mouth, contact, runner.history, wish)
            frame = sampler(talker.head, schedule)(runner.smoother(runner.ring), condition)
            wanted = runner.take(frame, contact, mouth, wish)[0].numpy()
            np.testing.assert_allclose(found[t], wanted, atol=3e-3, err_msg=f"frame {t}")
    assert found.std(0).max() > 1e-3
    lids = found[:, list(MOTION_NAMES).index("EyeBlinkLeft")]
    np.testing.assert_allclose(lids[5:12], [0.55, 1.0, 1.0, 0.75, 0.4, 0.15, 0.0], atol=1e-5)
    assert runner.ring.shape == (1, RING, NOISE)
    session.close()


def test_silence_and_zeros_stay_finite_and_in_range(bundle: Bundle) -> None:
    session = Playing(bundle)
    for i in range(90):
        loud = np.full(SPAN, 1.0, np.float32) if i % 30 == 7 else np.zeros(SPAN, np.float32)
        motion = session.make(("full", "fast", "one")[i % 3], window=loud).motion
        assert np.isfinite(motion).all()
        assert motion[:52].min() >= 0.0
        assert motion[:52].max() <= 1.0
    session.close()


def test_the_manifest_says_what_the_talker_is(bundle: Bundle, talker: Talker) -> None:
    manifest = bundle.manifest
    assert manifest.motion.names == MOTION_NAMES
    assert manifest.ladder == ("full", "fast", "one")
    assert manifest.audio.lookahead == 534 == lookahead_samples(talker.lookahead)
    assert lookahead_samples(0) == 0
    assert "synthetic speech" in manifest.origin
    assert manifest.tensors["emotion"].names == ("joy", "sadness", "anger", "surprise")
    assert manifest.tensors["style"].default == (1.0, 1.0)


def test_an_emotion_set_while_running_glides(bundle: Bundle) -> None:
    session = Playing(bundle)
    silence, before = np.zeros(SPAN, np.float32), []
    for _ in range(10):
        session.make(window=silence)
    session.set("emotion", {"anger": 1.0})
    for _ in range(10):
        session.make(window=silence)
        before.append(float(session.read("emotion")[0, 2]))
    assert before[0] <= 0.2
    assert before[-1] == pytest.approx(1.0)
    assert max(np.diff(before)) <= 0.2
    session.close()
