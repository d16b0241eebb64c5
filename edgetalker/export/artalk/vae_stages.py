"""The VAE's stages: codes to a chunk of motion, motion back to the codes that the next chunk remembers, and what
makes the motion fit to be seen."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetalker.export.artalk.transformer_stages import matrix_buffer
from edgetalker.models.artalk.model import ARTalk
from edgetalker.models.artalk.offline import HEAD, savgol_weights
from edgetalker.models.artalk.scales import area_matrix, linear_matrix

__all__ = ["TAIL", "DecodeStage", "EncodeStage", "FinishStage"]

TAIL = 8
"""Frames of the chunk before that smoothing needs; half as many are what it delays the motion by."""


class DecodeStage(nn.Module):
    """Codes of the chunk before and of this one to this chunk's motion. The first do not see the second."""

    def __init__(self, model: ARTalk) -> None:
        super().__init__()
        vae = model.basic_vae
        self.fused = matrix_buffer(model.config.scales.fused)
        self.frames = vae.frames
        self.places = nn.Buffer(vae.dec_pos_embed[0].detach().clone())
        self.mapping, self.out = vae.decoder.inp_mapping, vae.decoder.out_mapping
        self.blocks = nn.ModuleList(_blocks(vae.decoder.decoder_transformer))
        self.mean, self.deviation = vae.motion_mean, vae.motion_std

    def forward(self, before: Tensor, codes: Tensor) -> Tensor:
        """Return motion (frames, 1, M) of codes (1, tokens, code) each."""
        x = self.mapping(torch.cat([self.fused @ before[0], self.fused @ codes[0]]) + self.places)
        for place, block in enumerate(self.blocks):
            x = block(x, self.frames, last=place + 1 == len(self.blocks))
        motion: Tensor = (self.out(x[-self.frames :]) * self.deviation + self.mean)[:, None]
        return motion


class EncodeStage(nn.Module):
    """A chunk's motion to its codes, scale by scale, each the sign of what the coarser ones left over."""

    def __init__(self, model: ARTalk) -> None:
        super().__init__()
        vae, config = model.basic_vae, model.config
        self.places = nn.Buffer(vae.enc_pos_embed[0, : config.frames].detach().clone())
        self.mean, self.deviation = vae.motion_mean, vae.motion_std
        self.mapping, self.out = vae.encoder.inp_mapping, vae.encoder.code_mapping
        self.blocks = nn.ModuleList(_blocks(vae.encoder.encoder_transformer))
        self.value = config.code**-0.5
        self.means = nn.ParameterList(_constant(area_matrix(config.frames, patch)) for patch in config.patches)
        self.raised = nn.ParameterList(_constant(linear_matrix(patch, config.frames)) for patch in config.patches)

    def forward(self, motion: Tensor) -> Tensor:
        """Return codes (1, tokens, code) of motion (frames, 1, M)."""
        x = self.mapping((motion[:, 0] - self.mean) / self.deviation + self.places)
        for block in self.blocks:
            x = block(x, 0)
        rest, codes = self.out(x), []
        for scale, (mean, raised) in enumerate(zip(self.means, self.raised, strict=True)):
            kept = rest if scale + 1 == len(self.means) else mean @ rest
            codes.append(torch.where(kept > 0, self.value, -self.value))
            rest = rest - raised @ codes[-1]
        return torch.cat(codes)[None]


