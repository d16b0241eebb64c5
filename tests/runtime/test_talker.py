"""The talker's promises: equal frames whatever the graphs, fixed addresses, nothing kept, reset, skip, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.engines.host import HostDevice, HostGraph
from edgetalker.measure.bench import kept_bytes
from edgetalker.runtime.program import GRANULARITIES
from edgetalker.runtime.talker import Talker
from tests.support import toy as toys

pytest.importorskip("onnxruntime")


def sound(frames: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    for _ in range(frames):
        yield random.standard_normal(toys.WINDOW).astype(np.float32)


def play(talker: Talker, frames: int, *, schedules: tuple[str, ...] = ("full",)) -> NDArray[np.float32]:
    """Return the motion of some frames, the schedules taken in turn."""
    made = [
        talker.make(window=window, schedule=schedules[i % len(schedules)]).motion.copy()
        for i, window in enumerate(sound(frames))
    ]
    return np.array(made)


def reference(frames: int) -> NDArray[np.float32]:
    """Compute the toy's frames of schedule `full` by hand in numpy, from its description alone."""
    from edgetalker.runtime.inputs import NormalNoise

    rows = toys.tables()["full.npy"]
    history = np.ones((toys.HISTORY, toys.SIZE), np.float32)
    memory = np.zeros(toys.SIZE, np.float32)
    setting = np.array([0, 0, 0, 0.5], np.float32)
    noise, x = NormalNoise(0), np.empty((1, toys.SIZE), np.float32)
    made: list[Any] = []
    for i, window in enumerate(sound(frames)):
        if i % toys.BLOCK == 0:
            end = (i + toys.BLOCK) * toys.RATE // 30 + 160
            level = np.float32(window.mean(dtype=np.float32)) + np.float32(min(end, toys.WINDOW))
        cond = level * (i % toys.BLOCK + 1) + history.mean(axis=0) + np.float32(min(i, 5)) + setting
        noise.fill(i, x)
        value = x[0]
        for row in rows:
            value = np.float32(0.5) * value + row[0] * cond
        history = np.vstack([history[1:], value])
        made.append(value + memory)
        memory = made[-1] * np.float32(0.25)
    return np.array(made)


@pytest.mark.parametrize("graphs", GRANULARITIES)
def test_frames_are_what_the_manifest_describes(toy: Bundle, graphs: Any) -> None:
    talker = Talker(toy, graphs=graphs, poison=True)
    assert np.allclose(play(talker, 25), reference(25), rtol=2e-6)


def test_step_frame_and_eager_graphs_give_the_same_bits(toy: Bundle) -> None:
    runs = [
        play(Talker(toy, graphs=graphs, poison=True, timings=timings), 30, schedules=("full", "one", "full"))
        for graphs in GRANULARITIES
        for timings in (False, True)
    ]
    assert all(np.array_equal(runs[0], other) for other in runs[1:])


def test_poison_never_reaches_the_motion(toy: Bundle) -> None:
    assert np.isfinite(play(Talker(toy, poison=True), 12, schedules=("one", "full"))).all()


def test_addresses_and_memory_are_constant_over_a_thousand_frames_and_a_reset(toy: Bundle) -> None:
    talker = Talker(toy)
    before, allocated = talker.addresses(), talker.device.allocated  # type: ignore[attr-defined]
    motion = talker.motion
    play(talker, 500, schedules=("full", "one"))
    talker.reset()
    play(talker, 500, schedules=("one", "full"))
    assert talker.addresses() == before
    assert talker.device.allocated == allocated  # type: ignore[attr-defined]
    assert talker.motion is motion
    assert kept_bytes(talker, "full", frames=1000) < 8, "Python keeps memory for every frame"


def test_each_utterance_has_noise_of_its_own_unless_a_seed_is_fixed(toy: Bundle) -> None:
    with Talker(toy) as talker, Talker(toy, seed=0) as fixed:
        first = play(talker, 10)
        assert np.array_equal(first, play(fixed, 10)), "from the start, the default is seed 0"
        talker.reset()
        second = play(talker, 10)
        assert not np.array_equal(first, second)
        talker.reset(repeat=True)
        assert np.array_equal(second, play(talker, 10))
        saved = talker.save()
        talker.reset()
        assert not np.array_equal(second, play(talker, 10))
        talker.restore(saved)
        with talker.clone() as other:
            assert np.array_equal(play(talker, 3), play(other, 3)), "a snapshot knows its utterance"
    with Talker(toy) as again:
        assert np.array_equal(first, play(again, 10))
        again.reset()
        assert np.array_equal(second, play(again, 10)), "the second utterance is the same each time too"


def test_reset_gives_the_same_frames_again(toy: Bundle) -> None:
    talker = Talker(toy, seed=0)
    first = play(talker, 10)
    talker.reset()
    assert np.array_equal(first, play(talker, 10))


def test_noise_depends_on_seed_stream_and_frame_only(toy: Bundle) -> None:
    plain = play(Talker(toy, seed=1), 6)
    assert np.array_equal(plain, play(Talker(toy, seed=1), 6))
    assert not np.array_equal(plain, play(Talker(toy, seed=2), 6))
    assert not np.array_equal(plain, play(Talker(toy, seed=1, stream=1), 6))


def test_the_motion_is_read_only_and_says_what_it_is(toy: Bundle) -> None:
    talker = Talker(toy)
    frame = talker.make(window=next(sound(1)))
    with pytest.raises(ValueError, match="read-only"):
        frame.motion[0] = 1.0
    assert (frame.index, frame.time, frame.schedule) == (0, Fraction(0), "full")
    assert frame.sample == talker.end(0) == 2 * 16000 // 30 + 160
    assert talker.layout.shape == (toys.SIZE,)


