"""Speech synthesizers, Debian's and neural ones, behind one call: text in, samples with phone times out."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from edgetalker.models.online.data import aligned, espeak, jtalk, mbrola, neural
from edgetalker.models.online.data.utterance import Utterance, Voice, from_ends, read_sound

__all__ = ["ENGINES", "available", "speak"]

ENGINES: dict[str, Callable[[], bool]] = {
    "espeak": lambda: espeak.espeak_library() is not None,
    "flite": lambda: shutil.which("flite") is not None,
    "festival": lambda: shutil.which("festival") is not None,
    "rhvoice": aligned.has_rhvoice,
    "pico": aligned.has_pico,
    "jtalk": jtalk.available,
    "mbrola": mbrola.available,
    "kokoro": neural.has_kokoro,
    "piper": neural.has_piper,
}
"""The synthesizers, and what tells whether each is installed with all that it needs."""


def available(engine: str) -> bool:
    """Tell whether a synthesizer is installed."""
    return ENGINES[engine]()


def speak(voice: Voice, texts: Sequence[str], rate: float, pitch: int) -> Iterator[Utterance]:
    """Speak the sentences at `rate` times the usual speed; `pitch` (0..99, 50 usual) is for espeak, jtalk and mbrola.

    Sentences are spoken when they are asked for, where the synthesizer takes one at a time. A sentence that it cannot
    speak, or whose phones cannot be timed, is left out. Raises RuntimeError where espeak-ng, RHVoice or MBROLA lacks
    the voice.
    """
    if voice.engine == "espeak":
        # espeak-ng's breath and flutter go on from call to call and cannot be seeded: a fresh process starts them anew.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            spoken = pool.submit(espeak.speak_all, voice, texts, rate, pitch).result()
        yield from spoken
    elif voice.engine == "flite":
        yield from (_flite(voice, text, rate) for text in texts)
    elif voice.engine == "jtalk":
        yield from (jtalk.speak(text, rate, pitch) for text in texts)
    elif voice.engine == "mbrola":
        yield from mbrola.speak(voice, texts, rate, pitch)
    elif voice.engine in ("rhvoice", "pico"):
        yield from aligned.speak(voice, texts, rate)
    elif voice.engine in ("kokoro", "piper"):
        yield from neural.speak(voice, texts, rate)
    else:
        yield from _festival(voice, texts, rate)


def _flite(voice: Voice, text: str, rate: float) -> Utterance:
    """Run flite on one sentence: `-psdur` prints phone:end pairs that restart at every sentence."""
    text = re.sub(r"[.!?:;]", ",", text).strip(" ,")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        stretch = f"duration_stretch={1 / rate:.3f}"
        command = ["flite", "-voice", voice.name, "-psdur", "--setf", stretch, "-t", text, "-o", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        samples = read_sound(path)
    ends = [(name, float(end)) for name, end in (item.rsplit(":", 1) for item in printed.split())]
    return Utterance(samples, from_ends(ends, voice.language))


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
    return Utterance(read_sound(label.with_suffix(".wav")), from_ends(ends, language))
