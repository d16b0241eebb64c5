"""Plans with 8 bits: INT8 for every RTX target, FP8 for those that have it, and the layers are what they should be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgetalker.calibration.convert import ConvertOptions, add_precision, convert
from edgetalker.calibration.network import Network, name_nodes, read_network
from edgetalker.calibration.quantise import Kind, kind_for, products, to_quantised
from edgetalker.calibration.stage import convert_stage
from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import Array
from edgetalker.engines.errors import EngineError
from edgetalker.engines.plan import State, judge
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.build import build
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.engines.tensorrt.log import check_header
from tests.plans.conftest import MachineOf
from tests.plans.test_bundles import ALL, DATA, TARGETS

NEW = ("sm89", "sm120")
STAGE = "condition"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with one stage in INT8 and in FP8, its ranges made up: to be built, not to be judged."""
    folder = tmp_path_factory.mktemp("eight") / "tiny"
    shutil.copytree(DATA / "tiny_voca", folder)
    path = folder / f"{STAGE}.onnx"
    full = read_network(path)
    name_nodes(full)
    inputs = [{item.name: _some(item) for item in full.graph.input}]
    half = Network(onnx.load_from_string(convert_stage(STAGE, path, inputs, 0.5).onnx))
    for precision in ("int8", "fp8"):
        kinds: dict[str, Kind] = {
            item.name: kind for item in products(full) if (kind := kind_for(item, precision)) is not None
        }
        ends = {item.source: 4.0 for item in products(full)}
        add_precision(folder, precision, {STAGE: to_quantised(half, kinds, ends, "gpu").SerializeToString()})
    return Bundle.open(folder)


def _some(item: Any) -> Array:
    kind = item.type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    return np.ones(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


@pytest.mark.parametrize("capabilities", TARGETS, ids="-".join)
def test_int8_builds_for_every_target(rtx: Api, stage: Bundle, capabilities: tuple[str, ...]) -> None:
    built = build(rtx, stage.onnx(STAGE, "int8"), Target("rtx", capabilities))
    assert built.types["INT8"] > 10
    assert "FP8" not in built.types
    assert check_header(rtx, built.plan) == []
    border = stage.manifest.stages[STAGE]
    assert (built.inputs, built.outputs) == (border.inputs, border.outputs)


@pytest.mark.parametrize("capability", NEW)
def test_fp8_builds_for_cards_that_have_it_and_its_layers_are_fp8(rtx: Api, stage: Bundle, capability: str) -> None:
    built = build(rtx, stage.onnx(STAGE, "fp8"), Target("rtx", (capability,)))
    assert built.types["FP8"] >= 2 * 7  # each of the products with many rows has its weights and its activations
    assert check_header(rtx, built.plan) == []


@pytest.mark.parametrize("capabilities", [("sm75",), ("sm86",), ALL], ids="-".join)
def test_the_library_has_no_fp8_for_older_cards(rtx: Api, stage: Bundle, capabilities: tuple[str, ...]) -> None:
    """What `targets_for` says beforehand: were it no longer so, the refusal could go."""
    with pytest.raises(EngineError, match="number format that one of the targets cannot compute"):
        build(rtx, stage.onnx(STAGE, "fp8"), Target("rtx", capabilities))


def test_build_refuses_a_set_with_an_older_card_before_it_builds(
    rtx: Api, stage: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", str(stage.path), "--precision", "fp8", "--stage", STAGE, "--target"]
    assert main([*words, "rtx:sm75,sm86,sm89,sm120"]) == 64
    told = capsys.readouterr()
    assert "FP8 runs on sm89 and newer, not on sm75, sm86" in told.err
    assert "--target rtx:sm89,sm120" in told.err
    assert told.out == ""
    assert not (stage.path / "plans").exists()


@pytest.mark.slow
def test_build_makes_one_fp8_plan_a_card(rtx: Api, stage: Bundle, machine_of: MachineOf, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(stage.path, copy)
    words = ["build", str(copy), "--precision", "fp8", "--stage", STAGE, "--target", "rtx:sm89,sm120"]
    assert main(words) == 0
    plans = sorted(path.relative_to(copy / "plans").parts[1:] for path in copy.glob("plans/**/*.plan"))
    assert plans == [("sm120", "fp8", f"{STAGE}.plan"), ("sm89", "fp8", f"{STAGE}.plan")]


def test_the_fingerprint_knows_the_precision(stage: Bundle, machine_of: MachineOf) -> None:
    found = PlanBuilder(stage, Target("rtx", ("sm89",)), machine_of(None), "int8").stage(STAGE)
    assert found.record is not None
    assert found.record.precision == "int8"
    assert found.record.onnx_sha256 == stage.manifest.files[f"int8/{STAGE}.onnx"]
    assert found.record.onnx_sha256 != stage.manifest.files[f"fp8/{STAGE}.onnx"]
    assert judge(found, stage, machine_of("sm89")).state is State.VALID


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "goal", "targets"), [("int8", 0.1, TARGETS), ("fp8", 0.5, [(name,) for name in NEW])], ids=str
)
def test_a_converted_bundle_builds_stage_by_stage(
    rtx: Api, tmp_path: Path, precision: str, goal: float, targets: list[tuple[str, ...]]
) -> None:
    """All of it, as a user converts it, with a goal so loose that the layers are kept."""
    shutil.copytree(DATA / "tiny_voca", tmp_path / "tiny")
    options = ConvertOptions(precision=precision, seconds=1.0, observed=6, kept=2, budget=1.0, goal=goal)
    convert(Bundle.open(tmp_path / "tiny"), options)
    bundle = Bundle.open(tmp_path / "tiny")
    for capabilities in targets:
        seen: set[str] = set()
        for name, border in bundle.manifest.stages.items():
            built = build(rtx, bundle.onnx(name, precision), Target("rtx", capabilities))
            assert check_header(rtx, built.plan) == []
            assert (built.inputs, built.outputs) == (border.inputs, border.outputs)
            seen |= built.types.keys()
        assert {precision.upper(), "HALF"} <= seen
