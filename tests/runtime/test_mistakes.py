"""Mistakes of the Python interface: none gives a raw library error, and none passes unseen."""

from __future__ import annotations

import copy
import pickle
import wave
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import InputError, OptionError, UserError
from edgetalker.runtime.loop import Loop, Options
from edgetalker.runtime.model import Model
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.sources.live import PcmSource
from edgetalker.runtime.stream import stream
from edgetalker.runtime.talker import Talker
from edgetalker.runtime.voice import SileroVoice
from tests.live.meter import meter_bundle
from tests.support import toy as toys
from tests.support.clock import FakeClock
from tests.support.talk import Live

pytest.importorskip("onnxruntime")


@pytest.fixture
def stereo(tmp_path: Path) -> Path:
    """A tenth of a second: -0.5 on the left, 0.5 on the right."""
    path = tmp_path / "lr.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.tile(np.array([-16384, 16384], np.int16), 1600).tobytes())
    return path


def refused(work: Callable[[], Any], text: str, kind: type[UserError] = UserError) -> None:
    """Assert that `work` raises a user's error that says `text`."""
    with pytest.raises(kind) as caught:
        work()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        (0, "`channel` is 0; at least 1 was wanted"),
        (-1, "`channel` is -1"),
        (1.5, "a whole number"),
        ("1", "the text `1`"),
        (True, "True (bool)"),
    ],
)
def test_channels_count_from_one(stereo: Path, channel: Any, text: str) -> None:
    refused(lambda: FileSource(stereo, 16000, channel=channel), text, OptionError)
    refused(lambda: PcmSource(16000, input_rate=16000, channel=channel, stream=BytesIO(b"")), text, OptionError)


def test_each_channel_is_its_own(stereo: Path) -> None:
    for channel, value in ((1, -0.5), (2, 0.5)):
        with closing(FileSource(stereo, 16000, channel=channel)) as source:
            assert source.read(10)[0] == value
    refused(lambda: FileSource(stereo, 16000, channel=3), "the sound has 2", OptionError)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedules": []}, "`schedules` is empty"),
        ({"schedules": "full"}, "a list of names"),
        ({"schedules": [5]}, "a list of names"),
        ({"schedule": ""}, "no schedule ``"),
        ({"schedule": 5}, "`schedule` is 5; a text or None was wanted"),
        ({"rate": 44100.5}, "`rate` is 44100.5; a whole number was wanted"),
        ({"rate": "16000"}, "the text `16000`"),
        ({"rate": float("nan")}, "`rate` is nan"),
        ({"seed": 1.5}, "`seed` is 1.5; a whole number"),
        ({"seed": "a"}, "`seed` is the text `a`"),
        ({"stream": None}, "`stream` is None"),
        ({"threads": "2"}, "`threads` is the text `2`"),
        ({"threads": True}, "True (bool)"),
        ({"engine": None}, "`engine` is None; a text was wanted"),
        ({"device": None}, "`device` is None"),
        ({"device": 5}, "`device` is 5; a text or a Device was wanted"),
        ({"precision": 16}, "`precision` is 16"),
        ({"play": 5}, "`play` is 5; a text or a Player or None was wanted"),
        ({"noise": 5}, "`noise` is 5"),
        ({"graphs": 5}, "`graphs` is 5"),
        ({"rest": "no"}, "`rest` is 'no'; True or False"),
        ({"timings": "no"}, "`timings` is 'no'; True or False"),
        ({"poison": 1}, "`poison` is 1; True or False"),
        ({"voice": "sliero"}, "did you mean `silero`"),
        ({"voice": "sliero", "rest": False}, "did you mean `silero`"),
        ({"voice": 5}, "`voice` is 5"),
        ({"wait": 5}, "`wait` is 5"),
    ],
)
def test_options_of_a_wrong_type_or_value_are_refused(toy: Bundle, options: dict[str, Any], text: str) -> None:
    refused(lambda: Talker(toy, **options), text, OptionError)


@pytest.mark.parametrize("rate", [16000, 16000.0, np.int64(16000), np.float64(16000)])
def test_whole_numbers_of_any_type_are_rates(toy: Bundle, rate: Any) -> None:
    with Talker(toy, rate=rate, seed=np.uint8(3)) as talker:
        assert talker.rate == 16000
        assert type(talker.options.rate) is int
        assert type(talker.options.seed) is int


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"budget": float("nan")}, "`budget` is nan"),
        ({"budget": -1}, "`budget` is -1"),
        ({"budget": 0}, "`budget` is 0"),
        ({"limit": -1}, "`limit` is -1; at least 0 was wanted"),
        ({"limit": 1.5}, "a whole number"),
        ({"stall": 0}, "`stall` is 0"),
        ({"realtime": "no"}, "True or False"),
        ({"late": 5}, "`late` is 5"),
    ],
)
def test_options_of_a_run_are_refused(options: dict[str, Any], text: str) -> None:
    refused(lambda: Options(**options), text, OptionError)


def test_an_empty_schedule_of_a_run_or_a_frame_is_none(toy: Bundle) -> None:
    with Talker(toy) as talker:
        window = np.zeros(toys.WINDOW, np.float32)
        refused(
            lambda: Loop(talker, Live(FakeClock(), 1.0), [], options=Options(schedule="")),
            "no schedule ``",
            OptionError,
        )
        refused(lambda: talker.make("", window=window), "no schedule ``", OptionError)


