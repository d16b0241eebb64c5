"""`edgetalker animate FOLDER -o OUT`: a file of motion for each sound file, here or, with `--ray`, on many machines.

A file of motion appears whole or not at all, and what is there is not made again, so a run that was ended goes on where
it was. `corpus.json` in OUT says how its motion was made; a run with other settings is refused.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.cli.options import on_signals, session_from, set_controls
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import DeviceError, InputError, MissingPackageError, OptionError
from edgetalker.engines.files import checked_target, read_text, reported, write_whole
from edgetalker.outputs import sinks_for
from edgetalker.runtime.frame import Frame, MotionLayout
from edgetalker.runtime.loop import Loop, Options
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.sinks.sink import Sink
from edgetalker.runtime.sources.file import FileSource

__all__ = ["Animator", "add_corpus", "animate_corpus", "is_corpus"]

SOUND = frozenset(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .m4a .aac .mp4 .webm .wma".split())
FORMS = ("npz", "jsonl", "csv", "glb")
SETTINGS, FAULTS = "corpus.json", "faults.txt"
TOLD = 20
"""Faults that are told; the file has all."""
MADE_BY = (
    "form", "schedule", "seed", "precision", "limit", "channel", "voice", "emotion", "style", "style_motion",
    "fix_pose", "identity", "set",
)  # fmt: skip
"""Options that decide what the motion is, beside the bundle."""
SINGLE = ("realtime", "mic", "trace", "input", "budget", "rate", "format", "paced")
"""Options that are for one sound."""


@dataclass
class Report:
    """What became of the files: how many were there already, how many were made, and faults by file."""

    kept: int
    made: int = 0
    frames: int = 0
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, done: Mapping[str, Any]) -> None:
        """Count a result of Animator."""
        if done["fault"]:
            self.faults[done["sound"]] = done["fault"]
        else:
            self.made, self.frames = self.made + 1, self.frames + int(done["frames"])
        for note in done["notes"]:
            sys.stderr.write(f"warning: {done['sound']}: {note}\n")


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add what many sounds take beside the options of one."""
    group = parser.add_argument_group("many sounds (SPEECH is a folder, or a .txt with a path a line; -o is a folder)")
    group.add_argument("--form", choices=FORMS, default="npz", help="of the motion files (default: npz)")
    group.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="on a Ray cluster, or on a Ray of this machine"
    )


def is_corpus(args: argparse.Namespace) -> bool:
    """Return whether SPEECH is many sounds."""
    return args.speech not in (None, "-") and (Path(args.speech).is_dir() or args.speech.lower().endswith(".txt"))


def animate_corpus(args: argparse.Namespace) -> int:
    """Animate every sound that has no motion yet. Exit code 0, 65 where files were no sound, 128 + a signal's number.

    Raises UserError for what ends the whole run: an option, a full disk, other settings than those of OUT.
    """
    for name in SINGLE:
        if getattr(args, name):
            raise OptionError(f"--{name} goes with one sound; {args.speech} is many")
    if len(args.output) != 1:
        raise OptionError(f"{len(args.output)} outputs; one folder was wanted", hint="-o OUT")
    out = Path(args.output[0]).absolute()
    left_out: dict[str, str] = {}
    rows = _rows(Path(args.speech).absolute(), out, f".{args.form}", left_out)
    _note_settings(out, args)
    todo = [row for row in rows if not _is_made(row)]
    report, stopped = Report(kept=len(rows) - len(todo), faults=left_out), list[bool]()
    plain = {name: value for name, value in vars(args).items() if _is_plain(value)}
    work = _here if args.ray is None else _on_ray
    with on_signals(lambda: stopped.append(True)) as came:
        for place, done in enumerate(work(todo, plain, stopped), 1):
            report.add(done)
            if sys.stderr.isatty() and not args.quiet:
                sys.stderr.write(f"\r{place}/{len(todo)} files\x1b[K")
    _tell(report, out, quiet=args.quiet)
    return 128 + came[0] if came else InputError.exit_code if report.faults else 0


