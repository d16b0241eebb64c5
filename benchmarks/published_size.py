"""Exports a StreamingTalker of published size with random weights, to be timed: its motion is noise.

python benchmarks/published_size.py vocaset --out /tmp/vocaset && edgetalker bench /tmp/vocaset
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgetalker.engines.bundle import Bundle
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
    print(published_size(args.dataset, args.out, collapse=args.collapse, seed=args.seed).path)


def published_size(dataset: str, out: Path, *, collapse: bool, seed: int = 0) -> Bundle:
    """Export `vocaset` or `biwi` with random weights to `out`, replacing a bundle that is there."""
    report = export_model(
        random_network(dataset, seed),
        out,
        ExportOptions(collapse=collapse),
        name=f"random_{dataset}",
        origin=f"random weights, seed {seed}",
        replace=True,
        say=print,
    )
    return report.bundle


if __name__ == "__main__":
    main()
