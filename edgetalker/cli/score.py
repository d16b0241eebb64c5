"""`edgetalker score`: how well any ARKit motion fits the speech that it was made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetalker.engines.errors import FileFaults, InputError, OptionError
from edgetalker.engines.files import checked_target, write_whole

__all__ = ["add_parser", "run"]

_MOTION, _SOUND = (".csv", ".npz", ".jsonl"), (".wav", ".flac", ".ogg", ".mp3")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "score",
        help="measure how well any ARKit motion fits its speech",
        description="Scores motion of any talker (Live Link Face or another CSV with ARKit names, .npz, .jsonl) "
        "against its speech: closures at p, b and m, false closures, jitter, rest in pauses, lag. Two folders are "
        "paired by the names of their files and scored together. Needs pocketsphinx with its English model "
        "(Debian), and espeak-ng for words of another language.",
    )
    parser.add_argument("motion", type=Path, metavar="MOTION", help="the motion, or a folder of motions")
    parser.add_argument("speech", type=Path, metavar="SPEECH", help="its sound, or a folder of sounds")
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--words",
        type=Path,
        metavar="TXT",
        help="a file with what is said (a folder: CLIP.txt for CLIP.wav); without it a phone loop listens",
    )
    words.add_argument("--no-speech", action="store_true", help="nobody speaks in the sound: the mouth should rest")
    parser.add_argument("--language", default="en", metavar="NAME", help="of the words, as espeak-ng calls it (en)")
    parser.add_argument("--fps", type=_rate, metavar="N", help="frames a second, where the motion does not tell")
    parser.add_argument(
        "--offset", type=_milliseconds, default=0.0, metavar="MS", help="the motion begins so much after the sound (0)"
    )
    parser.add_argument("--face", type=Path, metavar="FOLDER", help="ICT-FaceKit's meshes: the gap in millimetres too")
    parser.add_argument("--json", metavar="FILE", help="the figures as JSON; `-` for standard output")


def _rate(text: str) -> float:
    value = _number(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} came; 1 to 1000 frames a second was wanted")
    return value


def _milliseconds(text: str) -> float:
    value = _number(text)
    if not abs(value) <= 1e7:
        raise argparse.ArgumentTypeError(f"{text} came; a number of milliseconds was wanted")
    return value * 1e-3


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no number") from None


def run(args: argparse.Namespace) -> int:
    """Print the scores as a table, or write them as JSON. Raises UserError subclasses for what does not fit."""
    from edgetalker.models.online.anymotion import read_motion
    from edgetalker.models.online.lipgap import LipRuler
    from edgetalker.models.online.score import Clip, hear, said, score, still
    from edgetalker.runtime.sources.file import read_whole

    if args.json:
        checked_target(args.json)
    ruler = LipRuler(args.face) if args.face is not None else None
    clips, faults = list[Clip](), FileFaults()
    for name, motion, sound, words in _pairs(args):
        with faults.of(sound, motion, words):
            text = None if words is None else said(words)
            read = read_motion(motion, args.fps, args.offset)
            for shape in read.absent:
                sys.stderr.write(f"warning: {motion} has no {shape}: it counts as 0\n")
            samples = read_whole(sound, 16000)
            truth = still(samples) if args.no_speech else hear(samples, text, args.language)
            clips.append(Clip(name, read, truth))
    faults.tell()
    found = score(clips, ruler)
    found["phones"] = "none" if args.no_speech else "words" if args.words is not None else "phone loop"
    if args.json == "-":
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    for line in table(found):
        print(line)
    if args.json:
        with write_whole(Path(args.json)) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())
    return 0


def _pairs(args: argparse.Namespace) -> Iterator[tuple[str, Path, Path, Path | None]]:
    """Yield name, motion, sound and the file of the words of every clip."""
    if args.motion.is_dir() != args.speech.is_dir():
        raise OptionError(f"{args.motion} and {args.speech}: two files, or two folders, were wanted")
    if not args.motion.is_dir():
        yield args.motion.name, args.motion, args.speech, args.words
        return
    sounds, motions = _by_stem(args.speech, _SOUND), _by_stem(args.motion, _MOTION)
    if not motions or (lost := sorted(set(motions) ^ set(sounds))):
        what = f"without a partner: {', '.join(lost)}" if motions else f"no motion in {args.motion}"
        raise InputError(what, hint=f"CLIP{_MOTION[0]} in one folder belongs to CLIP{_SOUND[0]} in the other")
    if args.words is not None and not args.words.is_dir():
        raise OptionError(f"--words {args.words}: a folder with CLIP.txt for every clip was wanted")
    for name, motion in motions.items():
        yield name, motion, sounds[name], args.words and args.words / f"{name}.txt"


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by what pairs them. Raises InputError for two of one name, all of them at once."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    found, named = {path.stem: path for path in files}, Counter(path.stem for path in files)
    if twice := [path.name for path in files if named[path.stem] > 1]:
        raise InputError(f"{folder}: which file is meant? {', '.join(twice)}", hint="one file for each CLIP")
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that people read."""
    yield f"{len(found['clips'])} clips, {found['seconds']:.1f} s, phones from: {found['phones']}"
    rest, rows = found["pauses"], list[tuple[str, str]]()
    if found["phones"] != "none":
        rows += [*_closures(found["closures"]), *_movement(found)]
    often = f"{_figure(rest['openings_a_minute'], 0)} openings a minute"
    rows.append(("mouth open in pauses", f"{_share(rest['open'])} of {rest['seconds']:.1f} s, {often}"))
    if "millimetres" in found:
        gaps = ", ".join(f"{name} {value:.2f}" for name, value in found["millimetres"].items())
        rows.append(("millimetres between the lips", gaps))
    yield from (f"{name:<30} {value}" for name, value in rows)
    lag = found["jaw"]["lag_ms"]
    if lag is not None and abs(lag) >= 100 and found["phones"] != "none":
        yield f"hint: if the motion was recorded apart from the sound, --offset {-lag:.0f} moves it there"


def _closures(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    by_phone = ", ".join(f"{name} {hit}/{count}" for name, (count, hit) in found["by_phone"].items())
    wrong = ", ".join(f"{name} {count}" for name, count in list(found["false_by_phone"].items())[:6])
    shown = _of(found["found"], found["events"])
    yield "p, b, m inside phrases shown", f"{shown}; by chance {_share(found['recall_by_chance'])}"
    yield "  every one, after pauses too", by_phone or "none"
    right = _of(found["frames_right"], found["frames_shut"])
    yield "shut frames that should be", f"{right}; by chance {_share(found['precision_by_chance'])}"
    yield "  the others, by phone", wrong or "none"


def _movement(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    vowels, jaw = found["vowels"], found["jaw"]
    yield "open vowels shown shut", _of(vowels["shut"], vowels["open_vowels"])
    late = f"late by {_figure(jaw['lag_frames'], 2)} frames ({_figure(jaw['lag_ms'], 0)} ms)"
    yield "jaw against the animator's", f"r {_figure(jaw['r'], 2)}, {late}"
    yield "jitter", f"{found['jitter']:.4f} a frame; the animator's {found['jitter_of_animator']:.4f}"


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_share(part / whole)})" if whole else "none to count"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _figure(value: float | None, decimals: int) -> str:
    return "unknown" if value is None else f"{value:.{decimals}f}"
