"""Phone times of speech whose words are known, by Debian's pocketsphinx: a recognizer that knows nothing of us.

pocketsphinx has no phone alignment on its command line; a dictionary with one "word" a phone and a JSGF grammar that
spells the sentence, with optional silences between words, gives one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import wave
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError
from edgetalker.models.online.data.phones import Segment, fold
from edgetalker.models.online.data.utterance import RATE, spread

__all__ = ["align", "align_phones", "available", "listen", "unknown", "weigh"]

_MODEL = Path("/usr/share/pocketsphinx/model/en-us")
_DICTIONARY = _MODEL / "cmudict-en-us.dict"
_SOUNDS = {
    "ax": "AH", "ix": "IH|UH", "ue": "UW|IY", "oe": "ER|EH", "x": "HH|K", "h": "HH", "ny": "N Y|N", "r": "R|D",
    "q": "T|K", "ao": "AO|OW", "eh": "EH|EY", "aa": "AA|AH",
}  # fmt: skip
"""What of the recognizer's English phones can stand for ours in other languages."""


def available() -> bool:
    """Tell whether pocketsphinx and its English model are installed."""
    return shutil.which("pocketsphinx_batch") is not None and _DICTIONARY.exists()


def align(samples: NDArray[np.float32], transcript: str) -> list[Segment]:
    """Return the phones of an English sentence in the sound, silences included.

    Raises InputError where pocketsphinx is missing, a word is not in its dictionary, or the alignment fails.
    """
    _demand()
    if missing := [f"`{word}`" for word in unknown(transcript)]:
        raise InputError(f"pocketsphinx's dictionary has no word {', '.join(missing)}", hint="spell it in words it has")
    known = _dictionary()
    return _place(samples, [known[word] for word in _words(transcript)], {})


def unknown(transcript: str) -> list[str]:
    """Return the words of an English sentence that the dictionary of `align` lacks, each once."""
    known = _dictionary()
    return [word for word in dict.fromkeys(_words(transcript)) if word not in known]


def _words(transcript: str) -> list[str]:
    return [word.strip('.,;:!?"').lower() for word in transcript.split()]


def align_phones(samples: NDArray[np.float32], words: Sequence[Sequence[str]]) -> list[Segment]:
    """Return where the phones (ours) of the words of any language are in the sound, silences included.

    The English acoustics stand in for the other language's. Raises InputError as `align` does.
    """
    _demand()
    return _place(samples, [[" ".join(phones)] for phones in words if phones], _SOUNDS)


def weigh(
    samples: NDArray[np.float32], words: Sequence[Sequence[str]], sounds: Mapping[str, str]
) -> tuple[list[Segment], list[str]]:
    """Align phones as `align_phones` does, and tell of each segment which of the recognizer's sounds fits best.

    sounds: for a phone (ours), the recognizer's that are tried in its place, as "B|P|D".
    """
    _demand()
    known, picked = _SOUNDS | dict(sounds), list[tuple[str, int]]()
    segments = _place(samples, [[" ".join(phones)] for phones in words if phones], known, picked)
    return segments, [known.get(phone, phone.upper()).split("|")[number] for phone, number in picked]


def listen(samples: NDArray[np.float32]) -> list[Segment]:
    """Return the phones that pocketsphinx's phone loop hears when nobody says which words there are.

    Less sure than an alignment: against two synthesizers' own times it found 98 and 70 of 100 bilabials, and 64 and 82
    of 100 that it heard were there. Raises InputError where pocketsphinx is missing or hears nothing.
    """
    _demand()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_sound(folder, samples)
        loop = _HEARS | {"allphone": _MODEL / "en-us-phone.lm.bin", "lw": "2.0", "beam": "1e-20", "pbeam": "1e-20"}
        _run(folder, loop)
        return _heard((folder / "out.seg").read_text() if (folder / "out.seg").exists() else "")


def _demand() -> None:
    if not available():
        raise InputError(
            "pocketsphinx or its English model is not installed", hint="apt-get install pocketsphinx pocketsphinx-en-us"
        )


