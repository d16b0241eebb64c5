"""`edgetalker convert`: FP16 stages beside the FP32 ones, a report, and nothing half-done when it fails."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgetalker.calibration import convert as module
from edgetalker.calibration.convert import ConvertOptions, _frames, convert
from edgetalker.calibration.report import GOAL, ConvertReport
from edgetalker.calibration.rollout import Divergence
from edgetalker.calibration.stage import convert_stage, half_share
from edgetalker.cli import convert as command
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, MissingPackageError, OptionError, OutputError
from edgetalker.engines.files import write_whole
from edgetalker.runtime.talker import Talker
from tests.calibration.conftest import network_of, node, weight

QUICK = ConvertOptions(seconds=1.0, observed=12, kept=3)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion where PyTorch is not installed, which also saves the time of its slow halves."""

    def missing(*arguments: object) -> None:
        raise MissingPackageError("torch", "rounding every FP16 node", extra="export")

    monkeypatch.setattr(module, "half_error", missing)


def test_every_stage_has_an_fp16_twin_and_the_bundle_is_sound(converted: tuple[Bundle, ConvertReport]) -> None:
    bundle, _ = converted
    assert bundle.manifest.precisions == {"fp16": {name: f"fp16/{name}.onnx" for name in bundle.manifest.stages}}
    for name in bundle.manifest.stages:
        assert half_share(bundle.onnx(name, "fp16").read_bytes()) > 0.2
        assert half_share(bundle.onnx(name).read_bytes()) == 0.0
        assert bundle.onnx(name, "fp16").stat().st_size < bundle.onnx(name).stat().st_size


def test_the_drift_stays_below_the_goal_and_does_not_grow(converted: tuple[Bundle, ConvertReport]) -> None:
    _, report = converted
    assert [item.schedule for item in report.closed_loop] == ["full", "fast"]
    assert report.met
    for item in report.closed_loop:
        assert 0.0 < item.error < GOAL
        assert item.growth < 3.0
        assert item.frames == 120


def test_one_run_of_each_stage_is_within_the_limit_also_rounded_node_by_node(
    converted: tuple[Bundle, ConvertReport],
) -> None:
    _, report = converted
    for stage in report.stages:
        assert 1e-5 < stage.error.error < 2e-3
        assert 0.8 < report.rounded[stage.name].error / stage.error.error < 2.0
        assert stage.products_kept == ()


def test_the_report_lies_in_the_bundle_and_says_why(converted: tuple[Bundle, ConvertReport]) -> None:
    bundle, report = converted
    document = json.loads(bundle.file("fp16/report.json").read_text())
    assert document["met"] is True
    assert document["stages"]["denoise"]["half"] == ["node_matmul"]
    assert document["stages"]["decode"]["kept"]["node_matmul"] == "product with a vector: a sum, kept as FP32"
    assert len(document["closed_loop"]["full"]["seconds"]) == 4
    assert bundle.file("fp16/report.png").read_bytes().startswith(b"\x89PNG")
    assert {"fp16/report.json", "fp16/report.png"} <= bundle.manifest.files.keys()
    text = "\n".join(report.lines())
    assert "goal of less than 1.00% of drift: met" in text
    assert "not judged: growth (4 s were compared, 60 are wanted)" in text
    assert "product with a vector" in text


def test_an_fp16_session_plays(converted: tuple[Bundle, ConvertReport]) -> None:
    bundle, _ = converted
    session = Talker(bundle, precision="fp16")
    motion = session.make(window=np.zeros(bundle.manifest.audio.window, np.float32)).motion.copy()
    session.close()
    assert np.isfinite(motion).all()


@pytest.mark.usefixtures("without_torch")
def test_converting_again_replaces_the_first(converted: tuple[Bundle, ConvertReport], tmp_path: Path) -> None:
    shutil.copytree(converted[0].path, tmp_path / "again")
    bundle = Bundle.open(tmp_path / "again")
    report = convert(bundle, QUICK)
    assert report.rounded == {}
    assert "every node rounded" not in "".join(report.lines())
    again = Bundle.open(bundle.path)
    assert again.manifest.files.keys() == converted[0].manifest.files.keys()
    assert again.manifest.precisions == converted[0].manifest.precisions


@pytest.mark.usefixtures("without_torch")
def test_plans_beside_the_stages_stay(tiny: Bundle) -> None:
    (tiny.path / "plans").mkdir()
    (tiny.path / "plans" / "kept.plan").write_bytes(b"plan")
    convert(tiny, QUICK)
    assert (tiny.path / "plans" / "kept.plan").read_bytes() == b"plan"


