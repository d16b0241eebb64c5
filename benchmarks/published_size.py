"""Exports a StreamingTalker of published size with random weights, to be timed: its motion is noise.

python benchmarks/published_size.py vocaset --out /tmp/vocaset && edgetalker bench /tmp/vocaset
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgetalker.export.streamingtalker import ExportOptions, export_model
from edgetalker.models.streamingtalker.random_weights import random_network


def main() -> None:
    """Export with the default contract; prints one line a stage. Takes minutes and some GB of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("vocaset", "biwi"), help="whose sizes")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write, replaced if it is one")
    parser.add_argument("--collapse", action="store_true", help="with the collapsed schedule")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (0)")
    args = parser.parse_args()
    report = export_model(
        random_network(args.dataset, args.seed),
        args.out,
        ExportOptions(collapse=args.collapse),
        name=f"random_{args.dataset}",
        origin=f"random weights, seed {args.seed}",
        replace=True,
        say=print,
    )
    print(f"{report.bundle.path} in {report.seconds:.0f} s")


if __name__ == "__main__":
    main()
