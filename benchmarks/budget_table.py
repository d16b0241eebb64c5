"""Holds the budget's prediction for `cpu` against what frames take on this machine, bundle by bundle, in one run.

python -m benchmarks.budget_table [--into docs/plans.md]
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.eightbit_table import PUBLISHED, cpu_ns
from benchmarks.gpu.skeleton import fill
from benchmarks.plan_table import write_between
from edgetalker.engines.bundle import Bundle
from edgetalker.measure.bench import made_up_sound
from edgetalker.measure.budget import budget, device_facts
from edgetalker.runtime.model import find_bundle
from edgetalker.runtime.talker import Talker

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- budget: begin -->", "<!-- budget: end -->"
HEAD = ("| bundle | schedule | predicted | measured | predicted / measured |", "|---|---|---|---|---|")
SHAPES = (
    ("talker", "one"),
    ("talker", "full"),
    ("tests/data/bundles/tiny_voca", "full"),
    ("tests/data/bundles/toy_artalk", ""),
    ("published", "collapsed"),
)


def main() -> None:
    """Predict and measure by turns; print the table or put it between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="file whose marked part is replaced")
    args = parser.parse_args()
    lines = [*HEAD]
    for name, schedule in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            here = ROOT / name
            bundle = (
                fill(PUBLISHED, Path(folder) / "b")
                if name == "published"
                else Bundle.open(here if here.exists() else find_bundle(name))
            )
            chosen = schedule or bundle.manifest.ladder[0]
            measured, predicted = [], []
            for _ in range(3):
                measured.append(_frame(bundle, chosen))
                predicted.append(budget(bundle, device_facts("cpu", bundle), schedule=chosen).frame_ns / 1e6)
            found = f"{min(predicted):.3f} ms | {min(measured):.3f} ms | {min(predicted) / min(measured):.2f}"
            lines.append(f"| {bundle.manifest.name} | {chosen} | {found} |")
            print(lines[-1], flush=True)
    write_between(lines, args.into, BEGIN, END)


def _frame(bundle: Bundle, schedule: str) -> float:
    """Return the mean frame in ms over a period of the program, of each frame the shortest of several rounds.

    Processor time, as the prediction counts it: on a busy machine wall time shows the waiting.
    """
    period = max([4, *(getattr(step, "every", 1) for step in bundle.manifest.program)])
    with closing(Talker(bundle, schedules=[schedule])) as talker:
        sound = made_up_sound(talker)
        least = np.full(period, np.inf)
        for _ in range(8):
            np.minimum(least, [cpu_ns(talker, schedule, sound) for _ in range(period)], out=least)
    return float(least.mean() / 1e6)


if __name__ == "__main__":
    main()
