"""The Python interface: what comes out depends on the sound, not on how it was handed over."""

from __future__ import annotations

import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.loop import Loop
from edgetalker.runtime.model import Model
from edgetalker.runtime.stream import stream
from edgetalker.runtime.talker import Talker
from tests.live.meter import RATE, jaw, lid, meter_bundle, tone
from tests.support.talk import Collect, Pieces

pytest.importorskip("onnxruntime")


def motions(frames: list[Frame]) -> NDArray[np.float32]:
    return np.array([frame.motion for frame in frames])


def write_wav(path: Path, sound: NDArray[np.float32], rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 4000), max_size=40))
def test_how_the_sound_is_cut_changes_no_bit(toy: Bundle, cuts: list[int]) -> None:
    sound = np.random.default_rng(3).standard_normal(20000).astype(np.float32) * 0.1
    with Talker(toy, seed=0) as talker:
        whole = talker.accept(sound) + talker.flush()
        talker.reset()
        parts, at = list[Frame](), 0
        for size in cuts:
            parts += talker.accept(sound[at : at + size])
            at = min(at + size, len(sound))
        parts += talker.accept(sound[at:]) + talker.flush()
    assert [frame.index for frame in parts] == [frame.index for frame in whole] == list(range(38))
    assert np.array_equal(motions(parts), motions(whole))


def test_it_is_what_the_loop_plays(toy: Bundle) -> None:
    sound = np.random.default_rng(4).standard_normal(24000).astype(np.float32) * 0.1
    sink = Collect()
    Loop(Talker(toy), Pieces(sound), [sink]).run()
    frames = list(stream(sound, toy))
    assert np.array_equal(motions(frames), np.array(sink.motion))
    assert [frame.index for frame in frames] == [index for index, _, _ in sink.frames]


def test_frames_come_as_soon_as_their_sound_is_there(meter: Bundle) -> None:
    with Talker(meter) as talker:
        counts = [len(talker.accept(tone(0.01))) for _ in range(100)]
    assert sum(counts) == 30
    assert [sum(counts[:k]) for k in (3, 4, 6, 7, 10)] == [0, 1, 1, 2, 3]


def test_motions_stay_what_they_were_and_cannot_be_changed(meter: Bundle) -> None:
    with Talker(meter) as talker:
        first = talker.accept(tone(0.1))
        before = motions(first)
        talker.accept(np.zeros(RATE, np.float32))
        assert np.array_equal(motions(first), before)
        with pytest.raises(ValueError, match="read-only"):
            first[0].motion[0] = 1


def test_threads_that_give_sound_wait_for_each_other(toy: Bundle) -> None:
    sound, frames, faults = tone(1.0), list[Frame](), list[BaseException]()
    with Talker(toy) as talker, Talker(toy) as alone:
        wanted = sum(len(alone.accept(sound[:1600])) for _ in range(30))

        def give() -> None:
            try:
                for _ in range(10):
                    frames.extend(talker.accept(sound[:1600]))
            except BaseException as error:
                faults.append(error)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=give) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
    assert not faults
    assert sorted(frame.index for frame in frames) == list(range(len(frames)))
    assert len(frames) == wanted


def test_flush_finishes_an_utterance_and_more_may_follow(tmp_path: Path) -> None:
    with Talker(meter_bundle(tmp_path / "late", lookahead=1600)) as talker:
        early = talker.accept(tone(0.5))
        rest = talker.flush()
        assert (len(early), len(early + rest)) == (12, 15)  # three frames of look-ahead were still to come
        assert talker.flush() == talker.flush() == []
        more = talker.accept(tone(0.5)) + talker.flush()
    assert [frame.index for frame in early + rest + more] == list(range(len(early + rest + more)))
    assert jaw(more[10].motion) == pytest.approx(jaw(early[10].motion), abs=0.05)


