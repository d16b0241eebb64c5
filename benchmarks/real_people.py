"""A talker on recorded people that nobody trained on, and on what is no speech: closures, jaw, pauses, wear.

    python benchmarks/real_people.py label GROUPS_FOLDER --language cs=cs        # once: GROUP/CLIP.wav -> GROUP.npz
    python benchmarks/real_people.py score GROUPS_FOLDER --talker WORK/talker.pt --only decisions --json before.json

A clip with CLIP.txt is aligned with its words (`--language GROUP=cs` where they are not English). Without words, hama
and pocketsphinx listen (`data/heard.py`), and phrases are left out in which they do not agree on a closure. What is
kept lies in GROUP.npz, so that every talker is held against the same phones. `decisions` and `untouched` name the
groups that choices may look at and those that they may not: `untouched` is for the last table. A folder `music` holds
recorded music. The same sounds, phones and seed each time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter

from edgetalker.engines.errors import InputError
from edgetalker.engines.files import write_whole
from edgetalker.models.online import metrics
from edgetalker.models.online.anymotion import AnyMotion
from edgetalker.models.online.data import align, espeak, people
from edgetalker.models.online.data.degrade import at_level, coloured_noise
from edgetalker.models.online.data.phones import PHONES, Segment
from edgetalker.models.online.data.utterance import RATE, Utterance
from edgetalker.models.online.evaluate import play
from edgetalker.models.online.features import log_mel
from edgetalker.models.online.score import Clip, Truth, of_phones, score
from edgetalker.models.online.talker import Talker, load_talker
from edgetalker.runtime.sources.file import read_whole

Array = NDArray[np.float32]
DECISIONS = ("asterisk-en", "librivox", "jfk")
MUSIC = "music"
"""The folder of music among the groups, where there is one."""
SECONDS = 30
"""Of one row of sound: rows are played side by side, and each is made of whole phrases."""
_LEVEL = -23.0
_SEED = 21
_GAP = 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Label groups of clips, or score a talker on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    labels = stages.add_parser("label")
    labels.add_argument("folder", type=Path)
    labels.add_argument("--language", nargs="*", default=[], metavar="GROUP=LANGUAGE")
    scores = stages.add_parser("score")
    scores.add_argument("folder", type=Path)
    scores.add_argument("--talker", type=Path, required=True, help="talker.pt of a work folder")
    scores.add_argument("--only", choices=("decisions", "untouched"), help="half of the groups (default: all)")
    scores.add_argument("--rows", type=int, default=5, help="rows of 30 s of a group (default %(default)s)")
    scores.add_argument("--threads", type=int, default=1)
    scores.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.stage == "label":
        label(options.folder, dict(pair.split("=", 1) for pair in options.language))
        return
    torch.set_num_threads(options.threads)
    results = evaluate(load_talker(options.talker), options.folder, options.only, options.rows)
    print(table(results))
    if options.json:
        with write_whole(options.json) as file:
            file.write(json.dumps(results, indent=1).encode())


def label(folder: Path, languages: Mapping[str, str]) -> None:
    """Write `folder`/GROUP.npz for each folder of clips that has none: samples and phones of its phrases."""
    for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != MUSIC):
        target = folder / f"{group.name}.npz"
        if target.exists():
            continue
        found: list[Utterance] = []
        lost = 0
        for path in sorted(path for path in group.glob("*") if path.suffix in (".wav", ".flac")):
            try:
                found += _phrases(path, languages.get(group.name, "en"))
            except InputError as error:
                lost += 1
                print(f"{path.name}: {error}")
        _write(target, found)
        print(f"{group.name}: {len(found)} phrases, {lost} clips left out")


def _phrases(path: Path, language: str) -> list[Utterance]:
    words = path.with_suffix(".txt")
    if not words.exists():
        result = people.label(path)
        if isinstance(result, str):
            raise InputError(result)
        return list(result.phrases)
    samples, text = read_whole(path, RATE), words.read_text(encoding="utf-8").strip()
    if language == "en":
        return [Utterance(samples, tuple(align.align(samples, text)))]
    # Whole, as it is read: words alone are said more clearly than in a sentence.
    spoken = espeak.pronounce(language, text.split())
    return [Utterance(samples, tuple(align.align_phones(samples, spoken)))]


def _write(path: Path, phrases: Sequence[Utterance]) -> None:
    rows = [(n, PHONES.index(s.phone), s.start, s.end) for n, p in enumerate(phrases) for s in p.segments]
    with write_whole(path) as file:
        np.savez(
            file,
            samples=np.concatenate([np.zeros(0, np.float32), *(p.samples for p in phrases)]),
            lengths=np.array([p.samples.size for p in phrases], np.int64),
            segments=np.array(rows, np.float64).reshape(-1, 4),
        )


def load(path: Path) -> list[Utterance]:
    """Read what `label` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        ends = np.cumsum(stored["lengths"])
        sounds = np.split(stored["samples"], ends[:-1])
        rows = stored["segments"]
        return [
            Utterance(sound, tuple(Segment(PHONES[int(k)], float(a), float(b)) for _, k, a, b in rows[rows[:, 0] == n]))
            for n, sound in enumerate(sounds)
        ]


