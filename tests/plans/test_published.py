"""A StreamingTalker of published size with random weights: every stage builds, soon enough and in little memory."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from edgetalker.calibration.assign import assign
from edgetalker.calibration.convert import add_precision
from edgetalker.calibration.mixed import to_mixed
from edgetalker.calibration.network import read_network
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.engines.tensorrt.log import check_header
from tests.plans.conftest import MachineOf

pytestmark = pytest.mark.slow

SECONDS, MEMORY = 60.0, 4 << 30
ALL = ("sm75", "sm86", "sm89", "sm120")


@pytest.fixture(scope="module")
def vocaset(rtx: Api, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The VOCASET sizes, FP32 and FP16. Ranges mean nothing with random weights, so none are observed."""
    pytest.importorskip("torch", reason="PyTorch is not installed, which exports the bundle")
    from tests.support.published import published

    bundle, _ = published("vocaset", tmp_path_factory)
    folder = tmp_path_factory.mktemp("published") / "vocaset"
    shutil.copytree(bundle.path, folder, copy_function=os.link)  # what is added lies beside, and replaces no content
    converted = {}
    for name in bundle.manifest.stages:
        stage = read_network(bundle.onnx(name))
        converted[name] = to_mixed(stage, assign(stage, {})).SerializeToString()
    add_precision(folder, "fp16", converted)
    return Bundle.open(folder)


@pytest.mark.parametrize(
    ("precision", "capabilities"),
    [("fp32", ("sm86",)), ("fp16", ("sm75",)), ("fp16", ("sm86",)), ("fp16", ALL)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_every_stage_builds_in_time_and_memory(
    rtx: Api, vocaset: Bundle, machine_of: MachineOf, precision: str, capabilities: tuple[str, ...]
) -> None:
    builder = PlanBuilder(vocaset, Target("rtx", capabilities), machine_of(None), precision)
    for name in vocaset.manifest.stages:
        before = _seconds_of_children()
        found = builder.stage(name)
        assert found.record is not None
        assert _seconds_of_children() - before < SECONDS
        assert found.record.peak_memory < MEMORY
        assert check_header(rtx, found.path.read_bytes()) == []
        found.path.unlink()  # 250 MB each


def _seconds_of_children() -> float:
    """Processor time of all processes that were built in: a busy machine makes builds longer, not dearer."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_fp16_halves_the_stages(vocaset: Bundle) -> None:
    for name in vocaset.manifest.stages:
        full, half = (Path(vocaset.onnx(name, precision)).stat().st_size for precision in ("fp32", "fp16"))
        assert half < 0.62 * full, name
