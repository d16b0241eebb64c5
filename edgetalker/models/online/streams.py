"""Training batches as endless streams: each row plays sessions one after another, state carried along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetalker.models.online.data.sessions import load
from edgetalker.models.online.features import BANDS, FLOOR, PER_FRAME, STACK
from edgetalker.models.online.wear import Wear, draw

__all__ = ["Chunk", "Corpus", "Streams", "stack_mel"]

MARGIN = 2  # frames of targets before a chunk, for the heads that look back


def stack_mel(mel: Tensor) -> Tensor:
    """Turn (B, 4 * (T + 1), 80) into (B, T, 640): each frame's four mel frames behind the four before them."""
    rows = mel.unfold(1, STACK, PER_FRAME)
    return rows.transpose(2, 3).reshape(mel.shape[0], -1, STACK * BANDS)


class Corpus:
    """All training sessions in memory, half precision. Raises FileNotFoundError for a folder without any.

    shares: how much of what is drawn comes from each folder; by default each session counts the same.
    """

    def __init__(self, *folders: Path, shares: Sequence[float] = ()) -> None:
        groups = [sorted(folder.glob("*.npz")) for folder in folders]
        for folder, group in zip(folders, groups, strict=True):
            if not group:
                raise FileNotFoundError(f"no sessions in {folder}; run `train data` first")
        paths = [path for group in groups for path in group]
        sizes = [len(group) for group in groups]
        weights = np.repeat(np.divide(shares or sizes, sizes), sizes)
        self.drawn = np.cumsum(weights / weights.sum())
        self.names = [path.stem for path in paths]
        sessions = [load(path) for path in paths]
        self.mel = [torch.tensor(s.mel, dtype=torch.float16) for s in sessions]
        self.mouth = [torch.tensor(s.mouth, dtype=torch.float16) for s in sessions]
        self.flags = [torch.tensor(np.column_stack([s.touch, s.speech]), dtype=torch.float16) for s in sessions]
        self.phone = [torch.tensor(s.phone.astype(np.int64)) for s in sessions]
        self.motion = [torch.tensor(s.motion, dtype=torch.float16) for s in sessions]
        self.controls = [torch.tensor(s.controls, dtype=torch.float16) for s in sessions]
        self.loud = [_loud(mel) for mel in self.mel]

    def append(self, mel: Tensor, flags: Tensor, loud: Tensor) -> None:
        """Add a sound of which only the flags are known. mel: (4T, 80) ln power; flags: (T, 3); loud: (80,) power."""
        frames = flags.shape[0]
        self.mel.append(mel.half())
        self.flags.append(flags.half())
        self.loud.append(loud)
        self.mouth.append(self.mouth[0][:1].expand(frames, -1))
        self.phone.append(self.phone[0][:1].expand(frames))

    def pick(self, rng: np.random.Generator) -> int:
        """Draw a session."""
        return int(np.searchsorted(self.drawn[:-1], rng.random(), side="right"))


def _loud(mel: Tensor) -> Tensor:
    power = mel.float().exp()
    total = power.sum(1)
    return power[total >= total.quantile(0.6)].mean(0)


@dataclass(frozen=True)
class Chunk:
    """B streams, T frames. mel (B, T, 640); mouth, flags, phone start MARGIN frames earlier, (B, MARGIN + T, ..)."""

    mel: Tensor
    mouth: Tensor
    flags: Tensor
    phone: Tensor
    fresh: NDArray[np.bool_]

    def to(self, device: torch.device) -> Chunk:
        """Return the chunk with its tensors on a device."""
        mel, mouth, flags, phone = (t.to(device) for t in (self.mel, self.mouth, self.flags, self.phone))
        return Chunk(mel, mouth, flags, phone, self.fresh)


@dataclass
class Place:
    session: int
    at: int
    left: int
    wear: Wear


class Streams:
    """Seeded rows over a corpus; `next` gives the following `frames` frames of all of them."""

    def __init__(self, corpus: Corpus, rows: int, frames: int, seed: int) -> None:
        self.corpus, self.frames = corpus, frames
        self.rng = np.random.default_rng(seed)
        self.places = [self._place() for _ in range(rows)]

    def _place(self) -> Place:
        session = self.corpus.pick(self.rng)
        length = self.corpus.phone[session].shape[0]
        at = int(self.rng.integers(0, max(length - 2 * self.frames, 1)))
        loud = self.corpus.loud
        wear = draw(self.rng, loud[session], loud[self.corpus.pick(self.rng)])
        return Place(session, at, int(self.rng.integers(2, 12)), wear)

    def next(self) -> Chunk:
        fresh = np.zeros(len(self.places), bool)
        for row, place in enumerate(self.places):
            if place.left == 0 or place.at + self.frames > self.corpus.phone[place.session].shape[0]:
                self.places[row] = self._place()
                fresh[row] = True
        chunk = self._cut(fresh)
        for place in self.places:
            place.at += self.frames
            place.left -= 1
        return chunk

    def _cut(self, fresh: NDArray[np.bool_]) -> Chunk:
        corpus, frames = self.corpus, self.frames
        mel = torch.stack([
            _slice(corpus.mel[p.session], PER_FRAME * (p.at - 1), PER_FRAME * (frames + 1), float(np.log(FLOOR)))
            for p in self.places
        ])  # fmt: skip
        worn = Wear.apply([p.wear for p in self.places], mel)

        def targets(tracks: list[Tensor]) -> Tensor:
            return torch.stack([_slice(tracks[p.session], p.at - MARGIN, frames + MARGIN, 0.0) for p in self.places])

        return Chunk(stack_mel(worn), targets(corpus.mouth), targets(corpus.flags), targets(corpus.phone).long(), fresh)


def _slice(track: Tensor, start: int, length: int, fill: float) -> Tensor:
    """Cut rows [start, start + length); rows before the track's start are `fill`."""
    part = track[max(start, 0) : start + length].float()
    if start < 0:
        part = torch.cat([torch.full((-start, *track.shape[1:]), fill), part])
    return part
