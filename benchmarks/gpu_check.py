"""Every check and every figure of the CUDA device, in one run and one report: `make gpu-check`.

    python benchmarks/gpu_check.py               all but the soak, in nine minutes at most
    python benchmarks/gpu_check.py --soak        ten minutes on the clock at 60 fps, alone
    python benchmarks/gpu_check.py --dry-run     the checks themselves, on the host, in a minute; figures mean nothing

Needs a bare checkout, an NVIDIA driver, PyTorch for CUDA, numpy, onnx and cuda-bindings; no network. Writes
benchmarks/results/<gpu>.json and .md, anew before each check: a run that was cut off leaves what it had, and says so.
What could not run is in them with its reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from benchmarks.gpu.setting import Setting

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SOAK_SECONDS = 600


def main() -> int:
    """Run, print, write. Returns 0 when nothing failed, 1 when something did, 64 for a wrong name, 69 without a GPU."""
    args = _parser().parse_args()
    missing = _missing(args.dry_run)
    if missing:
        print(f"error: {missing}\nhint: python benchmarks/gpu_check.py --dry-run runs the checks on the host")
        return 69
    from edgetalker.engines.errors import UserError

    try:
        with tempfile.TemporaryDirectory(prefix="gpu_check.") as work:
            return _run(args, Path(work))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", nargs="?", type=int, const=SOAK_SECONDS, metavar="SECONDS", help="the soak alone")
    parser.add_argument("--quick", action="store_true", help="fifty times fewer frames; its figures mean little")
    parser.add_argument("--dry-run", action="store_true", help="on the host, shortened")
    parser.add_argument("--only", metavar="WORD", help="only checks whose name holds this")
    parser.add_argument("--wait", default="spin", choices=("spin", "yield", "block"), help="wait policy (spin)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the report goes")
    return parser


def _missing(dry: bool) -> str:
    """Return what this machine lacks, in a sentence; empty when nothing."""
    needed = ["numpy", "torch", "onnx"] + ([] if dry else ["cuda.bindings"])
    for name in needed:
        try:
            __import__(name)
        except ImportError:
            return f"`{name}` is not installed"
    if dry:
        return ""
    from edgetalker.engines.machine import NoGpu, probe

    found = probe()
    return str(found) if isinstance(found, NoGpu) else ""


def _run(args: argparse.Namespace, work: Path) -> int:
    """Make the checks. The report is written before each of them, so that one that ends the process loses nothing."""
    from benchmarks.gpu.results import Result, Run, attempt, environment
    from benchmarks.gpu.setting import Setting

    setting = Setting({}, work, dry=args.dry_run, scale=0.02 if args.dry_run or args.quick else 1.0, wait=args.wait)
    setting.seconds = args.soak + 300 if args.soak else setting.seconds
    checks = _chosen(_soak(setting, args.soak) if args.soak else _checks(setting), args.only)
    where = environment(setting)
    kept = not (args.only or args.dry_run or args.quick)
    suffix = "-soak" if args.soak else ""
    results: list[Result] = []
    print(f"{where['device']}, {where['date']}", flush=True)
    for check in (Check("bundles", partial(_find_bundles, setting)), *checks):
        print(f"{check.name} …", file=sys.stderr, flush=True)
        if kept:
            Run(where, results, setting.notes, running=check.name).write(args.out, suffix=suffix)
        results.append(attempt(setting, check.name, check.make, least=check.least, apart=check.apart))
        print(results[-1].text(), flush=True)
    if not args.dry_run:
        where["health at the end"] = setting.health()
    run = Run(where, results, setting.notes)
    print(run.ending())
    if kept:
        print(f"\nwritten: {run.write(args.out, suffix=suffix)} and .md beside it")
    else:
        print("\nnothing was written: a dry run, a quick one or a part is no result")
    return 0 if run.passed else 1


class Check(NamedTuple):
    """One of a run. least: the seconds that it may take. apart: it works in processes of its own."""

    name: str
    make: Callable[[], Mapping[str, Any]]
    least: float = 10.0
    apart: bool = False


def _chosen(checks: Iterable[Check], word: str | None) -> list[Check]:
    """Return those whose name holds the word, all without one. Raises OptionError, with the nearest names first."""
    from edgetalker.engines.errors import unknown

    known = list(checks)
    found = [check for check in known if not word or word in check.name]
    if found or not word:
        return found
    names = sorted((check.name for check in known), key=partial(_alike, word), reverse=True)
    raise unknown("check", word, names, "nearest first, there are")


def _alike(word: str, name: str) -> float:
    """Return how like the word the part of a name is that is most like it, 0 to 1."""
    parts = (name[start : start + len(word)] for start in range(max(len(name) - len(word), 0) + 1))
    return max(SequenceMatcher(None, word, part).ratio() for part in parts)


def _find_bundles(setting: Setting) -> dict[str, str]:
    """The small bundle of the tests, the talker that ships, and StreamingTalker of published size."""
    from benchmarks.gpu.skeleton import fill

    known = {
        "tiny_voca": ROOT / "tests" / "data" / "bundles" / "tiny_voca",
        "talker": ROOT / "edgetalker" / "bundles" / "talker",
    }
    setting.bundles.update({name: path for name, path in known.items() if (path / "manifest.json").is_file()})
    skeleton = ROOT / "benchmarks" / "data" / "streamingtalker_vocaset"
    if setting.scale >= 1:
        setting.bundles["published"] = fill(skeleton, setting.work / "published").path
    return {name: str(path) for name, path in setting.bundles.items()}


def _checks(setting: Setting) -> Iterator[Check]:
    """Yield all but the soak, the most telling first."""
    from benchmarks.gpu import device_checks, figures, frame_checks, tensorrt_check

    for check in device_checks.CHECKS:
        yield Check(f"device: {check.__name__.replace('_', ' ')}", partial(check, setting))
    rules = partial(device_checks.driver_rules, setting)
    yield Check("device: the driver answers as its stand-in", rules, 60, apart=True)
    yield Check("frames: talkers end in any order", partial(frame_checks.talkers_end_in_any_order, setting))
    yield Check("frames: reopening loses no memory", partial(frame_checks.reopening_loses_no_memory, setting))
    yield Check("frames: equal to the host's", partial(frame_checks.frames_are_the_hosts, setting), 30)
    yield Check("frames: step = frame = eager", partial(frame_checks.graphs_change_no_frame, setting), 20)
    yield Check("figures: per step", partial(figures.per_step, setting), 30)
    yield Check("figures: marks and launches", partial(figures.marks_and_launches, setting))
    yield Check("figures: granularity and marks", partial(figures.granularity_and_marks, setting), 30)
    yield Check("figures: replay against eager", partial(figures.replay_against_eager, setting), 20)
    yield Check("figures: lock-step talkers", partial(figures.lockstep_talkers, setting), 30)
    yield Check("frames: nothing is made after start", partial(frame_checks.nothing_is_made_after_start, setting), 45)
    for fps in (30, 60):
        seconds = setting.count(60, least=2)
        yield Check(f"clock: {fps} fps", partial(_on_the_clock, setting, fps, seconds), seconds + 15)
    for flavour in ("tensorrt", "rtx"):
        make = partial(tensorrt_check.with_tensorrt, setting, flavour)
        yield Check(f"engines: {flavour}", make, tensorrt_check.SECONDS, apart=True)


def _soak(setting: Setting, seconds: int) -> Iterator[Check]:
    yield Check(f"clock: soak at 60 fps, {seconds} s", partial(_on_the_clock, setting, 60, seconds), 0)


def _on_the_clock(setting: Setting, fps: int, seconds: int) -> dict[str, Any]:
    """Play the largest bundle that is here: known once the bundles were looked for."""
    from benchmarks.gpu import clock_checks

    name = "published" if "published" in setting.bundles else "tiny_voca"
    return clock_checks.on_the_clock(setting, name, fps, seconds)


if __name__ == "__main__":
    raise SystemExit(main())