def _place(
    samples: NDArray[np.float32],
    spoken: Sequence[Sequence[str]],
    sounds: Mapping[str, str],
    picked: list[tuple[str, int]] | None = None,
) -> list[Segment]:
    """Align words, each given by its pronunciations: strings of phones, CMU's or those that `sounds` explains.

    picked: takes for each segment its phone, and which of that phone's sounds fitted best.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_task(folder, samples, spoken, sounds)
        _run(folder, _HEARS | _ALIGNS)
        result = folder / "out.seg"
        if not result.exists():
            raise InputError("pocketsphinx gave no alignment", hint="give the transcript exactly as it is said")
        return _read(result.read_text(), picked)


@cache
def _dictionary() -> dict[str, list[str]]:
    """Return for each word its pronunciations, each a string of phones."""
    found: dict[str, list[str]] = {}
    for line in _DICTIONARY.read_text(encoding="utf-8").splitlines():
        head, _, phones = line.partition(" ")
        found.setdefault(head.split("(")[0], []).append(phones.strip().lower())
    return found


def _write_task(
    folder: Path, samples: NDArray[np.float32], spoken: Sequence[Sequence[str]], sounds: Mapping[str, str]
) -> None:
    _write_sound(folder, samples)
    phones = sorted({phone for ways in spoken for way in ways for phone in way.split()} | {"sil"})
    entries = [
        f"ph_{phone}{f'({number})' if number > 1 else ''} {sound}\n"
        for phone in phones
        for number, sound in enumerate(sounds.get(phone, phone.upper()).split("|"), 1)
    ]
    (folder / "phones.dict").write_text("".join(entries))
    words = ["( " + " | ".join(" ".join(f"ph_{p}" for p in way.split()) for way in ways) + " )" for ways in spoken]
    sentence = " [ ph_sil ] ".join(["", *words, ""])
    (folder / "task.gram").write_text(f"#JSGF V1.0;\ngrammar task;\npublic <task> = {sentence};\n")


def _write_sound(folder: Path, samples: NDArray[np.float32]) -> None:
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    (folder / "list").write_text("a\n")


_HEARS: dict[str, str | Path] = {
    "hmm": _MODEL / "en-us", "adcin": "yes", "cepdir": ".", "cepext": ".wav", "adchdr": "44", "ctl": "list",
    "remove_silence": "no", "hypseg": "out.seg",
}  # fmt: skip
_ALIGNS: dict[str, str | Path] = {
    "dict": "phones.dict", "jsgf": "task.gram", "fsgusefiller": "no", "beam": "1e-120", "wbeam": "1e-120",
    "pbeam": "1e-120", "bestpath": "no",
}  # fmt: skip


def _run(folder: Path, options: Mapping[str, str | Path]) -> None:
    words = [str(part) for key, value in options.items() for part in (f"-{key}", value)]
    try:
        subprocess.run(["pocketsphinx_batch", *words], capture_output=True, check=False, cwd=folder, timeout=300)
    except subprocess.TimeoutExpired:
        raise InputError("pocketsphinx was not done after 300 s", hint="shorter sound: cut it into phrases") from None


def _heard(text: str) -> list[Segment]:
    """Parse `hypseg` of the phone loop: name and scores, (start, two scores, phone)..., the end; frames are 10 ms."""
    items = text.split()
    if len(items) < 14:
        raise InputError("pocketsphinx heard no phones", hint="is there speech in the sound?")
    words, last = items[9:-1], float(items[-1])
    starts = [float(start) for start in words[0::4]]
    names = [name.lower() if name.isalpha() else "sil" for name in words[3::4]]
    segments: list[Segment] = []
    for name, start, end in zip(names, starts, [*starts[1:], last], strict=True):
        segments += spread(fold(name), start / 100, end / 100)
    return segments


def _read(text: str, picked: list[tuple[str, int]] | None = None) -> list[Segment]:
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
        name, _, number = items[index][3:].rstrip(")").partition("(")
        found = spread(fold(name), start / 100, end / 100)
        segments += found
        if picked is not None:
            picked += [(name, int(number or 1) - 1)] * len(found)
    return segments
