"""From a bundle with plans to a session: the plans are found and checked, and every address fits."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.cuda import engines as loader
from edgetalker.engines.errors import EngineError, OptionError
from edgetalker.engines.machine import Machine
from edgetalker.engines.plan import find
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.children import PlanBuilder
from edgetalker.runtime.model import Model
from tests.plans.conftest import MachineOf
from tests.plans.runtime_double import CudaLike, Engine, module_with, stand_in


@pytest.fixture(scope="module")
def built_folder(rtx: Api, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgetalker.engines.machine import this_machine

    folder = tmp_path_factory.mktemp("loader") / "bundle"
    shutil.copytree(toy_folder, folder)
    bundle = Bundle.open(folder)
    for stage in bundle.manifest.stages:
        PlanBuilder(bundle, Target("rtx", ("sm86",)), this_machine()).stage(stage)
    return folder


@pytest.fixture
def built(built_folder: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(built_folder, tmp_path / "built")
    return Bundle.open(tmp_path / "built")


@pytest.fixture
def engines(built: Bundle, machine_of: MachineOf, monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    """A machine with a GPU of sm86 whose library gives a stand-in for each real plan, by the plan's own bytes."""
    machine: Machine = machine_of("sm86")
    doubles = {stage: stand_in(border) for stage, border in built.manifest.stages.items()}
    by_digest = {found.record.plan_sha256: doubles[found.record.stage] for found in find(built) if found.record}
    module: Any = module_with(None)
    module.Runtime.deserialize_cuda_engine = lambda self, plan: by_digest[hashlib.sha256(plan).hexdigest()]
    monkeypatch.setattr(loader, "this_machine", lambda index=0: machine)
    monkeypatch.setattr(loader, "load", lambda flavour: Api(flavour, module))
    monkeypatch.setattr("edgetalker.engines.machine.probe", lambda index=0: machine.gpu)
    return doubles


@pytest.mark.parametrize("flavour", ["rtx", "auto"])
def test_each_stage_gets_its_own_plan_and_all_share_one_scratch(
    built: Bundle, engines: dict[str, Engine], flavour: str
) -> None:
    device = CudaLike()
    opened = loader.tensorrt_engines(built, device, flavour=flavour)
    assert {name: engine.inputs for name, engine in opened.items()} == {
        name: stage.inputs for name, stage in built.manifest.stages.items()
    }
    Model(built, engines=opened, device=device).talker()
    assert len({context.memory for double in engines.values() for context in double.contexts}) == 1


def test_a_session_binds_each_set_of_addresses_once_and_captures_all(built: Bundle, engines: dict[str, Engine]) -> None:
    """Every address is aligned (the stand-in and the engine check it), also those of a block's rows."""
    device = CudaLike()
    session = Model(built, engines=loader.tensorrt_engines(built, device), device=device).talker()
    contexts = {name: len(double.contexts) for name, double in engines.items()}
    rows = {len(built.table(name)) for name in built.manifest.schedules}
    assert contexts["denoise"] >= max(rows)
    runs = {name: sum(len(context.streams) for context in double.contexts) for name, double in engines.items()}
    for _ in range(4):
        session.make(window=np.zeros(session.window.size, np.float32))
    later = {name: sum(len(context.streams) for context in double.contexts) for name, double in engines.items()}
    assert {name: len(double.contexts) for name, double in engines.items()} == contexts
    assert later == runs, "engines are entered while graphs are captured, not in frames"


def test_a_damaged_plan_is_refused_before_the_library_sees_it(built: Bundle, engines: dict[str, Engine]) -> None:
    (found,) = (found for found in find(built) if found.record and found.record.stage == "blend")
    found.path.write_bytes(b"?" * found.path.stat().st_size)
    with pytest.raises(EngineError, match="is damaged: SHA-256"):
        loader.tensorrt_engines(built, CudaLike(), flavour="rtx")


def test_a_stage_without_a_plan_names_the_command(built: Bundle, engines: dict[str, Engine]) -> None:
    for found in list(find(built, "decode")):
        found.path.unlink()
    with pytest.raises(EngineError, match="stage `decode` has no valid fp32 plan for `rtx`") as caught:
        loader.tensorrt_engines(built, CudaLike(), flavour="auto")
    assert "edgetalker build" in str(caught.value.hint)


def test_no_library_and_unknown_flavours_are_said(
    built: Bundle, machine_of: MachineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Machine({}, "linux-x86_64", machine_of("sm86").gpu)
    monkeypatch.setattr(loader, "this_machine", lambda index=0: bare)
    with pytest.raises(OptionError, match="no TensorRT is installed here"):
        loader.tensorrt_engines(built, CudaLike())
    with pytest.raises(OptionError, match="did you mean `tensorrt`"):
        loader.tensorrt_engines(built, CudaLike(), flavour="tensort")


def test_a_stage_runs_at_once_and_again(built: Bundle, engines: dict[str, Engine]) -> None:
    device = CudaLike()
    engine = loader.tensorrt_engines(built, device)["decode"]
    specs = {**engine.inputs, **engine.outputs}
    engine.bind({name: device.allocate(name, spec) for name, spec in specs.items()}).enqueue(device)
    assert engines["decode"].contexts[0].streams == [device.stream] * 3  # warm, tried under capture, run
