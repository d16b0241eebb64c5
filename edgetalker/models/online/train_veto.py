"""Training of the veto on a finished talker: everything else of it stays as it is, to the last bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from edgetalker.engines.errors import UserError
from edgetalker.models.online.features import BANDS, FLOOR, PER_FRAME
from edgetalker.models.online.streams import MARGIN, Corpus, Place, Streams
from edgetalker.models.online.talker import load_talker, store_talker
from edgetalker.models.online.train_trunk import carried, save_checkpoint
from edgetalker.models.online.veto import Veto
from edgetalker.models.online.wear import below

__all__ = ["Rows", "VetoPlan", "add_scenes", "draw_nobody", "lay_under", "train_veto", "veto_loss"]

_NOBODY = 0.5
"""The share of sessions in which nobody speaks among the rows that are not scenes."""
_SCENES = 0.3
"""The share of rows that are scenes (`add_scenes`)."""
_SPEECH, _BEGUN = 3.0, 9.0
"""How much a frame of speech weighs against one without: a voice that is lost shuts the mouth on it. And a frame in the
beginning of a phrase, where little is known of it:"""
_BEGINNING = 20
_LENGTH = 1800
"""Frames of a scene, at least."""
_UNHEARD = 0.05
"""What a frame weighs in which the trunk hears no voice: there is nothing to take back."""
_MURMURED, _OVER = 0.4, 0.45
"""The share of speakers' rows in which others murmur, and of their sessions under which lies a session of nobody."""
_CROWD = (5.0, 15.0)
"""Decibels below the speaker at which others murmur and a session of nobody lies."""
_AVERAGED = 0.5
"""The share of the budget after which weights are averaged; their mean is what the talker gets."""
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
    """Rows in which nobody at all speaks where a session has no speaker, no murmur from other rows either; where it has
    one, others often murmur as near as in a crowd."""

    def _place(self) -> Place:
        place = super()._place()
        if not self.corpus.flags[place.session][:, 2].any():
            place.wear.crowd = place.wear.beside = 0.0
        elif self.rng.random() < _MURMURED:
            place.wear.crowd = below(self.rng, *_CROWD)
        return place


def _silent(corpus: Corpus) -> NDArray[np.bool_]:
    return np.array([not bool(flags[:, 2].any()) for flags in corpus.flags])


def draw_nobody(corpus: Corpus) -> None:
    """Let sessions in which nobody speaks make up a fixed share of what is drawn. Raises UserError without any."""
    silent = _silent(corpus)
    if silent.all() or not silent.any():
        raise UserError(
            f"{int(silent.sum())} of {silent.size} sessions are without a speaker; some of both kinds are needed",
            hint="the `data` stage makes one in twelve of NOBODY; ask it for more --sessions",
        )
    weights = np.where(silent, _NOBODY / silent.sum(), (1 - _NOBODY) / (~silent).sum())
    corpus.drawn = np.cumsum(weights)


def lay_under(corpus: Corpus, rng: np.random.Generator) -> None:
    """Put a session of nobody 5 to 15 dB below the speaker of nearly half of the others."""
    silent = _silent(corpus)
    noises = np.flatnonzero(silent)
    for session in np.flatnonzero(~silent):
        if rng.random() < _OVER:
            mel, power = corpus.mel[session], corpus.loud[session].sum()
            corpus.mel[session] = _over(corpus, mel, power, rng.choice(noises, 1), rng).half()