def _constant(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(matrix_buffer(values), requires_grad=False)


class FinishStage(nn.Module):
    """Smooths (if asked to), keeps of the jaw its opening alone and turns the head as far as its weight says.

    Smoothed frame i needs four frames after it, so that a chunk's frames come out four later: the first four of a
    stream are the first frame's place-holders, and the last four of a chunk wait for the next one.
    """

    def __init__(self, model: ARTalk, *, smooth: bool) -> None:
        super().__init__()
        motion, self.frames = model.config.motion, model.config.frames
        jaw = torch.ones(motion)
        jaw[HEAD.stop + 1 :] = 0
        self.jaw = nn.Buffer(jaw)
        self.turn = nn.Buffer(torch.zeros(motion))
        self.turn[HEAD] = 1
        self.smooth = smooth
        if smooth:
            face, head = (matrix_buffer(_filter(self.frames, *size)) for size in ((5, 2), (9, 3)))
            self.face, self.head = face, head
            self.face_start, self.head_start = (matrix_buffer(_start(self.frames, *size)) for size in ((5, 2), (9, 3)))

    def forward(self, motion: Tensor, turning: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return motion (frames, 1, M) and, if smoothed, the next tail (1, 8, M).

        motion (frames, 1, M), turning (1, 1): weight of the head's rotation; if smoothed, tail (1, 8, M), the last
        raw frames before, and count (1,), 0 in a stream's first chunk.
        """
        gain = self.jaw * (1 - self.turn + self.turn * turning)
        raw = motion[:, 0]
        if not self.smooth:
            return ((raw * gain)[:, None],)
        tail, count = state
        first = torch.clamp(1 - count, min=0.0)
        both = torch.cat([tail[0], raw])
        still = (1 - first) * (self.face @ both) + first * (self.face_start @ both)
        head = (1 - first) * (self.head @ both) + first * (self.head_start @ both)
        smoothed = still * (1 - self.turn) + head * self.turn
        return (smoothed * gain)[:, None], raw[None, -TAIL:]


def _filter(frames: int, window: int, order: int) -> NDArray[np.float64]:
    """Return (frames, 8 + frames): row i is frame i - 4 of the chunk, smoothed over `window` raw frames around it."""
    matrix, half = np.zeros((frames, TAIL + frames)), window // 2
    for row in range(frames):
        middle = row + TAIL // 2
        matrix[row, middle - half : middle + half + 1] = savgol_weights(window, order)[half]
    return matrix


def _start(frames: int, window: int, order: int) -> NDArray[np.float64]:
    """Return the matrix of a stream's first chunk: nothing lies before it, and its first frame stands in for that."""
    matrix = _filter(frames, window, order)
    window = min(window, frames - 1 + frames % 2)  # the first frames of a shorter chunk have a shorter window
    weights = savgol_weights(window, order)
    for row in range(min(frames, TAIL // 2 + window // 2)):
        matrix[row] = 0
        matrix[row, TAIL : TAIL + window] = weights[max(0, row - TAIL // 2)]
    return matrix


class _Block(nn.Module):
    """Attention and MLP of one layer; the first `before` rows do not see the rows after them."""

    def __init__(self, attention: Any, feed_forward: Any) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        self.norm, self.qkv, self.out = attention.norm, attention.to_qkv, attention.to_out
        self.expand, self.contract = feed_forward[0], feed_forward[2]

    def forward(self, x: Tensor, before: int, *, last: bool = False) -> Tensor:
        """Return (L, width) of x (L, width), or the rows after the first `before` alone when it is the last layer."""
        split = self.qkv(self.norm(x)).unflatten(1, (3 * self.heads, -1)).transpose(0, 1)
        q, k, v = torch.split(split, self.heads)
        mixed = self._mixed(q[:, before:], k, v)
        if before and not last:
            mixed = torch.cat([self._mixed(q[:, :before], k[:, :before], v[:, :before]), mixed])
        x = (x[before:] if last else x) + self.out(mixed)
        return cast(Tensor, x + self.contract(F.gelu(self.expand(x), approximate="tanh")))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (torch.softmax(q * self.scale @ k.transpose(1, 2), dim=-1) @ v).transpose(0, 1).flatten(1)


def _blocks(transformer: Any) -> list[_Block]:
    layers = list(transformer)
    return [_Block(*pair) for pair in zip(layers[::2], layers[1::2], strict=True)]
