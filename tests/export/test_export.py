"""The exporter: what it writes, what it refuses, what it says."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgetalker.calibration.network import read_network
from edgetalker.calibration.ranges import sample
from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.export import onnx_stage
from edgetalker.export.onnx_stage import Check, ExportError, compare, export_stage
from edgetalker.export.streamingtalker import ExportOptions, ExportReport, export_model
from edgetalker.export.streamingtalker.stages import Stages
from edgetalker.models.streamingtalker import StreamingTalker
from edgetalker.runtime.talker import Talker
from tests.export.conftest import Commanded
from tests.export.make_tiny_bundle import DATA, make
from tests.models.streamingtalker.conftest import TINY_UNTOLD

TINY_OPTIONS = ExportOptions(untold=TINY_UNTOLD, features_input=True, history=6, decode_window=5)


def test_every_stage_was_checked_and_passed(windowed: Commanded) -> None:
    stages = ["audio", "condition", "denoise", "collapse", "decode"]
    assert [line.split()[0] for line in windowed.err.splitlines() if ": ok" in line] == stages
    assert list(windowed.bundle.manifest.notes["errors"]) == stages


def test_the_manifest_states_the_contract(windowed: Commanded) -> None:
    manifest = windowed.bundle.manifest
    assert (manifest.audio.rate, manifest.audio.block, manifest.audio.lookahead) == (16000, 6, 3200)
    assert manifest.audio.window == (400 + 200 + 200) * 16
    assert manifest.motion.fps == 30
    assert manifest.ladder == ("full", "collapsed")
    assert windowed.bundle.table("full").shape == (50, 65)
    notes = manifest.notes
    assert (notes["rule"], notes["phase"], notes["history"], notes["opset"]) == ("legacy_sample", "window", 20, 20)


def test_steps_may_share_a_row(absolute: ExportReport) -> None:
    assert absolute.bundle.table("full").shape == (4, 5 * 66)
    assert absolute.bundle.table("fast").shape == (1, 5 * 66)


def test_the_stages_are_small_and_say_nothing_of_where_they_were_made(windowed: Commanded) -> None:
    nodes = {}
    for path in sorted(windowed.bundle.path.glob("*.onnx")):
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        graph = onnx.load_from_string(content)
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]
        nodes[path.stem] = len(graph.graph.node)
    assert nodes["denoise"] <= 5
    assert nodes["collapse"] <= 2


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_files(tmp_path: Path, model: StreamingTalker) -> None:
    one, two = (export_model(model, tmp_path / name, TINY_OPTIONS, name="tiny").bundle for name in ("one", "two"))
    assert one.manifest.files == two.manifest.files


@pytest.mark.slow
def test_the_bundle_for_runtime_tests_is_what_this_code_exports(tmp_path: Path) -> None:
    kept, fresh = Bundle.open(DATA / "bundles" / "tiny_voca"), make(tmp_path / "fresh").bundle
    without = {"files", "notes"}
    documents = [json.loads((bundle.path / "manifest.json").read_text()) for bundle in (kept, fresh)]
    assert documents[0].keys() == documents[1].keys()
    far = [document["schedules"]["fast"].pop("differs") for document in documents]  # measured where it is exported
    assert far[0] == pytest.approx(far[1], rel=0.02)
    assert all(documents[0][key] == documents[1][key] for key in documents[0].keys() - without)
    sound = np.random.default_rng(0).normal(0, 0.1, kept.manifest.audio.window).astype(np.float32)
    motions = []
    for bundle in (kept, fresh):
        session = Talker(bundle)
        motions.append(np.stack([session.make(window=sound).motion.copy() for _ in range(8)]))
    np.testing.assert_allclose(motions[0], motions[1], atol=1e-4)


def test_rows_before_the_first_frame_do_not_stretch_the_range_of_those_that_are_read(windowed: Commanded) -> None:
    """Instance norm over n rows gives at most the root of n; over few, rows outside of them would be far from that."""
    network = read_network(windowed.bundle.onnx("decode"))
    inputs = windowed.bundle.manifest.stages["decode"].inputs
    random = np.random.default_rng(0)
    given = {name: random.standard_normal(spec.shape).astype(np.float32) for name, spec in inputs.items()}
    given["latents"][:, -3:] = 1.0 + 0.01 * given["latents"][:, -3:]  # three frames so far, alike
    (embedding,) = (node.input[0] for node in network.nodes if "embedding.weight" in node.input)
    rows = sample(network, [embedding], [{**given, "count": np.array([2.0], np.float32)}])[embedding]
    assert 0.5 < rows.max() <= np.sqrt(3.0) + 1e-3


def test_nothing_is_written_when_a_stage_computes_something_else(
    tmp_path: Path, model: StreamingTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetalker.export.streamingtalker import exporter
    from edgetalker.export.streamingtalker.decode_stage import DecodeStage

    right = DecodeStage._temporal
    monkeypatch.setattr(DecodeStage, "_temporal", lambda self, latents, valid: right(self, latents, valid) * 1.01)
    stage, check = Stages(model, TINY_OPTIONS.contract(model.config), 2e-4).decode()
    assert not check.passed
    monkeypatch.setattr(exporter, "_add_stages", lambda draft, *_: draft.add(stage, check))
    with pytest.raises(ExportError, match=r"no bundle was written\ndecode .*FAILED"):
        export_model(model, tmp_path / "bundle", TINY_OPTIONS, name="tiny")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_never_within_tolerance() -> None:
    values = np.zeros(3, np.float32)
    broken = np.array([0, np.nan, 0], np.float32)
    assert compare("stage", [(values, values)], 1e-4).passed
    assert not compare("stage", [(values, values), (broken, values)], 1e-4).passed
    assert "FAILED" in str(Check("stage", 1.0, 0.5, 1))


def test_a_module_that_cannot_be_exported_is_an_error_with_its_name() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ExportError, match="stage `branches`"):
        export_stage("branches", Branches(), {"x": torch.ones(1)}, ["y"])


def test_weights_that_no_onnx_file_can_hold_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_stage, "_SINGLE_FILE_LIMIT", 64 * 64 * 4 - 1)
    with pytest.raises(ExportError, match=r"stage `wide` has .* GB of weights"):
        export_stage("wide", torch.nn.Linear(64, 64, bias=False), {"x": torch.ones(1, 64)}, ["y"])


def test_exports_share_one_table_of_operators_that_nobody_else_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    make, made = registry.from_torchlib, list[object]()

    def counted(**options: object) -> object:
        made.append(make(**options))
        return made[-1]

    monkeypatch.setattr(registry, "from_torchlib", staticmethod(counted))
    monkeypatch.setattr(onnx_stage, "_registries", {})
    files = [export_stage("stage", torch.nn.Tanh(), {"x": torch.ones(1)}, ["y"]) for _ in range(2)]
    assert len(made) == 1
    assert files[0].content == files[1].content
    assert registry.from_torchlib is counted


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"block_ms": 50}, "block of 50 ms"),
        ({"block_ms": 20}, "no whole number of frames"),
        ({"lookahead_ms": 30}, "look-ahead of 30 ms"),
        ({"decode_window": 1}, "decode window of 1"),
        ({"history": 1}, "history of 1"),
        ({"history": 10**9}, "history of 1000000000 frames; 2 to 1800"),
        ({"context_ms": 10**12}, "a window of 1000000000400 ms"),
        ({"phase": "relative"}, "unknown phase"),
        ({"fast_steps": 50}, "not fewer"),
        ({"steps_per_row": 4}, "50 steps of `full` do not fill rows of 4"),
        ({"identity": 8}, "the network has 0 to 7"),
    ],
)
def test_choices_that_do_not_fit(tmp_path: Path, model: StreamingTalker, changes: dict[str, object], text: str) -> None:
    options = dataclasses.replace(ExportOptions(untold=TINY_UNTOLD), **changes)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=text):
        export_model(model, tmp_path / "bundle", options, name="tiny")


@pytest.mark.parametrize("content", [b"", b"no array", np.lib.format.MAGIC_PREFIX])
def test_templates_that_do_not_fit(tmp_path: Path, model: StreamingTalker, content: bytes) -> None:
    (tmp_path / "template.npy").write_bytes(content)
    options = dataclasses.replace(TINY_OPTIONS, template=tmp_path / "template.npy")
    with pytest.raises(InputError, match="no array file"):
        export_model(model, tmp_path / "bundle", options, name="tiny")
    np.save(tmp_path / "template.npy", np.zeros((61, 3), np.float32))
    with pytest.raises(InputError, match=r"\(60, 3\) were wanted"):
        export_model(model, tmp_path / "bundle", options, name="tiny")


def test_the_command(windowed: Commanded, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{windowed.bundle.path}: 5 stages" in windowed.out
    assert windowed.err.count(": ok") == 5
    assert main(windowed.words) == 65
    assert "exists already" in capsys.readouterr().err


def test_the_command_says_what_is_wrong_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    assert main(["export", "streamingtalker", str(tmp_path / "bad.ckpt"), "-o", str(tmp_path / "bundle")]) == 65
    assert "bad.ckpt: 1 fault" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
