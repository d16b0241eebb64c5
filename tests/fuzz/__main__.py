"""Runs every fuzz target for a while: `python -m tests.fuzz --seconds 3600 --seed 1`. `make fuzz` does that."""

from __future__ import annotations

import argparse
import importlib
import time

TARGETS = ("arrays", "checkpoints", "configurations", "manifests", "plans", "sounds", "stages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--seed", type=int, help="of the first example (the time)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    args = parser.parse_args()
    seed = int(time.time()) if args.seed is None else args.seed
    for name in args.targets or TARGETS:
        target = importlib.import_module(f"tests.fuzz.{name}")
        count = target.run(examples=None, seconds=args.seconds, seed=seed)
        print(f"{name}: {count} examples from seed {seed}, nothing but errors that say what is wrong")


if __name__ == "__main__":
    main()
