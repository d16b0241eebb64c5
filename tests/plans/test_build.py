"""TensorRT-RTX builds real plans here, without a GPU: every target, byte for byte, or a clear refusal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.engine import TensorSpec
from edgetalker.engines.errors import EngineError, OptionError, UnsupportedGpuError, unheard
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.build import BuildCancelledError, BuildOptions, _Job, build
from edgetalker.engines.tensorrt.log import check_header
from tests.support.toy import network

ALL = ("sm75", "sm86", "sm89", "sm120")
TARGETS = [*[(name,) for name in ALL], ALL, ("portable",)]


@pytest.mark.parametrize("capabilities", TARGETS, ids="-".join)
def test_every_stage_builds_for_every_target(rtx: Api, bundle: Bundle, capabilities: tuple[str, ...]) -> None:
    for stage in bundle.manifest.stages.values():
        built = build(rtx, bundle.onnx(stage.name), Target("rtx", capabilities))
        assert (built.inputs, built.outputs) == (stage.inputs, stage.outputs)
        assert check_header(rtx, built.plan) == []
        assert set(built.types) <= {"FLOAT", "INT64", "INT32", "BOOL"}


def test_plans_are_built_to_be_captured(rtx: Api) -> None:
    """Without user allocation TensorRT-RTX allocates while it runs, and without one stream a capture is not joined."""
    job = _Job(rtx, Target("rtx", ("sm86",)), BuildOptions(), unheard, lambda: False)
    job._configure()
    assert job.config.get_flag(rtx.module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert not job.config.get_flag(rtx.module.BuilderFlag.TF32)
    assert job.config.max_aux_streams == 0


def test_a_gpu_that_the_library_does_not_know_is_refused_as_such(rtx: Api, bundle: Bundle) -> None:
    with pytest.raises(UnsupportedGpuError, match=f"{rtx.version} does not know sm999"):
        build(rtx, bundle.onnx("denoise"), Target("rtx", ("sm999",)))


def test_each_target_has_a_plan_of_its_own(rtx: Api, bundle: Bundle) -> None:
    def digest(*capabilities: str) -> str:
        plan = build(rtx, bundle.onnx("denoise"), Target("rtx", capabilities)).plan
        return hashlib.sha256(plan).hexdigest()

    assert len({digest(*capabilities) for capabilities in TARGETS}) == len(TARGETS)


@pytest.mark.parametrize(
    "damage",
    [lambda plan: plan[:63], lambda plan: b"", lambda plan: b"X" + plan[1:], lambda plan: b"garbage" * 100],
    ids=["truncated header", "empty", "wrong magic", "garbage"],
)
def test_a_malformed_header_is_seen_without_a_gpu(rtx: Api, bundle: Bundle, damage: object) -> None:
    plan = build(rtx, bundle.onnx("decode"), Target("rtx", ("sm86",))).plan
    assert callable(damage)
    assert check_header(rtx, damage(plan)) == ["MALFORMED_ENGINE"]


def test_progress_is_told_and_rises_to_the_end(rtx: Api, bundle: Bundle) -> None:
    told: list[tuple[str, float]] = []

    build(
        rtx,
        bundle.onnx("denoise"),
        Target("rtx", ("sm86",)),
        progress=lambda phase, share: told.append((phase, share)),
    )
    shares = [share for _, share in told]
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert 0 < shares[0] < 1


def test_cancelling_ends_the_build_at_once(rtx: Api, bundle: Bundle) -> None:
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return True

    with pytest.raises(BuildCancelledError, match=r"denoise\.onnx was cancelled"):
        build(rtx, bundle.onnx("denoise"), Target("rtx", ("sm86",)), cancelled=cancelled)
    assert len(asked) < 5  # of the steps of a build, which are dozens


def product(path: Path, dtype: str) -> Path:
    """Write a network whose matrix product is in `dtype`, with FP32 at the border."""
    kind = {"float32": 1, "float16": 10}[dtype]
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("MatMul", ["narrow", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=1),
    ]
    weight = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64).astype(dtype)
    path.write_bytes(network(nodes, {"x": (1, 64)}, {"y": (1, 64)}, {"weight": weight}))
    return path


def test_turing_takes_fp16_products_and_refuses_fp32_ones_clearly(rtx: Api, tmp_path: Path) -> None:
    turing = Target("rtx", ("sm75",))
    half = build(rtx, product(tmp_path / "half.onnx", "float16"), turing)
    assert half.types["HALF"] >= 2
    assert half.inputs == {"x": TensorSpec("float32", (1, 64))}
    with pytest.raises(EngineError, match="no FP32 matrix products for sm75") as caught:
        build(rtx, product(tmp_path / "full.onnx", "float32"), turing)
    assert "--precision fp16" in str(caught.value.hint)


def test_precision_comes_from_the_graph_alone(rtx: Api, tmp_path: Path) -> None:
    ampere = Target("rtx", ("sm86",))
    full = build(rtx, product(tmp_path / "full.onnx", "float32"), ampere)
    half = build(rtx, product(tmp_path / "half.onnx", "float16"), ampere)
    assert "HALF" not in full.types
    assert len(half.plan) < len(full.plan)


def test_tf32_is_off_unless_asked_for(rtx: Api, tmp_path: Path) -> None:
    path, target = product(tmp_path / "full.onnx", "float32"), Target("rtx", ("sm86",))
    assert build(rtx, path, target).plan != build(rtx, path, target, BuildOptions(tf32=True)).plan


@pytest.mark.parametrize("content", [b"", b"no onnx at all", None], ids=["empty", "garbage", "absent"])
def test_what_is_no_onnx_is_refused(rtx: Api, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "odd.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"odd\.onnx cannot be (imported|built|read)"):
        build(rtx, path, Target("rtx", ("sm86",)))


def test_an_unknown_operator_is_refused_by_name(rtx: Api, tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"])  # valid ONNX that TensorRT has no importer for
    (tmp_path / "odd.onnx").write_bytes(network([node], {"x": (4, 4)}, {"y": ()}, {}))
    with pytest.raises(EngineError, match=r"operator that this TensorRT cannot import.*UNSUPPORTED_NODE at Det"):
        build(rtx, tmp_path / "odd.onnx", Target("rtx", ("sm86",)))


def test_version_compatible_plans_are_left_to_full_tensorrt(rtx: Api, bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="full TensorRT alone"):
        build(rtx, bundle.onnx("decode"), Target("rtx", ("sm86",)), BuildOptions(version_compatible=True))


@pytest.mark.parametrize("options", [{"level": 6}, {"level": -1}, {"workspace": 0}])
def test_options_that_no_builder_takes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="was wanted"):
        BuildOptions(**options)
