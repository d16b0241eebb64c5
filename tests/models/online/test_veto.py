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
from edgetalker.models.online.train_veto import Rows, add_scenes, draw_nobody, lay_under, veto_loss
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


def fall(*said: tuple[float, int, bool]) -> float:
    """Return how far the voice falls in the last of frames, told by (evidence, frames, whether a voice is heard)."""
    veto, features = Veto(4, 2).eval(), torch.zeros(1, 4)
    veto.out.weight.data.zero_()
    state, lowered = veto.begin(1), torch.zeros(1, 3)
    for evidence, frames, heard in said:
        veto.out.bias.data.fill_(evidence)
        voice = torch.tensor([[0.0, 0.0, 5.0 if heard else -40.0]])
        for _ in range(frames):
            with torch.no_grad():
                lowered, state = veto.step(features, voice, state)
    return float(voice[0, 2] - lowered[0, 2])


def test_a_trend_of_frames_that_sound_like_a_voice_outlasts_one_that_sounds_more_like_it() -> None:
    assert fall((5.0, 60, False), (-4.5, 1, True)) < 1.0, "the trunk took what was before for silence"
    assert fall((5.0, 60, True), (-4.5, 1, True)) > 2.0, "or for a voice"


def test_a_trend_for_nobody_goes_no_further_than_a_sure_speaker_and_is_forgotten_in_silence() -> None:
    assert fall((6.0, 900, True), (-6.0, 1, True)) < 2.0, "after however much noise"
    assert fall((5.0, 60, True), (5.0, 30, False), (-4.5, 1, True)) < 1.0, "a phrase may begin between two noises"
    spoken = fall((-5.0, 90, True), (-5.0, 30, False), (2.0, 1, True))
    assert 2 * spoken < fall((2.0, 1, True)), "a speaker is not forgotten so soon"


def test_the_loss_asks_for_speech_first_and_for_nothing_where_no_voice_is_heard() -> None:
    nobody, speech = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    heard, unheard = torch.full((1, 1, 1), 9.0), torch.full((1, 1, 1), -9.0)
    assert float(veto_loss(nobody, heard, speech)) > 2.5 * float(veto_loss(nobody, heard, 1 - speech))
    assert float(veto_loss(nobody, unheard, 1 - speech)) < 0.1 * float(veto_loss(nobody, heard, 1 - speech))
    assert float(veto_loss(nobody + 3, heard, 1 - speech)) < float(veto_loss(nobody, heard, 1 - speech))


def test_the_loss_weighs_the_beginning_of_a_phrase_three_times_the_rest_of_it() -> None:
    nobody, heard = torch.zeros(1, 64, 1, requires_grad=True), torch.full((1, 64, 1), 9.0)
    speech = torch.ones(1, 64, 1)
    speech[:, 4:10] = 0.0
    veto_loss(nobody, heard, speech).backward()  # type: ignore[no-untyped-call]
    assert nobody.grad is not None
    pull = (nobody.grad[0, :, 0] / nobody.grad[0, 50, 0]).tolist()
    assert pull == pytest.approx([1.0] * 4 + [-1 / 3] * 6 + [3.0] * 20 + [1.0] * 34), "a row that starts in speech too"


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
    stored = torch.load(work / "veto.pt", weights_only=True)
    assert stored["mean"]["n_averaged"] > 1
    assert torch.equal(first.veto.out.weight, stored["mean"]["module.out.weight"]), "the mean of the last weights"
    assert not torch.equal(first.veto.out.weight, stored["model"]["out.weight"])
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
    told = []
    for _ in range(40):
        speech = rows.next().flags[:, 1:33, 2:]
        features = torch.randn(6, 32, 8)
        features[..., :1] += 2.0 * speech  # as if a trunk told the two apart
        nobody, _ = veto(features, veto.begin(6)[..., :-1])
        loss = veto_loss(nobody, torch.full_like(nobody, 3.0), speech)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        told.append((nobody.detach(), speech))
    nobody, speech = (torch.cat(parts) for parts in zip(*told[-8:], strict=True))
    apart = (nobody[speech < 0.5].mean() - nobody[speech > 0.5].mean()).item()
    assert apart > 2.0


