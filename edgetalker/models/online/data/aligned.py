"""Synthesizers that tell no phone times: RHVoice and SVOX Pico, timed by aligning what they said with its text."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data import align, espeak
from edgetalker.models.online.data.phones import Segment
from edgetalker.models.online.data.utterance import Utterance, Voice, read_sound

__all__ = ["RHVOICES", "has_pico", "has_rhvoice", "speak"]

RHVOICES = Path("/usr/share/RHVoice/voices")
"""Where RHVoice's voices are, a folder each."""


def has_rhvoice() -> bool:
    """Tell whether RHVoice and pocketsphinx are installed."""
    return shutil.which("RHVoice-test") is not None and align.available()


def has_pico() -> bool:
    """Tell whether SVOX Pico and pocketsphinx are installed."""
    return shutil.which("pico2wave") is not None and align.available()


def speak(voice: Voice, texts: Sequence[str], rate: float) -> Iterator[Utterance]:
    """Speak sentences at `rate` times the usual speed; those the aligner cannot place are left out.

    English words are looked up in the aligner's dictionary; for other languages espeak-ng says which phones they have.
    Held against flite's and Festival's own times, edges of stops and nasals are off by 4 to 20 ms (medians) in
    English, Finnish, Czech, Italian and Hindi. Raises RuntimeError where RHVoice or espeak-ng lacks the voice.
    """
    if voice.engine == "rhvoice" and not (RHVOICES / voice.name).exists():
        raise RuntimeError(f"RHVoice has no voice {voice.name}")  # it would speak with another one, without a word
    for text in texts:
        if voice.language == "en" and align.unknown(text):
            continue
        samples = _say(voice, text, rate)
        try:
            yield Utterance(samples, tuple(_times(samples, text, voice.language)))
        except InputError:
            continue


def _times(samples: NDArray[np.float32], text: str, language: str) -> list[Segment]:
    if language == "en":
        return align.align(samples, text)
    return align.align_phones(samples, espeak.pronounce(language, re.findall(r"\w+", text)))


def _say(voice: Voice, text: str, rate: float) -> NDArray[np.float32]:
    percent = str(round(100 * rate))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        if voice.engine == "rhvoice":
            command = ["RHVoice-test", "-p", voice.name, "-r", percent, "-o", str(path)]
            subprocess.run(command, input=text, text=True, capture_output=True, check=True)
        else:
            marked = f'<speed level="{percent}">{escape(text)}</speed>'
            subprocess.run(["pico2wave", "-l", voice.name, "-w", str(path), marked], capture_output=True, check=True)
        return read_sound(path)
