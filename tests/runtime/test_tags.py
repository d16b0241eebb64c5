"""Controls whose values have times: a voice agent's tags, tables, OSC; they glide, hold, and are recorded."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import numpy as np
import pytest

from edgetalker.agents.speech import Motion, Speech
from edgetalker.cli.main import main
from edgetalker.engines.errors import InputError, OptionError
from edgetalker.runtime.frame import Frame
from edgetalker.runtime.loop import Loop
from edgetalker.runtime.model import Model
from edgetalker.runtime.sources.values import FileValues, InputSource, input_source
from edgetalker.runtime.talker import Talker
from tests.live.meter import tone
from tests.live.test_stream import write_wav
from tests.runtime.test_inputs import free_port, message
from tests.support.clock import FakeClock
from tests.support.talk import Collect, Pieces

pytest.importorskip("onnxruntime")

TAGS = "time,tag,intensity\n0.2,happy,0.7\n0.2,surprise,0.3\n1.0,anger,\n1.5,neutral,1\n"


def test_a_value_with_a_time_acts_as_if_it_were_set_at_that_frame() -> None:
    with Talker(schedule="one") as timed, Talker(timed.model, schedule="one") as by_hand:
        timed.feed("emotion", {"sadness": 0.5}, time=1.0)  # in no order
        timed.feed("emotion", {"joy": 0.7}, time=0.5)
        sound, wanted = tone(2.0), list[Frame]()
        frames = timed.accept(sound)
        for piece in np.split(sound, range(100, len(sound), 100)):
            if by_hand.index in (15, 30):
                by_hand.set("emotion", {"joy": 0.7} if by_hand.index == 15 else {"sadness": 0.5})
            wanted += by_hand.accept(piece)
        for frame, other in zip(frames, wanted, strict=True):
            np.testing.assert_array_equal(frame.motion, other.motion)
        told = np.array([frame.inputs["emotion"] for frame in frames])
        assert np.flatnonzero(told[:, 0])[0] == 15, "it begins with the frame of its time"
        assert told[15, 0] == pytest.approx(1 / 9), "it glides over 0.3 s"
        assert told[-1].tolist() == pytest.approx([0.7, 0.5, 0, 0]), "it holds, and a name leaves the others"


def test_what_waits_is_cloned_and_a_reset_forgets_it() -> None:
    with Talker(schedule="one") as talker:
        talker.feed("emotion", [0, 0, 1, 0], time=1.0)
        talker.set("emotion", {"joy": 0.25})
        talker.accept(tone(0.5))
        with talker.clone() as other:
            assert other.accept(tone(1.0))[-1].inputs["emotion"].tolist() == [0, 0, 1, 0]
        talker.reset()
        assert talker.accept(tone(1.5))[-1].inputs["emotion"].tolist() == [0.25, 0, 0, 0]


def test_wrong_tags_are_refused() -> None:
    with Talker(schedule="one") as talker:
        for values, text in (({"yoy": 1.0}, "`joy`"), ([1, 0], "takes 4 values"), ({"joy": 1.5}, "0 to 1 was wanted")):
            with pytest.raises(OptionError, match=text):
                talker.feed("emotion", values, time=1.0)
        with pytest.raises(OptionError, match="did you mean `emotion`"):
            talker.feed("emotoin", [1, 0, 0, 0])
        with pytest.raises(OptionError, match="the time of `emotion` is nan"):
            talker.feed("emotion", [1, 0, 0, 0], time=float("nan"))


def test_files_of_tags_and_of_some_columns(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    with Talker(schedule="one") as talker:

        def source(text: str) -> InputSource:
            path.write_text(text)
            return input_source(f"emotion={path}", talker.fed, FakeClock())

        def rows(text: str) -> list[tuple[float | None, list[float]]]:
            return [(at, [round(float(v), 4) for v in row]) for at, _, row in source(text).take(9.0)]

        assert rows(TAGS) == [(0.2, [0.7, 0, 0, 0.3]), (1.0, [0, 0, 1, 0]), (1.5, [0, 0, 0, 0])]
        talker.set("emotion", {"surprise": 0.5})
        assert rows("time,sadness\n0,0.25\n") == [(0.0, [0, 0.25, 0, 0.5])], "columns that are absent stay as set"
        assert rows("time,a,b,c,d\n0,1,0,0,0\n") == [(0.0, [1, 0, 0, 0])]
        early = source("time,joy\n1,1\n500,0\n1500,1\n")
        list(early.take(2.0))
        assert "2 of 3 rows" in early.warnings()[0] and "the next row is at 500 s" in early.warnings()[0]
        list(early.take(1500.0))
        assert early.warnings() == []
        wrong = (
            ("time,tag\n0,joj\n", "has no `joj`.*did you mean `joy`"), ("time,joi\n0,1\n", "did you mean `joy`"),
            ("time,joy\n0,1.5\n", "at 0 s: .*0 to 1"), ("tag,intensity\njoy,1\n", "time, joy, .* were wanted"),
            ("time,tag,intensity\n0,joy,much\n", "no table of numbers"), ("time,tag\n", "0 times"),
            ("time,joy\n0,1\n1,\n", "row 3 is `1,`; 2 finite numbers"), ("time,joy\nnan,1\n", "row 2 is `nan,1`"),
            ("time,joy,joy\n0,1,0\n", "a column twice: joy"),
            ("time,tag,intensity\n0,joy,0.5\n0.5\n", "row 3 is `0.5`; time, tag, intensity were wanted"),
        )  # fmt: skip
        for text, expected in wrong:
            with pytest.raises(InputError, match=expected):
                source(text)


def test_the_command_line_plays_tags_records_them_and_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech, tags = write_wav(tmp_path / "speech.wav", tone(2.0)), tmp_path / "tags.csv"
    tags.write_text(TAGS)
    first, again, live = tmp_path / "first.npz", tmp_path / "again.npz", tmp_path / "live.npz"
    common = ["animate", str(speech), "--schedule", "one"]
    assert main([*common, "--input", f"emotion={tags}", "-o", str(first)]) == 0
    assert main([*common, "--input", f"emotion={first}", "-o", str(again)]) == 0
    with np.load(first) as one, np.load(again) as two:
        told = one["input.emotion"]
        assert told[5].tolist() == [0, 0, 0, 0] and told[29].tolist() == pytest.approx([0.7, 0, 0, 0.3])
        assert told[40, 2] == 1.0 and not told[-1].any()
        smile = one["motion"][:, one["names"].tolist().index("MouthSmileLeft")]
        assert smile[29] > smile[5] + 0.3
        np.testing.assert_allclose(two["motion"], one["motion"], atol=1e-5)
    config = tmp_path / "live.toml"
    config.write_text(f'speech = "{speech}"\nto = ["{live}"]\ninput = ["emotion={tags}"]\nquiet = true\n')
    assert main(["live", "--config", str(config)]) == 0
    with np.load(live) as stored:
        assert stored["input.emotion"][:, 0].max() == pytest.approx(0.7)
    tags.write_text("time,tag\n0,smug\n")
    assert main([*common, "--input", f"emotion={tags}", "-o", str(again)]) == 65
    assert "`emotion` has no `smug`; it has joy, sadness, anger, surprise" in capsys.readouterr().err


def test_osc_changes_one_place_and_what_is_out_of_range_is_counted() -> None:
    with Talker(schedule="one") as talker:
        talker.set("emotion", {"anger": 0.5})
        source = input_source(f"emotion=udp-osc://127.0.0.1:{free_port()}", talker.fed, FakeClock(5))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
            for data in (message("/joy", 0.5), message("/joy", 2.0), message("/sadness", 0.25)):
                agent.sendto(data, source.address)  # type: ignore[attr-defined]
        found = [values.tolist() for _, _, values in source.take(0.0)]
        assert found == [[0.5, 0, 0.5, 0], [0.5, 0.25, 0.5, 0]]
        assert source.warnings() == ["input `emotion`: 1 OSC messages had another form than 4 numbers in its range"]
        source.close()


def test_a_talker_that_begins_anew_early_hears_the_files_values_again(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("time,tag\n0.5,joy\n")
    with Talker(schedule="one") as talker:
        source = FileValues("emotion", path, ("joy", "sadness", "anger", "surprise"), talker.controls["emotion"])
        sink, sound = Collect(), Pieces(tone(2.0))
        loop = Loop(talker, sound, [sink], inputs=[source])
        with loop.opened():
            while loop.tally.due < 5:
                loop.advance(0.0)
            loop.reset()
            while loop.advance(0.0):
                pass
        assert talker.controls["emotion"].target[0] == 1.0


def test_an_agents_speech_takes_tags_on_its_own_clock() -> None:
    """A tag without a time outlives the begin of an utterance, one with a time is of its utterance alone."""

    async def go() -> list[float]:
        with Model(device="host") as model:
            speech, joy = Speech(model, schedule="one"), list[float]()
            pcm = (tone(1.0) * 32767).astype("<i2").tobytes()

            async def say() -> float:
                items = [item async for item in speech.push(pcm, 16000)]
                shown = [item.frame.inputs["emotion"][0] for item in items if isinstance(item, Motion)]
                speech.reset()
                return float(shown[-1])

            with pytest.raises(OptionError, match="`joy`"):
                speech.feed("emotion", {"yoy": 1.0})
            speech.feed("emotion", {"joy": 0.5}, time=0.2)
            joy.append(await say())
            speech.feed("emotion", {"joy": 0.25})
            speech.feed("emotion", {"joy": 1.0}, time=0.5)
            speech.reset()
            joy.append(await say())
            await speech.close()
            return joy

    assert asyncio.run(go()) == [0.5, 0.25]