def test_sessions_without_a_speaker_are_needed_and_drawn_often(corpus: Path, crowd: Path) -> None:
    held = Corpus(crowd / "train")
    draw_nobody(held)
    rng = np.random.default_rng(0)
    drawn = np.bincount([held.pick(rng) for _ in range(2000)], minlength=4) / 2000
    assert drawn[3] == pytest.approx(0.5, abs=0.04)
    add_scenes(held, 2, rng)
    drawn = np.bincount([held.pick(rng) for _ in range(2000)], minlength=6) / 2000
    assert drawn[3:] == pytest.approx([0.35, 0.15, 0.15], abs=0.04)


def test_scenes_begin_phrases_after_a_noise_or_among_murmurs_and_label_each_frame_as_what_it_is(crowd: Path) -> None:
    held = Corpus(crowd / "train")
    draw_nobody(held)
    for session, flags in enumerate(held.flags):  # ln power tells what was put where
        power = flags[:, 2:].float() if flags.any() else torch.full((len(flags), 1), -5.0)
        held.mel[session] = power.repeat_interleave(4, 0).expand(-1, 80).half()
        held.loud[session] = torch.full((80,), float(np.e))
    add_scenes(held, 8, np.random.default_rng(0))
    murmured = 0
    for mel, flags in zip(held.mel[4:], held.flags[4:], strict=True):
        sound, speech = mel[::4, 0].float().numpy(), flags[:, 2].numpy()
        assert mel.shape == (4 * len(flags), 80)
        assert len(flags) >= 1800
        if np.isin(np.round(sound[sound > -0.1], 2), (0.0, 1.0)).all():
            noise = sound < -2.0
            np.testing.assert_array_equal(speech[~noise], np.round(sound[~noise]))
            assert not speech[noise].any()
            ends = np.flatnonzero(noise[:-1] & ~noise[1:]) + 1
            assert ends.size > 5
            assert all(speech[end : end + 30].any() for end in ends), "a phrase begins within a second"
        else:
            murmured += 1
            assert sound.min() > np.log(10**-1.5) - 0.1, "voices at least 15 dB below the speaker, always"
            assert sound.max() < np.log(np.e * (1 + 10**-0.5)) + 0.1, "and at most 5"
    assert 1 < murmured < 7


def test_two_scenes_in_five_have_a_sound_of_nobody_under_all_of_it(crowd: Path) -> None:
    held = Corpus(crowd / "train")
    draw_nobody(held)
    for session, flags in enumerate(held.flags):
        held.mel[session] = torch.full((4 * len(flags), 80), -20.0 if flags.any() else 0.0).half()
        held.loud[session] = torch.ones(80)
    add_scenes(held, 40, np.random.default_rng(1))
    softest = np.array([float(mel.float().min()) for mel in held.mel[4:]])
    under = softest > -10.0
    assert 8 < under.sum() < 24
    assert np.log(10**-1.5) - 0.1 < softest[under].min(), "at least 15 dB below the speaker"
    assert softest[under].max() < np.log(10**-0.5) + 0.1, "and at most 5"


def test_nobody_lies_under_nearly_half_of_the_speakers_and_others_murmur_beside_them(crowd: Path) -> None:
    held = Corpus(crowd / "train")
    plain = [0.0 if flags.any() else 7.0 for flags in held.flags]  # ln of power; nobody's is the louder one
    below, beside = [], []
    for seed in range(40):
        for session, power in enumerate(plain):
            held.mel[session] = torch.full((4 * len(held.flags[session]), 80), power).half()
            held.loud[session] = torch.full((80,), float(np.exp(power)) / 80)
        lay_under(held, np.random.default_rng(seed))
        assert (held.mel[3] == 7.0).all(), "nobody stays alone"
        more = [float(mel.float().exp().mean()) - 1.0 for mel in held.mel[:3]]
        below += [10 * np.log10(power) for power in more if power > 1e-3]
        draw_nobody(held)
        beside += [place.wear.crowd for place in Rows(held, 6, 32, seed).places if place.session != 3]
    assert 0.3 * 120 < len(below) < 0.6 * 120
    assert -15.5 < min(below) < -12
    assert -8 < max(below) < -4.5
    near = np.mean(np.array(beside) >= 10**-1.5)
    assert 0.3 < near < 0.7


def test_a_corpus_of_speakers_alone_is_refused_in_one_line(
    talker: Talker, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_talker(tmp_path / "talker.pt", talker, 0.0, 0)
    assert main(["veto", "--data", str(corpus), "--work", str(tmp_path), "--minutes", "0.01"]) == 2
    assert "0 of 3 sessions are without a speaker" in capsys.readouterr().err
    assert not (tmp_path / "veto.pt").exists()
