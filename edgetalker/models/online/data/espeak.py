"""espeak-ng through its library, whose events tell the phones' times."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import Segment, fold_ipa
from edgetalker.models.online.data.utterance import RATE, Utterance, Voice, at_rate, spread

__all__ = ["espeak_library", "ipa", "move_bursts", "pronounce", "speak_all"]


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_PHONEME, _END_OF_LIST = 7, 0
_SHORTEST_PAUSE = 0.06  # seconds
_SYNCHRONOUS, _PHONEME_EVENTS, _IPA_EVENTS, _UTF8 = 2, 1, 2, 1
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3
_MARKS = ",.;:!?"
_loaded: list[Any] = []


def espeak_library() -> Any | None:
    """Return libespeak-ng, initialized once a process, or None where it is missing."""
    if not _loaded:
        try:
            library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            return None
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _IPA_EVENTS)
        _loaded.extend((library, rate))
    return _loaded[0]


def speak_all(voice: Voice, texts: Sequence[str], rate: float, pitch: int) -> list[Utterance]:
    """Speak the sentences at `rate` times the usual speed; `pitch` is 0..99, 50 usual."""
    return [_espeak(voice, text, rate, pitch) for text in texts]


def pronounce(language: str, words: Sequence[str]) -> list[list[str]]:
    """Return the phones (ours, no silences) of each word as espeak-ng says it; `language` is a voice of espeak-ng."""
    said = speak_all(Voice("espeak", language), words, 1.0, 50)
    return [[segment.phone for segment in utterance.segments if segment.phone != "sil"] for utterance in said]


def ipa(name: str, text: str) -> str:
    """Return what espeak-ng's voice of this name would say, in IPA with stress; punctuation stays where it was.

    Raises RuntimeError where espeak-ng lacks the voice.
    """
    library = espeak_library()
    if library is None or library.espeak_SetVoiceByName(name.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {name}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    pieces = re.findall(f"[{_MARKS}]+|[^{_MARKS}]+", text)
    return "".join(piece if piece[0] in _MARKS else _clause(library, piece) for piece in pieces)


def _clause(library: Any, text: str) -> str:
    """Return one clause's IPA, with the spaces around it that were there."""
    left = ctypes.c_char_p(text.encode())
    said = []
    while left.value:
        said.append(library.espeak_TextToPhonemes(ctypes.byref(left), _UTF8, _IPA_EVENTS).decode())
    return (" " if text[0] == " " else "") + " ".join(said).strip()


def _espeak(voice: Voice, text: str, rate: float, pitch: int) -> Utterance:
    library = espeak_library()
    if library is None or library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice.name}")
    pieces: list[NDArray[np.int16]] = []
    starts: list[tuple[int, str]] = []

    def collect(data: Any, count: int, events: Any) -> int:
        if count > 0:
            pieces.append(np.ctypeslib.as_array(data, (count,)).copy())
        index = 0
        while events[index].type != _END_OF_LIST:
            if events[index].type == _PHONEME:
                starts.append((events[index].sample, events[index].id.string.decode("utf-8", "ignore")))
            index += 1
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetParameter(_RATE_PARAMETER, int(170 * rate), 0)
    library.espeak_SetParameter(_PITCH_PARAMETER, pitch, 0)
    raw = text.encode() + b"\0"
    library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 0, 0, _UTF8, None, None)
    own_rate = int(_loaded[1])
    wave = np.concatenate(pieces) if pieces else np.zeros(own_rate // 10, np.int16)
    segments = _espeak_segments(starts, wave.size, own_rate)
    samples = at_rate(wave.astype(np.float32) / 32768, own_rate)
    return Utterance(samples, move_bursts(samples, segments))


def _espeak_segments(starts: Sequence[tuple[int, str]], total: int, rate: int) -> list[Segment]:
    segments: list[Segment] = []
    edges = [sample for sample, _ in starts[1:]] + [total]
    if starts and starts[0][0] > 0:
        segments.append(Segment("sil", 0.0, starts[0][0] / rate))
    for (start, symbol), end in zip(starts, edges, strict=True):
        phones = fold_ipa(symbol)
        if end <= start:
            continue
        if not phones and segments and end - start < _SHORTEST_PAUSE * rate:
            last = segments.pop()  # an empty event inside a word
            segments.append(Segment(last.phone, last.start, end / rate))
        else:
            segments += spread(phones or ["sil"], start / rate, end / rate)
    return segments


_STOPS = frozenset(["p", "b", "t", "d", "k", "g"])
_HOP = 80  # 5 ms


def move_bursts(samples: NDArray[np.float32], segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Give each stop the silent hold before its burst.

    espeak-ng stamps stops at the burst and leaves the hold to the phone before, so that lips would close while
    the burst is heard. The start moves back over quiet 5 ms pieces, by 90 ms at most and by no more than half
    of the phone before.
    """
    count = samples.size // _HOP
    level = np.sqrt(np.mean(samples[: count * _HOP].reshape(count, _HOP) ** 2, axis=1) + 1e-12)
    quiet = level < 0.2 * np.percentile(level, 80) if count else np.zeros(0, bool)
    moved = list(segments)
    for index in range(1, len(moved)):
        here, before = moved[index], moved[index - 1]
        if here.phone not in _STOPS or before.phone in _STOPS:
            continue
        piece = int(here.start * RATE / _HOP) - 1
        earliest = max(here.start - 0.09, (before.start + before.end) / 2)
        while 0 <= piece < count and quiet[piece] and piece * _HOP / RATE >= earliest:
            piece -= 1
        start = min(here.start, (piece + 1) * _HOP / RATE)
        if start < here.start:
            moved[index - 1] = Segment(before.phone, before.start, start)
            moved[index] = Segment(here.phone, start, here.end)
    return tuple(moved)
