"""Plans on a real GPU: built for it, opened, run, captured, and compared with ONNX Runtime on the CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda.engines import tensorrt_engines
from edgetalker.engines.engine import DTYPES, Buffer
from edgetalker.engines.errors import UserError
from edgetalker.engines.machine import Gpu, probe, this_machine
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.runtime.talker import Talker

pytestmark = pytest.mark.gpu

TINY = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"


@pytest.fixture(params=["tensorrt", "rtx"])
def flavour(request: pytest.FixtureRequest) -> str:
    machine = this_machine()
    if not isinstance(machine.gpu, Gpu):
        pytest.skip(f"no GPU: {machine.gpu.reason}")
    if request.param not in machine.versions:
        pytest.skip(f"`{request.param}` is not installed here")
    return str(request.param)


@pytest.fixture
def built(flavour: str, tmp_path: Path) -> Bundle:
    """The tiny bundle with plans for this GPU."""
    shutil.copytree(TINY, tmp_path / "tiny")
    bundle, machine = Bundle.open(tmp_path / "tiny"), this_machine()
    assert isinstance(machine.gpu, Gpu)
    for name in bundle.manifest.stages:
        try:
            PlanBuilder(bundle, Target(flavour, (machine.gpu.capability,)), machine).stage(name)
        except UserError as error:
            pytest.skip(f"{flavour} builds no plan for {machine.gpu}: {error.message}")
    return bundle


def test_frames_are_those_of_the_cpu_captured_or_not(built: Bundle, flavour: str) -> None:
    window = np.random.default_rng(0).standard_normal(built.manifest.audio.window).astype(np.float32) * 0.1
    wanted = Talker(built)
    found = [Talker(built, device="cuda", engine=flavour, graphs=graphs) for graphs in ("eager", "step", "frame")]
    for _ in range(30):
        reference = wanted.make(window=window).motion
        motions = [session.make(window=window).motion.copy() for session in found]
        np.testing.assert_allclose(motions[0], reference, atol=2e-4)
        for other in motions[1:]:
            np.testing.assert_array_equal(other, motions[0])
    for session in (wanted, *found):
        session.close()


def test_compiled_kernels_are_kept_for_the_next_start(built: Bundle, flavour: str) -> None:
    if flavour != "rtx":
        pytest.skip("full TensorRT compiles when it builds")
    Talker(built, device="cuda", engine="rtx").close()
    caches = {path: path.stat().st_mtime_ns for path in built.path.rglob("*.cache")}
    assert len(caches) == len(built.manifest.stages)
    Talker(built, device="cuda", engine="rtx").close()
    assert {path: path.stat().st_mtime_ns for path in built.path.rglob("*.cache")} == caches


def test_a_binding_reads_and_writes_where_it_was_told(built: Bundle, flavour: str) -> None:
    from edgetalker.engines.cuda import CudaDevice

    device = CudaDevice()
    engine = tensorrt_engines(built, device, flavour=flavour)["denoise"]
    rows: list[dict[str, Buffer]] = []
    for place in range(2):
        specs = {**engine.inputs, **engine.outputs}
        rows.append({name: device.allocate(f"{name}{place}", spec) for name, spec in specs.items()})
    bindings = [engine.bind(buffers) for buffers in rows]
    for place, buffers in enumerate(rows):
        for name, spec in engine.inputs.items():
            device.write(buffers[name], np.full(spec.shape, 1.0 + place, DTYPES[spec.dtype]))

    def both() -> None:
        for binding in bindings:
            binding.enqueue(device)

    graph = device.capture("both", both)
    device.launch(graph)
    first, second = (device.read(buffers["x_next"]) for buffers in rows)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)
    device.close()


def test_the_driver_is_asked_without_a_context() -> None:
    found = probe()
    if not isinstance(found, Gpu):
        pytest.skip(f"no GPU: {found.reason}")
    assert found.capability.startswith("sm")
    assert found.memory > 1 << 30
