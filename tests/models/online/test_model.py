"""Forms of the model: cached = whole, causality, shapes, schedules, conditions that start at nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgetalker.export.online.stages import AudioStage
from edgetalker.models.online.features import OFFSETS, SPAN, ends, log_mel, window_mel
from edgetalker.models.online.head import (
    FAST,
    FULL,
    HISTORY,
    RING,
    TOLD,
    Head,
    HeadSize,
    Smoother,
    chance_of,
    rows,
)
from edgetalker.models.online.layout import (
    CHANCE,
    CHANNELS,
    EASE,
    FALL,
    LEAK,
    MADE,
    MOVING,
    NOISE,
    RISE,
    Decoder,
    column,
)
from edgetalker.models.online.streams import stack_mel
from edgetalker.models.online.talker import Talker
from edgetalker.models.online.trunk import LOOKAHEADS, Trunk, TrunkSize
from tests.models.online.conftest import TRANSFORMER, small_trunk


def noise(count: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def test_window_ends_are_exact_for_ever() -> None:
    found = ends(30 * 3600, lookahead=7)
    assert found[29] == 16007
    assert found[-1] == 3600 * 16000 + 7
    assert set(np.diff(found)) == {533, 534}


@pytest.mark.parametrize("frame", [0, 1, 2, 17, 59])
def test_a_window_gives_the_mel_frames_of_the_whole_sound(frame: int) -> None:
    sound = noise(32000)
    whole = log_mel(sound, 60)
    end = int(ends(60)[frame])
    window = np.concatenate([np.zeros(SPAN, np.float32), sound])[end : end + SPAN]
    newest = window_mel(window)[len(OFFSETS) // 2 :]
    np.testing.assert_allclose(newest, whole[4 * frame : 4 * frame + 4], atol=2e-3)


def test_no_sample_after_the_window_changes_a_mel_frame() -> None:
    sound, end = noise(32000), int(ends(60)[20])
    changed = sound.copy()
    changed[end:] = noise(32000 - end, seed=9)
    np.testing.assert_array_equal(log_mel(sound, 60)[: 4 * 21], log_mel(changed, 60)[: 4 * 21])
    assert np.abs(log_mel(sound, 60)[4 * 21] - log_mel(changed, 60)[4 * 21]).max() > 0


def test_the_cached_trunk_is_the_whole_trunk_from_its_first_frame(
    talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetalker.models.online.trunk.FADE", 1.0)
    mel = torch.randn(1, 40, 640) * 4 - 15
    with torch.no_grad():
        whole, last = talker.trunk(mel, talker.trunk.begin(1))
        cached, state = talker.trunk.listen(mel, talker.trunk.begin(1))
    assert float((cached - whole).abs().max()) < 2e-6
    assert float((state - last).abs().max()) < 2e-6


def test_a_transformer_frame_by_frame_is_the_transformer_side_by_side() -> None:
    """Across the ring's end, cut anywhere, and long after the first frame; the rotary phase stays one of length 1."""
    torch.manual_seed(2)
    trunk, mel = small_trunk(TRANSFORMER), torch.randn(2, 600, 640) * 4 - 15
    with torch.no_grad():
        whole, last = trunk(mel, trunk.begin(2))
        played, state = trunk.listen(mel, trunk.begin(2))
        begun, middle = trunk(mel[:, :13], trunk.begin(2))
        rest, end = trunk(mel[:, 13:], middle)
        recent, _ = trunk(mel[:, -17:], trunk.begin(2))
    for found in (played, torch.cat([begun, rest], 1)):
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
    for found in (state, end):
        torch.testing.assert_close(found, last, atol=2e-4, rtol=1e-4)
    cosine, sine = state[:, :, -1].chunk(2, -1)
    torch.testing.assert_close((cosine + 1).square() + sine.square(), torch.ones_like(sine), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(recent[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)  # 2 layers of 8 frames and its own
    changed = F.pad(mel[:, -17:][:, 1:], (0, 0, 1, 0))
    with torch.no_grad():
        assert float((trunk(changed, trunk.begin(2))[0] - recent)[:, -1].abs().max()) > 1e-4, "the oldest is heard"


def test_a_transformer_hears_where_in_its_window_a_frame_lies() -> None:
    torch.manual_seed(2)
    trunk, mel = small_trunk(replace(TRANSFORMER, layers=1)), torch.randn(1, 6, 640) * 4 - 15
    with torch.no_grad():
        first, _ = trunk(mel, trunk.begin(1))
        second, _ = trunk(mel[:, [1, 0, 2, 3, 4, 5]], trunk.begin(1))
    assert float((first - second)[:, -1].abs().max()) > 1e-3, "without positions it would be the same sum"


def test_a_trunk_of_no_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="gru, or a transformer"):
        Trunk(TrunkSize(kind="lstm"))


def test_the_trunk_in_training_is_nearly_the_trunk_that_plays(talker: Talker) -> None:
    """Training fades the state by the same amount in larger steps."""
    mel = torch.randn(1, 300, 640, generator=torch.Generator().manual_seed(3)) * 4 - 15
    with torch.no_grad():
        trained, _ = talker.trunk(mel, talker.trunk.begin(1))
        played, _ = talker.trunk.listen(mel, talker.trunk.begin(1))
    assert float((trained - played).abs().mean()) < 0.01 * float(played.abs().mean())


def test_the_trunk_forgets_what_training_never_heard_the_end_of(
    talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel = torch.randn(2, 1800, 640, generator=torch.Generator().manual_seed(1)) * 4 - 15
    mel[1] = mel[0]
    begin = talker.trunk.begin(2)
    begin[:, 1] = torch.sign(torch.randn(begin[:, 1].shape, generator=torch.Generator().manual_seed(2)))
    for gate in ("bias_ih_l0", "bias_ih_l1"):  # units that keep nearly everything
        getattr(talker.trunk.memory, gate).data[talker.trunk.size.width : 2 * talker.trunk.size.width] = 12.0
    with torch.no_grad():
        for features, _ in (talker.trunk.listen(mel, begin), talker.trunk(mel, begin)):
            apart = (features[1] - features[0]).abs().amax(-1)
            assert float(apart[0]) > 0.5
            assert float(apart[-1]) < 0.05, "a minute later"
        monkeypatch.setattr("edgetalker.models.online.trunk.FADE", 1.0)
        kept, _ = talker.trunk(mel, begin)
    assert float((kept[1] - kept[0])[-1].abs().max()) > 0.5, "without fading it would stay"


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 29))
def test_the_trunk_is_causal_and_can_be_cut_anywhere(cut: int) -> None:
    torch.manual_seed(1)
    trunk = Trunk(TrunkSize(entry=12, width=8)).eval()
    mel = torch.randn(2, 30, 640)
    with torch.no_grad():
        whole, _ = trunk.listen(mel, trunk.begin(2))
        first, state = trunk.listen(mel[:, :cut], trunk.begin(2))
        second, _ = trunk.listen(mel[:, cut:], state)
        changed, _ = trunk.listen(F.pad(mel[:, :cut], (0, 0, 0, 30 - cut)), trunk.begin(2))
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(changed[:, :cut], whole[:, :cut], atol=1e-6, rtol=1e-5)


