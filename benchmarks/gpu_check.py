"""Every check and every figure of the CUDA device, in one run and one report: `make gpu-check`.

    python benchmarks/gpu_check.py               all but the soak, under nine minutes
    python benchmarks/gpu_check.py --soak        ten minutes on the clock at 60 fps, alone
    python benchmarks/gpu_check.py --dry-run     the checks themselves, on the host, in a minute; figures mean nothing

Needs a bare checkout, an NVIDIA driver, PyTorch for CUDA, numpy, onnx and cuda-bindings; no network. Writes
benchmarks/results/<gpu>.json and .md; what could not run is in them with its reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.setting import Setting

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SOAK_SECONDS = 600


def main() -> int:
    """Run, print, write. Returns 0 when nothing failed, 1 when something did, 69 without a GPU."""
    args = _parser().parse_args()
    missing = _missing(args.dry_run)
    if missing:
        print(f"error: {missing}\nhint: python benchmarks/gpu_check.py --dry-run runs the checks on the host")
        return 69
    with tempfile.TemporaryDirectory(prefix="gpu_check.") as work:
        return _run(args, Path(work))


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
    from benchmarks.gpu.results import Run, attempt, environment
    from benchmarks.gpu.setting import Setting

    setting = Setting({}, work, dry=args.dry_run, scale=0.02 if args.dry_run or args.quick else 1.0, wait=args.wait)
    setting.seconds = args.soak + 300 if args.soak else setting.seconds
    where = environment(setting)
    results = [attempt(setting, "bundles", partial(_find_bundles, setting))]
    checks = _soak(setting, args.soak) if args.soak else _checks(setting)
    for name, check, least in checks:
        if args.only and args.only not in name:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        results.append(attempt(setting, name, check, least=least))
    run = Run(where, results, setting.notes)
    print(run.table())
    if args.only or args.dry_run or args.quick:
        print("\nnothing was written: a dry run, a quick one or a part is no result")
    else:
        print(f"\nwritten: {run.write(args.out, suffix='-soak' if args.soak else '')} and .md beside it")
    return 0 if run.passed else 1


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


Checks = Iterator[tuple[str, partial[dict[str, Any]], float]]


def _checks(setting: Setting) -> Checks:
    """Yield name, check and the seconds that it may take, the most telling first."""
    from benchmarks.gpu import clock_checks, device_checks, figures, frame_checks

    for check in device_checks.CHECKS:
        yield f"device: {check.__name__.replace('_', ' ')}", partial(check, setting), 10
    yield "device: the driver answers as its stand-in", partial(device_checks.driver_rules, setting), 60
    yield "frames: talkers end in any order", partial(frame_checks.talkers_end_in_any_order, setting), 10
    yield "frames: reopening loses no memory", partial(frame_checks.reopening_loses_no_memory, setting), 10
    yield "frames: equal to the host's", partial(frame_checks.frames_are_the_hosts, setting), 30
    yield "frames: step = frame = eager", partial(frame_checks.graphs_change_no_frame, setting), 20
    yield "figures: per step", partial(figures.per_step, setting), 30
    yield "figures: marks and launches", partial(figures.marks_and_launches, setting), 10
    yield "figures: granularity and marks", partial(figures.granularity_and_marks, setting), 30
    yield "figures: replay against eager", partial(figures.replay_against_eager, setting), 20
    yield "figures: lock-step talkers", partial(figures.lockstep_talkers, setting), 30
    yield "frames: nothing is made after start", partial(frame_checks.nothing_is_made_after_start, setting), 45
    for fps in (30, 60):
        name, seconds = _clocked(setting), setting.count(60, least=2)
        yield f"clock: {fps} fps", partial(clock_checks.on_the_clock, setting, name, fps, seconds), seconds + 15
    yield "engines: TensorRT", partial(figures.with_tensorrt, setting), 60


def _soak(setting: Setting, seconds: int) -> Checks:
    from benchmarks.gpu import clock_checks

    name = _clocked(setting)
    yield f"clock: soak at 60 fps, {seconds} s", partial(clock_checks.on_the_clock, setting, name, 60, seconds), 0


def _clocked(setting: Setting) -> str:
    return "published" if "published" in setting.bundles else "tiny_voca"


if __name__ == "__main__":
    raise SystemExit(main())