@pytest.mark.usefixtures("without_torch")
def test_a_failure_changes_nothing(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in tiny.path.rglob("*") if path.is_file()}

    def fail(self: ConvertReport) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(ConvertReport, "to_png", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, QUICK)
    assert {path: path.read_bytes() for path in tiny.path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("without_torch")
def test_an_interrupt_while_files_are_exchanged_puts_the_old_ones_back(
    converted: tuple[Bundle, ConvertReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(converted[0].path, tmp_path / "again")
    before = {path: path.read_bytes() for path in (tmp_path / "again").rglob("*") if path.is_file()}
    real = write_whole

    def interrupted(path: Path) -> object:
        if path.parent == tmp_path / "again":
            assert (path.parent / "fp16" / "audio.onnx").read_bytes() != before[path.parent / "fp16" / "audio.onnx"]
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr("edgetalker.calibration.convert.write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(Bundle.open(tmp_path / "again"), replace(QUICK, hold=("denoise",), limit=5e-4))
    assert {path: path.read_bytes() for path in (tmp_path / "again").rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
def test_a_missed_goal_names_the_stage_and_auto_holds_it(tiny: Bundle) -> None:
    missed = convert(tiny, replace(QUICK, goal=1e-4))
    assert missed.met is False
    assert missed.harm.keys() == set(tiny.manifest.stages)
    worst = max(missed.harm, key=missed.harm.__getitem__)
    goal = 0.9 * missed.closed_loop[0].error
    kept = convert(tiny, replace(QUICK, goal=goal, hold=("auto",)))
    assert kept.met is True
    assert next(iter(kept.held)) == worst
    assert worst not in Bundle.open(tiny.path).manifest.precisions["fp16"]


@pytest.mark.usefixtures("without_torch")
def test_a_script_reads_from_the_exit_code_whether_the_goal_was_kept(
    tiny: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    words = ["convert", str(tiny.path), "--minutes", "0.02", "--frames", "12", "--hold", "denoise,condition"]
    assert command.run(parser.parse_args(words)) == 0
    assert command.run(parser.parse_args([*words, "--goal", "0.0001%"])) == command.MISSED == 1
    assert "hint: --hold " in capsys.readouterr().err


@pytest.mark.usefixtures("without_torch")
def test_a_copy_leaves_the_original_alone(tiny: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "below" / "copy"
    convert(tiny, QUICK, output=copy)
    assert not Bundle.open(tiny.path).manifest.precisions
    assert "fp16" in Bundle.open(copy).manifest.precisions
    with pytest.raises(InputError, match="exists already"):
        convert(tiny, QUICK, output=copy)


def test_a_read_only_bundle_says_where_to_write_instead(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied") as caught:
        convert(tiny, QUICK)
    assert "--output" in str(caught.value.hint)


def test_a_limit_that_fp16_misses_holds_the_most_sensitive_products(tmp_path: Path) -> None:
    """The second product cancels what the first amplifies, so that rounding before it does the harm."""
    big = weight(16, 16, seed=1) * 100
    nodes = [
        node("MatMul", "x first", "a"),
        node("Sub", "a offset", "b"),
        node("MatMul", "x second", "c"),
        node("Add", "b c", "y"),
    ]
    network = network_of(
        nodes, {"x": (1, 16)}, {"y": (1, 16)}, first=big, second=weight(16, 16, seed=2), offset=np.zeros(16, np.float32)
    )
    inputs = [{"x": weight(1, 16, seed=i)} for i in range(4)]
    for values in inputs:
        values["x"] = (
            np.linalg.solve(big.T.astype(np.float64), np.full(16, 1e-3))[None].astype(np.float32) + 1e-4 * values["x"]
        )
    path = tmp_path / "stage.onnx"
    path.write_bytes(network.model.SerializeToString())
    loose = convert_stage("stage", path, inputs, limit=1.0)
    tight = convert_stage("stage", path, inputs, limit=loose.error.error / 3)
    assert {"a", "c"} <= set(loose.half)
    assert tight.half == ("c",)
    assert tight.kept["a"] == "held by the user or by its sensitivity"
    assert tight.error.error < loose.error.error / 3
    narrow = convert_stage("stage", path, inputs, limit=loose.error.error / 3, narrow=("a",))
    assert narrow.half == loose.half, "what will be in 8 bits is not held in FP32 for what FP16 does to it"
    assert narrow.onnx == loose.onnx
    assert narrow.error.error < loose.error.error / 3


@pytest.mark.usefixtures("without_torch")
def test_held_stages_stay_fp32(tiny: Bundle) -> None:
    options = ConvertOptions(seconds=1.0, observed=12, kept=3, hold=("audio", "decode"))
    report = convert(tiny, options)
    assert [stage.name for stage in report.stages] == ["condition", "denoise"]
    assert Bundle.open(tiny.path).manifest.precisions["fp16"].keys() == {"condition", "denoise"}
    with pytest.raises(OptionError, match="did you mean `decode`"):
        convert(tiny, ConvertOptions(hold=("decod",)))


def test_a_drift_that_is_too_large_or_grows_misses_the_goal() -> None:
    def report(*seconds: float) -> ConvertReport:
        return ConvertReport("b", "fp16", "a voice", [], [Divergence("full", 120, 1.0, seconds, 1.0)], {})

    assert report(*[0.001] * 45, *[0.009] * 15).misses == ["schedule full: the error grows 9.0 times"]
    assert report(0.02, 0.02, 0.02, 0.02).met is False
    assert report(*[0.001] * 60).met is True
    assert any("MISSED" in line for line in report(0.02).lines())


def test_what_was_too_short_to_judge_is_not_judged() -> None:
    growing = Divergence("full", 120, 1.0, (0.001, 0.001, 0.001, 0.009), 1.0, closures=0.9, shut=20)
    report = ConvertReport("b", "fp16", "a voice", [], [growing], {})
    assert report.met
    assert [text.split()[0] for text in report.unjudged] == ["growth", "closures"]
    judged = ConvertReport("b", "fp16", "a voice", [], [replace(growing, shut=200)], {})
    assert judged.misses == ["schedule full: closures F1 0.900"]


def test_a_network_that_fails_in_fp32_is_said_with_the_place(tmp_path: Path) -> None:
    """log(0) of digital silence: no precision is to blame."""
    nodes = [node("MatMul", "x w", "power"), node("Log", "power", "y")]
    network = network_of(nodes, {"x": (1, 8)}, {"y": (1, 8)}, w=np.eye(8, dtype=np.float32))
    (tmp_path / "s.onnx").write_bytes(network.model.SerializeToString())
    runs = [{"x": np.full((1, 8), value, np.float32)} for value in (1.0, 0.0, np.nan)]
    with pytest.raises(InputError, match=r"stage `s` is not finite in FP32: `y` \(Log\) reaches inf"):
        convert_stage("s", tmp_path / "s.onnx", runs, limit=1e-3)


def test_a_stage_without_products_stays_as_it_is(tmp_path: Path) -> None:
    network = network_of([node("Mul", "x x", "y")], {"x": (1, 4)}, {"y": (1, 4)})
    (tmp_path / "s.onnx").write_bytes(network.model.SerializeToString())
    found = convert_stage("s", tmp_path / "s.onnx", [{"x": weight(1, 4)}], limit=1e-3)
    assert (found.onnx, found.half, found.error.error) == (b"", (), 0.0)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["convert", *words]))


@pytest.mark.usefixtures("without_torch")
def test_the_command_converts_and_prints_the_report(tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tiny.path), "--minutes", "0.02", "--frames", "12") == 0
    words = capsys.readouterr().out
    assert "denoise: 1 nodes and 100% of the weights in FP16" in words
    assert f"written to {tiny.path / 'fp16'}" in words


@pytest.mark.parametrize("words", [("--minutes", "0"), ("--limit", "2"), ("--limit", "0")])
def test_options_out_of_range_are_refused(tiny: Bundle, words: tuple[str, str]) -> None:
    with pytest.raises(OptionError, match="was wanted"):
        run(str(tiny.path), *words)


def test_a_small_bundles_weights_are_fitted_to_many_frames_unless_they_were_counted(tiny: Bundle) -> None:
    narrow = ConvertOptions(precision="int8")
    for options, wanted in (
        (narrow, (4000, 1500)),
        (ConvertOptions(), (300, 24)),
        (replace(narrow, observed=12), (12, 24)),
        (replace(narrow, kept=3), (300, 3)),
    ):
        assert _frames(tiny, options, 400.0) == wanted
    assert _frames(tiny, narrow, 20.0) == (20 * 30, 20 * 30), "as long as there is sound"
