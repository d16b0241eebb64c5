"""Training of the head: the teacher by denoising, the student on its own free-running rollouts."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.online.data.visemes import MOUTH
from edgetalker.models.online.head import FULL, HISTORY, TOLD, Head, HeadSize, rows
from edgetalker.models.online.layout import MADE, MOVING, Decoder, reduction
from edgetalker.models.online.rollout import Heard, Runner, hear_corpus
from edgetalker.models.online.streams import Corpus
from edgetalker.models.online.talker import Talker, load_talker, store_talker
from edgetalker.models.online.train_trunk import best_device, load_trunk, save_checkpoint
from edgetalker.models.online.trunk import Trunk

__all__ = ["PULL", "HeadPlan", "Matching", "spoil", "train_student", "train_teacher", "wander"]


@dataclass(frozen=True)
class HeadPlan:
    """minutes: budget of this stage. rows: frames in a step (teacher), streams in lock-step (student).

    matching: weight of distribution matching beside the distance to the teacher's frames (student).
    """

    minutes: float = 10.0
    rows: int = 768
    rate: float = 1.2e-3
    lookahead: int = 2
    seed: int = 1
    matching: float = 0.0


class _Frames:
    """All training sessions as rows to draw from; features heard afresh when asked."""

    def __init__(self, corpus: Corpus, trunk: Trunk, plan: HeadPlan) -> None:
        self.corpus, self.trunk, self.plan = corpus, trunk, plan
        self.device = trunk.device
        self.rng = np.random.default_rng(plan.seed)
        self.channels = [motion[:, :, reduction()].half() for motion in self.corpus.motion]
        self.heard: list[Heard] = []
        self.passes = 0
        self.listen()

    def listen(self) -> None:
        self.passes += 1
        self.heard = hear_corpus(self.trunk, self.corpus, self.plan.lookahead, self.plan.seed * 977 + self.passes)

    def statistics(self) -> Decoder:
        """Measure the channels, and how far frames lie from their bases."""
        sample = torch.cat([c[:, ::5].flatten(0, 1).float() for c in self.channels])
        decoder = Decoder(sample.mean(0), sample.std(0) + 0.01, torch.ones(MADE)).to(self.device)
        heard, past, target, _ = self.draw(8192)
        offsets = target[:, :MADE] - decoder.base(heard.mouth, heard.logits, decoder.normalise(past[:, -1]))
        decoder.scale.copy_(offsets.std(0) + 0.001)
        return decoder

    def draw(self, count: int) -> tuple[Heard, Tensor, Tensor, Tensor]:
        """Return `count` random frames: heard rows, history (B, H, 32), target (B, 32), controls (B, 6); raw."""
        parts: list[tuple[Tensor, ...]] = []
        for _ in range(max(count // 16, 1)):
            session = self.corpus.pick(self.rng)
            times = torch.tensor(self.rng.integers(HISTORY, self.heard[session].mouth.shape[0], size=16))
            face = int(self.rng.integers(self.channels[session].shape[0]))
            track, heard = self.channels[session][face], self.heard[session]
            history = track[times[:, None] + torch.arange(-HISTORY, 0)]
            controls = self.corpus.controls[session][face, times]
            parts.append(
                (heard.features[times], heard.mouth[times], heard.logits[times], history, track[times], controls)
            )
        features, mouth, logits, past, target, wish = (torch.cat(part).float() for part in zip(*parts, strict=True))
        past, target, wish = past.to(self.device), target.to(self.device), wish.to(self.device)
        return Heard(*(t.to(self.device) for t in (features, mouth, logits))), past, target, wish


UNSURE = 0.15
"""By how much of a usual step a moving channel's past is spoiled in training, at most."""
PULL = 0.995
"""What may be left, a frame later, of an error in where brows and head are."""


