"""Lids and gaze as events: the blink's curve, its rate, where the eyes look, and what rounding does to all of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetalker.models.online.data.upper import BLINK, GAZE
from edgetalker.models.online.eyes import AWAY, DRAWS, Eyes, with_droop

HISTORY = 45


def run(draws: torch.Tensor, voice: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Play (B, T, DRAWS) draws from eyes at rest; return (B, T, 5)."""
    eyes, past, frames = Eyes(), torch.zeros(draws.shape[0], HISTORY, 5), []
    loud = torch.as_tensor(voice, dtype=torch.float32).expand(draws.shape[:2])
    for t in range(draws.shape[1]):
        past = torch.cat([past[:, 1:], eyes(past, draws[:, t], loud[:, t, None])[:, None]], 1)
        frames.append(past[:, -1])
    return torch.stack(frames, 1)


def chance(minutes: int, seed: int = 1) -> torch.Tensor:
    """Return the draws of so many streams of a minute."""
    return torch.randn(minutes, 1800, DRAWS, generator=torch.Generator().manual_seed(seed))


def starts(lid: torch.Tensor) -> list[int]:
    before = torch.cat([torch.zeros(1), lid[:-1]])
    return ((lid > 0.5) & (before < 0.1)).nonzero()[:, 0].tolist()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_blink_is_the_whole_curve_and_none_begins_within_half_a_second(seed: int) -> None:
    lid = run(chance(1, seed)[:, :900])[0, :, 0]
    begun = starts(lid)
    wanted = torch.zeros_like(lid)
    for start in begun:
        cut = torch.tensor(BLINK)[: lid.shape[0] - start]
        wanted[start : start + cut.shape[0]] = cut
    torch.testing.assert_close(lid, wanted)
    assert all(later - earlier >= 15 for earlier, later in pairwise(begun))


def test_people_blink_15_to_26_times_a_minute_and_more_in_silence() -> None:
    streams = (run(chance(40), voice)[:, :, 0] for voice in (1.0, 0.0))
    talking, silent = (np.mean([len(starts(lid)) for lid in stream]) for stream in streams)
    assert 15 <= talking < silent <= 26


def test_the_gaze_rests_on_the_viewer_and_glances_away() -> None:
    eyes = run(chance(20))
    across, up = eyes[..., 2] - eyes[..., 1], eyes[..., 3] - eyes[..., 4]
    far = across.abs() + up.abs() > AWAY
    assert 0.55 < 1.0 - float(far.float().mean()) < 0.85, "share of the time with the viewer"
    away = (far[:, 1:] & ~far[:, :-1]).sum() / 20
    assert 10 < float(away) < 30, "glances a minute"
    assert float(across[far].std()) > 1.2 * GAZE[0] and float(up[far].std()) > 1.2 * GAZE[1]
    assert float((across[~far].abs() + up[~far].abs()).mean()) < 0.03
    assert float(torch.minimum(eyes[..., 1], eyes[..., 2]).max()) == 0.0
    assert float(torch.minimum(eyes[..., 3], eyes[..., 4]).max()) == 0.0


def test_rounding_of_the_past_and_of_the_voice_moves_no_event() -> None:
    draws = chance(10)
    dice = torch.Generator().manual_seed(2)
    voice = torch.rand(draws.shape[:2], generator=dice)
    exact, noisy = (run(draws, voice + size * torch.randn(voice.shape, generator=dice)) for size in (0.0, 1e-3))
    assert sum(len(starts(lid)) for lid in exact[:, :, 0]) > 150
    torch.testing.assert_close(noisy, exact, atol=1e-6, rtol=0.0)


def test_the_gaze_sinks_with_the_lids_and_with_sadness() -> None:
    eyes = torch.tensor([[1.0, 0.0, 0.1, 0.0, 0.05]])
    shown = with_droop(eyes, torch.tensor([[0.15]]))
    torch.testing.assert_close(shown, torch.tensor([[1.0, 0.0, 0.1, 0.0, 0.05 + 0.25 + 0.15]]))