class Animator:
    """A talker that animates file after file, each as if it were the first. Ray's workers are made of it."""

    def __init__(self, settings: Mapping[str, Any], stopped: Sequence[bool] = ()) -> None:
        """settings: the options of `edgetalker animate`, by name. stopped: not empty once all is to end."""
        self._args, self._stopped = argparse.Namespace(**settings), stopped
        self._talker = session_from(self._args, voice=self._args.voice)
        set_controls(self._talker, self._args)
        self._fresh = self._talker.save()

    def __call__(self, row: Mapping[str, str]) -> dict[str, Any]:
        """Animate `row["sound"]` into `row["motion"]`; return {sound, frames, fault ("" for none), notes}.

        Raises UserError for what no other file would go better with, such as a full disk.
        """
        sound, motion = Path(row["sound"]), Path(row["motion"])
        # A digest stands for the name, which may have no room for more letters. A run that was killed left it, and the
        # next one writes over it.
        digest = hashlib.sha256(os.fsencode(motion.name)).hexdigest()[:16]
        part = motion.with_name(f".edgetalker-{digest}{motion.suffix}")
        with reported(motion):
            motion.parent.mkdir(parents=True, exist_ok=True)
        try:
            frames, notes = self._animate(sound, part)
            with reported(motion):
                part.replace(motion)
            return {"sound": str(sound), "frames": frames, "fault": "", "notes": notes}
        except InputError as error:
            return {"sound": str(sound), "frames": 0, "fault": error.message, "notes": []}
        finally:
            with suppress(OSError):
                part.unlink()

    def _animate(self, sound: Path, part: Path) -> tuple[int, list[str]]:
        self._talker.restore(self._fresh)
        source = FileSource(sound, self._talker.manifest.audio.rate, channel=self._args.channel)
        try:
            options = Options(schedule=self._args.schedule, limit=self._args.limit)
            loop = Loop(self._talker, source, [_Untimed(sink) for sink in sinks_for([str(part)])], options=options)
            with loop.opened():
                while not self._stopped and loop.advance(0.1):
                    pass
        finally:
            source.close()
        for _, error in loop.failed:
            raise error
        if self._stopped:
            raise _StoppedError
        return loop.tally.due, list(loop.warnings())


class _Untimed(Sink):
    """Leaves out what a frame cost, so that the same sound gives the same bytes wherever it is animated."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def open(self, layout: MotionLayout) -> None:
        self._sink.open(layout)

    def hear(self, samples: NDArray[np.float32], rate: int) -> None:
        self._sink.hear(samples, rate)

    def send(self, frame: Frame) -> None:
        self._sink.send(replace(frame, cost_ns=0))

    def close(self) -> None:
        self._sink.close()


class _StoppedError(Exception):
    """A signal came in the middle of a file."""


def _here(rows: list[dict[str, str]], settings: Mapping[str, Any], stopped: list[bool]) -> Iterator[dict[str, Any]]:
    animator = Animator(settings, stopped)
    with suppress(_StoppedError):
        for row in rows:
            yield animator(row)


def _on_ray(rows: list[dict[str, str]], settings: Mapping[str, Any], stopped: list[bool]) -> Iterator[dict[str, Any]]:
    """Map the rows with Ray Data: as many animators as the cluster has room for, each with a CPU or a GPU."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing talks to anybody unasked
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingPackageError("ray[data]", "--ray", extra="ray") from None
    if not rows:
        return
    ours = not ray.is_initialized()
    here: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    more = here if settings["ray"] == "local" else {"address": settings["ray"]}
    try:
        if ours:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **more)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        on_gpu = settings["device"] == "cuda"
        room = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0))
        if room < 1:
            raise DeviceError(f"the Ray cluster has no {'GPU' if on_gpu else 'CPU'}")
        done = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * room)).map(
            Animator,
            fn_constructor_args=(settings,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=room),
            **({"num_gpus": 1} if on_gpu else {"num_cpus": 1}),
        )
        for row in done.iter_rows():
            yield row
            if stopped:
                return
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise DeviceError(f"Ray: {getattr(error, 'cause', None) or error}") from None
    finally:
        if ours:
            ray.shutdown()


