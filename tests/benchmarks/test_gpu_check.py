"""`make gpu-check` is ready: its checks run on the host, its report says what ran, its large bundle can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from benchmarks.gpu import clock_checks, frame_checks
from benchmarks.gpu.device_checks import CHECKS
from benchmarks.gpu.figures import AT_LEAST, FASTER, FLOORS, TARGETS
from benchmarks.gpu.results import Result, Run, attempt, environment, verdicts
from benchmarks.gpu.setting import NotRunError, Setting
from benchmarks.gpu.skeleton import fill, strip
from edgetalker.engines.bundle import Bundle
from edgetalker.runtime.talker import Talker
from tests.support.toy import toy_bundle

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "bundles" / "tiny_voca"


ONLY_THERE = {
    "waiting_policies": "the host has no queue to wait for",
    "out_of_memory_is_told": "the host would swap",
    "pytorch_shares_memory_and_stream": "needs a GPU",
}
"""Checks that the host cannot run, and why; all others have to pass on it."""


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting({"tiny_voca": TINY}, tmp_path, dry=True, scale=0.02)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_device_checks_hold_on_the_host(setting: Setting, check: Callable[[Setting], dict[str, object]]) -> None:
    name = check.__name__
    result = attempt(setting, name, lambda: check(setting))
    assert (result.status, result.reason) == (("not run", ONLY_THERE[name]) if name in ONLY_THERE else ("passed", ""))
    assert name in ONLY_THERE or result.figures or name == "capture_refuses"


@pytest.mark.slow
def test_frame_checks_hold_on_the_host(setting: Setting) -> None:
    assert frame_checks.frames_are_the_hosts(setting)["tiny_voca, worst relative error"] < 1e-4
    assert "equal bit for bit" in frame_checks.graphs_change_no_frame(setting)["tiny_voca"]
    assert "addresses" in frame_checks.nothing_is_made_after_start(setting)["tiny_voca"]
    assert frame_checks.talkers_end_in_any_order(setting) == {"talkers": 3}


def test_frame_checks_can_fail() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        frame_checks.worst(np.array([np.nan], np.float32), np.array([1], np.float32))
    assert frame_checks.worst(np.array([1.5], np.float32), np.array([2], np.float32)) == 0.25


def test_the_clock_counts_every_frame(setting: Setting) -> None:
    figures = clock_checks.on_the_clock(setting, "tiny_voca", 30, 1, processes=0)
    assert figures["frames due"] == sum(figures[name] for name in ("on_time", "late", "held", "skipped", "starved"))
    assert figures["frames due"] >= 28
    assert figures["missed"] == figures["frames due"] - figures["on_time"]


def test_half_of_the_usable_cores_are_kept_busy(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def load(processes: int) -> AbstractContextManager[None]:
        started.append(processes)
        return nullcontext()

    monkeypatch.setattr(clock_checks, "usable_cores", lambda: 6)
    monkeypatch.setattr(clock_checks, "load", load)
    figures = clock_checks.on_the_clock(setting, "tiny_voca", 30, 1)
    assert (figures["cores usable"], figures["busy processes"], started) == (6, 3, [3])


def test_the_load_is_one_thread_a_process() -> None:
    before = dict(os.environ)
    with clock_checks.load(1) as (worker,):
        told = [b""]
        while told == [b""]:  # between the fork and the start of the program there is nothing to read
            told = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        assert {b"OPENBLAS_NUM_THREADS=1", b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= set(told)
    assert dict(os.environ) == before


def test_a_missed_frame_fails_the_check_on_a_gpu(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = clock_checks.at_rate(Bundle.open(TINY), 60)
    assert bundle.manifest.motion.fps == 60
    monkeypatch.setattr(clock_checks, "rehearse", lambda *_: None)

    class Late:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self) -> object:
            from edgetalker.runtime.frame import Outcome
            from edgetalker.runtime.loop import Tally

            outcomes = dict.fromkeys(Outcome, 0) | {Outcome.ON_TIME: 9, Outcome.LATE: 1}
            return Tally(due=10, outcomes=outcomes)

    monkeypatch.setattr(clock_checks, "Loop", Late)
    monkeypatch.setattr(clock_checks.Costs, "__init__", lambda self: setattr(self, "cost_ns", [1]))
    monkeypatch.setattr(Setting, "talker", lambda self, bundle: Talker(bundle))
    setting.dry = False
    result = attempt(setting, "clock", lambda: clock_checks.on_the_clock(setting, "tiny_voca", 60, 1, processes=0))
    assert result.status == "failed"
    assert "1 of 10 frames missed" in result.reason


def test_what_cannot_run_is_listed_with_its_reason(setting: Setting) -> None:
    def lacking() -> dict[str, object]:
        raise NotRunError("no such thing here")

    def broken() -> dict[str, object]:
        raise ValueError("wrong")

    setting.seconds = 1000
    assert attempt(setting, "a", lacking).reason == "no such thing here"
    failed = attempt(setting, "b", broken)
    assert failed.status == "failed"
    assert "ValueError: wrong (test_gpu_check.py:" in failed.reason
    setting.seconds = 5
    late = attempt(setting, "c", lambda: {}, least=60)
    assert (late.status, late.reason) == ("not run", "5 s were left, it needs 60 s")


def test_targets_are_judged_by_figures_that_were_measured() -> None:
    limit, least = next(iter(TARGETS.items())), (FASTER, AT_LEAST[FASTER])
    good = [Result("x", "passed", 1.0, {limit[0]: limit[1], least[0]: least[1]})]
    bad = [Result("x", "passed", 1.0, {limit[0]: limit[1] * 1.1, least[0]: least[1] / 2})]
    for results, word in ((good, "met"), (bad, "missed")):
        found = verdicts(results)
        assert found[limit[0]].split(": ")[1].startswith(word)
        assert found[least[0]].split(": ")[1].startswith(word)
    floor = verdicts([Result("x", "passed", 1.0, {limit[0]: 600.0, FLOORS[limit[0]]: 95.0})])[limit[0]]
    assert floor.endswith("floor 95.0)")
    assert set(verdicts([])) == set(TARGETS) | set(AT_LEAST)
    assert all(text.startswith("not measured") for text in verdicts([]).values())


def test_the_report_is_written_whole(setting: Setting, tmp_path: Path) -> None:
    results = [Result("device: a", "passed", 1.0, {"x": 1.5}), Result("b", "not run", 0.0, reason="no | such")]
    run = Run({**environment(setting), "gpu": "NVIDIA H200"}, results)
    path = run.write(tmp_path / "results")
    assert path.name == "nvidia-h200.json"
    report = json.loads(path.read_text())
    assert (report["format"], report["version"]) == ("edgetalker-gpu-check", 1)
    assert [check["status"] for check in report["checks"]] == ["passed", "not run"]
    text = path.with_suffix(".md").read_text()
    assert "## b: not run" in text
    assert "not edited by hand" in text
    assert run.passed
    assert not Run(run.environment, [Result("c", "failed", 0.0)]).passed


@pytest.mark.slow
def test_the_command_runs_dry_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu_check.py", "--dry-run", "--only", "device", "--out", str(tmp_path / "r")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "device: shifts are the hosts" in done.stdout
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "r").exists()


def test_a_stripped_bundle_is_filled_to_the_same_sizes(tmp_path: Path) -> None:
    original = Bundle.open(TINY)
    strip(original, tmp_path / "skeleton")
    filled = fill(tmp_path / "skeleton", tmp_path / "filled", seed=3)
    again = fill(tmp_path / "skeleton", tmp_path / "again", seed=3)
    assert filled.manifest.files == again.manifest.files
    assert filled.manifest.program == original.manifest.program
    for stage in original.manifest.stages.values():
        sizes = [
            {item.name: tuple(item.dims) for item in onnx.load(str(bundle.path / stage.file)).graph.initializer}
            for bundle in (original, filled)
        ]
        assert sizes[0] == sizes[1]
    skeleton = sum(path.stat().st_size for path in (tmp_path / "skeleton").iterdir())
    assert skeleton < sum((TINY / name).stat().st_size for name in original.manifest.files) / 2
    talker = Talker(filled)
    assert talker.audio is not None
    motion = talker.make(window=np.full(talker.audio.shape, 0.01, np.float32)).motion
    assert np.isfinite(motion).all()


def test_the_published_skeleton_holds_the_published_sizes() -> None:
    folder = ROOT / "benchmarks" / "data" / "streamingtalker_vocaset"
    weights = {}
    for path in folder.glob("*.onnx"):
        graph = onnx.load(str(path)).graph
        weights[path.stem] = sum(int(np.prod(item.dims)) for item in graph.initializer)
    assert weights["audio"] > 90e6
    assert weights["denoise"] > 1e6
    assert set(weights) == {"audio", "condition", "denoise", "collapse", "decode"}
    described = json.loads((folder / "skeleton.json").read_text())
    assert described["manifest"]["tensors"]["vertices"]["shape"] == [1, 5023, 3]


def test_the_toy_can_be_stripped_too(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy")
    strip(bundle, tmp_path / "skeleton")
    assert fill(tmp_path / "skeleton", tmp_path / "filled").manifest.files == bundle.manifest.files
