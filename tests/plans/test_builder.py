"""The process that builds a plan: what becomes of one that dies, and what it passes on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import EngineError, OptionError, UserError
from edgetalker.engines.machine import Gpu, Machine
from edgetalker.engines.plan import State, judge
from edgetalker.engines.targets import Target
from edgetalker.engines.tensorrt import children as module
from edgetalker.engines.tensorrt.children import PlanBuilder, build_in_child

REQUEST: dict[str, Any] = {"flavour": "rtx", "capabilities": ["sm86"], "options": {}, "timing_cache": ""}


def impostor(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script in the place of Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts stand in for Python")
@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        ("kill -9 $$", "was killed by signal 9", "memory ran out"),
        ("kill -11 $$", "was killed by signal 11", "None"),
        ("exec >/dev/null; exit 3", "ended with code 3", "None"),
        ("cat >/dev/null & echo noise; exit 0", "ended with code 0", "None"),
    ],
)
def test_a_child_that_dies_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str, hint: str
) -> None:
    impostor(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match=rf"the build of stage\.onnx for rtx {message}") as caught:
        build_in_child({**REQUEST, "onnx": "stage.onnx"}, lambda phase, share: None)
    assert hint in str(caught.value.hint)


@pytest.mark.usefixtures("rtx")
def test_errors_of_the_child_keep_kind_message_and_hint(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes(b"no onnx")
    with pytest.raises(EngineError, match=r"odd\.onnx cannot be"):
        build_in_child({**REQUEST, "onnx": str(tmp_path / "odd.onnx")}, lambda phase, share: None)
    request = {**REQUEST, "onnx": str(bundle.onnx("decode")), "options": {"level": 9}}
    with pytest.raises(OptionError, match="0 to 5"):
        build_in_child(request, lambda phase, share: None)


@pytest.mark.usefixtures("rtx")
def test_the_child_tells_progress_size_and_memory(bundle: Bundle) -> None:
    told: list[float] = []
    request = {**REQUEST, "onnx": str(bundle.onnx("decode"))}
    done, plan = build_in_child(request, lambda phase, share: told.append(share))
    assert told == sorted(told)
    assert plan.startswith(b"vtrt")
    assert 50 << 20 < done["peak_memory"] < 2 << 30
    assert done["inputs"]["x"] == {"dtype": "float32", "shape": [1, 4]}


def test_a_network_that_is_not_the_manifest_s_is_refused_and_not_stored(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(request: dict[str, Any], progress: object) -> tuple[dict[str, Any], bytes]:
        return {"inputs": {}, "outputs": {}, "types": {}, "seconds": 0.1, "peak_memory": 1}, b"plan"

    monkeypatch.setattr(module, "build_in_child", built)
    machine = Machine({"rtx": "1.7"}, "linux-x86_64", Gpu("Test", "sm86", 1, "13.0"))
    with pytest.raises(UserError, match="input `x` is absent in the network"):
        PlanBuilder(bundle, Target("rtx", ("sm86",)), machine).stage("decode")
    assert not list(bundle.path.rglob("*.plan"))


def test_full_tensorrt_s_records_hold_the_size_of_the_board(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    border = {name: vars(spec) for name, spec in bundle.manifest.stages["decode"].inputs.items()}
    results = {name: vars(spec) for name, spec in bundle.manifest.stages["decode"].outputs.items()}
    done = {"inputs": border, "outputs": results, "types": {}, "seconds": 0.1, "peak_memory": 1}
    monkeypatch.setattr(module, "build_in_child", lambda request, progress: (done, b"plan"))
    agx, nano = (Gpu("Orin", "sm87", 8 << 30, "12.6", count) for count in (16, 8))
    machine = Machine({"tensorrt": "10.3.0", "rtx": "1.7"}, "linux-aarch64", agx)
    found = PlanBuilder(bundle, Target("tensorrt", ("sm87",)), machine).stage("decode")
    assert judge(found, bundle, machine).state is State.VALID
    smaller = judge(found, bundle, replace(machine, gpu=nano))
    assert smaller.state is State.FOREIGN
    assert "measured on 16 multiprocessors, this Orin has 8" in str(smaller)
    portable = PlanBuilder(bundle, Target("rtx", ("sm87",)), machine).stage("decode").record
    assert portable is not None and (portable.device, portable.processors) == ("", 0)


def test_kernel_times_are_kept_by_gpu_driver_and_version_for_full_tensorrt_alone(
    bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def built(request: dict[str, Any], progress: object) -> None:
        asked.append(request["timing_cache"])
        raise EngineError("enough was seen")

    monkeypatch.setattr(module, "build_in_child", built)
    gpu = Gpu("Orin (nvgpu)", "sm87", 8 << 30, "12.6", 16)
    machine = Machine({"tensorrt": "10.3.0", "rtx": "1.7"}, "linux-aarch64", gpu)
    for flavour in ("tensorrt", "rtx"):
        with pytest.raises(EngineError, match="enough"):
            PlanBuilder(bundle, Target(flavour, ("sm87",)), machine).stage("decode")
    assert asked == [str(own_cache / "timing" / "tensorrt-10.3.0-Orin__nvgpu__16_sm87_12_6.cache"), ""]