def test_a_voice_that_is_named_rests_the_mouth_unless_told_otherwise(tmp_path: Path) -> None:
    meter = meter_bundle(tmp_path / "meter")
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"voice": "silero"}, True),
        ({"voice": "energy"}, True),
        ({"rest": True}, True),
        ({"voice": "energy", "rest": False}, False),
    ]
    for options, rests in cases:
        with Talker(meter, **options) as talker:
            assert (talker.rest is not None) is rests
            if options.get("voice") == "silero":
                assert isinstance(talker.rest and talker.rest.activity, SileroVoice)


WRONG: list[tuple[Callable[[Talker], Any], str]] = [
    (lambda talker: talker.feed(None, [0.0] * 4), "a name was wanted"),  # type: ignore[arg-type]
    (lambda talker: talker.set(["setting"], [0.0] * 4), "a name was wanted"),  # type: ignore[arg-type]
    (lambda talker: talker.feed("setting", [0.0] * 4, time="1"), "the text `1`"),  # type: ignore[arg-type]
    (lambda talker: talker.feed("setting", [0.0] * 4, time=10**400), "many digits"),
    (lambda talker: talker.feed("setting", [0.0] * 4, time=float("nan")), "is nan"),
    (lambda talker: talker.accept([[1, 2], [3]]), "no sound"),
    (lambda talker: talker.accept("sound"), "sound of shape"),
    (lambda talker: talker.pad(10**12), "push out sound"),
    (lambda talker: talker.pad("end"), "the text `end`"),  # type: ignore[arg-type]
    (lambda talker: talker.make(window=[0.0] * toys.WINDOW), "is a list; float32"),  # type: ignore[arg-type]
    (lambda talker: talker.make(window=np.zeros(toys.WINDOW, np.int16)), "of int16; float32"),
    (lambda talker: talker.make(5), "no schedule `5`"),  # type: ignore[arg-type]
    (lambda talker: talker.make(["full"]), "a name was wanted"),  # type: ignore[arg-type]
    (lambda talker: talker.restore({}), "a dict is no snapshot"),  # type: ignore[arg-type]
    (lambda talker: Loop(talker, "speech.wav", []), "is no source"),  # type: ignore[arg-type]
    (lambda talker: Loop(talker, Live(FakeClock(), 1.0), "out.npz"), "is no list of sinks"),  # type: ignore[arg-type]
    (lambda talker: Loop(talker, Live(FakeClock(), 1.0), ["out.npz"]), "is no sink"),  # type: ignore[list-item]
    (lambda talker: Loop(talker, Live(FakeClock(), 1.0), [], options={"limit": 1}), "no Options"),  # type: ignore[arg-type]
    (lambda talker: Talker(5), "5 is no bundle"),  # type: ignore[arg-type]
    (copy.copy, "clone()"),
    (copy.deepcopy, "clone()"),
    (pickle.dumps, "clone()"),
]


@pytest.mark.parametrize("place", range(len(WRONG)))
def test_calls_with_a_wrong_type_or_value_are_refused(toy: Bundle, place: int) -> None:
    with Talker(toy) as talker:
        talker.accept(np.zeros(4000, np.float32))
        refused(lambda: WRONG[place][0](talker), WRONG[place][1])
        assert talker.accept(np.zeros(4000, np.float32)), "it plays on"


@pytest.mark.parametrize("rate", [0, -5, 1.5, "16000", None])
def test_sources_refuse_rates_and_channels_that_are_none(stereo: Path, rate: Any) -> None:
    refused(lambda: FileSource(stereo, rate), "the rate to play at", OptionError)
    refused(lambda: PcmSource(rate, input_rate=16000, stream=BytesIO(b"")), "the rate to play at", OptionError)
    stream = BytesIO(b"")
    refused(lambda: PcmSource(16000, input_rate=16000, channels=rate, stream=stream), "`channels`", OptionError)
    refused(lambda: FileSource(5, 16000), "no name of a sound file", InputError)  # type: ignore[arg-type]


CALLS: list[Callable[[Talker], Any]] = [
    lambda talker: talker.make(),
    lambda talker: talker.hear(np.zeros(160, np.float32)),
    lambda talker: talker.accept(np.zeros(160, np.float32)),
    lambda talker: talker.flush(),
    lambda talker: talker.pad(),
    lambda talker: talker.set("setting", [0.0] * 4),
    lambda talker: talker.feed("setting", [0.0] * 4),
    lambda talker: talker.reset(),
    lambda talker: talker.skip(),
    lambda talker: talker.save(),
    lambda talker: talker.clone(),
]


@pytest.mark.parametrize("place", range(len(CALLS)))
def test_a_closed_talker_or_model_says_so(toy: Bundle, place: int) -> None:
    with Model(toy) as model:
        talker, other = model.talker(), model.talker()
        talker.close()
        refused(lambda: CALLS[place](talker), "the talker is closed", OptionError)
    refused(lambda: CALLS[place](other), "the talker's model is closed", OptionError)
    for make in (model.talker, lambda: Talker(model), lambda: stream(np.zeros(9, np.float32), model)):
        refused(make, "the model is closed\nhint: open it again", OptionError)
