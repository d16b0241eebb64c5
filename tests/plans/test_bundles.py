"""Real bundles: FP16 and FP32 plans of every stage for every RTX target, and what other tools say of the stages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError
from edgetalker.engines.machine import Machine
from edgetalker.engines.plan import State, choose, judge, read_plan
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.build import build
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.engines.tensorrt.log import check_header
from tests.plans.conftest import MachineOf

DATA = Path(__file__).parents[1] / "data" / "bundles"
TALKER = Path(__file__).parents[2] / "edgetalker" / "bundles" / "talker"
ALL = ("sm75", "sm86", "sm89", "sm120")
TARGETS = [*[(name,) for name in ALL], ALL]
PRODUCTS = ("MatMul", "Gemm")
PARSER = frozenset(
    "Abs Add And Cast Ceil Clip Concat Conv ConvTranspose Cos Cosh CumSum DequantizeLinear Div Elu Equal Erf Exp "
    "Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual GRU HardSigmoid "
    "HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LSTM "
    "MatMul Max Mean Min Mod Mul Neg Not Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements "
    "ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tan Tanh Tile TopK "
    "Transpose Trilu Unsqueeze Where Xor".split()
)
"""What the ONNX parser of TensorRT 10.3 reads, as far as stages may need it, in FP32 and FP16 and up to opset 20: the
support matrix of onnx-tensorrt for 10.6 without what its changelog adds after 10.3 (three windows, STFT)."""
CONSTANT_AXES = re.compile("Reduce.*|Squeeze|Unsqueeze")
"""Operators whose second input must be an initializer there."""


def with_fp16(source: Path, folder: Path) -> Bundle:
    """Return a copy of a bundle that has FP16 stages; converted quickly, for building, not for judging."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("plans"))
    bundle = Bundle.open(folder)
    if "fp16" not in bundle.manifest.precisions:
        convert(bundle, ConvertOptions(seconds=0.5, observed=4, kept=2, limit=0.5))
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_fp16(DATA / "tiny_voca", tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    if not (TALKER / "manifest.json").is_file():
        pytest.skip("the trained talker's bundle is not in this checkout")
    return with_fp16(TALKER, tmp_path_factory.mktemp("talker") / "talker")


@pytest.fixture(scope="session")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """ARTalk, whose chunks are made by stages of their own: one a scale of tokens."""
    return with_fp16(DATA / "toy_artalk", tmp_path_factory.mktemp("chunked") / "chunked")


@pytest.fixture(
    params=["tiny", pytest.param("talker", marks=pytest.mark.slow), pytest.param("chunked", marks=pytest.mark.slow)]
)
def real(request: pytest.FixtureRequest) -> Bundle:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Bundle)
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_parser_of_the_oldest_tensorrt_reads_every_stage(real: Bundle, precision: str) -> None:
    """JetPack 6 has 10.3, whose builder runs on no machine without a GPU."""
    for name in real.manifest.stages:
        graph = onnx.load(str(real.onnx(name, precision)))
        assert [item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")] == [20]
        constant = {item.name for item in graph.graph.initializer}
        for node in graph.graph.node:
            assert node.op_type in PARSER and node.domain == "" and not graph.functions, node.op_type
            if CONSTANT_AXES.fullmatch(node.op_type):
                assert set(node.input[1:]) <= constant, node.name
            if node.op_type == "LayerNormalization":
                assert len(node.output) == 1, node.name


@pytest.mark.parametrize("capabilities", TARGETS, ids="-".join)
def test_fp16_builds_for_every_target(rtx: Api, real: Bundle, capabilities: tuple[str, ...]) -> None:
    for name, stage in real.manifest.stages.items():
        built = build(rtx, real.onnx(name, "fp16"), Target("rtx", capabilities))
        assert (built.inputs, built.outputs) == (stage.inputs, stage.outputs)
        assert check_header(rtx, built.plan) == []
        if real.onnx_name(name, "fp16") != real.onnx_name(name):
            assert built.types["HALF"] > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_rebuild_gives_the_same_bytes(real: Bundle, machine_of: MachineOf, precision: str) -> None:
    """In a process of its own, as `edgetalker build` builds; a second build in one process may differ in some bytes.

    Even so TensorRT-RTX once wrote other bytes, in one of some two hundred builds: then a third must be one of the two.
    """
    builder = PlanBuilder(real, Target("rtx", ("sm86", "sm120")), machine_of(None), precision)
    for name in real.manifest.stages:
        first, second = (builder.stage(name, force=True).path.read_bytes() for _ in range(2))
        if first != second:
            assert builder.stage(name, force=True).path.read_bytes() in (first, second)


@pytest.mark.parametrize("capabilities", TARGETS, ids="-".join)
def test_fp32_builds_from_ampere_on_and_turing_is_refused_clearly(
    rtx: Api, real: Bundle, capabilities: tuple[str, ...]
) -> None:
    for name in real.manifest.stages:
        products = {node.op_type for node in onnx.load(str(real.onnx(name))).graph.node} & set(PRODUCTS)
        if "sm75" in capabilities and products:
            with pytest.raises(EngineError, match="no FP32 matrix products for sm75"):
                build(rtx, real.onnx(name), Target("rtx", capabilities))
        else:
            built = build(rtx, real.onnx(name), Target("rtx", capabilities))
            assert check_header(rtx, built.plan) == []
            assert "HALF" not in built.types or _stores_half(real.onnx(name))


def _stores_half(path: Path) -> bool:
    """Return whether FP32 weights are stored in FP16 and cast when they are read, which saves space alone."""
    return any(item.data_type == onnx.TensorProto.FLOAT16 for item in onnx.load(str(path)).graph.initializer)


def test_a_plan_of_one_precision_is_none_of_the_other(tiny: Bundle, machine_of: MachineOf) -> None:
    builder = PlanBuilder(tiny, Target("rtx", ("sm86",)), machine_of(None), "fp16")
    found = builder.stage("denoise")
    assert judge(found, tiny, machine_of("sm86")).state is State.VALID
    assert found.record is not None
    assert found.record.onnx_sha256 == tiny.manifest.files["fp16/denoise.onnx"]
    assert found.path.parent.name == "fp16"


def polygraphy(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from polygraphy.tools._main import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("polygraphy") is None, reason="Polygraphy is not installed")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_polygraphy_finds_no_fault_in_any_stage(tiny: Bundle, precision: str) -> None:
    if find_spec("onnx_graphsurgeon") is None:
        pytest.skip("onnx-graphsurgeon is not installed, which Polygraphy's lint needs")
    for name in tiny.manifest.stages:
        done = polygraphy("check", "lint", str(tiny.onnx(name, precision)))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("polygraphy") is None, reason="Polygraphy is not installed")