def spoil(history: Tensor, decoder: Decoder) -> Tensor:
    """Make what moves in the normalised history (B, H, 32) as unsure as a free run's."""
    size = UNSURE * torch.rand(history.shape[0], 1, 1, device=history.device) ** 2
    spoiled = history.clone()
    usual = decoder.scale[MOVING] / decoder.spread[MOVING]
    spoiled[:, :, MOVING] += size * usual * torch.randn_like(history[:, :, MOVING])
    return spoiled


def channel_weights() -> Tensor:
    """Return the loss weights (27,): lips count for more."""
    weights = torch.ones(MADE)
    weights[: len(MOUTH)] = 1.5
    return weights


def train_teacher(corpus: Corpus, out: Path, plan: HeadPlan, size: HeadSize | None = None) -> Path:
    """Train condition network and teacher on top of `out`/trunk.pt; resumes from `out`/teacher.pt."""
    torch.manual_seed(plan.seed)
    trunk = load_trunk(out / "trunk.pt").to(best_device())
    frames = _Frames(corpus, trunk, plan)
    head = Head(size or HeadSize(features=trunk.size.width))
    talker = Talker(trunk, head, frames.statistics(), plan.lookahead).to(frames.device)
    path = out / "teacher.pt"
    spent, step = _resume(path, talker)
    parameters = [*head.condition.parameters(), *head.teacher.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.01, betas=(0.9, 0.98))
    weights, budget, begun = channel_weights().to(frames.device), plan.minutes * 60, time.monotonic() - spent
    while (spent := time.monotonic() - begun) < budget:
        _set_rate(optimizer, plan.rate, spent / budget, step)
        loss = _teacher_loss(talker, frames.draw(plan.rows), weights)
        _update(optimizer, loss, parameters)
        step += 1
        if step % 100 == 0:
            print(f"teacher step {step} {spent:.0f} s loss {loss.item():.4f}", flush=True)
        if step % 500 == 0:
            store_talker(path, talker, spent, step)
    store_talker(path, talker, budget, step)
    return path


