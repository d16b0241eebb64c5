"""Checkpoints out of a bundle play what the bundle plays, and training goes on from them."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import edgetalker
from edgetalker.engines.ort import open_session
from edgetalker.export.online import export_talker
from edgetalker.models.online.evaluate import learnt
from edgetalker.models.online.recover import recover
from edgetalker.models.online.streams import Corpus, Streams
from edgetalker.models.online.talker import load_talker
from edgetalker.models.online.train import main
from edgetalker.models.online.train_trunk import load_trunk, save_checkpoint
from edgetalker.models.online.trunk import LOOKAHEADS
from tests.models.online.conftest import small_talker

SHIPPED = Path(edgetalker.__file__).parent / "bundles" / "talker"
STAGES = ("audio", "condition", "denoise", "student", "decode")


def outputs(bundle: Path) -> list[np.ndarray]:
    """Return what every stage gives for seeded inputs, loud, quiet and zero."""
    found = []
    for stage in STAGES:
        session, dice = open_session((bundle / f"{stage}.onnx").read_bytes(), 1), np.random.default_rng(4)
        for size in (0.5, 0.02, 0.0):
            inputs = {i.name: (size * dice.standard_normal(i.shape)).astype(np.float32) for i in session.get_inputs()}
            if "row" in inputs:
                inputs["row"] = np.load(bundle / "full.npy")[3:4]
            found += session.run(None, inputs)
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recovered") / "work"
    assert main(["from-bundle", "--bundle", str(SHIPPED), "--work", str(out)]) == 0
    return out


@pytest.mark.slow
def test_what_is_read_out_of_the_shipped_bundle_plays_what_it_plays(work: Path, tmp_path: Path) -> None:
    again = export_talker(load_talker(work / "talker.pt"), tmp_path / "again").path
    for name in ("history.npy", "full.npy", "fast.npy"):
        np.testing.assert_allclose(np.load(again / name), np.load(SHIPPED / name), atol=1e-6)
    wanted = outputs(SHIPPED)
    assert max(float(np.abs(value).max()) for value in wanted) > 1.0
    for found, value in zip(outputs(again), wanted, strict=True):
        np.testing.assert_allclose(found, value, atol=2e-5, rtol=2e-5)


@pytest.mark.slow
def test_a_small_talker_comes_back_with_its_sizes_and_thresholds(tmp_path: Path) -> None:
    talker = small_talker()
    decoder = talker.decoder
    for track in (decoder.mean, decoder.spread, decoder.scale):
        track += torch.linspace(-0.05, 0.1, track.numel())
    decoder.low, decoder.high = 0.4, 0.65
    found = recover(export_talker(talker, tmp_path / "talker").path)
    assert (found.trunk.size, found.head.size, found.lookahead) == (talker.trunk.size, talker.head.size, 1)
    assert (found.decoder.low, found.decoder.high) == (0.4, 0.65)
    for name in ("mean", "spread", "scale"):
        torch.testing.assert_close(getattr(found.decoder, name), getattr(decoder, name), msg=name)
    weights = found.trunk.state_dict()
    torch.testing.assert_close(weights["heads.2.weight"], weights["heads.1.weight"])
    assert not weights["phones.0.weight"].any()
    assert (learnt(found), learnt(talker)) == ([1], list(LOOKAHEADS))


@pytest.mark.slow
def test_every_stage_goes_on_from_what_was_read(work: Path, corpus: Path, tmp_path: Path) -> None:
    work = shutil.copytree(work, tmp_path / "work")
    held = Corpus(corpus / "train")
    begun = load_talker(work / "teacher.pt")
    for stage, minutes in {"trunk": "0.06", "teacher": "0.08", "student": "0.08"}.items():
        small = ["--rows", "4"] + ([] if stage == "trunk" else ["--lookahead", "1"])
        assert main([stage, "--data", str(corpus), "--work", str(work), "--minutes", minutes, *small]) == 0
    trained, trunk = load_talker(work / "talker.pt"), load_trunk(work / "trunk.pt")
    chunk = Streams(held, 4, 48, 1).next()
    features, _ = trunk(chunk.mel, trunk.begin(4))
    assert features.shape == (4, 48, 384)
    for name in ("mean", "spread", "scale"):
        assert torch.equal(getattr(trained.decoder, name), getattr(begun.decoder, name)), "what is shipped stays"
    for part in ("condition.join.weight", "teacher.exit.weight", "student.exit.weight"):
        before, after = begun.head.state_dict()[part], trained.head.state_dict()[part]
        change = float((after - before).abs().max())
        assert 0.0 < change < 0.05, f"{part} goes on from what was read"
    assert not torch.equal(begun.trunk.state_dict()["heads.0.weight"], trunk.state_dict()["heads.0.weight"])


def test_trunks_that_went_on_are_mixed_into_the_bundles(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{name}.pt" for name in "ab"]
    start = load_trunk(work / "trunk.pt")
    for place, file in enumerate(files):
        trunk = load_trunk(work / "trunk.pt")
        for weight in trunk.parameters():
            weight.data += 0.1 * (1 + place)
        weights = trunk.state_dict()
        weights["heads.0.bias"] += 1.0
        save_checkpoint(file, {"model": weights, "size": asdict(trunk.size), "step": 1})
    command = ["from-bundle", "--bundle", str(SHIPPED), "--trunks", *map(str, files), "--work"]
    assert main([*command, str(tmp_path / "mixed"), "--share", "0.4"]) == 0
    for talker in (load_talker(tmp_path / "mixed" / name) for name in ("teacher.pt", "talker.pt")):
        for name, value in talker.trunk.state_dict().items():
            torch.testing.assert_close(value, start.state_dict()[name] + 0.4 * 0.15, msg=name)
        assert learnt(talker) == [1], "of the others' heads nothing is known"
    assert main([*command, str(tmp_path / "other"), "--share", "1.5"]) == 2
    assert "a share of 1.5" in capsys.readouterr().err
    small = small_talker().trunk
    save_checkpoint(files[1], {"model": small.state_dict(), "size": asdict(small.size), "step": 1})
    assert main([*command, str(tmp_path / "other")]) == 2
    assert f"{files[1]} cannot be mixed" in capsys.readouterr().err
    files[0].unlink()
    assert main([*command, str(tmp_path / "other")]) == 2
    assert files[0].name in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_read_is_one_line(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-bundle", "--bundle", str(SHIPPED), "--work", str(work)]) == 2
    shown = capsys.readouterr().err
    assert "talker.pt already" in shown
    assert "name another folder" in shown
    assert main(["from-bundle", "--bundle", str(tmp_path), "--work", str(tmp_path / "w")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
