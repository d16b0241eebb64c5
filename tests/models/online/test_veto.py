"""The veto: lowers the voice's logit and nothing else, learns, resumes, and comes back out of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.export.online import export_talker
from edgetalker.models.online.data.sessions import save, targets
from edgetalker.models.online.features import SPAN, window_mel
from edgetalker.models.online.recover import recover
from edgetalker.models.online.streams import Corpus
from edgetalker.models.online.talker import Talker, load_talker, store_talker
from edgetalker.models.online.train import main
from edgetalker.models.online.train_veto import Rows, draw_nobody, veto_loss
from edgetalker.models.online.veto import MARGIN, TREND, Veto
from edgetalker.runtime.talker import Talker as Playing


@pytest.fixture
def vetoed(talker: Talker) -> Talker:
    torch.manual_seed(2)
    return replace(talker, veto=Veto(talker.trunk.size.width, 8).eval())


@pytest.fixture
def crowd(corpus: Path) -> Path:
    """The tiny corpus with a session in which there is noise and no speaker."""
    noise = (0.1 * np.random.default_rng(9).standard_normal(8 * 16000)).astype(np.float32)
    save(targets(noise, np.zeros_like(noise), [], np.random.default_rng(9), False), corpus / "train" / "0003.npz")
    return corpus


def test_it_lowers_the_voice_where_it_is_sure_and_nothing_else() -> None:
    logits, nobody = torch.randn(5, 3), torch.tensor([[MARGIN - 9.0], [MARGIN], [MARGIN + 1.0], [0.5], [4.0]])
    lower = Veto.lower(logits, nobody)
    assert torch.equal(lower[:, :2], logits[:, :2])
    assert torch.equal(lower[:2], logits[:2]), "to the last bit where somebody may speak"
    assert bool((lower[2:, 2] < logits[2:, 2] - 2.0).all())


def test_a_step_says_what_training_computes_but_for_the_strides_of_fading_and_the_trend() -> None:
    torch.manual_seed(3)
    veto, features, logits = Veto(16, 8).eval(), torch.randn(2, 11, 16), torch.full((2, 11, 3), -40.0)
    veto.out.bias.data += 3.0
    with torch.no_grad():
        whole, _ = veto(features, veto.begin(2)[..., :-1])
        played = veto.listen(features, logits)  # no voice: no trend
    wanted = Veto.lower(logits, whole / (1.0 + TREND))
    assert float((wanted - logits).abs().max()) > 5.0
    torch.testing.assert_close(played, wanted, atol=0.1, rtol=0.0)


def test_a_trend_of_frames_that_sound_like_a_voice_outlasts_one_that_sounds_more_like_it() -> None:
    veto, features = Veto(4, 2).eval(), torch.zeros(1, 4)
    veto.out.weight.data.zero_()
    falls = []
    for heard in (-40.0, 5.0):  # the trunk takes what was before for silence, or for a voice
        state = veto.begin(1)
        for said, frames in ((5.0, 60), (-3.0, 1)):
            veto.out.bias.data.fill_(said)
            for _ in range(frames):
                voice = torch.tensor([[0.0, 0.0, heard if said > 0 else 5.0]])
                with torch.no_grad():
                    lowered, state = veto.step(features, voice, state)
        falls.append(float(voice[0, 2] - lowered[0, 2]))
    assert falls[0] < 1.0 < 5.0 < falls[1], falls


def test_the_loss_asks_for_speech_first_and_for_nothing_where_no_voice_is_heard() -> None:
    nobody, speech = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    heard, unheard = torch.full((1, 1, 1), 9.0), torch.full((1, 1, 1), -9.0)
    assert float(veto_loss(nobody, heard, speech)) > 2.5 * float(veto_loss(nobody, heard, 1 - speech))
    assert float(veto_loss(nobody, unheard, 1 - speech)) < 0.1 * float(veto_loss(nobody, heard, 1 - speech))
    assert float(veto_loss(nobody + 3, heard, 1 - speech)) < float(veto_loss(nobody, heard, 1 - speech))


@pytest.mark.slow
def test_the_exported_bundle_plays_what_pytorch_computes(vetoed: Talker, tmp_path: Path) -> None:
    bundle = export_talker(vetoed, tmp_path / "with")
    plain = export_talker(replace(vetoed, veto=None), tmp_path / "without")
    assert "doubt" in bundle.manifest.tensors
    assert "doubt" not in plain.manifest.tensors
    assert ["FluidR3" in b.manifest.origin for b in (bundle, plain)] == [True, False]
    sound = (0.1 * np.random.default_rng(5).standard_normal(SPAN + 30 * 534)).astype(np.float32)
    windows = [sound[at : at + SPAN] for at in range(0, 30 * 534, 534)]
    rows = torch.tensor(np.stack([window_mel(window).reshape(-1) for window in windows]))[None]
    veto = vetoed.veto
    assert veto is not None
    with torch.no_grad():
        features, _ = vetoed.trunk.listen(rows, vetoed.trunk.begin(1))
        logits = vetoed.trunk.mouth(features, 1)[1]
        wanted = veto.listen(features, logits)
    assert float((wanted - logits).abs().max()) > 0.1, "it says something here"
    sessions = [Playing(b) for b in (bundle, plain)]
    for t, window in enumerate(windows):
        for session in sessions:
            session.make("one", window=window)
        np.testing.assert_allclose(sessions[0].read("logits"), wanted[:, t].numpy(), atol=3e-3, err_msg=f"frame {t}")
        for name in ("features", "mouth"):
            np.testing.assert_array_equal(sessions[0].read(name), sessions[1].read(name), err_msg=name)
    for session in sessions:
        session.reset()
        assert not session.read("memory").any()
        session.close()


@pytest.mark.slow
def test_it_comes_back_out_of_a_bundle_and_out_of_a_checkpoint(vetoed: Talker, tmp_path: Path) -> None:
    found = recover(export_talker(vetoed, tmp_path / "talker").path).veto
    store_talker(tmp_path / "talker.pt", vetoed, 0.0, 0)
    stored = load_talker(tmp_path / "talker.pt").veto
    assert found is not None
    assert stored is not None
    assert vetoed.veto is not None
    for name, value in vetoed.veto.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)
        assert torch.equal(stored.state_dict()[name], value)


def test_training_changes_the_veto_alone_and_goes_on_where_it_stopped(
    talker: Talker, crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    store_talker(work / "talker.pt", talker, 7.0, 3)
    options = ["--data", str(crowd), "--work", str(work), "--rows", "4"]
    assert main(["veto", *options, "--minutes", "0.05"]) == 0
    first = load_talker(work / "talker.pt")
    assert first.veto is not None
    for part in ("trunk", "head", "decoder"):
        before, after = getattr(talker, part).state_dict(), getattr(first, part).state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items()), part
    capsys.readouterr()
    assert main(["veto", *options, "--minutes", "0.05"]) == 0
    assert "going on from" in capsys.readouterr().out
    again = load_talker(work / "talker.pt").veto
    assert again is not None
    for name, value in first.veto.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), "the budget is spent"
    assert main(["veto", *options, "--minutes", "0.1"]) == 0
    longer = load_talker(work / "talker.pt").veto
    assert longer is not None
    assert not torch.equal(longer.out.weight, again.out.weight)


def test_it_learns_where_nobody_speaks(crowd: Path) -> None:
    torch.manual_seed(1)
    held = Corpus(crowd / "train")
    draw_nobody(held)
    rows, veto = Rows(held, 6, 32, 1), Veto(8, 16)
    assert all(p.wear.crowd == p.wear.beside == 0.0 for p in rows.places if p.session == 3)
    optimizer = torch.optim.AdamW(veto.parameters(), lr=1e-2)
    for _ in range(40):
        speech = rows.next().flags[:, 1:33, 2:]
        features = torch.randn(6, 32, 8)
        features[..., :1] += 2.0 * speech  # as if a trunk told the two apart
        nobody, _ = veto(features, veto.begin(6)[..., :-1])
        loss = veto_loss(nobody, torch.full_like(nobody, 3.0), speech)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    apart = (nobody[speech < 0.5].mean() - nobody[speech > 0.5].mean()).item()
    assert apart > 2.0


def test_sessions_without_a_speaker_are_needed_and_drawn_often(corpus: Path, crowd: Path) -> None:
    held = Corpus(crowd / "train")
    draw_nobody(held)
    rng = np.random.default_rng(0)
    drawn = np.bincount([held.pick(rng) for _ in range(2000)], minlength=4) / 2000
    assert drawn[3] == pytest.approx(0.45, abs=0.04)


def test_a_corpus_of_speakers_alone_is_refused_in_one_line(
    talker: Talker, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_talker(tmp_path / "talker.pt", talker, 0.0, 0)
    assert main(["veto", "--data", str(corpus), "--work", str(tmp_path), "--minutes", "0.01"]) == 2
    assert "0 of 3 sessions are without a speaker" in capsys.readouterr().err
    assert not (tmp_path / "veto.pt").exists()
