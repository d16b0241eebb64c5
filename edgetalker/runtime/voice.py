"""Which detector says that somebody speaks: our own by level, or Silero's network, which tells a voice from music.

Silero VAD 6.2.3 (MIT licence) lies in `edgetalker/data` as its wheel has it; its digest is checked, nothing is fetched.
It wants ONNX Runtime, which is imported when it is asked for.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, OptionError, unknown
from edgetalker.engines.ort import open_session
from edgetalker.runtime.rest import NEVER, Voice, VoiceActivity

__all__ = ["DETECTORS", "SileroVoice", "detector", "for_a_microphone"]

DETECTORS = ("energy", "silero")
MODEL = Path(__file__).parent.parent / "data" / "silero_vad.onnx"
DIGEST = "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"
_RATE, _CHUNK, _BEFORE = 16000, 512, 64


def detector(name: str, rate: int) -> Voice:
    """Return a new detector for sound of `rate` samples a second.

    Raises OptionError for an unknown name or a rate that it does not hear, MissingPackageError without ONNX Runtime,
    InputError for a network that is not the one that ships.
    """
    if name not in DETECTORS:
        raise unknown("voice detector", name, DETECTORS)
    try:
        return VoiceActivity(rate) if name == "energy" else SileroVoice(rate)
    except ValueError as error:
        raise OptionError(f"the detector `{name}`: {error}") from None


def for_a_microphone() -> str:
    """Return the detector for what a microphone hears: Silero's where ONNX Runtime is installed, else our own."""
    return "silero" if find_spec("onnxruntime") is not None else "energy"


class SileroVoice(Voice):
    """A voice is a probability of at least `sure` for a chunk of 32 ms. Not for use from two threads.

    Inside phrases the network falls silent for up to 0.42 s (measured on synthesizers), hence the longer `hang`.
    """

    def __init__(self, rate: int, *, sure: float = 0.3) -> None:
        """rate: samples a second; 16000 alone. Raises as `detector` does."""
        if rate != _RATE:
            raise OptionError(f"the detector `silero` hears 16000 samples a second, not {rate}", hint="use `energy`")
        self.hang, self.rate, self.sure = 0.4, rate, sure
        self._network = _network()
        self._window = np.zeros((1, _BEFORE + _CHUNK), np.float32)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._window[:] = 0
        self._state = np.zeros((2, 1, 128), np.float32)
        self._filled, self.total = 0, 0
        self.last_voice, self.probability = NEVER, 0.0

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Take sound, shape (n,), mono float32, cut in any way: the result does not depend on the cuts."""
        while len(samples):
            part = samples[: _CHUNK - self._filled]
            start = _BEFORE + self._filled
            self._window[0, start : start + len(part)] = part
            self._filled += len(part)
            self.total += len(part)
            samples = samples[len(part) :]
            if self._filled == _CHUNK:
                self._judge()

    def _judge(self) -> None:
        probability, self._state = self._network.run(None, {"input": self._window, "state": self._state})
        self.probability = float(probability[0, 0])
        if self.probability >= self.sure:
            self.last_voice = self.total
        self._window[0, :_BEFORE] = self._window[0, -_BEFORE:]
        self._filled = 0


@cache
def _network() -> Any:
    """Open the network once; its runs share nothing but its weights."""
    content = MODEL.read_bytes()
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise InputError(f"{MODEL} is not the file that ships", hint="install edgetalker again")
    return open_session(content, stage="voice")