def test_the_audio_stage_is_mel_and_trunk(talker: Talker) -> None:
    sound = noise(8000)
    stage = AudioStage(talker.trunk, talker.lookahead)
    mel = torch.nn.functional.pad(torch.tensor(log_mel(sound, 15)), (0, 0, 4, 0), value=float(np.log(1e-10)))
    memory = talker.trunk.begin(1)
    with torch.no_grad():
        whole, _ = talker.trunk.listen(stack_mel(mel[None]), talker.trunk.begin(1))
        for frame, end in enumerate(ends(15)):
            window = np.concatenate([np.zeros(SPAN, np.float32), sound])[end : end + SPAN]
            features, mouth, logits, memory = stage(torch.tensor(window[None]), memory)
            torch.testing.assert_close(features, whole[:, frame], atol=2e-4, rtol=1e-3)
    assert mouth.shape == (1, 14)
    assert logits.shape == (1, 3)
    assert len(talker.trunk.heads) == len(LOOKAHEADS)


def test_smooth_noise_has_unit_variance_and_does_not_jump() -> None:
    torch.testing.assert_close(Smoother().weights[:, MOVING].norm(dim=0), torch.ones(5))
    assert float(Smoother().weights[:, 0].norm()) == pytest.approx(TOLD, abs=1e-6)
    fresh = torch.randn(4000 + RING, NOISE, generator=torch.Generator().manual_seed(1))
    track = torch.stack([Smoother()(fresh[None, t : t + RING])[0] for t in range(4000)])
    head = track[:, column("HeadYaw")]
    assert float(head.std()) == pytest.approx(1.0, abs=0.1)
    assert float((head[1:] - head[:-1]).std()) < 0.9, "independent noise would give 1.41"


