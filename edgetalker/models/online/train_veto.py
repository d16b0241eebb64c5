"""Training of the veto on a finished talker: everything else of it stays as it is, to the last bit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgetalker.engines.errors import UserError
from edgetalker.models.online.features import FLOOR
from edgetalker.models.online.streams import MARGIN, Corpus, Place, Streams
from edgetalker.models.online.talker import load_talker, store_talker
from edgetalker.models.online.train_trunk import carried, save_checkpoint
from edgetalker.models.online.veto import Veto

__all__ = ["Rows", "VetoPlan", "draw_nobody", "train_veto", "veto_loss"]

_NOBODY = 0.45
"""The share of rows in which nobody speaks."""
_SPEECH = 3.0
"""How much a frame of speech weighs against one without: a voice that is lost shuts the mouth on it."""
_UNHEARD = 0.05
"""What a frame weighs in which the trunk hears no voice: there is nothing to take back."""
_SOFTER = 35.0
"""Decibels by which three in ten rows are softer, at most."""


@dataclass(frozen=True)
class VetoPlan:
    """minutes: the budget, also the length of the learning-rate schedule; rows x frames: a step's sound."""

    minutes: float = 15.0
    rows: int = 24
    frames: int = 64
    rate: float = 2e-3
    seed: int = 1


class Rows(Streams):
    """Rows in which nobody at all speaks where a session has no speaker, no murmur from other rows either."""

    def _place(self) -> Place:
        place = super()._place()
        if not self.corpus.flags[place.session][:, 2].any():
            place.wear.crowd = place.wear.beside = 0.0
        return place


def draw_nobody(corpus: Corpus) -> None:
    """Let sessions in which nobody speaks make up a fixed share of what is drawn. Raises UserError without any."""
    silent = np.array([not bool(flags[:, 2].any()) for flags in corpus.flags])
    if silent.all() or not silent.any():
        raise UserError(
            f"{int(silent.sum())} of {silent.size} sessions are without a speaker; some of both kinds are needed",
            hint="the `data` stage makes one in twelve of NOBODY; ask it for more --sessions",
        )
    weights = np.where(silent, _NOBODY / silent.sum(), (1 - _NOBODY) / (~silent).sum())
    corpus.drawn = np.cumsum(weights)


def veto_loss(nobody: Tensor, voice: Tensor, speech: Tensor) -> Tensor:
    """Return the cross-entropy of the veto's logits (B, T, 1), weighed by how sure the trunk is of a voice.

    voice: the trunk's own logit, (B, T, 1); speech: 1 where somebody speaks, (B, T, 1).
    """
    weight = (torch.sigmoid(voice) + _UNHEARD) * (1.0 + (_SPEECH - 1.0) * speech)
    return F.binary_cross_entropy_with_logits(nobody, 1.0 - speech, weight=weight)


def train_veto(corpus: Corpus, out: Path, plan: VetoPlan) -> Path:
    """Train until the budget is spent, and put the veto into `out`/talker.pt; goes on from `out`/veto.pt."""
    talker, path = load_talker(out / "talker.pt"), out / "veto.pt"
    draw_nobody(corpus)
    torch.manual_seed(plan.seed)
    trunk, veto = talker.trunk.requires_grad_(False), Veto(talker.trunk.size.width)
    optimizer = torch.optim.AdamW(veto.parameters(), lr=plan.rate, weight_decay=0.01)
    spent, step = _resume(path, veto, optimizer)
    streams = Rows(corpus, plan.rows, plan.frames, plan.seed + step)
    heard, state, softer = trunk.begin(plan.rows), veto.begin(plan.rows)[..., :-1], _softer(streams.rng, plan.rows)
    budget, begun = plan.minutes * 60, time.monotonic() - spent
    veto.train()
    while (spent := time.monotonic() - begun) < budget:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * spent / budget))
        chunk = streams.next()
        softer = torch.where(torch.tensor(chunk.fresh)[:, None, None], _softer(streams.rng, plan.rows), softer)
        heard, state = carried(chunk.fresh, streams.rng, heard, state)
        with torch.no_grad():
            features, heard = trunk((chunk.mel.exp() * softer + FLOOR).log(), heard)
            _, logits = trunk.mouth(features, talker.lookahead)
        nobody, state = veto(features, state)
        first = MARGIN - talker.lookahead
        speech = chunk.flags[:, first : first + plan.frames, 2:]
        loss = veto_loss(nobody, logits[..., 2:], speech)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(veto.parameters(), 1.0)
        optimizer.step()
        state, step = state.detach(), step + 1
        if step % 50 == 0:
            print(f"veto step {step} {spent:.0f} s loss {loss.item():.3f} {_wrong(nobody, logits, speech)}", flush=True)
        if step % 100 == 0:
            _store(path, veto, optimizer, spent, step)
    _store(path, veto, optimizer, budget, step)
    talker.veto = veto.eval()
    stored = torch.load(out / "talker.pt", map_location="cpu", weights_only=True)
    store_talker(out / "talker.pt", talker, float(stored["spent"]), int(stored["step"]))
    return out / "talker.pt"


def _softer(rng: np.random.Generator, rows: int) -> Tensor:
    """Return factors of power, (rows, 1, 1): one, or for three rows in ten down to -35 dB."""
    decibels = np.where(rng.random(rows) < 0.3, rng.uniform(-_SOFTER, 0.0, rows), 0.0)
    return torch.tensor(10 ** (decibels / 10), dtype=torch.float32)[:, None, None]


def _wrong(nobody: Tensor, logits: Tensor, speech: Tensor) -> str:
    heard, spoken = logits[..., 2:] > 0.0, speech > 0.5
    lost, left = ((nobody > 0) & heard & spoken).sum(), ((nobody < 0) & heard & ~spoken).sum()
    return f"lost {int(lost)} of {int((heard & spoken).sum())} left {int(left)} of {int((heard & ~spoken).sum())}"


def _resume(path: Path, veto: Veto, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    if not path.exists():
        return 0.0, 0
    stored = torch.load(path, map_location="cpu", weights_only=True)
    veto.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    print(f"going on from {path}, step {stored['step']}")
    return float(stored["spent"]), int(stored["step"])


def _store(path: Path, veto: Veto, optimizer: torch.optim.Optimizer, spent: float, step: int) -> None:
    content = {"model": veto.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(path, {**content, "spent": spent, "step": step})
