"""The profile of a talker on the CUDA device. The double keeps time by a count of operations: no speed is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetalker.engines.cuda import CudaDevice
from edgetalker.engines.errors import EngineError
from edgetalker.measure import floor
from edgetalker.measure.profile import Profiler
from edgetalker.runtime.model import Model
from tests.cuda.double.control import Double
from tests.cuda.double.hostwork import host_engines
from tests.support.toy import toy_bundle


def test_profile_on_the_device(
    tmp_path: Path, double: Double, open_device: Callable[..., CudaDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pytorch(*_: object) -> float:
        raise EngineError("PyTorch is not under test")  # built for CUDA, it would take the double for a GPU

    monkeypatch.setattr(floor, "_DEVICE_COPY", 1 << 20)
    monkeypatch.setattr(floor, "_device_product", no_pytorch)
    bundle = toy_bundle(tmp_path / "toy")
    device = open_device()
    talker = Model(bundle, engines=host_engines(bundle, device, double), device=device).talker(
        timings=True, graphs="step"
    )
    measured = floor.measure_rates(device)
    assert measured.bytes_per_s is not None
    assert measured.operations_per_s is None
    assert "no matrix rate" in measured.notes[1]
    double.set("op_cost_ns", 5000)
    profile = Profiler(talker, measured).run("full", 6)
    assert profile.transfer is not None
    assert profile.transfer.min > 0
    rows = [piece for piece in profile.pieces if piece.row >= 0]
    assert len(rows) == 5
    for piece in rows:
        # begin, the stage's host function, end; the last row's graph waits for nothing else
        assert piece.nodes == 3
        assert piece.launches == 1
        assert piece.times.median == pytest.approx(10_000, rel=0.01)
        assert piece.floor_ns is not None
    talker.close()
