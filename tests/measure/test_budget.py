"""The budget: a prediction that shows its inputs, scales as its formula says, and refuses what it does not know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError
from edgetalker.measure.budget import DEVICES, DeviceFacts, budget, device_facts
from tests.calibration.conftest import TINY

pytest.importorskip("onnx")
PLAIN = DeviceFacts("plain", 1e9, {"fp32": 1e9}, 1 << 30, 0.0, 1.0, "made up")


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return Bundle.open(TINY)


def test_the_frame_is_the_sum_of_what_its_stages_need(tiny: Bundle) -> None:
    found = budget(tiny, PLAIN, schedule="full")
    rows = len(tiny.table("full"))
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["denoise"].most == rows
    assert by_name["audio"].runs < 1, "a block encoder runs in some frames only"
    assert found.frame_ns == pytest.approx(sum(stage.ns * stage.runs for stage in found.stages))
    assert found.worst_ns > found.frame_ns
    for stage in found.stages:
        moved = stage.cost.weight_bytes + stage.cost.activation_bytes
        assert stage.ns == pytest.approx(max(moved, stage.cost.operations))  # at 1 GB/s and 1 Gop/s, in ns


def test_a_faster_device_is_predicted_to_be_faster_and_launches_count(tiny: Bundle) -> None:
    slow = budget(tiny, PLAIN)
    fast = budget(tiny, replace(PLAIN, bytes_per_s=1e10, operations_per_s={"fp32": 1e10}))
    assert fast.frame_ns == pytest.approx(slow.frame_ns / 10)
    assert fast.talkers > slow.talkers
    launched = budget(tiny, replace(PLAIN, launch_ns=1000.0))
    kernels = sum(stage.kernels * stage.runs for stage in launched.stages)
    assert launched.frame_ns == pytest.approx(slow.frame_ns + 1000.0 * kernels)
    assert {stage.limit for stage in slow.stages} <= {"memory", "compute"}


def test_talkers_fit_until_the_deadline_or_the_memory(tiny: Bundle) -> None:
    facts = replace(PLAIN, bytes_per_s=1e12, operations_per_s={"fp32": 1e12})
    one = budget(tiny, facts)
    assert budget(tiny, facts, fps=2 * one.fps).talkers < one.talkers
    assert budget(tiny, replace(facts, memory=one.memory)).talkers == 1
    assert not budget(tiny, replace(facts, memory=1)).holds


def test_every_device_has_a_source_and_plausible_figures() -> None:
    assert {"orin-nano", "orin-nx", "agx-orin", "thor", "rtx4060", "rtx4090", "h200"} <= DEVICES.keys()
    for facts in DEVICES.values():
        assert facts.source
        assert 5e10 < facts.bytes_per_s < 1e13
        assert facts.rate("fp32") < facts.rate("fp16") < facts.rate("int8")
        assert facts.rate("w8") == facts.rate("fp16"), "weights alone are widened before they are multiplied"


def test_the_cpu_is_measured_here(tiny: Bundle) -> None:
    facts = device_facts("cpu", tiny)
    assert "measured now" in facts.source
    assert 0.5 <= facts.factor < 100.0
    assert facts.bytes_per_s > 1e7
    assert facts.launch_ns > 10.0


def test_the_command_prints_its_inputs_and_answers_by_its_exit_code(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["budget", str(tiny.path), "--device", "orin-nx,h200", "--json", str(tmp_path / "b.json")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.count("PREDICTION for tiny_voca") == 2
    assert "102.0 GB/s" in text
    assert "not measured here" in text
    document = json.loads((tmp_path / "b.json").read_text())
    assert [item["device"] for item in document] == ["orin-nx", "h200"]
    assert all(item["prediction"] is True and item["inputs"]["factor"] for item in document)
    assert main([*words, "--fps", "1000", "--talkers", "1000000"]) == 1


def test_unknown_names_are_refused_with_the_nearest(tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="did you mean `orin-nano`"):
        device_facts("orin-nan", tiny)
    with pytest.raises(OptionError, match="no schedule `ful`"):
        budget(tiny, PLAIN, schedule="ful")
    assert main(["budget", str(tiny.path), "--device", "rtx4091"]) == 64
    assert "did you mean `rtx4090`" in capsys.readouterr().err
