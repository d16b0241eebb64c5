"""Distribution matching of the student: its gradient at the seam, what it does on a toy, and a run that goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgetalker.models.online.head import TOLD, Denoiser
from edgetalker.models.online.layout import MADE, MOVING
from edgetalker.models.online.streams import Corpus
from edgetalker.models.online.talker import load_talker
from edgetalker.models.online.train import main
from edgetalker.models.online.train_head import HeadPlan, Matching, train_teacher
from edgetalker.models.online.train_head import _recall as recall
from edgetalker.models.online.train_head import _whole as whole
from edgetalker.models.online.train_trunk import TrunkPlan, train_trunk
from tests.models.online.conftest import HEAD, TRUNK


class Normal(nn.Module):
    """The exact denoiser of frames that are normal in each channel, whatever the condition."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((MADE,), mean))
        self.size = nn.Parameter(torch.full((MADE,), math.log(spread)))

    def forward(self, noisy: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        a, s, power = (time * math.pi / 2).cos(), (time * math.pi / 2).sin(), (2 * self.size).exp()
        return self.mean + a * power / (a * a * power + s * s) * (noisy - a * self.mean)


def test_equal_scores_move_nothing_and_others_point_to_the_teacher() -> None:
    torch.manual_seed(0)
    matching = Matching(Denoiser(HEAD), 1e-3)
    made, condition = torch.randn(64, MADE), torch.randn(64, HEAD.width)
    assert torch.equal(matching.gradient(made, condition), torch.zeros_like(made))
    matching.learn(made, condition)
    assert bool((matching.gradient(made, condition) != 0).any())
    apart = Matching(Normal(-1.0, 0.5), 1e-3)
    apart.fake = Normal(2.0, 0.5)
    assert bool((apart.gradient(2.0 + 0.5 * made, condition) > 0).all()), "descending lowers what is too high"


def test_a_student_takes_on_the_mean_and_the_spread_of_its_teacher() -> None:
    torch.manual_seed(0)
    mean, spread = nn.Parameter(torch.full((MADE,), 1.0)), nn.Parameter(torch.full((MADE,), 0.2))
    optimizer = torch.optim.Adam([mean, spread], lr=1e-2)
    matching, nothing = Matching(Normal(-0.5, 0.7), 2e-2), torch.zeros(256, 1)
    for _ in range(600):
        made = mean + spread * torch.randn(256, MADE)
        optimizer.zero_grad()
        (made * matching.gradient(made, nothing)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        matching.learn(made.detach(), nothing)
    assert float((mean.detach() + 0.5).abs().max()) < 0.15
    assert float((spread.detach().abs() - 0.7).abs().max()) < 0.15


def test_the_noise_that_is_matched_on_is_as_large_as_the_teachers() -> None:
    noise = torch.ones(2, MADE)
    noise[:, : MOVING.start] = TOLD
    torch.testing.assert_close(whole(noise), torch.ones(2, MADE))


def test_a_student_with_matching_trains_and_goes_on(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Corpus(corpus / "train")
    train_trunk(held, tmp_path, TrunkPlan(0.02, rows=4, frames=32), TRUNK)
    train_teacher(held, tmp_path, HeadPlan(0.02, rows=32, lookahead=1), HEAD)
    run = ["student", "--data", str(corpus), "--work", str(tmp_path), "--rows", "4", "--matching", "0.5"]
    for minutes in ("0.02", "0.04"):
        assert main([*run, "--lookahead", "1", "--minutes", minutes]) == 0
    assert "going on from" in capsys.readouterr().out
    stored, head = torch.load(tmp_path / "matching.pt", weights_only=True), load_talker(tmp_path / "talker.pt").head
    assert not same(head.teacher.state_dict(), stored["fake"]), "it has learnt"
    matching = Matching(head.teacher, 1e-3)
    recall(tmp_path / "matching.pt", matching, stored["step"] + 1)
    assert same(matching.fake.state_dict(), head.teacher.state_dict()), "that of another student is not taken"
    recall(tmp_path / "matching.pt", matching, stored["step"])
    assert same(matching.fake.state_dict(), stored["fake"])
    assert stored["step"] == torch.load(tmp_path / "talker.pt", weights_only=True)["step"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
