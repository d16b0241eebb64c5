"""A talker fitted to one speaker: what changes, what stays, and what is told on clips that it was not fitted to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.cli.main import main
from edgetalker.engines.bundle import Bundle
from edgetalker.export.online import speaker
from edgetalker.models.online.data import align
from edgetalker.models.online.data.sessions import Session, targets
from edgetalker.models.online.data.synths import available
from edgetalker.models.online.evaluate import plain
from edgetalker.models.online.rollout import hear_many
from edgetalker.models.online.talker import Talker
from edgetalker.runtime.model import find_bundle
from tests.models.online.conftest import buzz, clip

soundfile = pytest.importorskip("soundfile")

needs_tools = pytest.mark.skipif(
    not (align.available() and available("flite")), reason="pocketsphinx or flite is not installed"
)
SENTENCES = (
    "my mother made a map of the old harbour",
    "bob picked up a pipe and put it on the table",
    "the farmer brought a bag of apples from the market",
    "please bring me the blue book before the bell",
    "people often speak about the weather in the morning",
    "a big brown dog jumped over the pond",
)


def buzzed(seed: int) -> Session:
    samples, segments = buzz(8.0, seed)
    return targets(samples, samples, segments, np.random.default_rng(seed), keep_sound=True)


def lips_error(talker: Talker, session: Session) -> float:
    """Return the cross-entropy of lips and teeth, by the second head."""
    (heard,) = hear_many(talker.trunk, [torch.tensor(session.mel)], talker.lookahead)
    wanted = torch.tensor(session.touch[: len(heard.logits)]).float()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(heard.logits[:, :2], wanted))


def test_only_the_layer_of_mouth_lips_and_teeth_is_fitted(talker: Talker) -> None:
    before = {name: value.clone() for name, value in talker.trunk.state_dict().items()}
    fitted = speaker.fit(talker, [buzzed(1), buzzed(2)])
    after = fitted.trunk.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {f"heads.{talker.lookahead}.weight", f"heads.{talker.lookahead}.bias"}
    for name in changed:
        assert torch.equal(before[name][-1:], after[name][-1:]), "the voice's logit"
    assert all(torch.equal(value, talker.trunk.state_dict()[name]) for name, value in before.items())
    assert fitted.head is talker.head
    held_out = buzzed(3)
    assert lips_error(fitted, held_out) < 0.7 * lips_error(talker, held_out)


def clips(folder: Path, sentences: tuple[str, ...]) -> Path:
    for number, text in enumerate(sentences):
        clip(folder, f"{number:02}", text)
    return folder


@needs_tools
@pytest.mark.parametrize(
    ("count", "wanted"), [(3, "has 3 clips; at least 5 were wanted"), (6, r"holds \d+ s of sound; at least 60 s")]
)
def test_too_little_of_a_speaker_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, wanted: str
) -> None:
    folder = clips(tmp_path / "anna", SENTENCES[:count])
    assert main(["export", "speaker", "--clips", str(folder), "-o", str(tmp_path / "out")]) == 65
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "\nhint: " in told
    assert re.search(wanted, told)
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_measured_is_null_in_the_report() -> None:
    assert json.dumps(plain({"a": [float("nan"), 1.5], "b": {"c": float("inf"), "d": 3}})) == (
        '{"a": [null, 1.5], "b": {"c": null, "d": 3}}'
    )


def test_what_cannot_be_written_is_said_before_the_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    command = ["export", "speaker", "--clips", str(tmp_path / "none"), "-o"]
    assert main([*command, str(tmp_path / "mine")]) == 65
    assert "exists" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "mine"), "--force"]) == 65
    assert "is not a bundle, so it is not replaced" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "out"), "--report", str(tmp_path / "nowhere" / "r.json")]) == 74
    assert "nowhere" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "out")]) == 65
    assert "has no .wav or .flac" in capsys.readouterr().err


@pytest.mark.slow
@needs_tools
def test_a_fitted_talker_is_a_bundle_with_another_audio_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speaker, "LEAST", 10.0)
    scores = speaker.scores
    folder, out, report = clips(tmp_path / "anna", SENTENCES), tmp_path / "out", tmp_path / "report.json"
    command = ["export", "speaker", "--clips", str(folder), "--report", str(report), "-o"]
    gains = [0.0, 1.0]
    monkeypatch.setattr(speaker, "scores", lambda talkers, sessions: {**scores(talkers, sessions), "f1": gains.pop(0)})
    assert main([*command, str(out)]) == 0
    found = json.loads(report.read_text())
    assert (found["before"]["f1"], found["after"]["f1"]) == (0.0, 1.0)
    assert found["before"]["mae"] != found["after"]["mae"]
    assert "closures shown" in capsys.readouterr().out
    seconds = sum(soundfile.info(path).duration for path in folder.glob("*.wav"))
    ours, shipped = Bundle.open(out).manifest, Bundle.open(find_bundle("talker")).manifest
    assert (
        ours.origin
        == f"{shipped.origin} Mouth, lips and teeth were then fitted to 6 clips, {seconds:.0f} s, of one speaker."
    )
    assert {name for name, digest in shipped.files.items() if ours.files[name] != digest} >= {"audio.onnx"}
    assert ours.stages == shipped.stages
    gains += [0.5, 0.5]
    assert main([*command, str(tmp_path / "none")]) == 65
    assert "no bundle was written" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