def test_polygraphy_builds_what_we_build(rtx: Api, tiny: Bundle, tmp_path: Path) -> None:
    """An independent second opinion: the same library, driven by NVIDIA's own tool, takes the same stages."""
    for name in tiny.manifest.stages:
        plan = tmp_path / f"{name}.plan"
        words = ["convert", str(tiny.onnx(name, "fp16")), "-o", str(plan), "--compute-capabilities", "7.5", "8.6"]
        done = polygraphy(*words, environment={"POLYGRAPHY_USE_TENSORRT_RTX": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        assert check_header(rtx, plan.read_bytes()) == []


@pytest.mark.slow
def test_opening_the_talker_s_plans_takes_less_than_a_second(talker: Bundle, machine_of: MachineOf) -> None:
    """Digests included: what a start on a device does before the library is asked. Best of three: others work too."""
    builder = PlanBuilder(talker, Target("rtx", ("sm86",)), machine_of(None), "fp16")
    for name in talker.manifest.stages:
        builder.stage(name)
    assert min(_opening_seconds(talker, machine_of("sm86")) for _ in range(3)) < 1.0


def _opening_seconds(bundle: Bundle, machine: Machine) -> float:
    started = time.perf_counter()
    opened = Bundle.open(bundle.path)
    for name in opened.manifest.stages:
        read_plan(choose(opened, name, "fp16", "rtx", machine))
    return time.perf_counter() - started
