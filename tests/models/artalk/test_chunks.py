"""A program that makes a second of motion at once: what it plays, and how its work is spread over the frames before."""

from __future__ import annotations

import json
import shutil
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.models.artalk import ARTalk, chunks, finished, generate, model_from_tensors, smoothed
from edgetalker.models.artalk.vae import quantised
from edgetalker.runtime.frame import Frame, Outcome
from edgetalker.runtime.live import DelayMeter
from edgetalker.runtime.loop import Loop, Observer, Options, Tally
from edgetalker.runtime.program import Part
from edgetalker.runtime.talker import Talker
from tests.support.artalk import TOY, TOY_BUNDLE, TOY_HEADS, checkpoint
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Live, Pieces

pytest.importorskip("onnxruntime")

Motion = NDArray[np.float32]
CHUNK, DELAY = 16000, 4


@pytest.fixture(scope="module")
def model() -> ARTalk:
    return model_from_tensors(checkpoint(TOY), TOY_HEADS)


@pytest.fixture(scope="module")
def sound() -> Motion:
    return (0.1 * np.random.default_rng(1).standard_normal(3 * CHUNK)).astype(np.float32)


def played(sound: Motion, sizes: Sequence[int] = (), bundle: Path = TOY_BUNDLE, **controls: float) -> Motion:
    sink, talker = Collect(), Talker(bundle)
    for name, value in controls.items():
        talker.set(name, {name: value})
    talker.reset()  # controls are at their targets, as from the start
    Loop(talker, Pieces(sound, sizes), [sink]).run()
    return np.stack(sink.motion)


def test_a_clip_is_what_the_network_makes_of_it_smoothed(model: ARTalk, sound: Motion) -> None:
    clip = sound[:-700]
    expected = finished(smoothed(generate(model, torch.from_numpy(clip)).numpy()))
    found = played(clip)
    assert found.shape == expected.shape == (74, 106)
    # A clip's end is smoothed with what comes after it (silence), where the published filter looks back alone.
    np.testing.assert_allclose(found[:-DELAY], expected[:-DELAY], atol=1e-4)


def test_no_bit_is_flipped(model: ARTalk, sound: Motion) -> None:
    talker = Talker(TOY_BUNDLE)
    expected = [quantised(chunk.bits).numpy() for chunk in chunks(model, torch.from_numpy(sound))]
    for codes in expected:
        talker.hear(sound[:0] if talker.ready() else sound[talker.heard : talker.heard + CHUNK])
        for _ in range(25):
            talker.make()
        np.testing.assert_array_equal(talker.read("codes"), codes)


def test_style_and_head_are_controls(model: ARTalk, sound: Motion) -> None:
    styled = generate(model, torch.from_numpy(sound), torch.zeros(50, 106)).numpy()  # the toy's clip is a still face
    expected = finished(smoothed(styled), fix_pose=True)
    found = played(sound, style=1.0, head=0.0)
    np.testing.assert_allclose(found[:-DELAY], expected[:-DELAY], atol=1e-4)
    assert not found[:, 100:103].any()
    assert np.abs(found - played(sound)).max() > 0.1


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 20000), max_size=12))
def test_how_the_sound_is_cut_never_changes_a_bit(sound: Motion, sizes: list[int]) -> None:
    np.testing.assert_array_equal(played(sound, sizes), played(sound))


def test_frames_carry_the_time_of_their_sound(sound: Motion) -> None:
    talker = Talker(TOY_BUNDLE)
    frames = [*talker.accept(sound), *talker.flush()]
    assert [frame.index for frame in frames] == list(range(75))
    assert [float(frame.time) for frame in frames[:3]] == [0.0, 0.04, 0.08]
    talker.reset()
    talker.hear(sound[:CHUNK])
    assert [talker.make().index for _ in range(6)] == [-4, -3, -2, -1, 0, 1]


