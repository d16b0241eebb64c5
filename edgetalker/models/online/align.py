"""Phone times of real speech from its transcript, by Debian's pocketsphinx: a recognizer that knows nothing of us.

pocketsphinx has no phone alignment on its command line; a dictionary with one "word" a phone and a JSGF grammar that
spells the sentence, with optional silences between words, gives one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data.phones import Segment, fold
from edgetalker.models.online.data.synths import RATE

__all__ = ["align", "available"]

_MODEL = Path("/usr/share/pocketsphinx/model/en-us")
_DICTIONARY = _MODEL / "cmudict-en-us.dict"


def available() -> bool:
    """Tell whether pocketsphinx and its English model are installed."""
    return shutil.which("pocketsphinx_batch") is not None and _DICTIONARY.exists()


def align(samples: NDArray[np.float32], transcript: str) -> list[Segment]:
    """Return the phones of an English sentence in the sound, silences included.

    Raises InputError where pocketsphinx is missing, a word is not in its dictionary, or the alignment fails.
    """
    if not available():
        raise InputError(
            "pocketsphinx or its English model is not installed", hint="apt-get install pocketsphinx pocketsphinx-en-us"
        )
    spoken = _pronunciations([word.strip('.,;:!?"').lower() for word in transcript.split()])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_task(folder, samples, spoken)
        subprocess.run(_command(folder), capture_output=True, check=False, cwd=folder, timeout=300)
        result = folder / "out.seg"
        if not result.exists():
            raise InputError("pocketsphinx gave no alignment", hint="give the transcript exactly as it is said")
        return _read(result.read_text())


def _pronunciations(words: Sequence[str]) -> list[list[str]]:
    """Return for each word its pronunciations, each a string of phones."""
    found: dict[str, list[str]] = {word: [] for word in words}
    for line in _DICTIONARY.read_text(encoding="utf-8").splitlines():
        head, _, phones = line.partition(" ")
        word = head.split("(")[0]
        if word in found:
            found[word].append(phones.strip())
    for word, ways in found.items():
        if not ways:
            raise InputError(f"pocketsphinx's dictionary has no word `{word}`", hint="spell it in words that it has")
    return [found[word] for word in words]


def _write_task(folder: Path, samples: NDArray[np.float32], spoken: Sequence[Sequence[str]]) -> None:
    import soundfile

    soundfile.write(folder / "a.wav", samples, RATE, subtype="PCM_16")
    (folder / "list").write_text("a\n")
    phones = sorted({phone for ways in spoken for way in ways for phone in way.split()} | {"SIL"})
    (folder / "phones.dict").write_text("".join(f"ph_{phone} {phone}\n" for phone in phones))
    words = ["( " + " | ".join(" ".join(f"ph_{p}" for p in way.split()) for way in ways) + " )" for ways in spoken]
    sentence = " [ ph_SIL ] ".join(["", *words, ""])
    (folder / "task.gram").write_text(f"#JSGF V1.0;\ngrammar task;\npublic <task> = {sentence};\n")


def _command(folder: Path) -> list[str]:
    options = {
        "hmm": _MODEL / "en-us", "dict": "phones.dict", "jsgf": "task.gram", "fsgusefiller": "no", "adcin": "yes",
        "cepdir": ".", "cepext": ".wav", "adchdr": "44", "ctl": "list", "remove_silence": "no", "beam": "1e-120",
        "wbeam": "1e-120", "pbeam": "1e-120", "bestpath": "no", "hypseg": "out.seg",
    }  # fmt: skip
    return ["pocketsphinx_batch", *(str(part) for key, value in options.items() for part in (f"-{key}", value))]


def _read(text: str) -> list[Segment]:
    """Parse `hypseg`: after the header, (start-frame end-of-... word) pairs; frames are 10 ms."""
    items = text.split()
    places = [index for index, item in enumerate(items) if item.startswith("ph_")]
    if not places:
        raise InputError("pocketsphinx found no phones", hint="give the transcript exactly as it is said")
    last = float(items[-1]) if items[-1].isdigit() else float(items[places[-1] - 3]) + 10
    starts = [float(items[index - 3]) for index in places]
    edges = [*starts[1:], last]
    segments: list[Segment] = []
    for index, start, end in zip(places, starts, edges, strict=True):
        names = fold(items[index][3:].lower())
        cuts = np.linspace(start / 100, end / 100, len(names) + 1)
        segments += [Segment(n, float(a), float(b)) for n, a, b in zip(names, cuts[:-1], cuts[1:], strict=True)]
    return segments
