"""Phone times of speech that nobody wrote down: hama hears which phones there are, pocketsphinx where they are.

hama (PyPI, Apache-2.0) is a small Conformer of phones with a CTC output every 20 ms. It is a teacher only: it looks at
the whole sound, so nothing of it could run live, and nothing of it ships. What a CTC output knows is the order of the
phones and roughly when; edges come from an alignment of the same phones. A closure counts where both agree on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import InputError, MissingPackageError
from edgetalker.engines.ort import onnxruntime_module
from edgetalker.models.online.data import align
from edgetalker.models.online.data.phones import BILABIALS, Segment, fold_ipa

__all__ = ["Heard", "Spike", "hear", "join", "spikes"]

Array = NDArray[np.float32]
FRAME = 0.02
"""Seconds of one output of hama."""
NEAR = 2 / 30
"""Seconds, two frames of motion, by which the two may differ on a closure."""
LATE = 0.06
"""Seconds by which a phone's output comes after its middle (median of p, b and m)."""
RIVALS = {
    "p": "P|B|T|K", "b": "B|P|D|G|V", "m": "M|N|NG", "n": "N|M", "ng": "NG|M", "d": "D|B", "dh": "DH|B", "v": "V|B",
    "t": "T|P", "k": "K|P", "w": "W|B|M",
}  # fmt: skip
"""What the aligner may hear in place of what hama heard: English p is breathed, others' sound like its b."""
_CLOSED = frozenset(["P", "B", "M"])
_HINT = 0.15
"""Where the aligner hears a closure that hama does not, and hama gives it more than this, there is a doubt."""
_UNSURE, _FAIR, _SURE = 0.3, 0.7, 0.9
"""A closure that hama leaves out with more than the first is doubted; one that it gives with less than the second too,
and one with less than the third where a rival fits better. Italian "tredici" and "digitare" sound to it like a b at
0.3 to 0.67; closures that are there have 0.8 and more."""
_LONGEST = 0.3
_PAUSE = 0.3
"""Seconds without a phone after which a new word begins, so that the aligner may place a silence there."""


@dataclass(frozen=True)
class Spike:
    """A phone (ours) that hama put at `time` s, LATE taken off. fresh: the first of a word. sure: its probability."""

    phone: str
    time: float
    fresh: bool
    sure: float


@dataclass(frozen=True)
class Heard:
    """Phones with their times, silences included, and the times in s at which a closure is in doubt."""

    segments: tuple[Segment, ...]
    doubts: tuple[float, ...]


def hear(samples: Array) -> Heard:
    """Return the phones of 16 kHz speech in any language.

    Raises InputError where hama or pocketsphinx is missing, or where they hear or place nothing.
    """
    found, closing = spikes(samples)
    if not found:
        raise InputError("hama heard no phones", hint="is there speech in the sound?")
    words: list[list[str]] = []
    for spike in found:
        if spike.fresh or not words:
            words.append([])
        words[-1].append(spike.phone)
    return join(found, closing, *align.weigh(samples, words, RIVALS))


def join(found: Sequence[Spike], closing: Array, segments: Sequence[Segment], picks: Sequence[str]) -> Heard:
    """Hold hama's closures against the aligner's, one by one: they are the same phones in the same order.

    closing: the probability of p, b or m in each of hama's frames; picks: the recognizer's sound for each segment.
    Raises InputError where the aligner lost phones.
    """
    placed = [segment for segment in segments if segment.phone != "sil"]
    sounds = [pick for segment, pick in zip(segments, picks, strict=True) if segment.phone != "sil"]
    if [spike.phone for spike in found] != [segment.phone for segment in placed]:
        raise InputError(f"the aligner placed {len(placed)} of {len(found)} phones", hint="a shorter sound may do")
    doubts: list[float] = []
    told, late = np.zeros(closing.size, bool), round(LATE / FRAME)
    for spike, segment, sound in zip(found, placed, sounds, strict=True):
        first = max(int((spike.time - NEAR) / FRAME) + late, 0)
        here = slice(first, first + 2 * round(NEAR / FRAME) + 1)
        if spike.phone not in BILABIALS:
            if sound in _CLOSED and closing[here].max(initial=0.0) > _HINT:
                doubts.append(spike.time)
            continue
        told[here] = True
        near = segment.start - NEAR <= spike.time <= segment.end + NEAR
        needed = _FAIR if sound in _CLOSED else _SURE
        if not near or spike.sure < needed or segment.end - segment.start > _LONGEST:
            doubts.append(spike.time)
    missed = np.flatnonzero((closing > _UNSURE) & ~told)
    return Heard(tuple(segments), tuple(sorted([*doubts, *(float(frame - late) * FRAME for frame in missed)])))


def spikes(samples: Array) -> tuple[list[Spike], Array]:
    """Return what hama hears in 16 kHz sound, and for each of its frames the probability of p, b or m."""
    model, tokens, blank, border = _teacher()
    # The package's own decoding: its temperature and its bias against blanks are left out, the order stays the same.
    inputs = {"waveform": np.clip(samples, -1.0, 1.0)[None], "waveform_lengths": np.array([samples.size])}
    output, lengths = model.session.run(["log_probs", "out_lengths"], inputs)
    chance = np.exp(output[0, : int(lengths[0])])
    closing = chance[:, [any(p in BILABIALS for p in _phones(token)) for token in tokens]].sum(1)
    found: list[Spike] = []
    before, fresh, last = -1, True, -1.0
    for frame, token in enumerate(chance.argmax(1).tolist()):
        repeated, before = token == before, token
        if token == border:
            fresh = True
        if repeated or token in (blank, border):
            continue
        time = (frame + 0.5) * FRAME - LATE
        for phone in _phones(tokens[token]):
            sure = float(closing[max(frame - 1, 0) : frame + 2].max() if phone in BILABIALS else chance[frame, token])
            found.append(Spike(phone, time, fresh or time - last > _PAUSE, sure))
            fresh, last = False, time
    return found, np.asarray(closing, np.float32)


def _phones(token: str) -> list[str]:
    return [] if token.startswith("<") else fold_ipa(token)  # "<blank>" is not a b, an l, ...


@cache
def _teacher() -> tuple[Any, tuple[str, ...], int, int]:
    try:
        onnxruntime_module()  # before hama imports it, with its telemetry
        model = importlib.import_module("hama.asr").ASRModel()
    except (ImportError, MissingPackageError) as error:
        raise InputError(f"hama cannot be used ({error})", hint="pip install hama==1.7.0") from None
    tokens = tuple(model.decoder_tokens)
    return model, tokens, tokens.index("<blank>"), tokens.index("<wb>")
