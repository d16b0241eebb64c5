"""Mistakes of the Python interface: none gives a raw library error, and none passes unseen."""

from __future__ import annotations

import wave
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetalker.engines.errors import OptionError, UserError
from edgetalker.runtime.sources.file import FileSource
from edgetalker.runtime.sources.live import PcmSource

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
