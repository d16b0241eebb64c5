"""Talkers in lock-step say what each would say alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError
from edgetalker.engines.host import HostDevice
from edgetalker.runtime.model import Model
from edgetalker.serve.lockstep import lockstep, widened
from tests.support import toy

pytest.importorskip("torch")
TALKERS, FRAMES = 3, 7


def blockless(path: Path) -> Bundle:
    """The toy without its block encoder, whose features are rows of a block."""
    description = toy.description()
    description["program"] = description["program"][1:]
    description["program"][0]["inputs"]["feature"] = "wav"
    description["tensors"]["wav"] = {"role": "audio", **toy.spec(1, toy.SIZE)}
    description["audio"] = {"rate": 1000, "window": toy.SIZE, "lookahead": 0}
    description["motion"]["fps"] = "250"  # four samples a frame
    for name in ("features", "heard"):
        del description["tensors"][name]
    del description["stages"]["audio"]
    files: dict[str, Any] = {**toy.stages(), **toy.tables()}
    del files["audio.onnx"]
    return pack(path, description, files)


def noise_of(seed: int) -> Any:
    def fill(name: str, frame: int, into: np.ndarray) -> None:
        rows = [
            np.random.default_rng((seed + talker, frame)).standard_normal(into.shape[1:]) for talker in range(len(into))
        ]
        into[...] = rows

    return fill


def alone(bundle: Bundle, talker: int, sound: np.ndarray) -> np.ndarray:
    from edgetalker.engines.torch import torch_engines

    device = HostDevice(poison=True)
    session = Model(bundle, engines=torch_engines(bundle, device), device=device).talker(noise=noise_of(talker))
    session.set("setting", [0.1, 0.2, 0.3, 0.4])
    return np.stack([session.make(window=window[talker]).motion.copy() for window in sound])


def test_each_talker_says_what_it_says_alone(tmp_path: Path) -> None:
    bundle = blockless(tmp_path / "toy")
    sound = np.random.default_rng(0).standard_normal((FRAMES, TALKERS, toy.SIZE)).astype(np.float32)
    device = HostDevice(poison=True)
    many, engines = lockstep(bundle, TALKERS, device)
    session = Model(many, engines=engines, device=device).talker(noise=noise_of(0))
    session.set("setting", [0.1, 0.2, 0.3, 0.4])
    together = np.stack([session.make(window=window).motion.copy() for window in sound])
    assert together.shape == (FRAMES, TALKERS, toy.SIZE)
    assert np.ptp(together, axis=1).max() > 0.1
    for talker in range(TALKERS):
        wanted = alone(bundle, talker, sound).reshape(FRAMES, toy.SIZE)
        np.testing.assert_allclose(together[:, talker], wanted, atol=1e-5)


def test_blocks_of_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="blocks of frames"):
        lockstep(toy.toy_bundle(tmp_path / "toy"), 2, HostDevice())


def test_an_axis_is_put_before_what_has_none() -> None:
    assert widened(TensorSpec("float32", (1, 5)), 3) == TensorSpec("float32", (3, 5))
    assert widened(TensorSpec("float32", (2, 1, 5)), 3) == TensorSpec("float32", (3, 2, 1, 5))