def with_spread(folder: Path, spread: int) -> Path:
    """Return a copy of the bundle with another spread."""
    shutil.copytree(TOY_BUNDLE, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["audio"]["spread"] = spread
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_spread_changes_no_bit(tmp_path: Path, sound: Motion) -> None:
    expected = played(sound)
    for spread in (0, 1, 24):
        np.testing.assert_array_equal(played(sound, bundle=with_spread(tmp_path / str(spread), spread)), expected)


def costly(bundle: Path, clock: FakeClock, seconds: float, ran: list[int] | None = None) -> Talker:
    """Return a talker each of whose stages takes so much of the clock's time; `ran`: before which frame each ran."""
    talker = Talker(bundle, graphs="step")
    stages = set(talker.manifest.stages)

    def around(part: Part) -> None:
        if part.label in stages:
            clock.advance(int(seconds * 1e9))
            if ran is not None:
                ran.append(talker.index)
        part.call()

    talker.watch(around)
    return talker


def on_clock(
    bundle: Path, seconds: float, *, cost: float, observers: Sequence[Observer] = (), ran: list[int] | None = None
) -> tuple[Tally, Loop]:
    clock = FakeClock()
    talker = costly(bundle, clock, cost, ran)
    loop = Loop(
        talker, Live(clock, seconds), [Collect()], clock=clock, options=Options(realtime=True), observers=observers
    )
    tally = loop.run()
    assert tally.balanced
    return tally, loop


class Late(Observer):
    """Notes which frames were late."""

    def __init__(self) -> None:
        self.indices: list[int] = []

    def frame(self, frame: Frame, start_ns: int) -> None:
        if frame.outcome is not Outcome.ON_TIME:
            self.indices.append(frame.index)


@pytest.mark.slow
def test_ten_minutes_without_a_late_frame_where_one_slot_is_late_once_a_chunk(tmp_path: Path) -> None:
    """Eleven stages of 6 ms are 66 ms a chunk, where a frame has 40."""
    late = Late()
    alone, _ = on_clock(with_spread(tmp_path / "alone", 0), 600, cost=0.006, observers=[late])
    assert late.indices == [25 * chunk - DELAY for chunk in range(1, 601)]  # the first chunk's begins before the sound
    assert alone.outcomes[Outcome.LATE] == 600
    ran: list[int] = []
    spread, loop = on_clock(TOY_BUNDLE, 600, cost=0.006, ran=ran)
    assert spread.outcomes[Outcome.ON_TIME] == spread.due == 15000
    plan = loop.talker.spread
    assert plan is not None
    lines = plan.plan["full"].lines()
    assert plan.plan["full"].fits and len(lines) == 6
    assert lines[0].startswith("slot 0: audio 6.0 ms")
    slots = Counter(ran)
    assert [slots[place] for place in range(44, 51)] == [0, 2, 2, 2, 2, 2, 1]  # of the third chunk, by the plan


def test_a_spread_that_is_too_short_is_said_and_late(tmp_path: Path) -> None:
    late = Late()
    tally, loop = on_clock(with_spread(tmp_path / "short", 1), 5, cost=0.012, observers=[late])
    assert loop.talker.spread is not None
    assert "do not fit" in loop.talker.spread.plan["full"].lines()[-1]
    assert tally.outcomes[Outcome.LATE] > 0 and late.indices[0] == 25 - DELAY


class Barge(Observer):
    """Interrupts at one frame, once, and notes the clock of every frame."""

    def __init__(self, at: int) -> None:
        self.at, self.loop, self.done, self.seen = at, None, False, 0

    def frame(self, frame: Frame, start_ns: int) -> None:
        self.seen += 1
        if frame.index == self.at and not self.done:
            self.done = True
            loop: Any = self.loop
            loop.reset()


def test_barge_in_throws_the_pending_chunk_away(sound: Motion) -> None:
    """At frame 18 the next chunk's first pieces are done; what is heard from then on is as if nothing had been."""
    clock, sink, barge = FakeClock(), Collect(), Barge(18)
    talker = costly(TOY_BUNDLE, clock, 0.006)
    loop = Loop(talker, Live(clock, 4), [sink], clock=clock, options=Options(realtime=True), observers=[barge])
    barge.loop = loop  # type: ignore[assignment]
    pending: list[int] = []
    reset = talker.reset

    def noted() -> None:
        assert talker.spread is not None
        pending.append(talker.spread.done)
        before = clock.now_ns()
        reset()
        assert clock.now_ns() - before < 40_000_000  # within a frame
        assert talker.spread.done == -1

    talker.reset = noted  # type: ignore[method-assign, assignment]
    tally = loop.run()
    assert tally.resets == 1 and pending[0] > 0
    restart = next(place for place in range(1, len(sink.frames)) if sink.frames[place][0] == 0)
    fresh = played(np.full(4 * CHUNK, 0.1, np.float32))
    after = np.stack(sink.motion[restart : restart + 25])
    np.testing.assert_array_equal(after, fresh[:25])


def test_the_delay_has_the_chunk_the_spread_and_the_smoother() -> None:
    meter = DelayMeter(Talker(TOY_BUNDLE))
    assert meter._lookahead_ms == pytest.approx(40 * (24 + 6 + 4))


def test_a_snapshot_in_the_middle_of_a_spread(sound: Motion) -> None:
    talker = Talker(TOY_BUNDLE)
    talker.hear(sound[: 2 * CHUNK])
    for _ in range(22):
        talker.make()
    saved = talker.save()
    first = np.stack([talker.make().motion.copy() for _ in range(20)])
    talker.restore(saved)
    np.testing.assert_array_equal(first, np.stack([talker.make().motion.copy() for _ in range(20)]))


def test_the_bundle_is_sound() -> None:
    manifest = Bundle.open(TOY_BUNDLE).manifest
    assert manifest.notes["token_evaluations"] == 47
    assert manifest.notes["token_evaluations_published"] == 1 + 4 + 10 + 22 + 47
    assert manifest.motion.delay == DELAY


def test_a_clip_to_move_like_is_fed_from_the_command_line(model: ARTalk, sound: Motion, tmp_path: Path) -> None:
    from edgetalker.cli.main import main

    clip = np.random.default_rng(4).normal(0, 0.3, (60, 106)).astype(np.float32)
    np.savez(tmp_path / "clip.npz", motion=clip)
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    words = ["animate", str(tmp_path / "speech.wav"), "--bundle", str(TOY_BUNDLE), "-o", str(tmp_path / "out.npz")]
    assert main([*words, "--style-motion", str(tmp_path / "clip.npz"), "--fix-pose", "--quiet"]) == 0
    heard = torch.from_numpy((sound * 32767).astype("<i2").astype(np.float32) / 32768)
    expected = finished(smoothed(generate(model, heard, torch.from_numpy(clip[:50])).numpy()), fix_pose=True)
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_allclose(arrays["motion"][:-DELAY], expected[:-DELAY], atol=1e-4)
        told = [name for name in arrays.files if name.startswith("input.")]
        assert told == ["input.style", "input.head"]  # controls; a clip is no value of a frame
    np.savez(tmp_path / "clip.npz", motion=clip[:49])
    assert main([*words, "--style-motion", str(tmp_path / "clip.npz"), "--quiet"]) == 65
