"""Features of whole sessions, and free-running motion over many of them in lock-step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.online.features import FLOOR, PER_FRAME
from edgetalker.models.online.head import HISTORY, RING, Head, Smoother, chance_of, rows
from edgetalker.models.online.layout import NOISE, Decoder
from edgetalker.models.online.streams import Corpus, stack_mel
from edgetalker.models.online.trunk import Trunk
from edgetalker.models.online.veto import Veto
from edgetalker.models.online.wear import Wear, draw

__all__ = ["Heard", "Runner", "Sampler", "hear_corpus", "hear_many", "sampler"]

Sampler = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Heard:
    """What the trunk makes of one session, moved so that row t belongs to motion frame t.

    features (T, width), mouth (T, 14), logits (T, 3).
    """

    features: Tensor
    mouth: Tensor
    logits: Tensor


@torch.no_grad()
def hear_many(trunk: Trunk, mels: Sequence[Tensor], lookahead: int, veto: Veto | None = None) -> list[Heard]:
    """Run the trunk, and its veto, over ln mel power (4T, 80) of sounds of any lengths; each gives what it would alone.

    It hears as a stream does: the first step `lookahead` frames ahead, the last ones silence behind the sound's end.
    """
    quiet, device = float(np.log(FLOOR)), trunk.device
    longest = max(mel.shape[0] for mel in mels)
    padded = torch.full((len(mels), PER_FRAME * (lookahead + 1) + longest, mels[0].shape[1]), quiet)
    for row, mel in enumerate(mels):
        padded[row, PER_FRAME : PER_FRAME + mel.shape[0]] = mel
    features, _ = trunk.listen(stack_mel(padded)[:, lookahead:].to(device), trunk.begin(len(mels)))
    mouth, logits = trunk.mouth(features, lookahead)
    if veto is not None:
        logits = veto.listen(features, logits)
    lengths = [mel.shape[0] // PER_FRAME for mel in mels]
    return [Heard(*(t[row, :n].clone() for t in (features, mouth, logits))) for row, n in enumerate(lengths)]


def hear_corpus(trunk: Trunk, corpus: Corpus, lookahead: int, seed: int, batch: int = 32) -> list[Heard]:
    """Hear every training session once, worn by chance; half precision to save memory."""
    rng = np.random.default_rng(seed)
    heard: list[Heard] = []
    for first in range(0, len(corpus.mel), batch):
        some = range(first, min(first + batch, len(corpus.mel)))
        worn = [Wear.apply([draw(rng, corpus.loud[i], clean=0.4)], corpus.mel[i].float()[None])[0] for i in some]
        for one in hear_many(trunk, worn, lookahead):
            heard.append(Heard(*(t.half().cpu() for t in (one.features, one.mouth, one.logits))))
    return heard


def sampler(head: Head, schedule: str) -> Sampler:
    """Return the function from (noise, condition) to a frame for `full`, `fast` or `one`."""
    if schedule == "one":
        return head.at_once
    table = rows({"full": 10, "fast": 4}[schedule])
    return lambda noise, condition: head.sample(noise, condition, table)


class Runner:
    """B streams side by side: history and noise ring, the newest row last."""

    def __init__(self, decoder: Decoder, batch: int, seed: int) -> None:
        self.decoder, self.smoother = decoder, Smoother().to(decoder.mean.device)
        self.dice = torch.Generator().manual_seed(seed)
        self.history = decoder.rest().repeat(batch, HISTORY, 1)
        self.held = decoder.begin(batch)
        self.ring = torch.randn(batch, RING, NOISE, generator=self.dice).to(decoder.mean.device)

    def noise(self) -> Tensor:
        """Draw the next frame's noise into the ring and return the smooth noise (B, 27)."""
        fresh = torch.randn(self.ring[:, :1].shape, generator=self.dice).to(self.ring.device)
        self.ring = torch.cat([self.ring[:, 1:], fresh], 1)
        smooth: Tensor = self.smoother(self.ring)
        return smooth

    def take(self, value: Tensor, logits: Tensor, mouth: Tensor, controls: Tensor) -> Tensor:
        """Decode a frame, keep it in the history, return the motion (B, 55)."""
        motion: Tensor
        base = self.decoder.base(mouth, logits, self.history[:, -1])
        chance, joy = chance_of(self.ring, controls), controls[:, :1]
        motion, kept, self.held = self.decoder(value, logits, base, self.history, chance, self.held, joy=joy)
        self.history = torch.cat([self.history[:, 1:], kept[:, None]], 1)
        return motion

    @torch.no_grad()
    def run(self, head: Head, draw_frame: Sampler, heard: Heard, controls: Tensor) -> Tensor:
        """Run over all frames: heard (B, T, ..), controls (B, T, 6) -> motion (B, T, 55)."""
        frames = []
        for t in range(heard.features.shape[1]):
            logits, mouth, wish = heard.logits[:, t], heard.mouth[:, t], controls[:, t]
            condition = head.condition(heard.features[:, t], mouth, logits, self.history, wish)
            frames.append(self.take(draw_frame(self.noise(), condition), logits, mouth, wish))
        return torch.stack(frames, 1)
