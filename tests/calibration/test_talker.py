"""The talker that ships keeps the goal in FP16: its history must not feed rounding back."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgetalker
from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.calibration.report import GOAL
from edgetalker.engines.bundle import Bundle

pytest.importorskip("onnx")
BUNDLE = Path(edgetalker.__file__).parent / "bundles" / "talker"


@pytest.mark.slow
def test_the_shipped_talker_keeps_the_goal_in_fp16(tmp_path: Path) -> None:
    report = convert(Bundle.open(BUNDLE), ConvertOptions(seconds=120.0), output=tmp_path / "talker")
    assert report.met, "\n".join(report.lines())
    assert {loop.schedule for loop in report.closed_loop} == {"full", "fast", "one"}
    assert all(max(loop.seconds) < 10 * GOAL for loop in report.closed_loop), "what differs stays small in every second"
    assert all(stage.onnx for stage in report.stages), "every stage has its FP16 form"
