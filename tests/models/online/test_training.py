"""The recipe end to end on a tiny corpus: trains, resumes, evaluates, exports; its command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetalker.engines.errors import UserError
from edgetalker.models.online import evaluate
from edgetalker.models.online.data.generate import generate, orders
from edgetalker.models.online.data.sessions import load, make, save
from edgetalker.models.online.data.synths import available
from edgetalker.models.online.data.voices import HELD_OUT
from edgetalker.models.online.head import HISTORY
from edgetalker.models.online.layout import MADE, MOVING
from edgetalker.models.online.report import tables
from edgetalker.models.online.rollout import Heard
from edgetalker.models.online.streams import Corpus, Streams
from edgetalker.models.online.talker import Talker, load_talker
from edgetalker.models.online.train import main
from edgetalker.models.online.train_head import (
    PULL,
    HeadPlan,
    spoil,
    train_student,
    train_teacher,
    wander,
)
from edgetalker.models.online.train_trunk import (
    TrunkPlan,
    carried,
    load_trunk,
    mean_of,
    spread,
    train_trunk,
    trunk_loss,
)
from edgetalker.models.online.trunk import Trunk, TrunkSize
from edgetalker.models.online.wear import Wear, draw, textured
from tests.models.online.conftest import HEAD, TRANSFORMER, TRUNK

SHORT = 0.02  # minutes


@pytest.fixture
def work(corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "work"
    out.mkdir()
    held = Corpus(corpus / "train")
    train_trunk(held, out, TrunkPlan(SHORT, rows=4, frames=32), TRUNK)
    train_teacher(held, out, HeadPlan(SHORT, rows=32, lookahead=1), HEAD)
    train_student(held, out, HeadPlan(SHORT, rows=4, lookahead=1))
    return out


@pytest.mark.parametrize("size", [TRUNK, TRANSFORMER], ids=lambda size: size.kind)
def test_the_trunk_learns(corpus: Path, size: TrunkSize) -> None:
    torch.manual_seed(1)
    streams, scale = Streams(Corpus(corpus / "train"), 4, 48, 1), spread(Corpus(corpus / "train"))
    trunk = Trunk(size)
    optimizer = torch.optim.AdamW(trunk.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        chunk = streams.next()
        features, _ = trunk(chunk.mel, trunk.begin(4))
        loss, parts = trunk_loss(trunk, features, chunk, scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        assert all(math.isfinite(value) for value in parts.values())
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])


def test_a_transformer_is_trained_on_as_what_it_is(corpus: Path, tmp_path: Path) -> None:
    held, plan = Corpus(corpus / "train"), TrunkPlan(SHORT, rows=4, frames=20)
    path = train_trunk(held, tmp_path, plan, TRANSFORMER)
    steps = torch.load(path, weights_only=True)["step"]
    assert load_trunk(train_trunk(held, tmp_path, replace(plan, minutes=2 * SHORT))).size == TRANSFORMER
    assert torch.load(path, weights_only=True)["step"] > steps
    with pytest.raises(UserError, match=r"kind='transformer'.* not the .*kind='gru'"):
        train_trunk(held, tmp_path, plan, TRUNK)


def test_the_rows_of_another_sound_begin_anew_in_states_of_both_kinds() -> None:
    fresh, rng = np.array([True] * 40 + [False] * 20), np.random.default_rng(1)
    layers, ring = carried(fresh, rng, torch.ones(2, 60, 3), torch.ones(60, 4, 5, 3))
    zeros = (layers == 0).all(2).all(0)
    assert 10 < int(zeros.sum()) < 30
    assert not zeros[40:].any()
    assert torch.equal(layers, (~zeros).float()[None, :, None].expand(2, 60, 3))
    assert torch.equal(ring, (~zeros).float()[:, None, None, None].expand(60, 4, 5, 3))


def test_streams_are_seeded_and_targets_lie_under_their_sound(corpus: Path) -> None:
    held = Corpus(corpus / "train")
    one, same = Streams(held, 3, 40, 5).next(), Streams(held, 3, 40, 5).next()
    torch.testing.assert_close(one.mouth, same.mouth)
    streams = Streams(held, 1, 40, 2)
    streams.next()
    second = streams.next()
    place = streams.places[0]
    session = place.session
    begin = place.at - 40
    expected = held.mouth[session][begin : begin + 40].float()
    torch.testing.assert_close(second.mouth[0, 2:], expected)


def test_folders_are_drawn_from_by_their_shares(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, folders = np.random.default_rng(0), (corpus / "train", corpus / "rms")  # three sessions and one
    for shares, wanted in (((), 0.25), ((1.0, 3.0), 0.75), ((1.0, 0.0), 0.0)):
        held = Corpus(*folders, shares=shares)
        drawn = np.bincount([held.pick(rng) for _ in range(2000)], minlength=4) / 2000
        assert drawn[3] == pytest.approx(wanted, abs=0.04)
        assert drawn[:3] == pytest.approx([(1 - wanted) / 3] * 3, abs=0.04)
    folder = str(corpus)
    assert main(["trunk", "--data", folder, "--data", folder, "--shares", "1", "--work", str(corpus / "w")]) == 2
    assert "1 shares are given for 2 folders" in capsys.readouterr().err


def test_wear_keeps_clean_sounds_and_changes_the_others() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    mel = torch.randn(6, 160, 80) - 12
    clean = [draw(rng, torch.ones(80), clean=1.0) for _ in range(6)]
    torch.testing.assert_close(Wear.apply(clean, mel), mel, atol=5e-3, rtol=0.0)
    worn = Wear.apply([draw(rng, mel[0].exp().mean(0), clean=0.0) for _ in range(6)], mel)
    assert bool(torch.isfinite(worn).all())
    assert float((worn - mel).abs().mean(dim=(1, 2)).min()) > 0.05


def test_another_sound_lies_beside_one_at_the_share_that_is_drawn() -> None:
    torch.manual_seed(0)
    mel = torch.full((4, 40, 80), -30.0)
    mel[1:] = torch.tensor([-4.0, -5.0, -6.0])[:, None, None]  # three loud sounds, and one that is nearly silent
    plain = Wear(0, torch.ones(80), torch.zeros(80), 0.0, (0.0, 0.5))
    beside, crowd = replace(plain, beside=0.01), replace(plain, crowd=0.01)
    for other in (beside, crowd):
        worn = Wear.apply([other, plain, plain, plain], mel)
        torch.testing.assert_close(worn[1:], mel[1:], atol=1e-4, rtol=0.0)
        heard = round(float(worn[0].mean()) - float(np.log(0.01)), 2)
        assert (heard in {-4.0, -5.0, -6.0}) == (other is beside), "one other sound, or the mean of several"
        assert -6.0 <= heard <= -4.0


def test_warps_move_power_along_the_bands_and_make_none_up() -> None:
    peaks = torch.full((48, 4, 80), -30.0)
    peaks[:, :, 40] = 0.0
    plain = Wear(0, torch.ones(80), torch.zeros(80), 0.0, (0.0, 0.5))
    worn = Wear.apply([replace(plain, warp=index) for index in range(48)], peaks)
    torch.testing.assert_close(worn[0].exp(), peaks[0].exp(), atol=1e-6, rtol=0.0)
    places = worn[:, 0].argmax(-1)
    assert int(places.min()) < 36
    assert int(places.max()) > 46
    assert float(worn.max()) < 1e-3


def test_a_sound_takes_on_the_colour_of_another_speaker() -> None:
    rng, axis = np.random.default_rng(0), np.linspace(-1, 1, 80)
    loud = torch.ones(80)
    bright = loud * torch.tensor(10 ** (2 * axis), dtype=torch.float32)  # 40 dB from low to high

    def mean_slope(other: torch.Tensor | None) -> float:
        gains = torch.stack([draw(rng, loud, other, clean=0.0).gain for _ in range(300)])
        return float(np.polyfit(axis, (10 * gains.log10()).mean(0).numpy(), 1)[0])

    alone = mean_slope(None)
    assert mean_slope(bright) - alone == pytest.approx(0.4 * 0.65 * 20, abs=2.0), "a part of the way, now and then"


def test_a_texture_blurs_or_sharpens_and_none_changes_nothing() -> None:
    mel = torch.randn(3, 50, 80, generator=torch.Generator().manual_seed(0))
    blurred = textured(mel, [(0.8, 0.0), (0.0, 0.6), (0.0, 0.0)])
    sharpened = textured(mel, [(-0.5, 0.0), (0.0, -0.3), (0.0, 0.0)])
    torch.testing.assert_close(blurred[2], mel[2])
    for row, axis in ((0, 2), (1, 1)):
        rough = [float(m.diff(dim=axis)[row].abs().mean()) for m in (blurred, mel, sharpened)]
        assert rough[0] < 0.7 * rough[1] < 0.7 * rough[2]
    flat = torch.full((1, 20, 80), -9.0)
    torch.testing.assert_close(textured(flat, [(0.8, 0.6)]), flat)


class Pulling:
    """A head that takes back a share of where brows and head are, and knows nothing else."""

    def __init__(self, talker: Talker, share: float) -> None:
        self.unit, self.share = talker.decoder.spread[MOVING] / talker.decoder.scale[MOVING], share

    def condition(self, *heard: torch.Tensor) -> torch.Tensor:
        return heard[3][:, -1, MOVING]

    def teacher(self, noise: torch.Tensor, condition: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(noise)
        made[:, MOVING] = -self.share * condition * self.unit
        return made


def test_an_offset_that_stays_costs_and_one_that_goes_does_not(talker: Talker) -> None:
    torch.manual_seed(0)
    heard, history = Heard(*(torch.zeros(64, n) for n in (16, 14, 3))), torch.randn(64, HISTORY, 32)
    costs = []
    for share in (0.0, 0.5 * (1 - PULL), 1 - PULL, 0.1):
        stub = Talker(talker.trunk, Pulling(talker, share), talker.decoder, 1)  # type: ignore[arg-type]
        costs.append(float(wander(stub, heard, history, torch.zeros(64, 6))))
    assert costs[0] > costs[1] > 1e-6
    assert costs[2:] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_only_what_moves_is_spoiled(talker: Talker) -> None:
    history = torch.randn(8, HISTORY, 32)
    changed = (spoil(history, talker.decoder) - history).abs().amax((0, 1)) > 0
    assert changed[MOVING].all()
    assert not changed[: MOVING.start].any()
    assert not changed[MADE:].any()


@pytest.mark.slow
def test_early_weights_are_mixed_in_once_where_they_are_wanted(corpus: Path, tmp_path: Path) -> None:
    early, late = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, 0.0])}
    assert mean_of(early, late, 0.25)["w"].tolist() == [6.0, 1.0]
    plan = TrunkPlan(SHORT, rows=4, frames=32, early_share=1.0)
    path = train_trunk(Corpus(corpus / "train"), tmp_path, plan, TRUNK)
    stored = torch.load(path, weights_only=True)
    assert "early" not in stored  # mixed in once: what is trained on from here starts afresh
    weights = load_trunk(path).state_dict()
    again = load_trunk(train_trunk(Corpus(corpus / "train"), tmp_path, plan, TRUNK)).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in again.items())


@pytest.mark.slow
def test_the_recipe_gives_a_talker_results_and_goes_on_where_it_stopped(
    work: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talker = load_talker(work / "talker.pt")
    assert talker.lookahead == 1
    results = evaluate.evaluate(talker, corpus, seed=1, minutes=0.6)
    assert set(results["scores"]["rms"]) >= {
        "mean face",
        "jaw from loudness",
        "full",
        "fast",
        "one",
        "one, 15 dB noise",
    }
    json.dumps(results)
    text = tables(results)
    assert "closure recall" in text
    assert "free run, one" in text
    before = load_trunk(work / "trunk.pt").state_dict()
    held = Corpus(corpus / "train")
    train_trunk(held, work, TrunkPlan(SHORT, rows=4, frames=32), TRUNK)  # the budget is spent: nothing changes
    assert "going on from" in capsys.readouterr().out
    after = load_trunk(work / "trunk.pt").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_checkpoints_hold_only_tensors_and_numbers(work: Path) -> None:
    for path in work.glob("*.pt"):
        torch.load(path, weights_only=True)
    assert len(list(work.glob("*.pt"))) == 3
    assert not list(work.glob(".*.part"))


def test_the_command_line_names_every_stage_and_refuses_the_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in ("data", "trunk", "teacher", "student", "evaluate"))
    with pytest.raises(SystemExit):
        main(["trunk", "--data", "x", "--work", "y", "--bogus", "1"])
    assert "--bogus" in capsys.readouterr().err


def test_a_users_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trunk", "--data", str(tmp_path / "no"), "--work", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert "run `train data` first" in shown
    assert "Traceback" not in shown
    assert main(["evaluate", "--data", "x", "--work", "y", "--audio", "z.wav"]) == 2
    assert "--transcript" in capsys.readouterr().err


def test_the_plan_of_the_data_is_seeded_and_keeps_voices_apart(tmp_path: Path) -> None:
    plan = orders(tmp_path, 200, 3, seed=4)
    assert plan == orders(tmp_path, 200, 3, seed=4)
    assert len({order.seed for order in plan}) == len(plan)
    kept = {voice for voices in HELD_OUT.values() for voice in voices}
    for order in plan:
        group = order.path.parent.name
        assert (order.voice in kept) == (group in HELD_OUT)
        assert order.keep_sound == (group != "train")


def test_sessions_are_stored_whole(corpus: Path, tmp_path: Path) -> None:
    session = load(corpus / "rms" / "00.npz")
    save(session, tmp_path / "again.npz")
    again = load(tmp_path / "again.npz")
    np.testing.assert_array_equal(session.motion, again.motion)
    assert session.mel.shape == (4 * session.phone.size, 80)
    assert session.samples.size == 8 * 16000
    assert load(corpus / "train" / "0000.npz").samples.size == 0


@pytest.mark.skipif(not available("espeak"), reason="libespeak-ng is not installed")
def test_speech_is_made_from_its_seed_and_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = next(o for o in orders(tmp_path, 60, 0, seed=1) if o.voice.engine == "espeak")
    one, same = (make(order.voice, order.seed, True) for _ in range(2))
    np.testing.assert_array_equal(one.mel, same.mel)
    np.testing.assert_array_equal(one.motion, same.motion)
    assert one.speech.mean() > 0.3
    assert (one.touch[:, 0] > 0.99).sum() > 20, "people say p, b and m"
    assert generate(tmp_path / "none", 0, 0, 1, 1) == 0
