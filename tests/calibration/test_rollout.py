"""Ranges come from the runtime itself, history and every row included; two precisions are compared on one noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgetalker.calibration import rollout
from edgetalker.calibration.rollout import (
    Divergence,
    RememberingEngine,
    _turn_controls,
    compare_rollouts,
    play,
    record_inputs,
)
from edgetalker.calibration.sound import HEARD, made_up_voice, many_voices, mixed, sound_of
from edgetalker.engines.bundle import Bundle, pack
from edgetalker.engines.engine import Array
from edgetalker.engines.errors import InputError
from edgetalker.engines.ort import ort_engines
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.talker import Talker
from tests.support import toy as parts
from tests.support.toy import RATE, toy_bundle

SOUND = made_up_voice(RATE, 2 * RATE)


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy")


def test_every_row_of_a_kept_frame_is_recorded(toy: Bundle) -> None:
    recorded = record_inputs(toy, SOUND, frames=40, keep=6)
    rows = np.concatenate([toy.table(name) for name in ("full", "one")])
    assert len(recorded["denoise"]) == 6 * 5 + 6 * 1
    seen = {tuple(values["row"][0].tolist()) for values in recorded["denoise"]}
    assert seen == {tuple(row) for row in rows.tolist()}


def test_the_first_frames_are_kept_and_the_rest_is_spread(toy: Bundle) -> None:
    counts = [float(values["count"][0]) for values in record_inputs(toy, SOUND, 40, 6)["blend"]]
    assert counts == [0.0, 1.0, 2.0, 3.0, 5.0, 5.0] * 2  # the toy's counter stops at 5


def test_a_stage_that_runs_every_second_frame_is_kept_as_often(toy: Bundle) -> None:
    recorded = record_inputs(toy, SOUND, 40, 6)
    assert len(recorded["audio"]) == len(recorded["decode"]) == 12


def test_what_is_recorded_is_what_the_stage_read(toy: Bundle) -> None:
    recorded = record_inputs(toy, SOUND, 4, 4, seed=7)
    session = Talker(toy, seed=7)
    window = np.zeros(toy.manifest.audio.window, np.float32)
    end = session.end(0)
    window[-end:] = SOUND[:end]
    session.make(window=window)
    session.close()
    np.testing.assert_array_equal(recorded["audio"][0]["wav"][0], window)
    first = recorded["blend"][0]
    np.testing.assert_array_equal(first["history"], toy.array("history.npy"))
    assert not np.array_equal(recorded["blend"][1]["history"], first["history"])


def test_every_schedule_hears_another_part_of_the_sound_first(toy: Bundle) -> None:
    heard = np.concatenate([values["wav"] for values in record_inputs(toy, SOUND, 20, 20)["audio"]])
    full, one = np.split(heard, 2)
    assert np.abs(full - one).max() > 0.1
    second = np.roll(SOUND, -len(SOUND) // 2)
    np.testing.assert_array_equal(one[-1], second[Talker(toy).end(18) - one.shape[1] :][: one.shape[1]])


def test_controls_go_through_their_extremes(toy: Bundle) -> None:
    settings = np.concatenate([values["setting"] for values in record_inputs(toy, SOUND, 45, 45)["blend"]])
    assert settings.min() == 0.0
    assert settings.max() > 0.9


def test_what_was_computed_once_is_remembered_and_nothing_else_is(toy: Bundle) -> None:
    engines = ort_engines(toy, kind=RememberingEngine)
    first = play(toy, engines, SOUND, 20, "full")
    np.testing.assert_array_equal(first, play(toy, ort_engines(toy), SOUND, 20, "full"))
    kept = {name: len(engine.memory) for name, engine in engines.items()}
    for engine in engines.values():
        engine.learning = False
    other = play(toy, engines, 2 * SOUND, 20, "full")
    np.testing.assert_array_equal(other, play(toy, ort_engines(toy), 2 * SOUND, 20, "full"))
    assert {name: len(engine.memory) for name, engine in engines.items()} == kept
    for engine in engines.values():
        engine.close()  # from here on it has nothing to compute with
    np.testing.assert_array_equal(first, play(toy, engines, SOUND, 20, "full"))


def test_the_same_precision_does_not_drift_at_all(toy: Bundle) -> None:
    found = compare_rollouts(toy, ["fp32"], SOUND, 90)["fp32"][0]
    assert (found.error, found.worst, len(found.seconds)) == (0.0, 0.0, 3)
    assert found.deviation > 0


def perturbed(toy: Bundle, path: Path, change: Callable[[bytes], bytes]) -> Bundle:
    """A bundle whose precision `odd` has another decoder."""
    files: dict[str, bytes | Path | Array] = {
        **parts.stages(),
        **parts.tables(),
        "odd.onnx": change(parts.stages()["decode.onnx"]),
    }
    return pack(path, {**parts.description(), "precisions": {"odd": {"decode": "odd.onnx"}}}, files)


def doubled_memory(model: bytes) -> bytes:
    import onnx
    from onnx import numpy_helper

    loaded = onnx.load_from_string(model)
    for item in loaded.graph.initializer:
        if item.name == "keep":
            item.CopyFrom(numpy_helper.from_array(np.array([0.5], np.float32), "keep"))
    return bytes(loaded.SerializeToString())


def test_a_difference_is_a_share_of_the_motion_s_own_deviation(toy: Bundle, tmp_path: Path) -> None:
    """motion = x + memory, memory = keep * motion: the reference is played by hand for both decoders."""
    bundle = perturbed(toy, tmp_path / "odd", doubled_memory)
    both = compare_rollouts(bundle, ["odd", "fp32"], SOUND, 30)
    found = both["odd"][0]
    assert (found.schedule, both["fp32"][0].error) == ("full", 0.0)
    full: list[Array] = []
    other: list[Array] = []
    session, memory = Talker(bundle), np.zeros((2, 4))
    for index in range(30):
        end = session.end(index)
        window = np.zeros(bundle.manifest.audio.window, np.float32)
        piece = SOUND[max(0, end - len(window)) : end]
        window[len(window) - len(piece) :] = piece
        session.make("full", window=window)
        x = session.read("x")[0].astype(np.float64)
        for keep, place, into in ((0.25, 0, full), (0.5, 1, other)):
            motion = x + memory[place]
            memory[place] = keep * motion
            into.append(motion)
    session.close()
    a, b = np.array(full), np.array(other)
    deviation = np.sqrt(np.mean(np.var(a, axis=0)))
    assert found.deviation == pytest.approx(deviation, rel=1e-4)
    assert found.error == pytest.approx(np.sqrt(np.mean((a - b) ** 2)) / deviation, rel=1e-4)
    assert found.worst == pytest.approx(np.max(np.abs(a - b)) / deviation, rel=1e-4)


def test_schedules_play_side_by_side_as_each_does_alone_and_hear_once(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = perturbed(toy, tmp_path / "odd", doubled_memory)
    ran = Counter[str]()
    run = rollout._StepwiseEngine.run

    def counted(engine: rollout._StepwiseEngine, inputs: rollout.Inputs) -> list[Array]:
        ran[engine.name] += 1
        assert isinstance(engine, RememberingEngine) and len(engine.memory) < 8  # nothing of the frames before
        return run(engine, inputs)

    monkeypatch.setattr(rollout._StepwiseEngine, "run", counted)
    found = compare_rollouts(bundle, ["odd"], SOUND, 30)["odd"]
    assert [course.schedule for course in found] == list(bundle.manifest.ladder) == ["full", "one"]
    assert ran["audio"] == 2 * 30 // parts.BLOCK  # every block of sound, for FP32 and for `odd`
    for course in found:
        ours, odd = (play(bundle, ort_engines(bundle, name), SOUND, 30, course.schedule) for name in ("fp32", "odd"))
        deviation = np.sqrt(np.mean(np.var(ours, axis=0, dtype=np.float64)))
        error = np.sqrt(np.mean(np.square(ours - odd, dtype=np.float64))) / deviation
        assert course.error == pytest.approx(error, rel=1e-6)


def test_controls_stand_at_their_defaults_most_of_the_time_and_go_through_their_ends() -> None:
    """Weights are fitted to what is recorded, so that most of it is what talkers play."""
    tensor = SimpleNamespace(default=(1.0,), low=(0.0,), high=(2.0,))
    seen: list[float] = []
    talker = SimpleNamespace(
        controls={"style": SimpleNamespace(tensor=tensor)}, set=lambda name, values: seen.append(*values)
    )
    for index in range(16 * 15):
        _turn_controls(talker, index)  # type: ignore[arg-type]
    assert seen == 2 * [1.0, 0.0, 2.0, *5 * [1.0]]


def test_growth_is_the_last_quarter_over_the_first() -> None:
    assert Divergence("full", 80, 1.0, (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0), 9.0).growth == 3.0
    assert Divergence("full", 80, 1.0, (0.0, 0.0, 0.0, 0.0), 0.0).growth == 1.0


def test_the_made_up_voice_has_silence_onsets_and_full_scale() -> None:
    voice = made_up_voice(RATE, 30 * RATE)
    assert voice.dtype == np.float32
    assert 0.9 < np.max(np.abs(voice)) <= 1.0
    assert np.mean(voice == 0.0) > 0.1
    np.testing.assert_array_equal(voice[:RATE], made_up_voice(RATE, 30 * RATE)[:RATE])


def test_many_voices_speak_differently_and_the_made_up_one_lies_between_them() -> None:
    voices = many_voices(RATE, 60 * RATE)
    assert voices.shape == (60 * RATE,)
    assert np.max(np.abs(voices)) <= 1.0
    sound = sound_of(None, RATE, 90.0)
    np.testing.assert_array_equal(sound[: round(HEARD * sound.size)], voices)
    judged = sound[round(HEARD * sound.size) :]  # of a kind that no weight was fitted to
    np.testing.assert_array_equal(judged, many_voices(RATE, 30 * RATE, 1, unlike=True))
    assert not np.array_equal(judged, many_voices(RATE, 30 * RATE, 1))
    # Quiet between two sentences of the clip, but no two stretches of ten seconds are alike.
    pieces = voices.reshape(6, -1)
    assert np.abs(np.corrcoef(pieces) - np.eye(6)).max() < 0.5
    assert np.std([np.sqrt(np.mean(piece**2)) for piece in pieces]) > 0.01


def test_mixed_sound_is_all_of_it_with_every_kind_in_each_quarter() -> None:
    sound = np.arange(60 * 100 + 7, dtype=np.float32)  # 60 s at a rate of 100, and a rest
    found = mixed(sound, 100)
    np.testing.assert_array_equal(np.sort(found), sound)
    long = mixed(np.arange(600 * 100, dtype=np.float32), 100)
    for quarter in np.split(long, 4):
        assert 0.1 < np.mean(quarter >= 400 * 100) < 0.6, "the last third of it is a third of each, about"


def write_wave(path: Path, values: np.ndarray[tuple[int], np.dtype[np.int16]]) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(values.tobytes())


def test_recordings_follow_each_other_with_pauses_until_the_time_is_full(tmp_path: Path) -> None:
    for name, level in (("b.wav", 8192), ("a.wav", 16384)):
        write_wave(tmp_path / name, np.full(RATE, level, np.int16))
    sound = sound_of(tmp_path, RATE, 4.0)
    assert len(sound) == 4 * RATE
    half = RATE // 2
    levels = [float(np.round(np.abs(sound[i * half + half // 2]), 3)) for i in range(8)]
    assert levels == [0.5, 0.5, 0.0, 0.25, 0.25, 0.0, 0.5, 0.5]
    assert len(FileSource(tmp_path / "a.wav", RATE).read(10 * RATE)) == RATE


def test_a_folder_without_sound_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(InputError, match="holds no sound file"):
        sound_of(tmp_path, RATE, 1.0)
    with pytest.raises(InputError, match=r"there is no .*speech"):
        sound_of(tmp_path / "speech", RATE, 1.0)