def _teacher_loss(talker: Talker, drawn: tuple[Heard, Tensor, Tensor, Tensor], weights: Tensor) -> Tensor:
    heard, past, target, wish = drawn
    head, decoder = talker.head, talker.decoder
    history = spoil(decoder.normalise(past), decoder)
    clean = decoder.encode(target, decoder.base(heard.mouth, heard.logits, history[:, -1])).clamp(-6.0, 6.0)
    noisy, time = _noised(clean)
    condition = head.condition(heard.features, heard.mouth, heard.logits, history, wish)
    error = (head.teacher(noisy, condition, time) - clean).square()
    few = slice(0, clean.shape[0] // 4)
    heard = Heard(heard.features[few], heard.mouth[few], heard.logits[few])
    loss: Tensor = (error * weights).mean() + wander(talker, heard, history[few], wish[few])
    return loss


def _noised(clean: Tensor, edge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the frames (B, 27) with noise of a random moment each, in [edge, 1 - edge), and the moments (B, 1)."""
    moment = edge + (1.0 - 2.0 * edge) * torch.rand(clean.shape[0], 1, device=clean.device)
    angle = moment * math.pi / 2
    return angle.cos() * clean + angle.sin() * torch.randn_like(clean), moment


def wander(talker: Talker, heard: Heard, history: Tensor, wish: Tensor) -> Tensor:
    """Return how little of an error in where brows and head are goes away: what keeps free runs from wandering.

    The same frame is made from the same noise on two histories that differ by an offset. What is left of it beyond
    PULL counts, in units of a usual step.
    """
    head, decoder = talker.head, talker.decoder
    offset = 0.3 * torch.randn_like(history[:, :1, MOVING])
    moved = history.clone()
    moved[:, :, MOVING] += offset
    noise = torch.randn(history.shape[0], MADE, device=history.device)
    start = torch.ones_like(noise[:, :1])
    made = [
        head.teacher(noise, head.condition(heard.features, heard.mouth, heard.logits, past, wish), start)[:, MOVING]
        for past in (history, moved)
    ]
    before = offset[:, 0] * decoder.spread[MOVING] / decoder.scale[MOVING]
    left = (before + made[1] - made[0]).abs() - PULL * before.abs()
    loss: Tensor = left.clamp(min=0.0).square().mean()
    return loss


class Matching:
    """Distribution matching (Yin et al. 2024): moves a student's frames to where the teacher finds them likelier.

    The real score is the frozen teacher's; the fake score's denoiser begins as the teacher and learns what the student
    makes under the same conditions, one update for each of the student's.
    """

    def __init__(self, teacher: torch.nn.Module, rate: float) -> None:
        self.real, self.fake = teacher, copy.deepcopy(teacher)
        self.optimizer = torch.optim.AdamW(self.fake.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.98))

    def learn(self, made: Tensor, condition: Tensor) -> None:
        """Teach the fake score the student's frames (B, 27) under their conditions (B, width)."""
        noisy, moment = _noised(made, 0.02)
        _update(self.optimizer, (self.fake(noisy, condition, moment) - made).square().mean(), self.fake.parameters())

    @torch.no_grad()
    def gradient(self, made: Tensor, condition: Tensor) -> Tensor:
        """Return (B, 27): fake less real prediction of the noised frames, in units of the real one's mean error."""
        noisy, moment = _noised(made, 0.02)
        real, fake = (denoiser(noisy, condition, moment) for denoiser in (self.real, self.fake))
        size = (made - real).abs().mean(1, keepdim=True)
        return torch.as_tensor((fake - real) / size.clamp(min=1e-3))


def _whole(noise: Tensor) -> Tensor:
    """Return smooth noise (B, 27) in the size that the teacher learnt from: what is played is a cold sample."""
    return torch.cat([noise[:, : MOVING.start] / TOLD, noise[:, MOVING]], 1)


def train_student(corpus: Corpus, out: Path, plan: HeadPlan) -> Path:
    """Distill the teacher of `out`/teacher.pt into one step; writes and resumes `out`/talker.pt.

    Streams run freely on the student's own frames; at every frame the student learns what the teacher's ten
    steps make of the same noise and the same (student's) history, and the teacher's change between frames. With
    `plan.matching` the distribution of its frames is matched to the teacher's, too (`Matching`; its state is kept in
    `out`/matching.pt).
    """
    torch.manual_seed(plan.seed + 7)
    source, path = out / "teacher.pt", out / "talker.pt"
    talker = load_talker(source).to(best_device())
    talker.head.student.load_state_dict(talker.head.teacher.state_dict())
    spent, step = _resume(path, talker, "student.")
    frames = _Frames(corpus, talker.trunk, plan)
    optimizer = torch.optim.AdamW(talker.head.student.parameters(), lr=plan.rate, weight_decay=0.0, betas=(0.9, 0.98))
    matching = Matching(talker.head.teacher, plan.rate) if plan.matching else None
    if matching:
        _recall(out / "matching.pt", matching, step)
    budget, begun = plan.minutes * 60, time.monotonic() - spent
    while (spent := time.monotonic() - begun) < budget:
        for loss in _rollout(talker, frames, plan, (optimizer, matching), lambda: (time.monotonic() - begun) / budget):
            step += 1
            if step % 100 == 0:
                print(f"student step {step} {time.monotonic() - begun:.0f} s loss {loss:.4f}", flush=True)
        if matching:
            save_checkpoint(out / "matching.pt", {"fake": matching.fake.state_dict(), "step": step})
        store_talker(path, talker, spent, step)
    store_talker(path, talker, budget, step)
    return path


def _recall(path: Path, matching: Matching, step: int) -> None:
    """Take over the fake score that belongs to a student of so many steps, if it is there."""
    if path.exists() and (stored := torch.load(path, map_location="cpu", weights_only=True))["step"] == step:
        matching.fake.load_state_dict(stored["fake"])


def _rollout(
    talker: Talker,
    frames: _Frames,
    plan: HeadPlan,
    learners: tuple[torch.optim.Optimizer, Matching | None],
    done: Callable[[], float],
) -> Iterator[float]:
    """Yield the loss of each frame of one rollout of 300 frames over `plan.rows` streams."""
    heard, wish = _streams(frames, plan.rows, 300)
    runner = Runner(talker.decoder, plan.rows, int(frames.rng.integers(1 << 31)))
    weights = channel_weights().to(frames.device)
    optimizer, matching = learners
    before: tuple[Tensor, Tensor] | None = None
    for t in range(heard.features.shape[1]):
        if done() >= 1.0:
            return
        noise = runner.noise()
        with torch.no_grad():
            condition = _condition(talker.head, heard, t, runner.history, wish)
            wanted = talker.head.sample(noise, condition, rows(FULL))
        made = talker.head.at_once(noise, condition)
        loss = _student_loss(made, wanted, before, weights)
        if matching:
            drawn = talker.head.at_once(_whole(noise), condition)
            loss = loss + plan.matching * (drawn * matching.gradient(drawn, condition)).mean()
            matching.learn(drawn.detach(), condition)
        _set_rate(optimizer, plan.rate, done(), 1000)
        _update(optimizer, loss, list(talker.head.student.parameters()))
        before = (made.detach(), wanted)
        logits, mouth = heard.logits[:, t].float(), heard.mouth[:, t].float()
        runner.take(made.detach(), logits, mouth, wish[:, t].float())
        yield loss.item()


def _condition(head: Head, heard: Heard, t: int, history: Tensor, wish: Tensor) -> Tensor:
    features, mouth, logits = (track[:, t].float() for track in (heard.features, heard.mouth, heard.logits))
    condition: Tensor = head.condition(features, mouth, logits, history, wish[:, t].float())
    return condition


def _student_loss(made: Tensor, wanted: Tensor, before: tuple[Tensor, Tensor] | None, weights: Tensor) -> Tensor:
    """Return the distance to the teacher's frame, and of the change since the frames before."""
    error = made - wanted
    loss = (error.square() * weights).mean() + 0.1 * (error.abs() * weights).mean()
    if before is not None:
        change = (made - before[0]) - (wanted - before[1])
        loss = loss + 0.2 * (change.square() * weights).mean()
    return loss


def _streams(frames: _Frames, count: int, length: int) -> tuple[Heard, Tensor]:
    parts: list[tuple[Tensor, ...]] = []
    for _ in range(count):
        session = frames.corpus.pick(frames.rng)
        heard = frames.heard[session]
        at = int(frames.rng.integers(0, max(heard.mouth.shape[0] - length, 1)))
        face = int(frames.rng.integers(frames.channels[session].shape[0]))
        window = slice(at, at + length)
        wish = frames.corpus.controls[session][face, window]
        parts.append((heard.features[window], heard.mouth[window], heard.logits[window], wish))
    short = min(part[0].shape[0] for part in parts)
    features, mouth, logits, wish = (torch.stack([row[:short] for row in part]) for part in zip(*parts, strict=True))
    device = frames.device
    return Heard(features.to(device), mouth.to(device), logits.to(device)), wish.to(device)


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, done: float, step: int) -> None:
    factor = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    for group in optimizer.param_groups:
        group["lr"] = peak * factor * min(1.0, (step + 1) / 200)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Iterable[torch.nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(list(parameters), 1.0)
    optimizer.step()


def _resume(path: Path, talker: Talker, part: str = "") -> tuple[float, int]:
    """Take over a part of the head, the statistics with the whole; return the seconds spent and the steps made."""
    if not path.exists():
        return 0.0, 0
    stored = torch.load(path, map_location="cpu", weights_only=True)
    taken = {name: value for name, value in stored["head"].items() if name.startswith(part)}
    talker.head.load_state_dict(talker.head.state_dict() | taken)
    for name in () if part else ("mean", "spread", "scale"):
        getattr(talker.decoder, name).copy_(stored[name])
    print(f"going on from {path}, step {stored['step']}")
    return float(stored["spent"]), int(stored["step"])
