"""Features of whole sessions, and free-running motion over many of them in lock-step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgetalker.models.online.features import FLOOR, PER_FRAME
from edgetalker.models.online.head import HISTORY, RING, Head, rows, smooth_noise
from edgetalker.models.online.layout import Decoder
from edgetalker.models.online.streams import Corpus, stack_mel
from edgetalker.models.online.trunk import Trunk
from edgetalker.models.online.wear import Wear, draw

__all__ = ["Heard", "Runner", "Sampler", "hear", "hear_corpus", "sampler"]

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
def hear(trunk: Trunk, mel: Tensor, lookahead: int) -> Heard:
    """Run the trunk over ln mel power (4T, 80) as a stream does: the first step hears `lookahead` frames ahead.

    The last steps hear silence behind the sound's end.
    """
    quiet = float(np.log(FLOOR))
    padded = torch.nn.functional.pad(mel, (0, 0, PER_FRAME, PER_FRAME * lookahead), value=quiet)
    features, _ = trunk(stack_mel(padded[None])[:, lookahead:], trunk.begin(1))
    features = features[0]
    mouth, logits = trunk.mouth(features, lookahead)
    return Heard(features, mouth, logits)


def hear_corpus(trunk: Trunk, corpus: Corpus, lookahead: int, seed: int) -> list[Heard]:
    """Hear every training session once, worn by chance; half precision to save memory."""
    rng = np.random.default_rng(seed)
    heard = []
    for mel, loud in zip(corpus.mel, corpus.loud, strict=True):
        one = hear(trunk, Wear.apply([draw(rng, loud, clean=0.4)], mel.float()[None])[0], lookahead)
        heard.append(Heard(one.features.half(), one.mouth.half(), one.logits.half()))
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
        self.decoder = decoder
        self.dice = torch.Generator().manual_seed(seed)
        rest = decoder.normalise(torch.zeros_like(decoder.mean))
        self.history = rest.repeat(batch, HISTORY, 1)
        self.ring = torch.randn(batch, RING, rest.shape[0], generator=self.dice)

    def noise(self) -> Tensor:
        """Draw the next frame's noise into the ring and return the smooth noise (B, 32)."""
        fresh = torch.randn(self.ring[:, :1].shape, generator=self.dice)
        self.ring = torch.cat([self.ring[:, 1:], fresh], 1)
        return smooth_noise(self.ring)

    def take(self, value: Tensor, logits: Tensor) -> Tensor:
        """Decode a frame, keep it in the history, return the motion (B, 55)."""
        motion, kept = self.decoder(value, logits)
        self.history = torch.cat([self.history[:, 1:], kept[:, None]], 1)
        return motion

    @torch.no_grad()
    def run(self, head: Head, draw_frame: Sampler, heard: Heard, controls: Tensor) -> Tensor:
        """Run over all frames: heard (B, T, ..), controls (B, T, 6) -> motion (B, T, 55)."""
        frames = []
        for t in range(heard.features.shape[1]):
            logits = heard.logits[:, t]
            condition = head.condition(
                heard.features[:, t], heard.mouth[:, t], logits, self.history, controls[:, t]
            )
            frames.append(self.take(draw_frame(self.noise(), condition), logits))
        return torch.stack(frames, 1)