def _over(corpus: Corpus, mel: Tensor, power: Tensor, others: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Return log mel (count, 80) with other sessions below a speaker of that power."""
    return (mel.float().exp() + below(rng, *_CROWD) * power * _murmur(corpus, others, len(mel), rng) + FLOOR).log()


def add_scenes(corpus: Corpus, count: int, rng: np.random.Generator) -> None:
    """Append sounds put together from a corpus of both kinds: again and again something is heard, then a phrase begins.

    0.4 to 5 s of a session of nobody, the most restless of three tries (music is long, coughs and keys are short), up
    to 12 dB softer or louder than it is there; then up to 1 s of the pause before one of a speaker's phrases, and 1 to
    6 s from its begin on. In every other scene three to eight others murmur, 5 to 15 dB below the speaker; they are
    nobody, as in the speaker's sessions. Two scenes in five have a session of nobody under all of it, as far below.
    """
    silent = _silent(corpus)
    noises, speakers = np.flatnonzero(silent), np.flatnonzero(~silent)
    for _ in range(count):
        speaker = int(rng.choice(speakers))
        said = corpus.flags[speaker][:, 2].numpy() > 0.5
        begins = np.flatnonzero(np.diff(said, prepend=False))[::2]
        mels: list[Tensor] = []
        flags: list[Tensor] = []
        while sum(map(len, flags)) < _LENGTH:
            frames = int(rng.integers(12, 150))
            tries = [_noise(corpus, int(rng.choice(noises)), frames, rng) for _ in range(3)]
            noise = max(tries, key=lambda mel: float(mel.exp().sum(1).log().std()))
            begin = int(rng.choice(begins))
            quiet = max(begin - int(rng.integers(3, 30)), 0)
            quiet += int(said[quiet:begin].sum())  # what was said before ends where the pause begins
            end = begin + int(rng.integers(30, 180))
            mels += [noise, corpus.mel[speaker][PER_FRAME * quiet : PER_FRAME * end].float()]
            flags += [torch.zeros(len(noise) // PER_FRAME, 3), corpus.flags[speaker][quiet:end]]
        mel, loud = torch.cat(mels), corpus.loud[speaker]
        for among, some, share in ((speakers, int(rng.integers(3, 9)), 0.5), (noises, 1, 0.4)):
            if rng.random() < share:
                mel = _over(corpus, mel, loud.sum(), rng.choice(among, some), rng)
        corpus.append(mel, torch.cat(flags), loud)
    corpus.drawn = np.append((1 - _SCENES) * corpus.drawn, 1 - _SCENES * (1 - np.arange(1, count + 1) / count))


def _noise(corpus: Corpus, session: int, frames: int, rng: np.random.Generator) -> Tensor:
    start = int(rng.integers(max(len(corpus.flags[session]) - frames, 1)))
    cut = corpus.mel[session][PER_FRAME * start : PER_FRAME * (start + frames)].float()
    return cut + rng.uniform(-12, 12) * math.log(10) / 10


def _murmur(corpus: Corpus, speakers: NDArray[np.int64], count: int, rng: np.random.Generator) -> Tensor:
    """Return the mean power of speakers, each from another place on and as loud: (count, 80)."""
    total = torch.zeros(count, BANDS)
    for speaker in speakers:
        power = corpus.mel[speaker].float().exp() / corpus.loud[speaker].sum()
        total += power[(np.arange(count) + rng.integers(len(power))) % len(power)] / speakers.size
    return total


def _begun(speech: Tensor) -> Tensor:
    """Return 1 in the first frames of speech (B, T, 1) after silence."""
    quiet = F.pad(1.0 - speech[..., 0], (_BEGINNING, 0))
    return speech * F.max_pool1d(quiet[:, None], _BEGINNING + 1, 1).transpose(1, 2)


def veto_loss(nobody: Tensor, voice: Tensor, speech: Tensor) -> Tensor:
    """Return the cross-entropy of the veto's logits (B, T, 1), weighed by how sure the trunk is of a voice.

    voice: the trunk's own logit, (B, T, 1); speech: 1 where somebody speaks, (B, T, 1).
    """
    weight = (torch.sigmoid(voice) + _UNHEARD) * (1.0 + (_SPEECH - 1.0) * speech + (_BEGUN - _SPEECH) * _begun(speech))
    return F.binary_cross_entropy_with_logits(nobody, 1.0 - speech, weight=weight)


def train_veto(corpus: Corpus, out: Path, plan: VetoPlan) -> Path:
    """Train until the budget is spent, and put the veto into `out`/talker.pt, from the one that it has, if it has one.

    Goes on from `out`/veto.pt.
    """
    talker, path = load_talker(out / "talker.pt"), out / "veto.pt"
    draw_nobody(corpus)
    rng = np.random.default_rng(plan.seed)
    lay_under(corpus, rng)
    add_scenes(corpus, (len(corpus.mel) + 1) // 2, rng)
    torch.manual_seed(plan.seed)
    trunk, veto = talker.trunk.requires_grad_(False), talker.veto or Veto(talker.trunk.size.width)
    optimizer = torch.optim.AdamW(veto.parameters(), lr=plan.rate, weight_decay=0.01)
    mean = AveragedModel(veto)
    parts = {"model": veto, "optimizer": optimizer, "mean": mean}
    spent, step = _resume(path, parts)
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
        if spent >= _AVERAGED * budget:
            mean.update_parameters(veto)
        state, step = state.detach(), step + 1
        if step % 50 == 0:
            print(f"veto step {step} {spent:.0f} s loss {loss.item():.3f} {_wrong(nobody, logits, speech)}", flush=True)
        if step % 100 == 0:
            _store(path, parts, spent, step)
    _store(path, parts, budget, step)
    if mean.n_averaged:
        veto.load_state_dict(mean.module.state_dict())
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


def _resume(path: Path, parts: Mapping[str, Any]) -> tuple[float, int]:
    if not path.exists():
        return 0.0, 0
    stored = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(stored[name])
    print(f"going on from {path}, step {stored['step']}")
    return float(stored["spent"]), int(stored["step"])


def _store(path: Path, parts: Mapping[str, Any], spent: float, step: int) -> None:
    content = {name: part.state_dict() for name, part in parts.items()}
    save_checkpoint(path, {**content, "spent": spent, "step": step})
