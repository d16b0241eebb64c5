"""The windowed contract: exact grids, linear interpolation, and its limit, the published streaming path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgetalker.engines.errors import OptionError
from edgetalker.models.streamingtalker import StreamingTalker, make_schedule
from edgetalker.models.streamingtalker.contract import Contract, linear_weights, make_contract
from edgetalker.models.streamingtalker.windowed import block_features, windowed_features, windowed_frames
from tests.models.streamingtalker.conftest import Reference


@given(st.lists(st.floats(-50, 200), min_size=1, max_size=20), st.integers(1, 120))
def test_interpolation_reads_a_line_exactly_and_holds_its_ends(positions: list[float], count: int) -> None:
    weights = linear_weights(np.array(positions), count)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights @ np.arange(count), np.clip(positions, 0, count - 1), atol=1e-9)


def contract(model: StreamingTalker, **lengths: int) -> Contract:
    return make_contract(model.config, **lengths)  # type: ignore[arg-type]


def test_the_default_contract(model: StreamingTalker) -> None:
    made = contract(model)
    assert (made.block, made.block_samples, made.window) == (6, 3200, 38400)
    assert [made.end(block) for block in (0, 1, 10)] == [6400, 9600, 38400]


def test_every_window_starts_on_the_token_grid(model: StreamingTalker) -> None:
    for block_ms in (100, 200, 300):
        made = contract(model, block_ms=block_ms, lookahead_ms=60, context_ms=140)
        assert all((made.end(block) - made.window) % made.hop == 0 for block in range(40))


def test_a_full_window_reads_each_frame_at_its_own_time(model: StreamingTalker) -> None:
    made = contract(model)
    tokens = model.config.tokens(made.window)
    block = 20
    start = (made.end(block) - made.window) // made.hop
    read = made.interpolation(tokens) @ (start + np.arange(tokens))
    wanted = [made.token_position(frame) for frame in range(block * made.block, (block + 1) * made.block)]
    np.testing.assert_allclose(read, wanted)


def test_all_faults_of_a_contract_are_in_one_error(model: StreamingTalker) -> None:
    with pytest.raises(OptionError) as caught:
        contract(model, block_ms=70, lookahead_ms=-20, context_ms=5, history=1, decode_window=0)
    for text in ("block of 70", "look-ahead of -20", "context of 5", "history of 1", "decode window of 0"):
        assert text in str(caught.value)
    assert "100, 200" in str(caught.value)
    with pytest.raises(OptionError) as caught:
        contract(model, history=1)
    assert "blocks that fit" not in str(caught.value)  # a hint belongs to its fault


def test_features_do_not_depend_on_what_comes_after_the_look_ahead(
    model: StreamingTalker, reference: Reference
) -> None:
    made = contract(model, context_ms=400)
    samples = reference.tensor("wav")
    changed = samples.clone()
    changed[made.end(3) :] = 0.5
    assert torch.equal(block_features(model, made, samples, 3), block_features(model, made, changed, 3))
    changed[made.end(3) - 1] = 0.5
    assert not torch.equal(block_features(model, made, samples, 3), block_features(model, made, changed, 3))


def test_silence_follows_the_end_of_a_stream(model: StreamingTalker, reference: Reference) -> None:
    made = contract(model, context_ms=400)
    samples = reference.tensor("wav")[:5000]
    padded = torch.cat([samples, torch.zeros(20000)])
    assert torch.equal(windowed_features(model, made, samples, 15), windowed_features(model, made, padded, 15))


def test_windows_that_cover_everything_are_the_published_streaming_path(
    model: StreamingTalker, reference: Reference
) -> None:
    made = contract(model, history=30, decode_window=31)
    frames = windowed_frames(
        model,
        made,
        reference.tensor("hidden_state")[:, :30],
        reference.tensor("id_onehot"),
        reference.tensor("template"),
        lambda frame, rows: reference.tensor(f"stream_noise_{frame:04d}"),
        make_schedule(50),
    )
    ours = torch.stack(list(frames)).reshape(30, 60, 3)
    assert float((ours - reference.tensor("stream_vertices")[:30]).abs().max()) < 5e-4


def test_short_windows_are_another_function(model: StreamingTalker, reference: Reference) -> None:
    inputs = (
        reference.tensor("hidden_state")[:, :30],
        reference.tensor("id_onehot"),
        reference.tensor("template"),
        lambda frame, rows: reference.tensor(f"stream_noise_{frame:04d}"),
        make_schedule(50),
    )
    made = contract(model, history=10, decode_window=10)
    ours = torch.stack(list(windowed_frames(model, made, *inputs))).reshape(30, 60, 3)
    theirs = reference.tensor("stream_vertices")[:30]
    assert float((ours - theirs)[:9].abs().max()) < 5e-4
    assert float((ours - theirs)[15:].abs().max()) > 1e-2


def test_a_room_below_the_floor_is_heard_as_silence(model: StreamingTalker, reference: Reference) -> None:
    made = contract(model, context_ms=400)
    speech = reference.tensor("wav")
    room = 10 ** (-70 / 20) * torch.randn(len(speech), generator=torch.Generator().manual_seed(0))
    silence = block_features(model, made, torch.zeros(len(speech)), 3)
    assert torch.equal(block_features(model, made, room, 3), silence)
    off = make_contract(model.config, context_ms=400, floor_db=-200.0)
    assert float((block_features(model, off, room, 3) - silence).abs().max()) > 0.1
    # Speech is heard as it was, to the bit; and between the two nothing jumps.
    assert torch.equal(block_features(model, made, speech, 3), block_features(model, off, speech, 3))
    gains = [made.gain(10 ** (level / 20)) for level in (-80.0, -60.0, -55.0, -50.0, -20.0)]
    assert gains == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert made.gain(0.0) == 0.0
