"""Debian's speech synthesizers behind one call: text in, samples with phone times out."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.models.online.data.phones import Segment, fold, fold_ipa

__all__ = ["RATE", "Utterance", "Voice", "available", "faster", "speak"]

RATE = 16000


@dataclass(frozen=True)
class Voice:
    """A synthesizer ("espeak", "flite", "festival"), its name for the voice, and the language of the text."""

    engine: str
    name: str
    language: str = "en"


@dataclass(frozen=True)
class Utterance:
    """Mono float32 samples at 16 kHz in [-1, 1] and the phones in them, in order of time."""

    samples: NDArray[np.float32]
    segments: tuple[Segment, ...]


def available(engine: str) -> bool:
    """Tell whether a synthesizer is installed."""
    if engine == "espeak":
        return _library() is not None
    return shutil.which(engine) is not None


def speak(voice: Voice, texts: Sequence[str], rate: float, pitch: int) -> list[Utterance]:
    """Speak the sentences at `rate` times the usual speed; `pitch` (0..99, 50 usual) is for espeak alone."""
    if voice.engine == "espeak":
        # espeak-ng's breath and flutter go on from call to call and cannot be seeded: a fresh process starts them anew.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_espeak_all, voice, texts, rate, pitch).result()
    if voice.engine == "flite":
        return [_flite(voice, text, rate) for text in texts]
    return _festival(voice, texts, rate)


def faster(utterance: Utterance, speed: float) -> Utterance:
    """Play an utterance `speed` times as fast: pitch, resonances and times all move."""
    moved = tuple(Segment(s.phone, s.start / speed, s.end / speed) for s in utterance.segments)
    return Utterance(_at_rate(utterance.samples, round(RATE * speed)), moved)


def _read(path: Path) -> NDArray[np.float32]:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    return _at_rate(samples, rate)


def _at_rate(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    import soxr

    if rate == RATE:
        return np.asarray(samples, np.float32)
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def _spread(phones: Sequence[str], start: float, end: float) -> list[Segment]:
    """Share one interval among the phones of a diphthong or an affricate."""
    edges = np.linspace(start, end, len(phones) + 1)
    return [Segment(phone, float(a), float(b)) for phone, a, b in zip(phones, edges[:-1], edges[1:], strict=True)]


def _from_ends(ends: Sequence[tuple[str, float]], language: str) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    before = 0.0
    for name, end in ends:
        segments += _spread(fold(name, language), before, end)
        before = end
    return tuple(segments)


def _flite(voice: Voice, text: str, rate: float) -> Utterance:
    """Run flite on one sentence: `-psdur` prints phone:end pairs that restart at every sentence."""
    text = re.sub(r"[.!?:;]", ",", text).strip(" ,")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        stretch = f"duration_stretch={1 / rate:.3f}"
        command = ["flite", "-voice", voice.name, "-psdur", "--setf", stretch, "-t", text, "-o", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        samples = _read(path)
    ends = [(name, float(end)) for name, end in (item.rsplit(":", 1) for item in printed.split())]
    return Utterance(samples, _from_ends(ends, voice.language))


def _festival(voice: Voice, texts: Sequence[str], rate: float) -> list[Utterance]:
    """Run one festival process on all sentences; a sentence it cannot speak is left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [f"(voice_{voice.name})", f"(Parameter.set 'Duration_Stretch {1 / rate:.3f})"]
        for index, text in enumerate(texts):
            text = re.sub(r"[.!?:;\"\\]", ",", text).strip(" ,")
            lines += [
                f'(set! u (utt.synth (Utterance Text "{text}")))',
                f'(utt.save.segs u "{folder}/{index}.lab")',
                f'(utt.save.wave u "{folder}/{index}.wav" \'riff)',
            ]
        script = folder / "speak.scm"
        script.write_text("\n".join(lines), encoding="utf-8")
        subprocess.run(["festival", "-b", str(script)], capture_output=True, check=False, timeout=600)
        found = [folder / f"{index}.lab" for index in range(len(texts)) if (folder / f"{index}.wav").exists()]
        return [_festival_utterance(path, voice.language) for path in found]


def _festival_utterance(label: Path, language: str) -> Utterance:
    rows = [line.split() for line in label.read_text().splitlines()]
    ends = [(row[2], float(row[0])) for row in rows if len(row) == 3]
    return Utterance(_read(label.with_suffix(".wav")), _from_ends(ends, language))


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
_loaded: list[Any] = []


def _library() -> Any | None:
    """Return libespeak-ng, initialized once a process, or None where it is missing."""
    if not _loaded:
        try:
            library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            return None
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _IPA_EVENTS)
        _loaded.extend((library, rate))
    return _loaded[0]


def _espeak_all(voice: Voice, texts: Sequence[str], rate: float, pitch: int) -> list[Utterance]:
    return [_espeak(voice, text, rate, pitch) for text in texts]


def _espeak(voice: Voice, text: str, rate: float, pitch: int) -> Utterance:
    library = _library()
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
    samples = _at_rate(wave.astype(np.float32) / 32768, own_rate)
    return Utterance(samples, _move_bursts(samples, segments))


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
            segments += _spread(phones or ["sil"], start / rate, end / rate)
    return segments


_STOPS = frozenset(["p", "b", "t", "d", "k", "g"])
_HOP = 80  # 5 ms


def _move_bursts(samples: NDArray[np.float32], segments: Sequence[Segment]) -> tuple[Segment, ...]:
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