def lines(phrases: Sequence[Utterance], count: int) -> list[Utterance]:
    """Join phrases at one level, in an order of their own, to `count` rows of at most SECONDS with pauses of 0.5 s."""
    rng = np.random.default_rng(_SEED)
    rows: list[Utterance] = []
    sounds: list[Array] = []
    segments: list[Segment] = []
    at = 0.0
    for place in rng.permutation(len(phrases)):
        phrase = phrases[place]
        seconds = phrase.samples.size / RATE
        if at and at + _GAP + seconds > SECONDS:
            rows.append(Utterance(np.concatenate(sounds), tuple(segments)))
            if len(rows) == count:
                return rows
            sounds, segments, at = [], [], 0.0
        at += _GAP
        sounds += [(1e-4 * rng.standard_normal(int(_GAP * RATE))).astype(np.float32), at_level(phrase.samples, _LEVEL)]
        segments += [Segment(s.phone, s.start + at, s.end + at) for s in phrase.segments]
        at += seconds
    return [*rows, Utterance(np.concatenate(sounds), tuple(segments))] if sounds else rows


def evaluate(talker: Talker, folder: Path, only: str | None, rows: int) -> dict[str, Any]:
    """Return the scores of each group, the worn groups, and what sounds without speech do; all with schedule `one`."""
    groups = {path.stem: lines(load(path), rows) for path in sorted(folder.glob("*.npz")) if _wanted(path.stem, only)}
    if not groups:
        raise SystemExit(f"no groups in {folder}; run `label` first")
    truths = {name: [of_phones(u.samples, u.segments) for u in told] for name, told in groups.items()}
    heard = {name: [u.samples for u in told] for name, told in groups.items()}
    results: dict[str, Any] = {"people": {}, "worn": {}, "still": {}}
    for name in groups:
        results["people"][name] = _score(talker, heard[name], truths[name])
    everyone = [truth for name in groups for truth in truths[name][:2]]
    some = [sound for name in groups for sound in heard[name][:2]]
    clean = _score(talker, some, everyone)
    results["worn"]["clean"] = clean
    for name, worn in wear(some, _music(folder)):
        results["worn"][name] = found = _score(talker, worn, everyone)
        before = clean["closures"]["recall"]
        found["recall_of_clean"] = found["closures"]["recall"] / before if before else None
    for name, sounds in silent(folder).items():
        results["still"][name] = _still(talker, sounds)
    return results


def _wanted(name: str, only: str | None) -> bool:
    return only is None or (name in DECISIONS) == (only == "decisions")


