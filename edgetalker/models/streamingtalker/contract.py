"""The windowed streaming contract: which samples, features and latents each frame sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import OptionError
from edgetalker.models.streamingtalker.config import Config

__all__ = ["FADE_DB", "FLOOR_DB", "SAMPLE_RATE", "Contract", "History", "Phase", "linear_weights", "make_contract"]

SAMPLE_RATE = 16000
Phase = Literal["window", "absolute"]
History = Literal["append", "rewrite"]
FLOOR_DB = -50.0
FADE_DB = 10.0
_FLOORS_DB = (-200.0, 0.0)
# Attention costs the square of these: a minute of sound, and the frames of it, are far beyond what a stream can use.
_MOST_ROWS, _LONGEST_MS = 1800, 60_000


@dataclass(frozen=True)
class Contract:
    """Sizes of every window, on the absolute grid of the audio encoder's tokens.

    The features of frames [b·block, (b+1)·block) come from the `window` samples before
    end(b) = (b+1)·block·rate/fps + lookahead. history: latents and features that the condition network sees.
    decode_window: latents that the decoder sees. phase: the periodic positional encoding restarts with the
    window (`window`, as published) or follows the frame's index (`absolute`). past: a frame adds its latent to the
    history (`append`, as `streaming_inference`) or makes every latent of its window anew (`rewrite`, as `predict`).
    floor_db: a window whose RMS is below it, in dB of full scale, fades to silence within FADE_DB. Samples are at
    16 kHz.
    """

    frame_rate: int
    block: int
    lookahead: int
    window: int
    history: int
    decode_window: int
    phase: Phase
    hop: int
    receptive_field: int
    past: History = "append"
    floor_db: float = FLOOR_DB

    def gain(self, level: float) -> float:
        """Return how much of a window of this RMS is heard: all above the floor, nothing FADE_DB below it."""
        if level <= 0.0:
            return 0.0
        return min(1.0, max(0.0, 1.0 + (20.0 * math.log10(level) - self.floor_db) / FADE_DB))

    @property
    def block_samples(self) -> int:
        """Samples between the ends of two blocks."""
        return self.block * SAMPLE_RATE // self.frame_rate

    def end(self, block: int) -> int:
        """Return the sample after the last one that a block sees."""
        return (block + 1) * self.block_samples + self.lookahead

    def token_position(self, frame: int) -> float:
        """Return where the middle of a frame lies on the token grid of the whole stream.

        Token j is centred on sample hop·j + (receptive_field - 1) / 2.
        """
        middle = (frame + 0.5) * SAMPLE_RATE / self.frame_rate
        return (middle - (self.receptive_field - 1) / 2) / self.hop

    def interpolation(self, tokens: int) -> NDArray[np.float64]:
        """Return the matrix (block, tokens) that reads a block's frames from the tokens of a full window."""
        first = (self.window - self.lookahead - self.block_samples) / self.hop
        positions = first + np.array([self.token_position(frame) for frame in range(self.block)])
        return linear_weights(positions, tokens)


def linear_weights(positions: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return (len(positions), count) weights of linear interpolation, held beyond the first and last point."""
    clamped = np.clip(positions, 0, count - 1)
    lower = np.minimum(np.floor(clamped).astype(int), max(count - 2, 0))
    weights = np.zeros((len(positions), count))
    rows = np.arange(len(positions))
    weights[rows, lower] = 1.0
    if count > 1:
        weights[rows, lower + 1] = clamped - lower
        weights[rows, lower] = 1.0 - weights[rows, lower + 1]
    return weights


def make_contract(
    config: Config,
    *,
    block_ms: int = 200,
    lookahead_ms: int = 200,
    context_ms: int = 2000,
    history: int = 60,
    decode_window: int = 60,
    phase: Phase = "window",
    past: History = "append",
    floor_db: float = FLOOR_DB,
) -> Contract:
    """Return the contract for these lengths.

    Raises:
        OptionError: every length that is not on the token grid (20 ms) or no whole number of frames.
    """
    token_ms = config.hop * 1000 // SAMPLE_RATE
    faults = []
    for name, value, least in (
        ("block", block_ms, token_ms),
        ("look-ahead", lookahead_ms, 0),
        ("context", context_ms, 0),
    ):
        if value < least or value % token_ms:
            faults.append(f"{name} of {value} ms is not a multiple of {token_ms} ms of at least {least} ms")
    of_block = block_ms < token_ms or block_ms % token_ms or block_ms * config.frame_rate % 1000
    if block_ms * config.frame_rate % 1000:
        faults.append(f"block of {block_ms} ms is no whole number of frames at {config.frame_rate} a second")
    if not 2 <= history <= _MOST_ROWS:
        faults.append(f"history of {history} frames; 2 to {_MOST_ROWS} were wanted")
    if not 2 <= decode_window <= _MOST_ROWS:
        faults.append(f"decode window of {decode_window} latents; 2 to {_MOST_ROWS} were wanted")
    if block_ms + lookahead_ms + context_ms > _LONGEST_MS:
        whole = block_ms + lookahead_ms + context_ms
        faults.append(f"a window of {whole} ms of sound; at most {_LONGEST_MS} was wanted")
    if phase not in ("window", "absolute"):
        faults.append(f"unknown phase `{phase}`; known are window and absolute")
    if past not in ("append", "rewrite"):
        faults.append(f"unknown history `{past}`; known are append and rewrite")
    low, high = _FLOORS_DB
    if not low <= floor_db <= high:
        faults.append(f"floor of {floor_db:g} dB; {low:g} to {high:g} were wanted")
    if faults:
        hint = f"blocks that fit: {', '.join(_fitting_blocks(config))} ms" if of_block else None
        raise OptionError("; ".join(faults), hint=hint)
    per_ms = SAMPLE_RATE // 1000
    return Contract(
        frame_rate=config.frame_rate,
        block=block_ms * config.frame_rate // 1000,
        lookahead=lookahead_ms * per_ms,
        window=(context_ms + block_ms + lookahead_ms) * per_ms,
        history=history,
        decode_window=decode_window,
        phase=phase,
        hop=config.hop,
        receptive_field=config.receptive_field,
        past=past,
        floor_db=floor_db,
    )


def _fitting_blocks(config: Config) -> list[str]:
    token_ms = config.hop * 1000 // SAMPLE_RATE
    return [str(ms) for ms in range(token_ms, 501, token_ms) if ms * config.frame_rate % 1000 == 0]
