"""The talker cut into the stages of a bundle: fixed shapes, batch one, every state an input and an output."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgetalker.models.online.data.shapes import MOTION_NAMES
from edgetalker.models.online.data.upper import BLINK_DROOP, GAZE
from edgetalker.models.online.data.visemes import FPS, MOUTH
from edgetalker.models.online.eyes import AWAY, EYES, FIXATION, GLANCE, PAUSE
from edgetalker.models.online.features import FLOOR, OFFSETS, SPAN, WINDOW, fourier, mel_filters
from edgetalker.models.online.head import Condition, Denoiser, Head, Smoother, chance_of
from edgetalker.models.online.layout import (
    CHANNELS,
    EASE,
    FALL,
    HELD,
    LEAK,
    MADE,
    MOVES,
    MOVING,
    PRESSED,
    RISE,
    ROUSES,
    STIRS,
    WAKES,
    Decoder,
    column,
)  # fmt: skip
from edgetalker.models.online.outside import HELD_OUTSIDE, OVER, TOLD
from edgetalker.models.online.trunk import Trunk
from edgetalker.models.online.veto import Veto

__all__ = ["AudioStage", "ConditionStage", "DecodeStage", "DenoiseStage", "StudentStage"]


class AudioStage(nn.Module):
    """window (1, 1333) samples, memory (2, 1, width) -> features (1, width), mouth (1, 14), logits (1, 3), memory.

    With a veto also its state, (1, 1, units + 1), behind the trunk's. The mel frames are cut from the window by fixed
    offsets; the windowed DFT is a product with two constant matrices.
    """

    cosine: Tensor
    sine: Tensor
    filters: Tensor

    def __init__(self, trunk: Trunk, lookahead: int, veto: Veto | None = None) -> None:
        super().__init__()
        self.trunk, self.lookahead, self.veto = trunk, lookahead, veto
        cosine, sine = fourier()
        self.register_buffer("cosine", torch.tensor(cosine))
        self.register_buffer("sine", torch.tensor(sine))
        self.register_buffer("filters", torch.tensor(mel_filters()))

    def forward(self, window: Tensor, memory: Tensor, doubt: Tensor | None = None) -> tuple[Tensor, ...]:
        starts = [SPAN - WINDOW - offset for offset in OFFSETS]
        pieces = torch.cat([window[:, start : start + WINDOW] for start in starts])
        power = (pieces @ self.cosine) ** 2 + (pieces @ self.sine) ** 2
        # ln(p + floor), written so that no optimizer takes the floor for a zero: digital silence must stay finite.
        mel = (torch.log(power @ self.filters * (1.0 / FLOOR) + 1.0) + math.log(FLOOR)).reshape(1, -1)
        features, kept = self.trunk.step(mel, memory)
        mouth, logits = self.trunk.mouth(features, self.lookahead)
        assert mouth.shape[-1] == len(MOUTH)
        if self.veto is None or doubt is None:
            return features, mouth, logits, kept
        logits, doubted = self.veto.step(features, logits, doubt)
        return features, mouth, logits, kept, doubted


class ConditionStage(nn.Module):
    """What is heard, history, emotion (1, 4), style (1, 2), ring -> condition, smooth noise (1, 27), chance (1, 5)."""

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        self.condition, self.smoother = condition, Smoother()

    def forward(
        self,
        features: Tensor,
        mouth: Tensor,
        logits: Tensor,
        history: Tensor,
        emotion: Tensor,
        style: Tensor,
        ring: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        controls = torch.cat([emotion, style], -1)
        condition = self.condition(features, mouth, logits, history, controls)
        return condition, self.smoother(ring), chance_of(ring, controls)


class DenoiseStage(nn.Module):
    """x (1, 27), condition (1, width), row (1, 5) -> x one step cleaner, (1, 27)."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor, condition: Tensor, row: Tensor) -> Tensor:
        return Head.ddim(self.teacher, x, condition, row)


class StudentStage(nn.Module):
    """Smooth noise (1, 27), condition (1, width) -> clean frame (1, 27), in one step."""

    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.student = student

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        clean: Tensor = self.student(noise, condition, torch.ones_like(noise[:, :1]))
        return clean


