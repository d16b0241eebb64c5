"""The budget: a prediction that shows its inputs, scales as its formula says, and refuses what it does not know."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import OptionError
from edgetalker.measure.budget import DEVICES, DeviceFacts, Played, budget, device_facts
from edgetalker.measure.core import Core
from edgetalker.measure.floor import StageGraph
from edgetalker.runtime.model import Model
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
        assert "NVIDIA" in facts.source
        assert facts.source.endswith("not measured here")
        assert 5e10 < facts.bytes_per_s < 1e13
        assert facts.rate("fp32") < facts.rate("fp16") < facts.rate("int8")
        assert facts.rate("w8") == facts.rate("fp16"), "weights alone are widened before they are multiplied"


def test_geforce_cards_stand_in_one_proportion() -> None:
    """Sums in FP32: FP16 has a quarter of INT8's rate and FP8 half of it, on Jetsons and data-centre cards more."""
    for name in ("rtx4060", "rtx4090", "rtx5090"):
        facts = DEVICES[name]
        assert facts.rate("fp16") == pytest.approx(facts.rate("int8") / 4, rel=0.02)
        assert facts.rate("fp8") == pytest.approx(facts.rate("int8") / 2, rel=0.02)
    assert DEVICES["rtx3060"].rate("fp16") == pytest.approx(DEVICES["rtx3060"].rate("int8") / 4, rel=0.02)


CORE = Core(
    run_ns=1000.0,
    node_ns=10.0,
    cold_run_ns=9000.0,
    cold_node_ns=50.0,
    element_ns=0.0,
    curve_ns=0.0,
    norm_ns=0.0,
    row_ns=0.0,
    bytes_per_s={1 << 14: 1e9, 1 << 20: 1e8},
    rates=dict.fromkeys(("fp32", "int8", "heads", "narrow", "wide"), 1e9),
)
MACHINE = replace(PLAIN, core=CORE, own_ns=500.0)


def test_a_stage_of_a_core_is_the_sum_of_its_nodes(tiny: Bundle) -> None:
    graph = StageGraph(tiny.onnx("denoise"))
    (product,) = [node for node in graph.nodes if graph.is_product(node)]
    parts = CORE.parts_ns(tiny.onnx("denoise"), 1)
    assert parts["launches"] == 9000.0 + 50.0 * len(graph.nodes), "other stages ran before it"
    assert parts["memory"] == graph.weight_bytes_of(product) == 4 * 64 * 64
    assert parts["compute"] == graph.operations(product)
    far = CORE.parts_ns(tiny.onnx("denoise"), 1 << 19)
    assert far["memory"] == pytest.approx(10 * parts["memory"]), "many bytes between two runs come from memory"
    often = CORE.parts_ns(tiny.onnx("denoise"), 1, runs=4)
    assert often["launches"] == (parts["launches"] + 3 * (1000.0 + 10.0 * len(graph.nodes))) / 4
    dear = replace(CORE, element_ns=1.0, rates={**CORE.rates, "fp32": 1e12}).parts_ns(tiny.onnx("denoise"), 1)
    assert dear["elements"] > 0
    assert dear["compute"] == pytest.approx(parts["compute"] / 1000)


def test_a_frame_of_a_core_has_its_stages_and_the_runtime_itself(tiny: Bundle) -> None:
    found = budget(tiny, MACHINE, schedule="full")
    assert found.frame_ns == pytest.approx(500.0 + sum(stage.ns * stage.runs for stage in found.stages))
    doubled = budget(tiny, replace(MACHINE, factor=2.0), schedule="full")
    assert doubled.frame_ns - 500.0 == pytest.approx(2 * (found.frame_ns - 500.0))
    assert found.talkers == int(1e9 / found.fps // found.frame_ns)
    assert any("the runtime itself" in line for line in found.lines())
    # A stage that runs in rows finds its weights in the cache, the others find everything else's there.
    own = {stage.name: stage.ns for stage in found.stages}
    rows = len(tiny.table("full"))
    assert own["denoise"] == sum(CORE.parts_ns(tiny.onnx("denoise"), 1, rows).values())


def test_products_of_two_computed_tensors_have_their_own_rate(tmp_path: Path) -> None:
    from onnx import helper

    from tests.support.toy import network

    path = tmp_path / "heads.onnx"
    node = helper.make_node("MatMul", ["x", "keys"], ["y"])
    path.write_bytes(network([node], {"x": (4, 32, 16), "keys": (4, 16, 32)}, {"y": (4, 32, 32)}, {}))
    core = replace(CORE, rates={**CORE.rates, "heads": 5e8})
    assert core.parts_ns(path, 1)["compute"] == 2 * 2 * 4 * 32 * 32 * 16


def test_products_in_8_bits_have_their_own_rate_and_bytes(tmp_path: Path) -> None:
    from onnx import helper

    from tests.support.toy import network

    def written(narrow: bool) -> Path:
        weights = np.zeros((256, 512), np.int8 if narrow else np.float32)
        nodes = [helper.make_node("Gemm", ["wide_x", "wide"], ["y"])] if narrow else []
        nodes = nodes or [helper.make_node("Gemm", ["x", "w"], ["y"])]
        more = {"s": np.float32(0.1), "z": np.asarray(128, np.uint8), "ws": np.ones(512, np.float32)} if narrow else {}
        if narrow:
            nodes[:0] = [
                helper.make_node("DequantizeLinear", ["w", "ws"], ["wide"], axis=1),
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["wide_x"]),
            ]
        path = tmp_path / f"{narrow}.onnx"
        path.write_bytes(network(nodes, {"x": (16, 256)}, {"y": (16, 512)}, {"w": weights, **more}))
        return path

    core = replace(CORE, rates={**CORE.rates, "int8": 4e9})
    wide, narrow = (core.parts_ns(written(kind), 1) for kind in (False, True))
    assert narrow["memory"] < 0.27 * wide["memory"]  # the channels' scales are bytes too
    assert narrow["compute"] == wide["compute"] / 4
    assert narrow["launches"] == wide["launches"], "what only narrows and widens is fused"


def test_the_cpu_is_measured_here(tiny: Bundle) -> None:
    with closing(Played(Model(tiny), "full")) as played:
        facts = device_facts("cpu", tiny, schedule="full", beside=[played])
        assert facts.own_ns < played.ns < np.inf, "what is held against the prediction was not played"
    assert "measured now" in facts.source
    assert 0.3 <= facts.factor < 10.0
    assert facts.core is not None
    assert min(facts.core.bytes_per_s.values()) > 1e7
    assert 10.0 < facts.core.node_ns <= facts.core.cold_node_ns
    assert 0.0 < facts.core.run_ns < facts.core.cold_run_ns, "a session whose code left the cache takes longer"
    assert facts.own_ns > 1000.0


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
