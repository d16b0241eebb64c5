"""Builds every stage of bundles for every target, one process a stage, and writes the table of docs/plans.md.

python benchmarks/plan_table.py edgetalker/bundles/talker tests/data/bundles/tiny_voca --into docs/plans.md

The bundles are copied; those without FP16 stages are converted first (--minutes for the closed loop).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetalker.calibration.convert import ConvertOptions, convert
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.errors import UserError
from edgetalker.engines.machine import Machine, NoGpu, this_machine
from edgetalker.engines.plan import PlanRecord
from edgetalker.engines.targets import parse_target
from edgetalker.engines.tensorrt.children import PlanBuilder

TARGETS = ("rtx:sm75", "rtx:sm86", "rtx:sm89", "rtx:sm120", "rtx:sm75,sm86,sm89,sm120")
BEGIN, END = "<!-- plan table: begin -->", "<!-- plan table: end -->"
HEAD = (
    "| bundle | stage | precision | target | build | peak memory | plan | one-step error | closed-loop error |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Build, and print the table or put it between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundle folders")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="as of `edgetalker build --target`")
    parser.add_argument("--minutes", type=float, default=10.0, help="closed loop of a bundle without FP16 (10)")
    parser.add_argument("--into", type=Path, help="file whose marked part is replaced")
    args = parser.parse_args()
    machine = this_machine()
    lines = [f"Built with TensorRT-RTX {machine.versions['rtx']} on a machine without a GPU.", "", *HEAD]
    for path in args.bundles:
        with tempfile.TemporaryDirectory() as folder:
            bundle = _with_fp16(path, Path(folder) / "bundle", args.minutes)
            lines += _rows(bundle, args.targets, machine)
    write_between(lines, args.into, BEGIN, END)


def _with_fp16(path: Path, folder: Path, minutes: float) -> Bundle:
    shutil.copytree(path, folder, ignore=shutil.ignore_patterns("plans"))
    bundle = Bundle.open(folder)
    if "fp16" not in bundle.manifest.precisions:
        convert(bundle, ConvertOptions(seconds=60 * minutes))
    return Bundle.open(folder)


def _rows(bundle: Bundle, targets: list[str], machine: Machine) -> Iterator[str]:
    report = json.loads(bundle.file("fp16/report.json").read_text(encoding="utf-8"))
    for stage in bundle.manifest.stages:
        for precision in ("fp32", "fp16"):
            for text in targets:
                target = parse_target(text, NoGpu("none is asked for"), ("rtx",))
                builder = PlanBuilder(bundle, target, machine, precision)
                start = f"| {bundle.manifest.name} | {stage} | {precision} | {' '.join(target.capabilities)} |"
                print(start, file=sys.stderr, flush=True)
                yield f"{start} {_cells(builder, stage)} {_errors(report, stage, precision)}"


def _cells(builder: PlanBuilder, stage: str) -> str:
    try:
        record = builder.stage(stage, force=True).record
    except UserError as error:
        return f"refused: {error.message.split(': ')[1].split(' (')[0]} | | |"
    assert isinstance(record, PlanRecord)
    return f"{record.seconds:.1f} s | {record.peak_memory / 2**20:.0f} MiB | {record.plan_bytes / 1e6:.2f} MB |"


def _errors(report: dict[str, Any], stage: str, precision: str) -> str:
    if precision == "fp32":
        return "0 | 0 |"
    converted = report["stages"].get(stage)  # none for a stage that was held in FP32
    one_step = max(converted["one_step"]["relative"].values()) if converted else 0.0
    loops = [f"{name} {100 * loop['error']:.2f} %" for name, loop in report["closed_loop"].items()]
    return f"{one_step:.1e} | {', '.join(loops)} |"


def write_between(lines: list[str], into: Path | None, begin: str, end: str) -> None:
    """Print the lines, or put them between two marks of a file. Raises ValueError when the file lacks one of them."""
    text = "\n".join(lines)
    if into is None:
        print(text)
        return
    whole = into.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{into}: `{begin}` and `{end}` were wanted, in this order; nothing was written")
    into.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