def test_reset_forgets_everything(toy: Bundle) -> None:
    with Talker(toy, seed=0) as talker:
        first = talker.accept(tone(0.5))
        talker.accept(tone(0.3333))
        talker.reset()
        assert np.array_equal(motions(talker.accept(tone(0.5))), motions(first))


def test_other_rates_and_types_are_converted(meter: Bundle) -> None:
    stereo = np.repeat((tone(1.0)[:, None] * 32767).astype(np.int16), 2, axis=1)
    doubled = np.repeat(stereo, 3, axis=0)  # 48 kHz
    with Talker(meter, rate=48000) as talker:
        frames = talker.accept(doubled) + talker.flush()
    assert len(frames) == 30
    assert jaw(frames[15].motion) == pytest.approx(0.8, abs=0.1)


def test_the_mouth_rests_in_silence_when_asked(meter: Bundle) -> None:
    sound = np.concatenate([tone(0.5), np.random.default_rng(0).normal(0, 0.002, 2 * RATE).astype(np.float32)])
    with Talker(meter, rest=True) as talker:
        frames = talker.accept(sound) + talker.flush()
    assert jaw(frames[10].motion) > 0.7
    assert all(jaw(frame.motion) == 0 for frame in frames[32:])
    assert all(lid(frame.motion) == 0.25 for frame in frames)


def test_a_file_an_array_packets_and_a_source_are_the_same(meter: Bundle, tmp_path: Path) -> None:
    sound = (np.round(tone(0.7) * 32767) / 32768).astype(np.float32)
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 32768).astype("<i2").tobytes())
    expected = motions(list(stream(sound, meter)))
    source = Pieces(sound, [7, 100, 1000])
    for given_source in (path, str(path), (piece for piece in np.array_split(sound, 9)), source):
        assert np.array_equal(motions(list(stream(given_source, meter))), expected)
    assert source.closed


def test_a_file_that_breaks_off_is_told_of(meter: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1.0))
    assert len(list(stream(path, meter))) == 30
    assert not caplog.messages
    path.write_bytes(path.read_bytes()[:-9000])
    assert len(list(stream(path, meter))) < 30
    assert "breaks off" in caplog.messages[0]


def test_frames_are_made_while_sound_comes(meter: Bundle) -> None:
    asked = []

    def packets() -> Iterator[NDArray[np.float32]]:
        for number in range(100):
            asked.append(number)
            yield tone(0.01)

    frames = stream(packets(), meter)
    assert next(frames).index == 0
    assert len(asked) == 4


def test_mistakes_are_told_at_once(meter: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        stream(tmp_path / "absent.wav", meter)
    with pytest.raises(InputError, match="no sound"):
        stream(7, meter)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="rate"):
        stream("speech.wav", meter, rate=8000)
    with pytest.raises(OptionError, match="8000"):
        stream(Pieces(tone(0.1), rate=8000), meter)
    with pytest.raises(OptionError, match="did you mean `full`"):
        Talker(meter, schedule="ful")
    with pytest.raises(OptionError, match="a rate of 0"):
        Talker(meter, rate=0)
    with Talker(meter) as talker:
        with pytest.raises(InputError, match="complex"):
            talker.accept(np.zeros(4, complex))
        with pytest.raises(OptionError, match="control"):
            talker.set("emotion", {"joy": 1.0})


def test_an_open_model_stays_open(toy: Bundle) -> None:
    with Model(toy) as model:
        with model.talker() as talker:
            first = motions(talker.accept(tone(0.2)))
        assert np.array_equal(motions(list(stream(tone(0.2), model)))[: len(first)], first)
        with pytest.raises(OptionError, match="no option `devise`"):
            stream(tone(0.2), model, devise="cuda")


def test_controls_glide(toy: Bundle) -> None:
    with Talker(toy, seed=0) as talker:
        talker.set("setting", {"north": 1.0})
        talker.accept(tone(0.1))
        assert talker.controls["setting"].target[0] == 1.0
