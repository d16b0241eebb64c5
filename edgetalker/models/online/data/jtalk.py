"""Open JTalk, whose trace tells the phones' times."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgetalker.models.online.data.utterance import Utterance, from_ends, read_sound

__all__ = ["available", "heard", "speak"]

_DICTIONARY = Path("/var/lib/mecab/dic/open-jtalk/naist-jdic")
_VOICE = Path("/usr/share/hts-voice/nitech-jp-atr503-m001/nitech_jp_atr503_m001.htsvoice")
_LABEL = re.compile(r"^\d+ (\d+) [^-]*-([^+]+)\+", re.MULTILINE)
_NASALS = (("m", ("p", "b", "m")), ("ng", ("k", "g")))


def available() -> bool:
    """Tell whether Open JTalk, its dictionary and its voice are installed."""
    return shutil.which("open_jtalk") is not None and _DICTIONARY.exists() and _VOICE.exists()


def speak(text: str, rate: float, pitch: int) -> Utterance:
    """Speak a Japanese sentence at `rate` times the usual speed; pitch 0..99 is five half tones down to five up."""
    with tempfile.TemporaryDirectory() as name:
        sound, trace = Path(name) / "a.wav", Path(name) / "a.txt"
        command = ["open_jtalk", "-x", str(_DICTIONARY), "-m", str(_VOICE), "-ow", str(sound), "-ot", str(trace)]
        command += ["-r", f"{rate:.3f}", "-fm", f"{(pitch - 50) / 10:.1f}"]
        said = text.replace(" ", "")  # a space would be a pause
        subprocess.run(command, input=said, text=True, capture_output=True, check=True)
        labels = trace.read_text(encoding="utf-8", errors="replace").split("[Output label]")[1]
        samples = read_sound(sound)
    ends = [(phone, int(end) * 1e-7) for end, phone in _LABEL.findall(labels)]
    names = [phone for phone, _ in ends]
    return Utterance(samples, from_ends([(heard(names, at), end) for at, (_, end) in enumerate(ends)], "ja"))


def heard(names: Sequence[str], at: int) -> str:
    """Return what a moraic nasal or a long stop's hold sounds like: both take the place of what follows."""
    name, after = names[at], names[at + 1] if at + 1 < len(names) else "pau"
    first = "" if after in ("pau", "sil") else after[0]
    if name == "N":
        return next((nasal for nasal, places in _NASALS if first in places), "n")
    if name == "cl":
        return {"": "q", "c": "t", "j": "d"}.get(first, first if first in "pbtdkgszfh" else "q")
    return name
