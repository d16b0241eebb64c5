"""Converts bundles to 8 bits, times both precisions on one core in turn, and writes the table of docs/plans.md.

python -m benchmarks.eightbit_table talker tests/data/bundles/tiny_voca published --into docs/plans.md

`published` is the published-size StreamingTalker with random weights (benchmarks/published_size.py, which wants
PyTorch): its schedules belong together, which a skeleton's (benchmarks/data) do not. The bundles are copied; one that
already holds the precision is taken as it is. Rows of other bundles and precisions stay in the file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from benchmarks.plan_table import write_between
from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.engines.bundle import Bundle
from edgetalker.measure.bench import made_up_sound
from edgetalker.measure.budget import frame_cpu_ns
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.talker import Talker

BEGIN, END = "<!-- eight bits: begin -->", "<!-- eight bits: end -->"
HEAD = (
    "| bundle | precision | schedule | weights in 8 bits, GPU's form / CPU's | multiply-adds | "
    "ONNX, FP32 to GPU's and CPU's form | error of one run | closed loop | "
    "drift, GPU's form / CPU's | closures F1 | frame, one core: FP32, 8 bits, ratio |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)
_SECONDS = 20.0  # of rounds, by turns


def main() -> None:
    """Convert, time, and print the table or put it between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", help="folders, names of shipped bundles, or `published`")
    parser.add_argument("--precision", nargs="+", default=["int8"], help="as of `edgetalker convert` (int8)")
    parser.add_argument("--minutes", type=float, default=10.0, help="closed loop (10)")
    parser.add_argument("--goal", type=float, default=0.01, help="drift that is allowed (0.01)")
    parser.add_argument("--into", type=Path, help="file whose marked part is replaced")
    args = parser.parse_args()
    rows: list[str] = []
    for name in args.bundles:
        for precision in args.precision:
            with tempfile.TemporaryDirectory() as folder:
                bundle = _converted(name, precision, Path(folder) / "bundle", args.minutes, args.goal)
                rows += _rows(bundle, precision)
    write_between([*HEAD, *_merged(args.into, rows)], args.into, BEGIN, END)


def _merged(into: Path | None, rows: list[str]) -> list[str]:
    """Return these rows, and below them those of the file that are of another bundle or precision."""
    text = into.read_text(encoding="utf-8") if into else ""
    old = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[len(HEAD) :]
    made = [_key(row) for row in rows]
    return [*rows, *(row for row in old if _key(row) not in made)]


def _key(row: str) -> list[str]:
    return row.split("|")[1:3]


def _converted(name: str, precision: str, folder: Path, minutes: float, goal: float) -> Bundle:
    if name == "published":
        from benchmarks.published_size import published_size  # which wants PyTorch

        bundle = published_size("vocaset", folder, collapse=True)
    else:
        shutil.copytree(find_bundle(name), folder, ignore=shutil.ignore_patterns("plans"))
        bundle = Bundle.open(folder)
    if precision not in bundle.manifest.precisions:
        convert(bundle, ConvertOptions(precision=precision, seconds=60 * minutes, goal=goal))
    return Bundle.open(folder)


def _rows(bundle: Bundle, precision: str) -> Iterator[str]:
    report = json.loads(bundle.file(f"{precision}/report.json").read_text(encoding="utf-8"))
    stages = report["stages"].values()
    sizes = [sum(stage["bytes"][form] or stage["bytes"]["fp32"] for stage in stages) / 1e6 for form in _SIZES]
    shares = " / ".join(f"{100 * _share(bundle, precision, host=host):.0f} %" for host in (False, True))
    errors = [max(step["relative"].values()) for stage in stages for step in stage["one_step"].values()]
    for schedule in bundle.manifest.ladder:
        wide, narrow = _times(bundle, precision, schedule)
        loops = [report[key].get(schedule) for key in ("closed_loop", "closed_loop_host")]
        drifts = " / ".join(f"{100 * loop['error']:.2f} %" for loop in loops if loop)
        seconds = next((len(loop["seconds"]) for loop in loops if loop), 0)
        closures = next((f"{loop['closures']:.4f}" for loop in loops if loop and loop["closures"] is not None), "-")
        row = (
            f"| {bundle.manifest.name} | {precision} | {schedule} | {shares} | "
            f"{100 * report['operations_in_8_bits']:.0f} % | {sizes[0]:.1f} to {sizes[1]:.1f} and {sizes[2]:.1f} MB | "
            f"{max(errors, default=0.0):.1e} | {seconds} s | {drifts} | {closures} | "
            f"{wide:.2f} ms, {narrow:.2f} ms, {narrow / wide:.2f} |"
        )
        print(row, file=sys.stderr, flush=True)
        yield row


def _share(bundle: Bundle, precision: str, *, host: bool) -> float:
    """Return the share of weights that lie in 8 bits in the files themselves, constants of other kinds left out."""
    narrow = wide = 0
    for stage in bundle.manifest.stages:
        for item in onnx.load(str(bundle.onnx(stage, precision, host=host))).graph.initializer:
            size = int(np.prod(item.dims))
            narrow += size * (item.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN))
            wide += size * (item.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16))
    return narrow / max(1, narrow + wide)


_SIZES = ("fp32", "gpu", "host")


def _times(bundle: Bundle, precision: str, schedule: str) -> tuple[float, float]:
    """Return the mean frame of each in ms over a period of the program, both precisions by turns in every round.

    Processor time of the thread, which ONNX Runtime computes in: on a busy machine wall time shows how long the thread
    had to wait. Of each frame of the period the shortest of all rounds counts.
    """
    with ExitStack() as stack:
        pair = []
        for name in ("fp32", precision):
            talker = Talker(bundle, precision=name, schedules=[schedule])
            stack.callback(talker.close)
            pair.append(talker)
        sound = made_up_sound(pair[0])
        period = max(4, int(np.lcm.reduce([getattr(step, "every", 1) for step in bundle.manifest.program])))
        least = np.full((2, period), np.inf)
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end or not np.isfinite(least).all():
            for talker, times in zip(pair, least, strict=True):
                for _ in range(period):
                    talker.make(schedule, window=sound)
                np.minimum(times, [frame_cpu_ns(talker, schedule, sound) for _ in range(period)], out=times)
    wide, narrow = least.mean(1) / 1e6
    return float(wide), float(narrow)


if __name__ == "__main__":
    main()