def _motion(talker: Talker, sounds: Sequence[Array]) -> list[Array]:
    """Play sounds side by side: padded with silence to the longest, cut to their own frames again."""
    longest = max(sound.size for sound in sounds)
    frames = longest * 30 // RATE
    mels = [log_mel(np.pad(sound, (0, longest - sound.size)), frames) for sound in sounds]
    motion = play(talker, mels, "one", _SEED)
    return [row[: sound.size * 30 // RATE] for row, sound in zip(motion, sounds, strict=True)]


def _score(talker: Talker, sounds: Sequence[Array], truths: Sequence[Truth]) -> dict[str, Any]:
    shown = _motion(talker, sounds)
    return score([Clip("", AnyMotion(m, (), 30.0, len(m)), truth) for m, truth in zip(shown, truths, strict=True)])


def _still(talker: Talker, sounds: Sequence[Array]) -> dict[str, float]:
    gaps = [metrics.lip_gap(metrics.mouth_of(m)) for m in _motion(talker, sounds)]
    opened = sum(int(((gap[1:] >= metrics.OPEN) & (gap[:-1] < metrics.OPEN)).sum()) for gap in gaps)
    frames = sum(gap.size for gap in gaps)
    return {
        "seconds": frames / 30,
        "open": float(np.mean(np.concatenate(gaps) >= metrics.OPEN)),
        "openings_a_minute": opened / (frames / 30 / 60),
    }


def wear(sounds: Sequence[Array], music: Array) -> Iterator[tuple[str, list[Array]]]:
    """Give the same sounds worn in six ways."""
    rng = np.random.default_rng(_SEED)
    babble = sum(np.roll(np.resize(sound, SECONDS * RATE), n * 7919) for n, sound in enumerate(sounds[:6]))
    fan = _fan(SECONDS, rng)

    def beside(other: Any, decibels: float) -> list[Array]:
        loud = at_level(np.asarray(other, np.float32), _LEVEL - decibels)
        return [sound + np.resize(np.roll(loud, -4001 * n), sound.size) for n, sound in enumerate(sounds)]

    yield "music, 10 dB", beside(music, 10.0)
    yield "fan, 10 dB", beside(fan, 10.0)
    yield "babble of six, 10 dB", beside(babble, 10.0)
    yield "room, RT60 0.6 s", [_room(sound, rng) for sound in sounds]
    low, high = butter(4, [300 / 8000, 3400 / 8000], "band")
    yield "telephone band", [np.asarray(lfilter(low, high, sound), np.float32) for sound in sounds]
    yield "30 dB softer", [(sound * 10**-1.5).astype(np.float32) for sound in sounds]


def _room(sound: Array, rng: np.random.Generator) -> Array:
    time = np.arange(int(0.6 * RATE)) / RATE
    tail = rng.standard_normal(time.size) * np.exp(-6.9 * time / 0.6)
    tail *= 0.5 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(fftconvolve(sound, tail)[: sound.size], np.float32)


def _fan(seconds: float, rng: np.random.Generator) -> Array:
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    blades = sum(np.sin(2 * np.pi * 95 * k * time + k) / k for k in range(1, 6))
    return at_level((coloured_noise(count, rng, 1.4) + 0.3 * blades).astype(np.float32), -35.0)


def _recorded(folder: Path) -> list[Array]:
    return [at_level(read_whole(path, RATE), _LEVEL) for path in sorted((folder / MUSIC).glob("*.wav"))]


def _music(folder: Path) -> Array:
    found = _recorded(folder)
    return np.concatenate(found) if found else _tune(SECONDS, np.random.default_rng(_SEED))


def silent(folder: Path) -> dict[str, list[Array]]:
    """Return sounds without speech: music (recorded where there is some, and made), typing, breath, cough, fan."""
    rng = np.random.default_rng(_SEED)
    recorded = _recorded(folder)
    made = {
        "music, made": [_tune(20, rng)],
        "typing": [_typing(20, rng)],
        "breath": [_breath(20, rng)],
        "cough": [_cough(20, rng)],
        "fan": [_fan(20, rng)],
    }
    return ({"music, recorded": recorded} if recorded else {}) | made


def _tune(seconds: float, rng: np.random.Generator) -> Array:
    """Make chords and a melody of decaying tones with harmonics, four notes a second, with a beat of noise."""
    tune = np.zeros(int((seconds + 2) * RATE), np.float32)
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    for step in range(int(seconds * 4)):
        notes = [2 * rng.choice(scale), *(rng.choice(scale, 3) / 2 if step % 4 == 0 else ())]
        time = np.arange(int(1.2 * RATE)) / RATE
        parts = [(note * k, k) for note in notes for k in range(1, 7)]
        tone = sum(np.sin(2 * np.pi * f * time) * np.exp(-3 * time * k**0.5) / k for f, k in parts)
        beat = rng.standard_normal(time.size) * np.exp(-60 * time) * (0.6 if step % 2 == 0 else 0.0)
        start = int(step * RATE / 4)
        tune[start : start + time.size] += (tone + beat).astype(np.float32)
    return at_level(tune[: int(seconds * RATE)], _LEVEL)


def _bursts(seconds: float, rng: np.random.Generator, every: tuple[float, float], one: Any) -> Array:
    sound = 1e-4 * rng.standard_normal(int(seconds * RATE))
    at = 0.3
    while at < seconds - 2:
        burst = one()
        start = int(at * RATE)
        sound[start : start + burst.size] += burst
        at += burst.size / RATE + rng.uniform(*every)
    return sound.astype(np.float32)


def _typing(seconds: float, rng: np.random.Generator) -> Array:
    def key() -> NDArray[np.float64]:
        time = np.arange(int(0.06 * RATE)) / RATE
        click = rng.standard_normal(time.size) * np.exp(-rng.uniform(150, 400) * time)
        knock = np.sin(2 * np.pi * rng.uniform(250, 900) * time) * np.exp(-90 * time)
        return np.asarray(rng.uniform(0.08, 0.25) * (click + 0.5 * knock))

    return _bursts(seconds, rng, (0.02, 0.25), key)


def _shaped(rng: np.random.Generator, seconds: float, low: float, high: float) -> NDArray[np.float64]:
    b, a = butter(2, [low / 8000, high / 8000], "band")
    noise = lfilter(b, a, rng.standard_normal(int(seconds * RATE)))
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def _breath(seconds: float, rng: np.random.Generator) -> Array:
    def breath() -> NDArray[np.float64]:
        noise = _shaped(rng, rng.uniform(0.6, 1.4), 400, 5000)
        return np.asarray(rng.uniform(0.01, 0.04) * noise * np.sin(np.pi * np.arange(noise.size) / noise.size) ** 2)

    return _bursts(seconds, rng, (0.8, 2.0), breath)


def _cough(seconds: float, rng: np.random.Generator) -> Array:
    def cough() -> NDArray[np.float64]:
        noise = _shaped(rng, rng.uniform(0.25, 0.45), 300, 3500)
        time = np.arange(noise.size) / RATE
        return np.asarray(rng.uniform(0.1, 0.25) * noise * (np.exp(-25 * time) + 0.4 * np.exp(-8 * time)))

    return _bursts(seconds, rng, (0.3, 1.8), cough)


def table(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = [
        "| people | p b m inside phrases | by chance | b, m, p (with those after pauses) | frames right | by chance | "
        "vowels shut | jaw r | open in pauses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in [*results["people"].items(), *((f"worn: {n}", f) for n, f in results["worn"].items())]:
        closures, vowels = found["closures"], found["vowels"]
        phones = ", ".join(f"{phone} {hits}/{count}" for phone, (count, hits) in closures["by_phone"].items())
        cells = [
            f"{_number(closures['recall'])} ({closures['found']}/{closures['events']})",
            _number(closures["recall_by_chance"]),
            phones,
            _number(closures["precision"]),
            _number(closures["precision_by_chance"]),
            f"{_number(vowels['share'], 3)} of {vowels['open_vowels']}",
            _number(found["jaw"]["r"]),
            _number(found["pauses"]["open"], 3),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    rows += ["", "| no speech | mouth open | openings a minute |", "|---|---|---|"]
    rows += [f"| {n} | {f['open']:.3f} | {f['openings_a_minute']:.0f} |" for n, f in results["still"].items()]
    return "\n".join(rows)


def _number(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


if __name__ == "__main__":
    main()
