"""Holds the budget's prediction for `cpu` against what frames take on this machine, bundle by bundle, in one run.

python -m benchmarks.budget_table [--into docs/plans.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.gpu.skeleton import fill
from benchmarks.plan_table import write_between
from edgetalker.engines.bundle import Bundle
from edgetalker.measure.budget import Played, budget, device_facts
from edgetalker.runtime.model import Model, find_bundle

ROOT = Path(__file__).parents[1]
PUBLISHED = Path(__file__).parent / "data" / "streamingtalker_vocaset"
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
    """Predict and measure in the same rounds; print the table or put it between the marks of a file."""
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
            with closing(Played(Model(bundle), chosen)) as played:
                facts = device_facts("cpu", bundle, schedule=chosen, beside=[played])
                told, took = budget(bundle, facts, schedule=chosen).frame_ns / 1e6, played.ns / 1e6
            found = f"{told:.3f} ms | {took:.3f} ms | {told / took:.2f}"
            lines.append(f"| {bundle.manifest.name} | {chosen} | {found} |")
            print(lines[-1], file=sys.stderr, flush=True)
    write_between(lines, args.into, BEGIN, END)


if __name__ == "__main__":
    main()