def test_a_skipped_frame_repeats_or_freezes_the_history(tmp_path: Path) -> None:
    for policy, shifts in (("repeat", 1), ("freeze", 0)):
        talker = Talker(toys.toy_bundle(tmp_path / policy, skipped=policy))
        play(talker, 4)
        before = talker.read("history")
        talker.skip()
        rows = np.vstack([before[0, 1:], before[0, -1:]]) if shifts else before[0]
        assert np.array_equal(talker.read("history")[0], rows)
        assert talker.index == 5


def test_a_skipped_block_start_is_made_up_for_in_the_next_frame(toy: Bundle) -> None:
    talker = Talker(toy, poison=True)
    talker.skip()
    assert talker.index % toys.BLOCK == 1
    frame = talker.make(window=next(sound(1)))
    assert np.isfinite(frame.motion).all(), "the audio stage was due and did not run"


def test_a_failed_step_changes_nothing(toy: Bundle) -> None:
    talker, other = Talker(toy), Talker(toy)
    windows = list(sound(3))
    talker.make(window=windows[0])
    with pytest.raises(InputError, match="1600"):
        talker.make(window=np.zeros(10, np.float32))
    with pytest.raises(OptionError, match="did you mean `full`"):
        talker.make(window=windows[1], schedule="ful")
    other.make(window=windows[0])
    assert np.array_equal(talker.make(window=windows[1]).motion, other.make(window=windows[1]).motion)


def test_a_control_glides_and_refuses_what_does_not_fit(toy: Bundle) -> None:
    talker = Talker(toy)
    play(talker, 1)
    talker.set("setting", {"north": 1.0})
    seen = []
    for window in sound(5):
        talker.make(window=window)
        seen.append(float(talker.read("setting")[0, 0]))
    assert seen == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0]), "0.1 s are three frames at 30 fps"
    wrong: list[tuple[Any, str]] = [
        ({"nroth": 1.0}, "did you mean `north`"),
        ({"north": 1.5}, "0 to 1 was wanted"),
        ({"north": float("nan")}, "0 to 1 was wanted"),
        ([1.0], "takes 4 values"),
        ({"north": "much"}, "takes numbers"),
        ({"north": 10**400}, "takes numbers"),
        ([1.0, "b", 0.0, 0.0], "takes numbers"),
    ]
    for values, text in wrong:
        with pytest.raises(OptionError, match=text):
            talker.set("setting", values)
    with pytest.raises(OptionError, match="did you mean `setting`"):
        talker.set("settings", [0.0] * 4)


def test_only_the_chosen_schedules_are_prepared(toy: Bundle) -> None:
    talker = Talker(toy, schedules=["one"])
    assert talker.schedules == ("one",)
    assert talker.make(window=next(sound(1))).schedule == "one"
    with pytest.raises(OptionError, match="prepared are one"):
        talker.make(window=next(sound(1)), schedule="full")
    with pytest.raises(OptionError, match="did you mean `one`"):
        Talker(toy, schedules=["ones"])


def test_durations_name_every_piece(toy: Bundle) -> None:
    talker = Talker(toy, timings=True)
    talker.make(window=next(sound(1)))
    assert talker.labels() == ("audio", "blend", *(f"denoise[{row}]" for row in range(5)), "decode")
    assert all(duration > 0 for duration in talker.durations())
    talker.make(window=next(sound(1)))
    assert talker.labels()[0] == "blend", "the audio stage runs every second frame"
    plain = Talker(toy)
    plain.make(window=next(sound(1)))
    with pytest.raises(OptionError, match="without timings"):
        plain.durations()


def test_every_piece_is_captured_once(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    capture = HostDevice.capture

    def counted(self: HostDevice, name: str, work: Callable[[], Any]) -> HostGraph:
        names.append(name)
        return capture(self, name, work)

    monkeypatch.setattr(HostDevice, "capture", counted)
    Talker(toy)
    pieces = [name for name in names if name.startswith("denoise")]
    assert len(pieces) == 6, "five rows of `full` and one of `one`"
    assert names.count("audio") == 1
    assert names.count("blend") == toys.BLOCK, "one for each row of the block"


def test_lock_step_talkers_are_streams_of_their_own(tmp_path: Path) -> None:
    """Two talkers in one bundle are what two talkers with streams 3 and 4 are."""
    both = Talker(_echo(tmp_path / "two", talkers=2), stream=3).make().motion
    assert both.shape == (2, toys.SIZE)
    one = _echo(tmp_path / "one", talkers=1)
    for talker in (0, 1):
        assert np.array_equal(both[talker], Talker(one, stream=3 + talker).make().motion)


def _echo(path: Path, talkers: int) -> Bundle:
    """A bundle without sound whose motion is twice its noise."""
    from onnx import helper

    from edgetalker.engines.bundle import pack

    shape = (talkers, toys.SIZE)
    double = toys.network([helper.make_node("Add", ["x", "x"], ["motion"])], {"x": shape}, {"motion": shape}, {})
    description = {
        **toys.description(),
        "talkers": talkers,
        "tensors": {
            "noise": {"role": "noise", **toys.spec(*shape)},
            "motion": {"role": "value", **toys.spec(*shape)},
        },
        "stages": {
            "double": {"file": "d.onnx", "inputs": {"x": toys.spec(*shape)}, "outputs": {"motion": toys.spec(*shape)}}
        },
        "program": [{"stage": "double", "inputs": {"x": "noise"}, "outputs": {"motion": "motion"}}],
        "schedules": {"only": {"rank": 0}},
    }
    return pack(path, description, {"d.onnx": double})