def _rows(speech: Path, out: Path, suffix: str, left_out: dict[str, str]) -> list[dict[str, str]]:
    """Return {sound, motion} for each sound. Raises InputError for none, OptionError for two with one name.

    left_out: what of a folder cannot be read, and why, is added to it.
    """
    if speech.is_dir():
        sounds, root = _sounds_below(speech, left_out), speech
    else:
        sounds = _listed(speech)
        root = Path(os.path.commonpath([path.parent for path in sounds])) if sounds else speech.parent
    if not sounds:
        but = "".join(f"\n  {path}: {why}" for path, why in list(left_out.items())[:TOLD])
        raise InputError(
            f"{speech} has no sound files{but and ' that can be read:'}{but}",
            hint="a folder with .wav, .flac, .mp3 …; or a path a line",
        )
    taken: dict[Path, Path] = {}
    for sound in sounds:
        motion = (out / sound.relative_to(root)).with_suffix(suffix)
        if motion in taken:
            raise OptionError(f"{taken[motion]} and {sound} would both become {motion}", hint="rename one of them")
        taken[motion] = sound
    return [{"sound": str(sound), "motion": str(motion)} for motion, sound in taken.items()]


def _sounds_below(folder: Path, left_out: dict[str, str]) -> list[Path]:
    """Return the sound files of a folder and of those in it, sorted; hidden ones and folders that are links are none.

    A pipe is not read: nobody knows whether anyone will ever write into it.
    """

    def unread(error: OSError) -> None:
        left_out[str(error.filename)] = f"it cannot be read: {error.strerror}"

    sounds = []
    for place, folders, names in os.walk(folder, onerror=unread):
        for path in (Path(place, name) for name in (*names, *folders)):
            if path.suffix.lower() not in SOUND or path.name.startswith("."):
                continue
            try:
                mode = path.stat().st_mode
            except OSError as error:
                left_out[str(path)] = f"it cannot be read: {error.strerror}"
                continue
            if stat.S_ISREG(mode):
                sounds.append(path)
            elif not stat.S_ISDIR(mode):
                left_out[str(path)] = "it is a pipe, a socket or a device; a file was wanted"
    return sorted(sounds)


def _listed(path: Path) -> list[Path]:
    try:
        lines = read_text(path, 1 << 26).splitlines()  # of a million clips
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [Path(os.path.normpath(path.parent / name)) for name in dict.fromkeys(names)]


def _is_made(row: Mapping[str, str]) -> bool:
    """Return whether the motion is there and no older than its sound."""
    with suppress(OSError):
        return Path(row["motion"]).stat().st_mtime >= Path(row["sound"]).stat().st_mtime
    return False


def _note_settings(out: Path, args: argparse.Namespace) -> None:
    """Note how the motion in OUT is made. Raises OptionError where it was made in another way."""
    with reported(out):
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder; a folder was wanted")
        out.mkdir(parents=True, exist_ok=True)
    made_by = {name: str(getattr(args, name, None)) for name in MADE_BY}
    made_by["bundle"] = Bundle.open(find_bundle(args.bundle)).digest
    file = out / SETTINGS
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError("the settings of a run were wanted")
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: {error}", hint="another folder for the motion") from None
        # An option that was not noted then was not there, or did nothing: as if it was not given.
        other = [name for name in made_by if before.get(name, "None") != made_by[name]]
        if other:
            was = ", ".join(f"{name} was {before.get(name)} and is {made_by[name]}" for name in other)
            raise OptionError(f"{out} holds motion that was made in another way: {was}", hint="another folder as -o")
    else:
        with write_whole(checked_target(file)) as opened:
            opened.write((json.dumps(made_by, indent=1) + "\n").encode())


def _is_plain(value: Any) -> bool:
    """Return whether an option is something that a worker on another machine can be given."""
    return value is None or isinstance(value, str | int | float | Path | list)


def _tell(report: Report, out: Path, *, quiet: bool) -> None:
    faults = [f"{sound}: {fault}" for sound, fault in sorted(report.faults.items())]
    file = out / FAULTS
    if faults:
        with write_whole(file) as opened:
            opened.write("".join(f"{line}\n" for line in faults).encode())
    else:
        with reported(file):
            file.unlink(missing_ok=True)
    for line in faults[:TOLD]:
        sys.stderr.write(f"fault: {line}\n")
    if len(faults) > TOLD:
        sys.stderr.write(f"{len(faults) - TOLD} more faults: {file}\n")
    if not quiet:
        made = f"{report.made} files made ({report.frames} frames)"
        sys.stderr.write(f"{made}, {report.kept} there already, {len(faults)} with faults\n")