def test_the_eyes_draws_are_the_newest_noise_and_sadness_lowers_the_gaze() -> None:
    ring, wish = torch.randn(2, RING, NOISE), torch.tensor([[0.0, 1, 0, 0, 1, 1], [0.0, 0, 0, 0, 1, 1]])
    chance = chance_of(ring, wish)
    assert chance.shape == (2, CHANCE)
    torch.testing.assert_close(chance[:, :-1], ring[:, -1, MADE:])
    assert chance[:, -1].tolist() == pytest.approx([0.15, 0.0])


@pytest.mark.parametrize("count", [FULL, FAST, 1])
def test_schedules_lead_from_pure_noise_to_the_clean_frame(count: int) -> None:
    table = rows(count)
    assert table.shape == (count, 5)
    assert table[0].tolist()[:3] == pytest.approx([1.0, 0.0, 1.0])
    assert table[-1].tolist()[3:] == pytest.approx([1.0, 0.0])
    torch.testing.assert_close(table[1:, 1:3], table[:-1, 3:])
    torch.testing.assert_close(table[:, 1] ** 2 + table[:, 2] ** 2, torch.ones(count))


def test_ddim_with_a_perfect_denoiser_finds_the_clean_frame() -> None:
    clean = torch.randn(3, MADE)

    def perfect(x: torch.Tensor, condition: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return clean

    x = torch.randn(3, MADE)
    for row in rows(FULL):
        x = Head.ddim(perfect, x, torch.zeros(3, 1), row[None])  # type: ignore[arg-type]
    torch.testing.assert_close(x, clean)


def test_the_denoiser_is_nonlinear_in_the_noise(talker: Talker) -> None:
    condition, x = torch.randn(1, 24), torch.randn(1, MADE)
    with torch.no_grad():
        one = talker.head.at_once(x, condition) - talker.head.at_once(0 * x, condition)
        two = talker.head.at_once(2 * x, condition) - talker.head.at_once(0 * x, condition)
    assert float((two - 2 * one).abs().max()) > 1e-3


def test_conditions_change_nothing_before_training_and_nothing_when_neutral(talker: Talker) -> None:
    torch.manual_seed(2)
    heard = (torch.randn(2, 16), torch.randn(2, 14), torch.randn(2, 3), torch.randn(2, HISTORY, 32))
    neutral = torch.tensor([[0.0, 0, 0, 0, 1, 1]]).repeat(2, 1)
    angry = torch.tensor([[0.0, 0, 1, 0, 0.4, 1.8]]).repeat(2, 1)
    untrained = Head(HeadSize(features=16, width=24, hidden=32, blocks=1, past=12)).condition
    trained = talker.head.condition
    with torch.no_grad():
        torch.testing.assert_close(untrained(*heard, angry), untrained(*heard, neutral))
        assert float((trained(*heard, angry) - trained(*heard, neutral)).abs().max()) > 1e-2


def decoder_of(mean: float, spread: float, scale: float) -> Decoder:
    return Decoder(torch.full((32,), mean), torch.full((32,), spread), torch.full((MADE,), scale))


def eyes_at_rest(decoder: Decoder, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a history of nothing and no chance, for frames whose eyes do not matter."""
    return decoder.rest().repeat(batch, HISTORY, 1), torch.zeros(batch, CHANCE)


def test_decoded_motion_is_in_range_symmetric_and_closes_on_contact() -> None:
    torch.manual_seed(3)
    decoder, base = decoder_of(0.0, 1.0, 1.0), torch.zeros(200, MADE)
    eyes = eyes_at_rest(decoder, 200)
    value, logits = 3 * torch.randn(200, MADE), torch.zeros(200, 3)
    logits[:] = torch.tensor([9.0, -9.0, 9.0])
    held = torch.cat([torch.ones(200, 3), decoder.begin(200)[:, 3:]], -1)  # lips that touch for some frames
    motion, kept, _ = decoder(value, logits, base, *eyes, held)
    assert motion.shape == (200, 55)
    assert float(motion[:, :52].min()) >= 0.0
    assert float(motion[:, :52].max()) <= 1.0
    torch.testing.assert_close(motion[:, 18], motion[:, 17], atol=1e-6, rtol=0.0)  # MouthClose cancels JawOpen
    assert float(motion[:, [37, 38, 39, 40]].max()) == 0.0
    torch.testing.assert_close(motion[:, 23], motion[:, 24])
    again, _, _ = decoder(kept[:, :MADE], logits, base, kept[:, None].repeat(1, HISTORY, 1), eyes[1], held)
    still = [name for name in range(52) if name not in (43, 44, 45)]  # brows are pulled to their mean
    torch.testing.assert_close(again[:, still], motion[:, still], atol=1e-5, rtol=0.0)
    logits[:, 0] = -9.0
    open_again, _, _ = decoder(value, logits, base, *eyes, held)
    assert float((open_again[:, 17] - motion[:, 17]).abs().max()) > 0.5
    assert column("JawOpen") == 0
    assert len(CHANNELS) == 32


@torch.no_grad()
def test_a_closure_comes_and_goes_as_lips_do() -> None:
    decoder, shown = decoder_of(0.0, 1.0, 1.0), []
    history, held = decoder.rest().repeat(1, HISTORY, 1), decoder.begin(1)
    mouth = torch.zeros(1, 14)
    mouth[:, 0] = 0.4
    for frame in range(24):
        logits = torch.tensor([[9.0 if 8 <= frame < 14 else -9.0, -9.0, 9.0]])
        base = decoder.base(mouth, logits, history[:, -1])
        motion, kept, held = decoder(torch.zeros(1, MADE), logits, base, history, torch.zeros(1, CHANCE), held)
        history = torch.cat([history[:, 1:], kept[:, None]], 1)
        shown.append(motion[0])
    press, gap = (torch.stack(shown)[:, place] for place in (35, 17))
    gap = gap - torch.stack(shown)[:, 18]
    assert press[7] == 0.0 and press[11:14].tolist() == pytest.approx([0.3] * 3) and press[16] == 0.0
    assert float(press.diff().max()) <= 0.3 * max(RISE[2], 0.6) + 1e-6 < 0.23
    assert float(-press.diff().min()) <= 0.3 * FALL[2] + 1e-6
    assert 0.02 < float(gap[8]) < 0.2 and float(gap[9]) < 1e-6, "lips take a second frame to meet"
    assert float(gap[15]) > 0.3


def test_brows_and_head_go_on_from_where_they_were_and_the_mouth_from_what_is_heard() -> None:
    decoder = decoder_of(0.1, 0.2, 0.05)
    mouth, channels = torch.rand(5, 14), torch.rand(5, 32) * 0.5
    voice, silence = torch.full((5, 3), 9.0), torch.full((5, 3), -9.0)
    assert float(decoder.base(mouth, silence, decoder.normalise(channels))[:, :14].abs().max()) == 0.0
    base = decoder.base(mouth, voice, decoder.normalise(channels))
    torch.testing.assert_close(base[:, :14], mouth)
    torch.testing.assert_close(base[:, MOVING], channels[:, MOVING])
    torch.testing.assert_close(base[:, 14 : MOVING.start], torch.full((5, MOVING.start - 14), 0.1))
    target = torch.rand(5, 32) * 0.5
    _, kept, _ = decoder(decoder.encode(target, base), silence, base, *eyes_at_rest(decoder, 5))
    wanted = decoder.normalise(target)
    torch.testing.assert_close(kept[:, 14 : MOVING.start], wanted[:, 14 : MOVING.start], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept[:, MOVING], (1 - LEAK) * wanted[:, MOVING], atol=1e-4, rtol=1e-4)


def logits_of(probability: float) -> torch.Tensor:
    """Return logits (1, 3): no contact, and a voice of this probability."""
    return torch.tensor([[-9.0, -9.0, math.log(probability / (1.0 - probability))]])


def history_of(decoder: Decoder, jaw: float) -> torch.Tensor:
    """Return a history (1, HISTORY, 32) of a face whose jaw alone is open."""
    return decoder.normalise(torch.zeros(32).index_fill(0, torch.tensor(column("JawOpen")), jaw)).repeat(1, HISTORY, 1)


@pytest.mark.parametrize(
    ("probability", "jaw", "share"),
    [
        (0.05, 0.0, 0.0), (0.5, 0.0, 0.0), (0.7, 0.0, 0.5), (0.95, 0.0, 1.0),
        (0.05, 0.2, 0.0), (0.3, 0.2, 0.5), (0.6, 0.2, 1.0),
    ],
)  # fmt: skip
def test_lips_at_rest_need_a_surer_voice_to_part_than_lips_that_move(
    probability: float, jaw: float, share: float
) -> None:
    decoder = decoder_of(0.1, 0.2, 0.05)
    mouth = torch.full((1, 14), 0.6)
    base = decoder.base(mouth, logits_of(probability), history_of(decoder, jaw)[:, -1])
    torch.testing.assert_close(base[:, :14], share * mouth)


def test_in_a_pause_an_offset_smiles_but_parts_no_lips() -> None:
    decoder = decoder_of(0.0, 1.0, 1.0)
    smile, parts = column("MouthSmileLeft"), [column(n) for n in ("JawOpen", "MouthLowerDownLeft", "MouthUpperUpLeft")]
    value, chance = torch.zeros(1, MADE), torch.zeros(1, CHANCE)
    value[:, [smile, *parts]] = 0.4
    for probability, parted in ((0.3, 0.0), (0.95, 0.4)):
        history = history_of(decoder, 0.0)
        base = decoder.base(torch.zeros(1, 14), logits_of(probability), history[:, -1])
        _, kept, _ = decoder(value, logits_of(probability), base, history, chance)
        assert float(kept[0, smile]) == pytest.approx(0.4 * (1 - EASE))
        assert kept[0, parts].tolist() == pytest.approx([parted * (1 - EASE)] * 3)


def test_a_mouth_eases_from_the_frame_before() -> None:
    decoder, history = decoder_of(0.0, 1.0, 1.0), history_of(decoder_of(0.0, 1.0, 1.0), 0.2)
    value = torch.zeros(1, MADE)
    value[:, column("JawOpen")] = 0.7
    _, kept, _ = decoder(value, logits_of(0.99), torch.zeros(1, MADE), history, torch.zeros(1, CHANCE))
    assert float(kept[0, column("JawOpen")]) == pytest.approx(EASE * 0.2 + (1 - EASE) * 0.7)


def test_only_the_past_of_brows_and_head_is_seen(talker: Talker) -> None:
    torch.manual_seed(4)
    heard = (torch.randn(1, 16), torch.randn(1, 14), torch.randn(1, 3))
    history, neutral = torch.randn(1, HISTORY, 32), torch.tensor([[0.0, 0, 0, 0, 1, 1]])
    other, moved = history.clone(), history.clone()
    other[:, :, : MOVING.start] += 1.0
    other[:, :, MADE:] += 1.0
    moved[:, :, column("HeadPitch")] += 1.0
    with torch.no_grad():
        one = talker.head.condition(*heard, history, neutral)
        torch.testing.assert_close(talker.head.condition(*heard, other, neutral), one)
        assert float((talker.head.condition(*heard, moved, neutral) - one).abs().max()) > 1e-3