class DecodeStage(nn.Module):
    """What `Decoder` computes, in few operations: everything linear between two bends is one product.

    clean (1, 27), logits (1, 3), mouth (1, 14), history (1, H, 32), chance (1, 5), held (1, 11), gaze (1, 5),
    lids (1, 3), emotion (1, 4) -> motion (1, 55), newest row (1, 32), held (1, 11). The tables are made from the
    decoder's constants; tests hold the two beside each other.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.table = nn.Module()
        for name, value in vars(_Tables(decoder)).items():
            if isinstance(value, Tensor):
                self.table.register_buffer(name, value)

    def forward(
        self,
        clean: Tensor,
        logits: Tensor,
        mouth: Tensor,
        history: Tensor,
        chance: Tensor,
        held: Tensor,
        gaze: Tensor,
        lids: Tensor,
        emotion: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        t: Any = self.table
        recent = history[:, -_RECENT:].flatten(1)
        begun, moving = torch.split(torch.addmm(t.past_0, recent, t.past), [_RECENT - 1, 1], -1)
        ramps = torch.addmm(t.ramps_0, torch.sigmoid(logits), t.ramps).clamp(0.0, 1.0)
        touch, voice, rouse = torch.split(ramps, [3, 1, 1], -1)
        awake = torch.maximum(rouse, torch.minimum(moving, voice))
        free = torch.addmm(t.free_0, awake, t.free).clamp(max=1.0)
        # What is carried from frame to frame, and what an event hangs on, goes through no product: in FP16 the one
        # would be rounded in every frame, and the other come a frame later now and then.
        before, looks = torch.split(history[:, -1] * t.kept + t.kept_0, [MADE, _ROW - MADE], -1)
        made = before + torch.cat([mouth * awake, clean * free], -1) @ t.made
        # What is held glides: contacts and shares by fixed strides, the values told as far as somebody tells them.
        outside = torch.addmm(t.outside_0, torch.cat([gaze, lids, held], -1), t.outside)
        top, bottom, told = torch.split(outside, [HELD, HELD, HELD_OUTSIDE], -1)
        held = torch.maximum(torch.minimum(torch.cat([touch, told], -1), top), bottom)
        parts = torch.split(torch.addmm(t.parts_0, held, t.parts), [MADE, MADE, 1, 1, 1, *3 * [_EYES]], -1)
        gain, floor, lips, teeth, apart, share, alone, value = parts
        face = torch.minimum(torch.maximum(made * gain, floor), t.most)
        above, gap = torch.split(torch.addmm(t.gaps_0, face, t.gaps), [1, 1], -1)
        lifted = torch.maximum(lips, teeth) * above.clamp(min=0.0)
        gap = (gap - lifted).clamp(min=0.0) * apart
        eyes = self._eyes(begun, looks, voice, chance)
        there = share * value.clamp(0.0, 1.0)
        drawn = torch.cat([eyes, chance[:, -1:]], -1) @ t.drawn
        known = torch.cat([face, lifted, gap, drawn * alone, there, emotion], -1)
        motion, shape = torch.split(torch.addmm(t.shown_0, known, t.shown), [len(MOTION_NAMES), MOVING.start], -1)
        newest = torch.cat([shape, torch.cat([face[:, MOVING], eyes], -1) * t.size + t.size_0], -1)
        return torch.minimum(motion, t.highest), newest, held

    def _eyes(self, begun: Tensor, looks: Tensor, voice: Tensor, chance: Tensor) -> Tensor:
        """Return the eyes as `eyes.Eyes` makes them, (1, 5), before they sink with the lids. looks: those before."""
        t: Any = self.table
        away = (looks[:, 1:].sum(-1, keepdim=True) > AWAY).to(looks.dtype)
        lid, opened = torch.split(torch.addmm(t.lids_0, (begun > 0.0).to(begun.dtype), t.lids), [1, 1], -1)
        dice = chance.index_select(1, t.dice) > torch.cat([voice, away, away], -1) * t.limits + t.limits_0
        jump = (away * t.jumps + t.jumps_0) * chance[:, 2:4]
        same = looks[:, 2:4] - looks.index_select(1, t.opposite)
        event = torch.where(dice, torch.cat([opened, jump], -1), torch.cat([lid, same], -1))
        eyes: Tensor = (event.index_select(1, t.pairs) * t.signs).clamp(min=0.0)
        return eyes


_ROW = len(CHANNELS)
_RECENT = int(PAUSE * FPS) + 1
"""Newest rows of the history that the lids need; of the first one only what came before the second."""
_EYES = len(TOLD)
_LID = MADE


class _Tables:
    """The constants of DecodeStage. `x @ name + name_0` is meant by a pair."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        mean, spread = decoder.mean, decoder.spread
        jaw, lid = column("JawOpen"), _LID

        def slot(row: int, channel: int) -> int:
            return (row % _RECENT) * _ROW + channel

        # Of the recent rows: where a blink began (from below 0.1 to above 0.5, nothing else in its curve does that),
        # and how far the jaw moved.
        self.past, self.past_0 = torch.zeros(_RECENT * _ROW, _RECENT), torch.zeros(_RECENT)
        for row in range(1, _RECENT):
            self._read(slot(row, lid), row - 1, 1.0, lid)
            self._read(slot(row - 1, lid), row - 1, -5.0, lid)
            self.past_0[row - 1] -= 0.5
        self._read(slot(-1, jaw), _RECENT - 1, 1.0 / (STIRS[1] - STIRS[0]), jaw)
        self.past_0[_RECENT - 1] -= STIRS[0] / (STIRS[1] - STIRS[0])
        width = decoder.high - decoder.low
        self.ramps = torch.zeros(3, 5)
        self.ramps[[0, 1, 0], [0, 1, 2]] = 1.0 / width
        self.ramps[2, 3], self.ramps[2, 4] = 1.0 / (MOVES[1] - MOVES[0]), 1.0 / (ROUSES[1] - ROUSES[0])
        starts = [-decoder.low / width] * 3 + [-low / (high - low) for low, high in (MOVES, ROUSES)]
        self.ramps_0 = torch.tensor(starts)
        self.free, self.free_0 = WAKES * decoder.parting[None], 1.0 - decoder.parting
        self._mix(mean, spread)
        self.lowest, self.most = torch.zeros(MADE), torch.ones(MADE)
        self.lowest[-3:], self.most[-3:] = -0.6, 0.6
        self._follow()
        self._press()
        self._look()
        self._show(mean, spread)

    def _read(self, place: int, into: int, factor: float, channel: int) -> None:
        """Add a channel of the history, as it was before it was normalised."""
        self.past[place, into] += factor * self.decoder.spread[channel]
        self.past_0[into] += factor * self.decoder.mean[channel]

    def _mix(self, mean: Tensor, spread: Tensor) -> None:
        """[mouth * awake, clean * free] -> the face before contacts, less what stays of the last row; its eyes."""
        mouth, scale = len(MOUTH), self.decoder.scale
        self.made, self.kept, self.kept_0 = torch.zeros(mouth + MADE, MADE), spread.clone(), mean.clone()
        for channel in range(MADE):
            moves = channel >= MOVING.start
            keeps = EASE if channel < mouth else 0.0
            own = 1.0 - (LEAK if moves else keeps)
            self.made[mouth + channel, channel] = own * scale[channel]
            before = own if moves else keeps
            self.kept[channel] = before * spread[channel]
            self.kept_0[channel] = before * mean[channel]
            if channel < mouth:
                self.made[channel, channel] = own
            else:
                self.kept_0[channel] += (LEAK if moves else 1.0) * mean[channel]

    def _follow(self) -> None:
        """[gaze, lids, held] -> up to where what is held may rise and fall, and where it goes."""
        stride, at = 1.0 / (OVER * FPS), len(RISE)
        size = 2 * HELD + HELD_OUTSIDE
        self.outside, self.outside_0 = torch.zeros(8 + HELD, size), torch.zeros(size)
        self.outside[8:, :HELD] = self.outside[8:, HELD : 2 * HELD] = torch.eye(HELD)
        self.outside_0[: at + 2] = torch.tensor([*RISE, stride, stride])
        self.outside_0[HELD : HELD + at + 2] = -torch.tensor([*FALL, stride, stride])
        far = 4.0  # farther than any two values are apart
        for place, (value, presence) in enumerate([(0, 4), (1, 4), (2, 4), (3, 4), (5, 7), (6, 7)]):
            self.outside[presence, at + 2 + place] = far
            self.outside[presence, HELD + at + 2 + place] = -far
            self.outside[value, 2 * HELD + 2 + place] = 1.0
        self.outside[4, 2 * HELD] = self.outside[7, 2 * HELD + 1] = 1.0

    def _press(self) -> None:
        """What is held -> gains of the face, what it shows at least, lips, teeth, what lips leave open; the eyes told:
        their shares, what is left to those made, their shapes. Then jaw over 0.12, and the lips' gap."""
        outside, eyes = self.decoder.outside, 2 * MADE + 3
        self.parts, self.parts_0 = torch.zeros(HELD, eyes + 3 * _EYES), torch.zeros(eyes + 3 * _EYES)
        self.parts_0[: 2 * MADE] = torch.cat([torch.ones(MADE), self.lowest])
        for name in ("MouthLowerDownLeft", "MouthUpperUpLeft"):
            self.parts[0, column(name)] = -1.0
        self.parts_0[column("MouthPressLeft")] = 0.0
        for name, of_lips, of_teeth in PRESSED:
            self.parts[2, MADE + column(name)], self.parts[1, MADE + column(name)] = of_lips, of_teeth
        self.parts[0, eyes - 3] = self.parts[1, eyes - 2] = self.parts_0[eyes - 1] = 1.0
        self.parts[0, eyes - 1] = -1.0
        for place, (_, value, _, _) in enumerate(TOLD):
            self.parts[len(RISE) + int(value > 3), [eyes + place, eyes + _EYES + place]] = torch.tensor([1.0, -1.0])
        self.parts_0[eyes + _EYES : eyes + 2 * _EYES] = 1.0
        self.parts[len(RISE) + 2 :, eyes + 2 * _EYES :] = outside.slopes
        self.parts_0[eyes + 2 * _EYES :] = outside.at_zero
        self.gaps, self.gaps_0 = torch.zeros(MADE, 2), torch.tensor([-0.12, 0.0])
        self.gaps[column("JawOpen")] = 1.0
        self.gaps[column("MouthClose"), 1] = -1.0

    def _look(self) -> None:
        """Where blinks began -> the lid that follows, and the first value of another one; then the gaze."""
        eyes = self.decoder.eyes
        later, first, last = eyes.curve[:-1], float(eyes.curve[-1]), _RECENT - 1
        self.lids, self.lids_0 = torch.zeros(last, 2), torch.tensor([0.0, first])
        self.lids[last - later.shape[0] :] = later[:, None]
        self.lids[:, 1] -= first  # none begins within half a second of another
        self.dice = torch.tensor([0, 1, 1])
        self.limits = torch.tensor([eyes.talking - eyes.silent, eyes.back - eyes.glance, eyes.back - eyes.glance])
        self.limits_0 = torch.tensor([eyes.silent, eyes.glance, eyes.glance])
        self.jumps, self.jumps_0 = (FIXATION - GLANCE) * torch.tensor(GAZE), GLANCE * torch.tensor(GAZE)
        self.opposite = torch.tensor([1, 4])  # out, down: across and up are in less out, up less down
        self.pairs, self.signs = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
        names = [name for name, *_ in TOLD]
        self.drawn = torch.zeros(6, _EYES)
        for row, pair in enumerate(EYES):
            for name in pair:
                self.drawn[row, names.index(name)] = 1.0
        for name in ("EyeLookDownLeft", "EyeLookDownRight"):
            self.drawn[0, names.index(name)], self.drawn[5, names.index(name)] = BLINK_DROOP, 1.0

    def _show(self, mean: Tensor, spread: Tensor) -> None:
        """Everything that is known of a frame -> motion, and the row that the history keeps."""
        decoder, jaw, close = self.decoder, column("JawOpen"), column("MouthClose")
        face = torch.eye(MADE + 2, MADE)
        face[close, close] = 0.0
        face[jaw, close] = 1.0  # MouthClose is JawOpen less the gap
        face[MADE, [jaw, close]], face[MADE + 1, [jaw, close]] = -1.0, torch.tensor([0.0, -1.0])
        expand, outside = decoder.expand, decoder.outside
        joy = torch.zeros(4, expand.shape[1])
        joy[0] = decoder.joyful
        motion = torch.cat([face @ expand[:MADE], outside.taken, outside.taken + outside.answer, joy])
        row = torch.zeros(len(motion), MOVING.start)
        row[: len(face)] = face[:, : MOVING.start] / spread[: MOVING.start]
        moving = slice(MOVING.start, None)
        self.shown = torch.cat([motion, row], -1)
        self.shown_0 = torch.cat([torch.zeros(expand.shape[1]), -(mean / spread)[: MOVING.start]])
        self.size, self.size_0 = 1.0 / spread[moving], -(mean / spread)[moving]
        self.highest = decoder.highest
